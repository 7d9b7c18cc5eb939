/*
 * proc.c: the handle of one process: its references, the lock that guards it,
 * and the word that says how it stands.
 *
 *     QUEUED -> RUNNING -> EXITED -> DONE          QUEUED -> FAILED
 *
 * EXITED: the status is known. DONE: its containment is empty and its streams
 * have ended as well. For an ordinary command both come in one step.
 *
 * What happens to it is elsewhere: start.c brings it into the world, turn.c
 * decides what comes next, ladder.c stops it, reap.c hears how it has ended;
 * ask.c, wait.c and follow.c are for those who want something of it.
 *
 * The state in the word moves under the lock only, by fp_proc_tell() and, for
 * the one step to EXITED, in fp_proc_try_exit(); it is read without.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "internal.h"
#include "sys.h"

#define DEFAULT_GRACE (5 * FP_NS_PER_S)
#define DEFAULT_KILL_TIMEOUT (5 * FP_NS_PER_S)

static bool has_ended(const fp_proc *proc) {
    int state = fp_proc_state(proc);
    return state == FP_STATE_EXITED || state == FP_STATE_DONE;
}

/* ---- birth and death of the handle --------------------------------------------- */

fp_proc *fp_proc_new(const fp_spec *spec) {
    fp_proc *proc = calloc(1, sizeof *proc);
    if (!proc)
        return NULL;
    if (fp_flow_new(spec, &proc->flow) < 0) {
        free(proc);
        return NULL;
    }
    atomic_init(&proc->refs, 1);
    proc->token = spec->token;
    proc->mailbox = fp_mailbox_ref(spec->mailbox);
    proc->pidfd = -1;
    proc->slot = proc->heap_index = FP_NO_INDEX;
    proc->code = -1;
    proc->lead = (uint8_t)spec->lead;
    proc->containment = (uint8_t)spec->containment;
    proc->keep_leftovers = spec->flags & FP_KEEP_LEFTOVERS;
    proc->stop_at_max_output = spec->flags & FP_STOP_AT_MAX_OUTPUT;
    proc->needs_leaf = fp_spec_needs_controllers(spec);
    proc->stop_signal = (uint8_t)(spec->stop_signal ? spec->stop_signal : SIGTERM);
    proc->grace_ns = spec->grace_ns ? spec->grace_ns : DEFAULT_GRACE;
    proc->kill_timeout_ns = spec->kill_timeout_ns > 0 ? spec->kill_timeout_ns : DEFAULT_KILL_TIMEOUT;
    if (spec->rlimit_set & (1u << FP_RLIMIT_CPU)) {
        uint64_t hard = spec->rlimits[FP_RLIMIT_CPU].hard;
        proc->cpu_limited = true;
        proc->cpu_limit_s = hard < INT32_MAX ? (int64_t)hard : INT32_MAX;
    }
    proc->step_ns = proc->check_ns = FP_NEVER;
    return proc;
}

fp_proc *fp_proc_ref(fp_proc *proc) {
    atomic_fetch_add_explicit(&proc->refs, 1, memory_order_relaxed);
    return proc;
}

void fp_proc_unref(fp_proc *proc) {
    if (atomic_fetch_sub_explicit(&proc->refs, 1, memory_order_acq_rel) != 1)
        return;
    fp_supervisor *supervisor = atomic_load(&proc->supervisor);
    if (proc->pidfd >= 0)
        sys_close(proc->pidfd);
    fp_contain_forget(proc);
    fp_leaf_drop(proc->leaf);
    fp_flow_free(proc->flow);
    if (fp_proc_state(proc) == FP_STATE_QUEUED)
        fp_spec_free_copy(fp_proc_queued(proc)->spec);
    else if (has_ended(proc))
        free(fp_proc_ended(proc)->usage);
    fp_mailbox_unref(proc->mailbox);
    if (proc->batch)
        fp_batch_unref(proc->batch);
    if (supervisor)
        fp_supervisor_unref(supervisor);
    free(proc);
}

fp_proc *fp_proc_free(fp_proc *proc) {
    if (proc)
        fp_proc_unref(proc);
    return NULL;
}

/* ---- the lock, and the word ---------------------------------------------------- */

fp_supervisor *fp_proc_lock(fp_proc *proc) {
    for (;;) {
        fp_supervisor *supervisor = atomic_load_explicit(&proc->supervisor, memory_order_acquire);
        if (supervisor) {
            if (!fp_supervisor_is_copy(supervisor))
                fp_supervisor_lock(supervisor);
            return supervisor;
        }
        if (fp_batch_is_copy(proc->batch))
            return NULL;
        pthread_mutex_t *lock = fp_batch_lock(proc->batch);
        pthread_mutex_lock(lock);
        if (!atomic_load_explicit(&proc->supervisor, memory_order_acquire))
            return NULL;
        pthread_mutex_unlock(lock);
    }
}

bool fp_proc_is_copy(const fp_proc *proc, const fp_supervisor *supervisor) {
    return supervisor ? fp_supervisor_is_copy(supervisor) : fp_batch_is_copy(proc->batch);
}

void fp_proc_unlock(fp_proc *proc, fp_supervisor *supervisor) {
    if (!fp_proc_is_copy(proc, supervisor))
        pthread_mutex_unlock(supervisor ? &supervisor->lock : fp_batch_lock(proc->batch));
}

void fp_proc_tell(fp_proc *proc, int state, uint32_t flags) {
    uint32_t word = atomic_load_explicit(&proc->word, memory_order_relaxed);
    uint32_t next = (uint32_t)state | (word & FP_WORD_UNKILLABLE) | flags;
    word = atomic_exchange_explicit(&proc->word, next, memory_order_acq_rel);
    if (word & FP_WORD_WAITERS)
        sys_futex_wake(&proc->word, INT32_MAX);
}

void fp_proc_close_pidfd(fp_proc *proc) {
    if (proc->pidfd >= 0)
        sys_close(proc->pidfd);
    proc->pidfd = -1;
}

void fp_proc_describe(fp_proc *proc, fp_exit *ret_exit) {
    fp_ended *ended = has_ended(proc) ? fp_proc_ended(proc) : NULL;

    *ret_exit = (fp_exit){
        .state = fp_proc_state(proc),
        .reason = ended ? proc->end_reason : FP_REASON_NONE,
        .code = ended ? proc->code : -1,
        .signal = ended ? proc->signal : 0,
        .flags = proc->flags,
        .pid = proc->pid,
        .started_ns = proc->started_ns,
        .ended_ns = ended ? ended->ended_ns : 0,
        .usage = ended && ended->usage ? *ended->usage : (fp_usage){0},
    };
}
