/*
 * reap.c: the one reap, and what an exit means.
 *
 * fp_proc_reap() is the one place that waits for a process of a supervisor. Who
 * comes first reaps, a thread in fp_proc_wait() or the supervisor, always under the lock of
 * the process; all others are told. Nothing is made up: a status that somebody
 * else has taken is asked for once more, and otherwise called unknown.
 */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "proc.h"
#include "sys.h"

enum { LOST_STATUS_LOOKS = 20 };

/* Numbers are needed for the ladder, so the leader stays a zombie until the group is cleared. */
static bool must_stay_zombie(const fp_proc *proc) {
    return proc->rung != FP_RUNG_NONE && proc->rung != FP_RUNG_EMPTY && !proc->leaf && proc->lead != FP_LEAD_NOTHING &&
           !fp_can(FP_CAP_PIDFD_GROUP) && fp_can(FP_CAP_PROCFS);
}

static void enter(fp_proc *proc, const fp_outcome *outcome) {
    if (outcome->signal)
        proc->signal = outcome->signal;
    else
        proc->code = outcome->code;
    if (outcome->core_dumped)
        proc->flags |= FP_EXIT_CORE_DUMPED;
}

/*
 * Somebody else has reaped it, or the host ignores SIGCHLD. Where the kernel
 * does not keep the status it is unknown, and is called so.
 */
static bool ask_for_lost_status(fp_proc *proc) {
    proc->reaped = true;
    proc->flags |= FP_EXIT_FOREIGN;
    if (proc->pidfd >= 0 && fp_can(FP_CAP_PIDFD_INFO)) {
        fp_outcome outcome;
        if (fp_outcome_ask(proc->pidfd, &outcome)) {
            enter(proc, &outcome);
            return true;
        }
        proc->lost = true;
        if (proc->lost_looks++ < LOST_STATUS_LOOKS)
            return false;
    }
    proc->end_reason = FP_REASON_UNKNOWN;
    return true;
}

bool fp_proc_reap(fp_proc *proc, fp_usage *ret_usage) {
    bool keep = must_stay_zombie(proc);
    fp_outcome outcome;

    *ret_usage = (fp_usage){0};
    if (proc->lost)
        return ask_for_lost_status(proc);
    int r = fp_outcome_collect(proc->pidfd, proc->pid, WEXITED | WNOHANG | (keep ? WNOWAIT : 0), &outcome);
    if (r == -ECHILD)
        return ask_for_lost_status(proc);
    if (r <= 0)
        return false;
    proc->reaped = !keep;
    *ret_usage = outcome.usage;
    enter(proc, &outcome);
    return true;
}

void fp_proc_bury(fp_proc *proc) {
    fp_outcome known;

    if (proc->reaped || proc->pid <= 0)
        return;
    fp_outcome_collect(proc->pidfd, proc->pid, WEXITED | WNOHANG, &known);
    proc->reaped = true;
}

/* Reap an orphan that has come to us; it never was a process of ours. For orphans.c. */
bool fp_orphan_collect(pid_t pid, fp_exit *ret_exit) {
    fp_proc orphan = {.pid = pid, .pidfd = -1, .code = -1};
    fp_usage usage;
    if (!fp_proc_reap(&orphan, &usage) || (orphan.flags & FP_EXIT_FOREIGN))
        return false;
    *ret_exit = (fp_exit){
        .state = FP_STATE_DONE,
        .reason = orphan.signal ? FP_REASON_SIGNALED : FP_REASON_EXITED,
        .code = orphan.code,
        .signal = orphan.signal,
        .flags = orphan.flags,
        .pid = pid,
        .ended_ns = fp_now_ns(),
        .usage = usage,
    };
    return true;
}

uint8_t fp_proc_why_it_ended(fp_proc *proc, const fp_usage *usage) {
    int64_t cpu_us = usage->user_us + usage->system_us;
    bool killed_by_us = proc->rung == FP_RUNG_KILLED || proc->rung == FP_RUNG_GIVEN_UP;

    if (proc->end_reason == FP_REASON_UNKNOWN)
        return proc->reason ? proc->reason : FP_REASON_UNKNOWN;
    if (proc->reason)
        return proc->reason;
    if (proc->signal == SIGXCPU && proc->cpu_limited)
        return FP_REASON_CPU_LIMIT;
    /*
     * At the hard limit the kernel sends SIGKILL, see getrlimit(2). It counts the ticks that hit the process, the
     * usage is exact: with four busy processes a CPU it was killed at 0.72 of its limit (6.18).
     */
    if (proc->signal == SIGKILL && proc->cpu_limited && cpu_us >= proc->cpu_limit_s * 500000)
        return FP_REASON_CPU_LIMIT;
    if (proc->signal == SIGKILL && !killed_by_us && proc->leaf && fp_leaf_oom_kills(proc->leaf))
        return FP_REASON_OOM;
    return proc->signal ? FP_REASON_SIGNALED : FP_REASON_EXITED;
}
