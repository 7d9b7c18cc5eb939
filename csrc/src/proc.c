/*
 * proc.c: one process, from its start to the moment when nothing of it is left.
 *
 *     QUEUED -> RUNNING -> EXITED -> DONE          QUEUED -> FAILED
 *
 * EXITED: the status is known. DONE: its containment is empty and its streams
 * have ended as well. For an ordinary command both come in one step.
 *
 * proc_reap() is the one place that waits for a child. Who comes first reaps,
 * a thread in fp_proc_wait() or the supervisor; all others are told.
 * fp_proc_turn() is the one place that decides what comes next: it looks at
 * what is due, acts, and sets the next time to look.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "internal.h"
#include "sys.h"

#define DEFAULT_GRACE (5 * FP_NS_PER_S)
#define DEFAULT_KILL_TIMEOUT (5 * FP_NS_PER_S)
#define UNKILLABLE_LOOK FP_NS_PER_S
#define UNWATCHED_GAP (20 * FP_NS_PER_MS)
#define MOST_UNKILLABLE_LOOK (60 * FP_NS_PER_S)
#define UNDRIVEN_LOOK (100 * FP_NS_PER_MS)
enum {
    FIRST_GAP_US = 500,
    MOST_EXIT_GAP_US = 20000,   /* without a pidfd: how late an exit may be noticed */
    MOST_EMPTY_GAP_US = 50000,  /* while a ladder is climbed */
    MOST_KEPT_GAP_US = 1000000, /* leftovers that are kept */
    LAST_PUMP_BYTES = 4 << 20,  /* what an exiting child may have left in its pipes */
    LOST_STATUS_LOOKS = 20,
    LOST_GAP_US = 2000,
    PUMPS_AT_ONCE = 64,
};

/* ---- birth and death of the handle ------------------------------------------------ */

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
    proc->needs_leaf = spec->memory_max_bytes || spec->pids_max || spec->cpu_max_millis;
    proc->stop_signal = (uint8_t)(spec->stop_signal ? spec->stop_signal : SIGTERM);
    proc->grace_ns = spec->grace_ns ? spec->grace_ns : DEFAULT_GRACE;
    proc->kill_timeout_ns = spec->kill_timeout_ns > 0 ? spec->kill_timeout_ns : DEFAULT_KILL_TIMEOUT;
    if (spec->rlimit_set & (1u << FP_RLIMIT_CPU)) {
        uint64_t hard = spec->rlimits[FP_RLIMIT_CPU].hard;
        proc->cpu_limited = true;
        proc->cpu_limit_s = hard < INT32_MAX ? (int64_t)hard : INT32_MAX;
    }
    proc->when_ns = proc->deadline_ns = proc->step_ns = proc->check_ns = proc->watch_ns = FP_NEVER;
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
    fp_spec_free_copy(proc->spec);
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

static bool is_copy(const fp_proc *proc, const fp_supervisor *supervisor) {
    return supervisor ? fp_supervisor_is_copy(supervisor) : fp_batch_is_copy(proc->batch);
}

void fp_proc_unlock(fp_proc *proc, fp_supervisor *supervisor) {
    if (!is_copy(proc, supervisor))
        pthread_mutex_unlock(supervisor ? &supervisor->lock : fp_batch_lock(proc->batch));
}

static fp_supervisor *supervisor_of(const fp_proc *proc) {
    return atomic_load_explicit(&proc->supervisor, memory_order_relaxed);
}

/* Change the state and what else the futex word says; wake who waits for it. */
static void tell(fp_proc *proc, int state, uint32_t flags) {
    uint32_t word = atomic_load_explicit(&proc->word, memory_order_relaxed);
    uint32_t next = (uint32_t)state | (word & FP_WORD_UNKILLABLE) | flags;
    word = atomic_exchange_explicit(&proc->word, next, memory_order_acq_rel);
    if (word & FP_WORD_WAITERS)
        sys_futex_wake(&proc->word, INT32_MAX);
}

/* ---- the reap --------------------------------------------------------------------- */

/* Numbers are needed for the ladder, so the leader stays a zombie until the group is cleared. */
static bool must_stay_zombie(const fp_proc *proc) {
    return proc->rung != FP_RUNG_NONE && proc->rung != FP_RUNG_EMPTY && !proc->leaf && proc->lead != FP_LEAD_NOTHING &&
           !fp_can(FP_CAP_PIDFD_GROUP) && fp_can(FP_CAP_PROCFS);
}

static void take_usage(fp_proc *proc, const struct rusage *usage) {
    proc->usage = (fp_usage){
        .user_us = usage->ru_utime.tv_sec * INT64_C(1000000) + usage->ru_utime.tv_usec,
        .system_us = usage->ru_stime.tv_sec * INT64_C(1000000) + usage->ru_stime.tv_usec,
        .max_rss_bytes = usage->ru_maxrss * INT64_C(1024),
        .minor_faults = usage->ru_minflt,
        .major_faults = usage->ru_majflt,
        .blocks_in = usage->ru_inblock,
        .blocks_out = usage->ru_oublock,
        .voluntary_switches = usage->ru_nvcsw,
        .involuntary_switches = usage->ru_nivcsw,
    };
}

/* A status as wait(2) packs it. */
static void take_packed_status(fp_proc *proc, int32_t status) {
    if (WIFEXITED(status)) {
        proc->code = (int16_t)WEXITSTATUS(status);
    } else {
        proc->signal = (int16_t)WTERMSIG(status);
        if (WCOREDUMP(status))
            proc->flags |= FP_EXIT_CORE_DUMPED;
    }
}

/*
 * Somebody else has reaped it, or the host ignores SIGCHLD. The kernel keeps
 * the status with the pidfd (PIDFD_INFO_EXIT, Linux 6.15); it appears a moment
 * after the pidfd has turned readable. Elsewhere the status is unknown, and is
 * called so.
 */
static bool ask_for_lost_status(fp_proc *proc) {
    proc->reaped = true;
    proc->flags |= FP_EXIT_FOREIGN;
    if (proc->pidfd >= 0 && fp_can(FP_CAP_PIDFD_INFO)) {
        fp_pidfd_info info = {.mask = FP_PIDFD_INFO_EXIT};
        int r = sys_ioctl(proc->pidfd, FP_PIDFD_GET_INFO, &info);
        if (r >= 0 && (info.mask & FP_PIDFD_INFO_EXIT)) {
            take_packed_status(proc, info.exit_code);
            return true;
        }
        proc->lost = true;
        if (proc->lost_looks++ < LOST_STATUS_LOOKS)
            return false;
    }
    proc->end_reason = FP_REASON_UNKNOWN;
    return true;
}

/* Collect the exit if there is one. True: the status is known, as far as it ever will be. */
static bool proc_reap(fp_proc *proc) {
    siginfo_t info;
    struct rusage usage;
    bool keep = must_stay_zombie(proc);
    bool by_pidfd = proc->pidfd >= 0 && fp_can(FP_CAP_PIDFD_WAIT);

    if (proc->lost)
        return ask_for_lost_status(proc);
    memset(&info, 0, sizeof info);
    memset(&usage, 0, sizeof usage);
    int options = WEXITED | WNOHANG | (keep ? WNOWAIT : 0);
    int r = sys_waitid(by_pidfd ? FP_P_PIDFD : P_PID, by_pidfd ? proc->pidfd : proc->pid, &info, options, &usage);
    /* The host has closed our descriptor: then by its number, which is good until it is reaped. */
    if (r == -EBADF && by_pidfd)
        r = sys_waitid(P_PID, proc->pid, &info, options, &usage);
    if (r == -ECHILD)
        return ask_for_lost_status(proc);
    if (r < 0 || info.si_pid == 0)
        return false;
    proc->reaped = !keep;
    take_usage(proc, &usage);
    if (info.si_code == CLD_EXITED) {
        proc->code = (int16_t)info.si_status;
    } else {
        proc->signal = (int16_t)info.si_status;
        if (info.si_code == CLD_DUMPED)
            proc->flags |= FP_EXIT_CORE_DUMPED;
    }
    return true;
}

/* The zombie that was kept for its number is needed no more. */
static void proc_bury(fp_proc *proc) {
    siginfo_t info;
    if (proc->reaped || proc->pid <= 0)
        return;
    bool by_pidfd = proc->pidfd >= 0 && fp_can(FP_CAP_PIDFD_WAIT);
    sys_waitid(by_pidfd ? FP_P_PIDFD : P_PID, by_pidfd ? proc->pidfd : proc->pid, &info, WEXITED | WNOHANG, NULL);
    proc->reaped = true;
}

/* Reap an orphan that has come to us; it never was a process of ours. For orphans.c. */
bool fp_orphan_collect(pid_t pid, fp_exit *ret_exit) {
    fp_proc orphan = {.pid = pid, .pidfd = -1, .code = -1};
    if (!proc_reap(&orphan) || (orphan.flags & FP_EXIT_FOREIGN))
        return false;
    *ret_exit = (fp_exit){
        .state = FP_STATE_DONE,
        .reason = orphan.signal ? FP_REASON_SIGNALED : FP_REASON_EXITED,
        .code = orphan.code,
        .signal = orphan.signal,
        .flags = orphan.flags,
        .pid = pid,
        .ended_ns = fp_now_ns(),
        .usage = orphan.usage,
    };
    return true;
}

/* ---- the end ------------------------------------------------------------------------ */

static uint8_t why_it_ended(fp_proc *proc) {
    int64_t cpu_us = proc->usage.user_us + proc->usage.system_us;
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

static void unwatch_exit(fp_supervisor *supervisor, fp_proc *proc) {
    if (proc->in_epoll)
        fp_supervisor_unwatch(supervisor, proc->pidfd);
    proc->in_epoll = false;
}

static void unwatch_stream(fp_supervisor *supervisor, fp_stream *stream) {
    if (stream->in_epoll && stream->fd >= 0)
        fp_supervisor_unwatch(supervisor, stream->fd);
    stream->in_epoll = false;
}

static void watch_stream(fp_supervisor *supervisor, fp_proc *proc, int which) {
    fp_stream *stream = &proc->flow->streams[which];
    if (stream->fd < 0 || stream->in_epoll)
        return;
    stream->in_epoll = fp_supervisor_watch(supervisor, proc, stream->fd, FP_KEY_OUT + which, EPOLLIN) == 0;
    if (!stream->in_epoll && proc->when_ns > fp_now_ns() + UNWATCHED_GAP)
        fp_supervisor_set_timer(supervisor, proc, fp_now_ns() + UNWATCHED_GAP);
}

/* Ready for writing is told at once if it is so already. */
static void watch_input(fp_supervisor *supervisor, fp_proc *proc) {
    fp_flow *flow = proc->flow;
    if (flow->in_fd >= 0 && !flow->in_epoll)
        flow->in_epoll = fp_supervisor_watch(supervisor, proc, flow->in_fd, FP_KEY_IN, EPOLLOUT) == 0;
}

static void unwatch_input(fp_supervisor *supervisor, fp_flow *flow) {
    if (flow->in_epoll && flow->in_fd >= 0)
        fp_supervisor_unwatch(supervisor, flow->in_fd);
    flow->in_epoll = false;
}

static void unwatch_flow(fp_supervisor *supervisor, fp_proc *proc) {
    if (!proc->flow)
        return;
    for (int i = 0; i < 2; i++)
        unwatch_stream(supervisor, &proc->flow->streams[i]);
    unwatch_input(supervisor, proc->flow);
}

/* Read once, and see to what follows from it. False when there is no more for now. */
static bool pump(fp_supervisor *supervisor, fp_proc *proc, int which, int64_t now) {
    fp_flow *flow = proc->flow;
    fp_stream *stream = &flow->streams[which];

    if (stream->fd < 0)
        return false;
    int64_t n = fp_stream_pump(flow, stream, supervisor->scratch, FP_SCRATCH_BYTES, now);
    bool ended = n <= 0 && n != -EAGAIN;
    if (ended || stream->paused)
        unwatch_stream(supervisor, stream);
    if (ended)
        fp_stream_close(flow, stream, n == 0);
    return n > 0;
}

static void close_pidfd(fp_proc *proc) {
    if (proc->pidfd >= 0)
        sys_close(proc->pidfd);
    proc->pidfd = -1;
}

/* Nothing of it is left. The table's reference goes: `proc` may be gone with it, unless the caller has his own. */
static void finish(fp_supervisor *supervisor, fp_proc *proc) {
    proc_bury(proc);
    unwatch_exit(supervisor, proc);
    unwatch_flow(supervisor, proc);
    if (proc->flow)
        fp_flow_end(proc->flow);
    fp_contain_forget(proc);
    if (fp_adopts_orphans(supervisor))
        fp_leaf_retire(&supervisor->leaves, proc->leaf, proc->mailbox);
    else
        fp_leaf_give(&supervisor->leaves, proc->leaf, proc->proof == FP_PROOF_CGROUP);
    proc->leaf = NULL;
    /* Somebody may be about to poll it: closed under his hands the number could be another's by then. */
    if (!proc->claimed)
        close_pidfd(proc);
    fp_supervisor_set_timer(supervisor, proc, FP_NEVER);
    tell(proc, FP_STATE_DONE, 0);
    fp_supervisor_post(supervisor, proc, proc->news | FP_NEWS_DONE);
    proc->news = 0;
    fp_supervisor_batch_done(supervisor, proc);
    fp_supervisor_dismiss(supervisor, proc);
}

/* ---- the ladder ------------------------------------------------------------------------ */

static int64_t after(int64_t now, int64_t length) {
    return length >= FP_NEVER - now ? FP_NEVER : now + length;
}

static void look_soon(fp_proc *proc, int64_t now) {
    proc->check_gap_us = FIRST_GAP_US;
    proc->check_ns = now + FIRST_GAP_US * INT64_C(1000);
    proc->swept = false;
    proc->census_ns = 0;
}

/* Carry out what the table of stop.c says. */
static void act(fp_proc *proc, fp_stop_action action, int64_t now) {
    switch (action) {
    case FP_DO_NOTHING:
        break;
    case FP_DO_ASK:
        proc->flags |= FP_EXIT_STOPPED;
        proc->step_ns = after(now, proc->grace_ns);
        look_soon(proc, now);
        fp_contain_ask(proc, proc->stop_signal);
        break;
    case FP_DO_KILL:
        if (proc->flags & FP_EXIT_STOPPED) {
            /* What is said of the child does not change any more once it has ended. */
            proc->flags |= fp_proc_state(proc) == FP_STATE_RUNNING ? FP_EXIT_ESCALATED : FP_EXIT_LEFTOVERS_ESCALATED;
            fp_mailbox_post(proc->mailbox, proc, FP_NEWS_ESCALATED);
        }
        proc->flags |= FP_EXIT_STOPPED;
        proc->hurry = true;
        proc->step_ns = after(now, proc->kill_timeout_ns);
        look_soon(proc, now);
        fp_contain_kill(proc);
        break;
    case FP_DO_REPORT:
        proc->flags |= FP_EXIT_UNKILLABLE;
        proc->kill_timeout_ns = UNKILLABLE_LOOK;
        proc->step_ns = after(now, proc->kill_timeout_ns);
        tell(proc, fp_proc_state(proc), FP_WORD_UNKILLABLE);
        fp_mailbox_post(proc->mailbox, proc, FP_NEWS_UNKILLABLE);
        break;
    case FP_DO_KILL_AGAIN:
        if (proc->kill_timeout_ns < MOST_UNKILLABLE_LOOK)
            proc->kill_timeout_ns *= 2;
        proc->step_ns = after(now, proc->kill_timeout_ns);
        look_soon(proc, now);
        fp_contain_kill(proc);
        break;
    case FP_DO_FINISH:
        proc->step_ns = FP_NEVER;
        break;
    }
}

static void climb(fp_proc *proc, fp_stop_event event, int64_t now) {
    fp_rung rung = proc->rung;
    fp_stop_action action = fp_stop_step(&rung, event);
    proc->rung = (uint8_t)rung;
    act(proc, action, now);
}

static void ask_to_stop(fp_proc *proc, int reason, int64_t now) {
    if (fp_proc_state(proc) == FP_STATE_RUNNING && proc->rung == FP_RUNG_NONE)
        proc->reason = (uint8_t)reason;
    proc->hurry = true;
    climb(proc, proc->grace_ns < 0 ? FP_STOP_NOW : FP_STOP_ASK, now);
}

static void enforce_output_limit(fp_proc *proc, int64_t now) {
    if (proc->stop_at_max_output && fp_flow_over_limit(proc->flow) && proc->rung == FP_RUNG_NONE)
        ask_to_stop(proc, FP_REASON_OUTPUT_LIMIT, now);
}

/* ---- what is due --------------------------------------------------------------------------- */

static void widen_gap(fp_proc *proc, int64_t now, int32_t most_us) {
    if (proc->check_gap_us < FIRST_GAP_US)
        proc->check_gap_us = FIRST_GAP_US;
    proc->check_ns = now + proc->check_gap_us * INT64_C(1000);
    proc->check_gap_us += proc->check_gap_us / 2;
    if (proc->check_gap_us > most_us)
        proc->check_gap_us = most_us;
}

/* No event will tell of its exit: look by ourselves, soon and then less often. */
static void look_again(fp_proc *proc, int64_t now) {
    proc->by_polling = true;
    widen_gap(proc, now, proc->lost ? LOST_GAP_US : MOST_EXIT_GAP_US);
}

/* A captured stream has brought something, or has ended. */
static void tell_followers(fp_proc *proc) {
    const fp_flow *flow = proc->flow;
    if (flow->streams[0].followed || flow->streams[1].followed)
        fp_mailbox_post(proc->mailbox, proc, FP_NEWS_OUTPUT);
}

/* It has exited: is it over? True if it was, and `proc` may be gone. */
static bool settle(fp_supervisor *supervisor, fp_proc *proc, int64_t now) {
    fp_flow *flow = proc->flow;

    if (!proc->empty && now >= proc->check_ns) {
        bool again = proc->check_gap_us > FIRST_GAP_US;
        proc->empty = fp_contain_empty(proc, now);
        /* While a ladder is climbed "not empty" may mean "not known yet", or that the last are just dying. */
        if (!proc->empty && (proc->rung == FP_RUNG_NONE || (proc->leaf && again)))
            proc->flags |= FP_EXIT_LEFTOVERS;
        if (!proc->empty)
            widen_gap(proc, now,
                      proc->keep_leftovers && proc->rung == FP_RUNG_NONE ? MOST_KEPT_GAP_US : MOST_EMPTY_GAP_US);
    }
    if (!proc->empty) {
        if (proc->rung == FP_RUNG_NONE && !proc->keep_leftovers)
            climb(proc, proc->grace_ns < 0 ? FP_STOP_NOW : FP_STOP_ASK, now);
        if (now >= proc->step_ns)
            climb(proc, FP_STOP_TIME, now);
    } else {
        climb(proc, FP_STOP_CLEARED, now);
        proc->check_ns = FP_NEVER;
    }
    if (flow && fp_flow_open(flow)) {
        bool over = fp_flow_drain_until(flow, now, proc->hurry) <= now;
        if (over) {
            unwatch_flow(supervisor, proc);
            fp_flow_end(flow);
            tell_followers(proc);
        }
    }
    if (!proc->empty || (flow && fp_flow_open(flow)))
        return false;
    finish(supervisor, proc);
    return true;
}

/* Collect the exit if it is there, and see to all that follows from it. */
static bool try_exit(fp_supervisor *supervisor, fp_proc *proc, int64_t now) {
    if (!proc_reap(proc))
        return false;
    proc->ended_ns = now;
    proc->deadline_ns = FP_NEVER;
    unwatch_exit(supervisor, proc);
    proc->end_reason = why_it_ended(proc);
    if (proc->flow) {
        /* What the child has written is in the pipes: take it before anybody hears of the end. */
        for (int which = 0; which < 2; which++) {
            uint64_t most = proc->flow->streams[which].total + LAST_PUMP_BYTES;
            while (proc->flow->streams[which].total < most && pump(supervisor, proc, which, now))
                ;
        }
        fp_flow_begin_drain(proc->flow, now);
    }
    proc->check_ns = now;
    proc->check_gap_us = FIRST_GAP_US;
    /* Told by fp_proc_turn(), which every caller runs next: mostly it is the end of all, and one piece of news. */
    atomic_fetch_add_explicit(&proc->word, FP_STATE_EXITED - FP_STATE_RUNNING, memory_order_acq_rel);
    proc->news = FP_NEWS_EXITED;
    return true;
}

static int64_t earliest(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static bool is_unwatched(const fp_flow *flow) {
    for (int which = 0; which < 2; which++)
        if (flow->streams[which].fd >= 0 && !flow->streams[which].in_epoll && !flow->streams[which].paused)
            return true;
    return flow->in_fd >= 0 && !flow->in_epoll;
}

static int64_t next_look(const fp_proc *proc, int64_t now) {
    int64_t when = earliest(proc->step_ns, proc->deadline_ns);

    if (proc->census_ns)
        when = earliest(when, proc->census_ns);
    if (proc->flow && is_unwatched(proc->flow))
        when = earliest(when, now + UNWATCHED_GAP);
    if (fp_proc_state(proc) == FP_STATE_RUNNING) {
        when = earliest(when, proc->watch_ns);
        if (proc->by_polling)
            when = earliest(when, proc->check_ns);
        if (proc->flow && fp_flow_open(proc->flow) && proc->rung == FP_RUNG_NONE)
            when = earliest(when, fp_flow_idle_at(proc->flow, now));
    } else {
        when = earliest(when, proc->check_ns);
        if (proc->flow && fp_flow_open(proc->flow))
            when = earliest(when, fp_flow_drain_until(proc->flow, now, proc->hurry));
    }
    return when;
}

/* Hear of the exit by epoll, or, where there is no pidfd or no room, by looking. */
static void watch_exit(fp_supervisor *supervisor, fp_proc *proc, int64_t now) {
    int r = proc->pidfd < 0 ? -EBADF : fp_supervisor_watch(supervisor, proc, proc->pidfd, FP_KEY_PIDFD, EPOLLIN);
    proc->in_epoll = r == 0;
    if (r == 0)
        return;
    look_again(proc, now);
    fp_supervisor_set_timer(supervisor, proc, next_look(proc, now));
}

/* Which limit of time a running process has passed; FP_REASON_NONE: none. */
static int what_is_overdue(const fp_proc *proc, int64_t now) {
    if (now >= proc->deadline_ns)
        return proc->deadline_reason;
    if (proc->rung == FP_RUNG_NONE && proc->flow && fp_flow_open(proc->flow) && now >= fp_flow_idle_at(proc->flow, now))
        return FP_REASON_IDLE_TIMEOUT;
    return FP_REASON_NONE;
}

static void feed(fp_supervisor *supervisor, fp_proc *proc) {
    if (!fp_flow_feed(proc->flow))
        return;
    unwatch_input(supervisor, proc->flow);
    fp_flow_close_input(proc->flow);
}

/* The same in any thread: those of the host do not block SIGPIPE, and must not hear of ours. */
static void feed_anywhere(fp_supervisor *supervisor, fp_proc *proc) {
    const fp_sigset broken_pipe = UINT64_C(1) << (SIGPIPE - 1);
    fp_sigset old;

    if (proc->flow->in_fd < 0)
        return;
    sys_rt_sigprocmask(SIG_BLOCK, &broken_pipe, &old);
    feed(supervisor, proc);
    if (!(old & broken_pipe))
        sys_rt_sigtimedwait(&broken_pipe);
    sys_rt_sigprocmask(SIG_SETMASK, &old, NULL);
}

/* epoll had no room for a stream (its limit is a user's, see epoll(7)): look by ourselves, and try again. */
static void look_after_unwatched(fp_supervisor *supervisor, fp_proc *proc, int64_t now) {
    fp_flow *flow = proc->flow;

    if (!flow || !supervisor->has_thread || !is_unwatched(flow))
        return;
    for (int which = 0; which < 2; which++) {
        fp_stream *stream = &flow->streams[which];
        if (stream->in_epoll)
            continue;
        for (int i = 0; i < PUMPS_AT_ONCE && pump(supervisor, proc, which, now); i++)
            ;
        if (!stream->paused)
            watch_stream(supervisor, proc, which);
    }
    tell_followers(proc);
    if (!flow->in_epoll) {
        feed_anywhere(supervisor, proc);
        watch_input(supervisor, proc);
    }
    enforce_output_limit(proc, now);
}

void fp_proc_turn(fp_proc *proc, int64_t now) {
    fp_supervisor *supervisor = supervisor_of(proc);
    int state = fp_proc_state(proc);

    look_after_unwatched(supervisor, proc, now);
    if (state == FP_STATE_RUNNING && proc->by_polling && now >= proc->check_ns) {
        if (!try_exit(supervisor, proc, now))
            look_again(proc, now);
    }
    /* Its time is up: unless it has ended meanwhile, and only the news of it are still to come. */
    int overdue = fp_proc_state(proc) == FP_STATE_RUNNING ? what_is_overdue(proc, now) : FP_REASON_NONE;
    if (overdue && !try_exit(supervisor, proc, now)) {
        proc->deadline_ns = FP_NEVER;
        ask_to_stop(proc, overdue, now);
    }
    if (fp_proc_state(proc) == FP_STATE_RUNNING && now >= proc->step_ns)
        climb(proc, FP_STOP_TIME, now);
    if (fp_proc_state(proc) == FP_STATE_RUNNING && now >= proc->watch_ns) {
        proc->watch_ns = FP_NEVER;
        if (!proc->claimed && !proc->in_epoll && !proc->by_polling)
            watch_exit(supervisor, proc, now);
    }
    if (fp_proc_state(proc) == FP_STATE_EXITED) {
        if (settle(supervisor, proc, now))
            return;
        if (proc->news) {
            tell(proc, FP_STATE_EXITED, 0);
            fp_supervisor_post(supervisor, proc, proc->news);
            proc->news = 0;
        }
    }
    if (proc->census_ns && now >= proc->census_ns)
        supervisor->census_wanted = true;
    int64_t when = next_look(proc, now);
    /* A census is under way: it calls us back, the clock need not. */
    if (proc->census_ns && proc->census_ns <= now && when == proc->census_ns)
        when = now + 20 * FP_NS_PER_MS;
    fp_supervisor_set_timer(supervisor, proc, when);
}

void fp_proc_on_census(fp_proc *proc, int64_t now) {
    fp_supervisor *supervisor = supervisor_of(proc);

    if (!proc->census_ns || supervisor->census.counted_ns < proc->census_ns)
        return;
    proc->census_ns = 0;
    if (fp_contain_count(proc, &supervisor->census) > 0) {
        proc->flags |= FP_EXIT_LEFTOVERS;
    } else if (fp_can(FP_CAP_PROCFS)) {
        proc->swept = true;
        proc->proof = FP_PROOF_SESSION;
        proc->check_ns = now;
    }
    fp_proc_turn(proc, now);
}

void fp_proc_on_exit_event(fp_proc *proc, int64_t now) {
    fp_supervisor *supervisor = supervisor_of(proc);

    if (fp_proc_state(proc) != FP_STATE_RUNNING || proc->claimed)
        return;
    if (!try_exit(supervisor, proc, now)) {
        /* Readable, but not to be waited for: a tracer holds it back, or the status is still to come. Do not spin. */
        unwatch_exit(supervisor, proc);
        look_again(proc, now);
    }
    fp_proc_turn(proc, now);
}

void fp_proc_on_stream_event(fp_proc *proc, int which, int64_t now) {
    fp_supervisor *supervisor = supervisor_of(proc);

    if (!proc->flow)
        return;
    if (which == 2) {
        feed(supervisor, proc);
        return;
    }
    bool was_open = fp_flow_open(proc->flow);
    pump(supervisor, proc, which, now);
    fp_mailbox_post(fp_stream_is_followed(&proc->flow->streams[which]) ? proc->mailbox : NULL, proc, FP_NEWS_OUTPUT);
    enforce_output_limit(proc, now);
    /* The idle clock and the drain are looked at when their time comes; only an end cannot wait. */
    if ((was_open && !fp_flow_open(proc->flow)) || proc->rung != FP_RUNG_NONE)
        fp_proc_turn(proc, now);
}

/* ---- start ------------------------------------------------------------------------------------ */

/*
 * A child that its starter waits for at once, and most of those do not live
 * long, is not put under watch only to be taken out again, and no second
 * thread is woken for it. So the watch begins a little later, unless somebody
 * listens who wants to hear of the exit at once.
 */
static bool may_watch_later(const fp_supervisor *supervisor, const fp_proc *proc) {
    return supervisor->has_thread && !proc->batch && proc->pidfd >= 0 && !fp_mailbox_is_listened_to(proc->mailbox);
}

void fp_proc_look_at_young(fp_supervisor *supervisor, int64_t now) {
    fp_proc *proc = supervisor->young;

    if (!proc)
        return;
    supervisor->young = NULL;
    /* Who waits for it by himself puts it under watch when he gives up. */
    if (fp_proc_state(proc) == FP_STATE_RUNNING && !proc->claimed && !proc->in_epoll && !proc->by_polling) {
        if (try_exit(supervisor, proc, now))
            fp_proc_turn(proc, now);
        else
            watch_exit(supervisor, proc, now);
    }
    fp_proc_unref(proc);
}

/* The loop starts it by itself, so it comes to look again before it sleeps. */
static bool is_started_by_loop(const fp_supervisor *supervisor, const fp_proc *proc) {
    return supervisor->has_thread && proc->batch && proc->pidfd >= 0;
}

static void watch_all(fp_supervisor *supervisor, fp_proc *proc) {
    if (may_watch_later(supervisor, proc)) {
        proc->watch_ns = proc->started_ns + FP_WATCH_LATER;
        supervisor->late_watch_ns = proc->watch_ns;
    } else if (is_started_by_loop(supervisor, proc)) {
        fp_proc_look_at_young(supervisor, fp_now_ns());
        supervisor->young = fp_proc_ref(proc);
    } else {
        watch_exit(supervisor, proc, proc->started_ns);
    }
    if (!proc->flow)
        return;
    for (int which = 0; which < 2; which++)
        watch_stream(supervisor, proc, which);
    watch_input(supervisor, proc);
}

static int take_leaf(fp_supervisor *supervisor, fp_proc *proc, const fp_spec *spec, fp_failure *reterr_failure) {
    int which = -1;
    bool must = proc->needs_leaf || proc->containment == FP_CONTAIN_CGROUP;

    if (proc->containment == FP_CONTAIN_SESSION && !proc->needs_leaf)
        return 0;
    uint32_t freezes = atomic_load_explicit(&supervisor->crew->freezes, memory_order_acquire);
    if (freezes != supervisor->freezes_seen) {
        supervisor->freezes_seen = freezes;
        fp_leaves_drop_frozen(&supervisor->leaves);
    }
    int r = fp_leaf_take(&supervisor->leaves, spec, &proc->leaf, &which);
    if (r < 0 && must) {
        *reterr_failure = (fp_failure){.error = -r, .stage = FP_STAGE_CGROUP, .detail = which};
        return r;
    }
    return 0;
}

static int make_birth(fp_supervisor *supervisor, fp_proc *proc, const fp_spec *spec, fp_birth_watch *watch,
                      fp_birth *ret_birth, fp_failure *reterr_failure) {
    fp_birthplace place = {
        .slots = supervisor->has_slots ? &supervisor->slots : NULL,
        .cgroup_fd = fp_leaf_fd(proc->leaf),
        .born_pid = &watch->pid,
        .pipes = &watch->pipes,
    };
    atomic_store(&watch->pid, 0);
    return fp_birth_make(spec, &place, ret_birth, reterr_failure);
}

/* From here on our ends of the pipes are to be found with the process. */
static void take_pipes(fp_proc *proc, const fp_birth *birth, fp_pipes *pipes) {
    pthread_mutex_lock(&pipes->lock);
    fp_flow_attach(proc->flow, birth);
    for (int i = 0; i < 3; i++)
        pipes->ours[i] = -1;
    pthread_mutex_unlock(&pipes->lock);
}

static void adopt(fp_supervisor *supervisor, fp_proc *proc, const fp_spec *spec, const fp_birth *birth,
                  fp_pipes *pipes) {
    int64_t by_timeout = spec->timeout_ns > 0 ? after(birth->started_ns, spec->timeout_ns) : FP_NEVER;
    int64_t by_deadline = spec->deadline_ns > 0 ? spec->deadline_ns : FP_NEVER;

    proc->pid = birth->pid;
    proc->pidfd = birth->pidfd;
    proc->started_ns = birth->started_ns;
    proc->containment = proc->leaf ? FP_CONTAIN_CGROUP : FP_CONTAIN_SESSION;
    proc->deadline_ns = earliest(by_timeout, by_deadline);
    proc->deadline_reason = FP_REASON_TIMEOUT;
    if (by_deadline < by_timeout && spec->deadline_reason)
        proc->deadline_reason = (uint8_t)spec->deadline_reason;
    if (proc->flow)
        take_pipes(proc, birth, pipes);
    tell(proc, FP_STATE_RUNNING, 0);
    watch_all(supervisor, proc);
    int64_t now = birth->started_ns;
    if (proc->stop_early)
        climb(proc, proc->grace_ns < 0 ? FP_STOP_NOW : FP_STOP_ASK, now);
    fp_supervisor_set_timer(supervisor, proc, next_look(proc, now));
}

int fp_proc_start(fp_supervisor *supervisor, fp_proc *proc, const fp_spec *spec, fp_failure *reterr_failure) {
    fp_birth birth;
    fp_birth_watch watch = {.leaf_fd = -1, .pipes = FP_PIPES_NONE};

    *reterr_failure = (fp_failure){.error = ESHUTDOWN, .stage = FP_STAGE_SUPERVISOR, .detail = -1};
    if (supervisor->stopping)
        return -ESHUTDOWN;
    int r = fp_supervisor_admit(supervisor, proc);
    if (r < 0) {
        reterr_failure->error = -r;
        return r;
    }
    r = take_leaf(supervisor, proc, spec, reterr_failure);
    if (r < 0)
        goto out;

    watch.leaf_fd = fp_leaf_fd(proc->leaf);
    pthread_mutex_unlock(&supervisor->lock);
    fp_birth_begins(supervisor->crew, &watch);
    r = make_birth(supervisor, proc, spec, &watch, &birth, reterr_failure);
    if (r < 0 && reterr_failure->stage == FP_STAGE_CGROUP && proc->containment == FP_CONTAIN_AUTO &&
        !proc->needs_leaf) {
        /* The leaf cannot be entered, now or ever: the session will do. */
        fp_birth_ends(supervisor->crew, &watch);
        watch.leaf_fd = -1;
        fp_supervisor_lock(supervisor);
        fp_leaf_give(&supervisor->leaves, proc->leaf, false);
        proc->leaf = NULL;
        pthread_mutex_unlock(&supervisor->lock);
        fp_birth_begins(supervisor->crew, &watch);
        r = make_birth(supervisor, proc, spec, &watch, &birth, reterr_failure);
    }
    fp_supervisor_lock(supervisor);
    if (r >= 0)
        adopt(supervisor, proc, spec, &birth, &watch.pipes);
    /* Only now: between the two it would be nobody's child, see orphans.c. */
    fp_birth_ends(supervisor->crew, &watch);
out:
    if (r < 0) {
        fp_leaf_give(&supervisor->leaves, proc->leaf, false);
        proc->leaf = NULL;
        fp_supervisor_dismiss(supervisor, proc);
    }
    return r < 0 ? r : 0;
}

void fp_proc_fail(fp_proc *proc, const fp_failure *failure) {
    proc->failure = *failure;
    tell(proc, FP_STATE_FAILED, 0);
    fp_mailbox_post(proc->mailbox, proc, FP_NEWS_FAILED);
}

int fp_spawn(fp_supervisor *supervisor, const fp_spec *spec, fp_proc **ret_proc, fp_failure *reterr_failure) {
    fp_failure failure = {.error = EINVAL, .stage = FP_STAGE_REQUEST, .detail = -1};
    fp_proc *proc = NULL;
    int r = -EINVAL;

    if (!supervisor || !spec || !ret_proc)
        goto out;
    if (fp_supervisor_is_copy(supervisor)) {
        failure = (fp_failure){.error = EOWNERDEAD, .stage = FP_STAGE_SUPERVISOR, .detail = -1};
        r = -EOWNERDEAD;
        goto out;
    }
    r = fp_spec_check(spec, &failure);
    if (r < 0)
        goto out;
    proc = fp_proc_new(spec);
    if (!proc) {
        failure = (fp_failure){.error = ENOMEM, .stage = FP_STAGE_REQUEST, .detail = -1};
        r = -ENOMEM;
        goto out;
    }
    atomic_store(&proc->supervisor, fp_supervisor_ref(supervisor));
    fp_supervisor_lock(supervisor);
    r = fp_proc_start(supervisor, proc, spec, &failure);
    pthread_mutex_unlock(&supervisor->lock);
out:
    if (r < 0) {
        if (proc)
            fp_proc_unref(proc);
        if (reterr_failure)
            *reterr_failure = failure;
        return r;
    }
    *ret_proc = proc;
    return 0;
}

/* ---- asking ------------------------------------------------------------------------------------- */

static void describe(const fp_proc *proc, fp_exit *ret_exit) {
    int state = fp_proc_state(proc);
    bool ended = state == FP_STATE_EXITED || state == FP_STATE_DONE;

    *ret_exit = (fp_exit){
        .state = state,
        .reason = ended ? proc->end_reason : FP_REASON_NONE,
        .code = ended ? proc->code : -1,
        .signal = ended ? proc->signal : 0,
        .flags = proc->flags,
        .pid = proc->pid,
        .started_ns = proc->started_ns,
        .ended_ns = proc->ended_ns,
        .usage = ended ? proc->usage : (fp_usage){0},
    };
}

void fp_proc_status(fp_proc *proc, fp_exit *ret_exit) {
    fp_supervisor *supervisor = fp_proc_lock(proc);
    describe(proc, ret_exit);
    fp_proc_unlock(proc, supervisor);
}

int fp_proc_failure(fp_proc *proc, fp_failure *ret_failure) {
    int r = -ENODATA;
    /* Mostly it has not, and who asks for thousands shall not hold up those who start them. */
    if (fp_proc_state(proc) != FP_STATE_FAILED)
        return r;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    if (fp_proc_state(proc) == FP_STATE_FAILED) {
        *ret_failure = proc->failure;
        r = 0;
    }
    fp_proc_unlock(proc, supervisor);
    return r;
}

int fp_proc_pid(fp_proc *proc) {
    return fp_proc_state(proc) >= FP_STATE_RUNNING ? proc->pid : 0;
}

int fp_proc_pidfd(fp_proc *proc) {
    fp_supervisor *supervisor = fp_proc_lock(proc);
    int fd = fp_proc_state(proc) == FP_STATE_DONE ? -1 : proc->pidfd;
    fp_proc_unlock(proc, supervisor);
    return fd < 0 ? -EBADF : fd;
}

int fp_proc_containment(fp_proc *proc) {
    fp_supervisor *supervisor = fp_proc_lock(proc);
    int containment = proc->containment;
    fp_proc_unlock(proc, supervisor);
    return containment;
}

int fp_proc_signal(fp_proc *proc, int sig, int to_group) {
    int r = -ESRCH;

    if (sig < 0 || sig > 64)
        return -EINVAL;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    int state = fp_proc_state(proc);
    if (is_copy(proc, supervisor))
        r = -EOWNERDEAD;
    else if (state == FP_STATE_RUNNING)
        r = fp_contain_signal(proc, sig, to_group);
    else if (state == FP_STATE_EXITED && to_group)
        r = fp_contain_signal(proc, sig, true);
    fp_proc_unlock(proc, supervisor);
    return r;
}

/* ---- waiting -------------------------------------------------------------------------------------- */

static bool reached(uint32_t word, int wanted, bool or_unkillable) {
    int state = (int)(word & FP_WORD_STATE);
    if (state == FP_STATE_FAILED || (or_unkillable && (word & FP_WORD_UNKILLABLE)))
        return true;
    return state >= wanted && state != FP_STATE_QUEUED;
}

/* A whole census in one go. */
static bool count_all(fp_census *census) {
    int r;
    while ((r = fp_census_step(census, 1024)) == 0)
        ;
    return r > 0;
}

/* Nobody lends the supervisor a thread: the waiter turns this process by itself, now and then. */
static void drive(fp_supervisor *supervisor, fp_proc *proc) {
    int64_t now = fp_now_ns();
    proc->by_polling = true;
    proc->check_ns = now;
    if (proc->flow) {
        for (int which = 0; which < 2; which++)
            for (int i = 0; i < PUMPS_AT_ONCE && pump(supervisor, proc, which, now); i++)
                ;
        feed_anywhere(supervisor, proc);
        if (fp_proc_state(proc) == FP_STATE_RUNNING)
            enforce_output_limit(proc, now);
    }
    fp_proc_turn(proc, now);
    bool wanted = proc->census_ns && now >= proc->census_ns && fp_proc_state(proc) != FP_STATE_DONE;
    if (wanted && count_all(&supervisor->census))
        fp_proc_on_census(proc, now);
}

/* Is its exit the only thing that can happen to it? If not, a waiter without a supervisor's thread has to drive. */
static bool exit_is_all(const fp_proc *proc) {
    return !proc->flow && proc->deadline_ns == FP_NEVER && proc->step_ns == FP_NEVER;
}

/* Do children of a supervisor's thread end while somebody waits for this one? Then not each of them is to wake him. */
static bool is_one_of_many(const fp_proc *proc) {
    return proc->batch;
}

/*
 * Watch the pidfd in the calling thread: the supervisor is told to leave the
 * exit to us, so one thread is woken instead of two. Returns what poll said.
 */
static int wait_by_pidfd(fp_supervisor *supervisor, fp_proc *proc, int64_t left) {
    struct pollfd wait = {.fd = proc->pidfd, .events = POLLIN};

    proc->claimed = true;
    proc->watch_ns = FP_NEVER;
    unwatch_exit(supervisor, proc);
    pthread_mutex_unlock(&supervisor->lock);
    uint64_t mask;
    bool held_back = is_one_of_many(proc) && fp_sigchld_hold_back(&mask);
    int r = sys_poll(&wait, 1, left);
    if (held_back)
        fp_sigchld_let_in(&mask);
    fp_supervisor_lock(supervisor);
    proc->claimed = false;
    if (fp_proc_state(proc) == FP_STATE_DONE)
        close_pidfd(proc);
    if (fp_proc_state(proc) != FP_STATE_RUNNING)
        return r;
    if (r > 0) {
        int64_t now = fp_now_ns();
        if (!try_exit(supervisor, proc, now))
            look_again(proc, now);
        fp_proc_turn(proc, now);
    } else {
        watch_exit(supervisor, proc, fp_now_ns());
    }
    return r;
}

static int wait_for(fp_proc *proc, int wanted, bool or_unkillable, int64_t timeout_ns, fp_exit *ret_exit) {
    int64_t until = timeout_ns < 0 ? FP_NEVER : after(fp_now_ns(), timeout_ns);
    bool looked = false, may_poll = true;
    int r = 0;

    fp_supervisor *supervisor = fp_proc_lock(proc);
    for (;;) {
        uint32_t word = atomic_load_explicit(&proc->word, memory_order_acquire);
        if (reached(word, wanted, or_unkillable)) {
            r = (word & FP_WORD_STATE) == FP_STATE_FAILED ? -ECHILD : 0;
            break;
        }
        if (is_copy(proc, supervisor)) {
            r = -EOWNERDEAD;
            break;
        }
        int state = (int)(word & FP_WORD_STATE);
        int64_t now = fp_now_ns();
        if (timeout_ns == 0 && state == FP_STATE_RUNNING && !looked) {
            /* Asked once: look for ourselves, nobody need have told us yet. */
            looked = true;
            if (try_exit(supervisor, proc, now))
                fp_proc_turn(proc, now);
            continue;
        }
        if (now >= until) {
            r = -ETIMEDOUT;
            break;
        }
        int64_t left = until == FP_NEVER ? -1 : until - now;
        bool driven = supervisor && supervisor->has_thread;
        /* Of the verdict that it cannot be killed no pidfd tells. */
        if (state == FP_STATE_RUNNING && !proc->claimed && !proc->by_polling && proc->pidfd >= 0 && may_poll &&
            !or_unkillable && (driven || exit_is_all(proc))) {
            /* Who stops it meanwhile cannot tell us. */
            if (!driven && (left < 0 || left > UNDRIVEN_LOOK))
                left = UNDRIVEN_LOOK;
            r = wait_by_pidfd(supervisor, proc, left);
            if (r == -EINTR)
                break;
            /* With RLIMIT_NOFILE at 0 there is no polling at all, see poll(2). */
            may_poll = r >= 0;
            continue;
        }
        if (supervisor && !driven && state >= FP_STATE_RUNNING) {
            drive(supervisor, proc);
            if (reached(atomic_load(&proc->word), wanted, or_unkillable))
                continue;
            pthread_mutex_unlock(&supervisor->lock);
            r = sys_poll(NULL, 0, earliest(5 * FP_NS_PER_MS, until - now));
        } else {
            word = atomic_fetch_or_explicit(&proc->word, FP_WORD_WAITERS, memory_order_acq_rel) | FP_WORD_WAITERS;
            fp_proc_unlock(proc, supervisor);
            uint64_t mask;
            bool held_back = is_one_of_many(proc) && fp_sigchld_hold_back(&mask);
            r = sys_futex_wait(&proc->word, word, until);
            if (held_back)
                fp_sigchld_let_in(&mask);
        }
        supervisor = fp_proc_lock(proc);
        if (r == -EINTR)
            break;
    }
    if (ret_exit && (r == 0 || r == -ETIMEDOUT))
        describe(proc, ret_exit);
    fp_proc_unlock(proc, supervisor);
    return r < 0 ? r : 0;
}

int fp_proc_wait(fp_proc *proc, int state, int64_t timeout_ns, fp_exit *ret_exit) {
    if (state != FP_STATE_RUNNING && state != FP_STATE_EXITED && state != FP_STATE_DONE)
        return -EINVAL;
    return wait_for(proc, state, false, timeout_ns, ret_exit);
}

int fp_proc_wait_stopped(fp_proc *proc, int64_t timeout_ns, fp_exit *ret_exit) {
    return wait_for(proc, FP_STATE_DONE, true, timeout_ns, ret_exit);
}

int fp_procs_wait_started(fp_proc *const *procs, size_t n, int64_t timeout_ns) {
    int64_t until = timeout_ns < 0 ? FP_NEVER : after(fp_now_ns(), timeout_ns);

    /* From the end: they are started in order, so mostly this waits but once. */
    for (size_t i = n; i-- > 0;) {
        if (fp_proc_state(procs[i]) != FP_STATE_QUEUED)
            continue;
        int64_t left = until == FP_NEVER ? -1 : until - fp_now_ns();
        int r = wait_for(procs[i], FP_STATE_RUNNING, false, until == FP_NEVER ? -1 : left > 0 ? left : 0, NULL);
        if (r < 0 && r != -ECHILD)
            return r;
    }
    return 0;
}

void fp_proc_rouse(fp_proc *proc) {
    /* The word changes, so that nobody goes to sleep on what he saw before. */
    atomic_fetch_and_explicit(&proc->word, ~(uint32_t)FP_WORD_WAITERS, memory_order_acq_rel);
    sys_futex_wake(&proc->word, INT32_MAX);
    if (proc->flow) {
        atomic_fetch_add_explicit(&proc->flow->sequence, 1, memory_order_release);
        sys_futex_wake(&proc->flow->sequence, INT32_MAX);
    }
}

/* ---- stopping ---------------------------------------------------------------------------------------- */

static int stop_one(fp_proc *proc, int reason, int64_t grace_ns, int64_t kill_timeout_ns) {
    int r = 0;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    int64_t now = fp_now_ns();

    if (is_copy(proc, supervisor)) {
        r = -EOWNERDEAD;
        goto out;
    }
    if (fp_proc_state(proc) == FP_STATE_RUNNING && try_exit(supervisor, proc, now)) {
        /* It was over before we came: its own end counts. */
        fp_proc_turn(proc, now);
    }
    int state = fp_proc_state(proc);
    if (state == FP_STATE_DONE || state == FP_STATE_FAILED) {
        r = -ESRCH;
        goto out;
    }
    if (proc->rung == FP_RUNG_NONE) {
        if (grace_ns)
            proc->grace_ns = grace_ns;
        if (kill_timeout_ns > 0)
            proc->kill_timeout_ns = kill_timeout_ns;
    }
    proc->hurry = true;
    if (state == FP_STATE_QUEUED) {
        /* In a supervisor's hands, but not born yet: at its birth. */
        proc->stop_early = supervisor != NULL;
        proc->reason = (uint8_t)reason;
        r = supervisor ? 0 : -EAGAIN;
        goto out;
    }
    if (proc->rung == FP_RUNG_NONE) {
        ask_to_stop(proc, reason, now);
    } else if (proc->rung == FP_RUNG_ASKED) {
        int64_t grace = grace_ns ? grace_ns : proc->grace_ns;
        if (grace < 0)
            climb(proc, FP_STOP_NOW, now);
        else
            proc->step_ns = earliest(proc->step_ns, after(now, grace));
    }
    fp_proc_turn(proc, now);
out:
    fp_proc_unlock(proc, supervisor);
    return r;
}

int fp_proc_stop(fp_proc *proc, int reason, int64_t grace_ns, int64_t kill_timeout_ns) {
    if (reason <= FP_REASON_SIGNALED || reason >= FP_REASON_COUNT)
        return -EINVAL;
    for (;;) {
        int r = stop_one(proc, reason, grace_ns, kill_timeout_ns);
        if (r != -EAGAIN)
            return r;
        /* Still queued: it need not be started at all. */
        if (fp_proc_withdraw(proc) == 0)
            return 0;
    }
}

int fp_procs_stop(fp_proc *const *procs, size_t n, int reason, int64_t grace_ns, int64_t kill_timeout_ns) {
    int stopped = 0;
    for (size_t i = 0; i < n; i++)
        stopped += fp_proc_stop(procs[i], reason, grace_ns, kill_timeout_ns) == 0;
    return stopped;
}

int fp_proc_report(fp_proc *proc, fp_stop_report *ret_report) {
    fp_census census;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    bool look = supervisor && fp_proc_state(proc) != FP_STATE_DONE && !proc->leaf && fp_can(FP_CAP_PROCFS);

    memset(ret_report, 0, sizeof *ret_report);
    fp_census_init(&census);
    if (look) {
        /* Looking through /proc takes its time: not under the lock. */
        fp_proc_unlock(proc, supervisor);
        look = count_all(&census);
        supervisor = fp_proc_lock(proc);
    }
    if (fp_proc_state(proc) == FP_STATE_DONE)
        ret_report->proof = proc->proof;
    else if (supervisor)
        ret_report->n_survivors = fp_contain_survivors(proc, look ? &census : NULL, ret_report->survivors, 32);
    fp_proc_unlock(proc, supervisor);
    fp_census_done(&census);
    return 0;
}

/* ---- captured output ------------------------------------------------------------------------------------ */

static fp_stream *stream_of(const fp_proc *proc, int stream) {
    if (!proc->flow || stream < 1 || stream > 2 || !proc->flow->streams[stream - 1].captured)
        return NULL;
    return &proc->flow->streams[stream - 1];
}

int fp_proc_output(fp_proc *proc, int stream, fp_output *ret_output) {
    fp_stream *s = stream_of(proc, stream);
    if (!s)
        return -EINVAL;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    fp_stream_describe(s, ret_output);
    if (fp_proc_state(proc) < FP_STATE_RUNNING)
        ret_output->ended = fp_proc_state(proc) == FP_STATE_FAILED;
    fp_proc_unlock(proc, supervisor);
    return 0;
}

int64_t fp_proc_output_copy(fp_proc *proc, int stream, void *buffer, size_t buffer_bytes) {
    fp_stream *s = stream_of(proc, stream);
    if (!s)
        return -EINVAL;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    size_t n = fp_stream_copy_all(s, buffer, buffer_bytes);
    fp_proc_unlock(proc, supervisor);
    return (int64_t)n;
}

/* A follower has read on or gone: is the pause over? */
static void resume(fp_supervisor *supervisor, fp_proc *proc, int stream) {
    fp_stream *s = &proc->flow->streams[stream - 1];
    if (!supervisor || !s->paused || s->fd < 0)
        return;
    fp_stream_resume(proc->flow, s, fp_now_ns());
    watch_stream(supervisor, proc, stream - 1);
}

int fp_proc_follow(fp_proc *proc, int stream, int on) {
    fp_stream *s = stream_of(proc, stream);
    if (!s)
        return -EINVAL;
    int r = 0;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    if (is_copy(proc, supervisor)) {
        r = -EOWNERDEAD;
        goto out;
    }
    s->followed = on;
    s->awaited = false;
    if (on) {
        s->read_to = s->total - s->tail_bytes;
        fp_stream_make_room(s);
    } else {
        resume(supervisor, proc, stream);
    }
out:
    fp_proc_unlock(proc, supervisor);
    return r;
}

int fp_reader_new(fp_proc *proc, int stream, fp_reader **ret_reader) {
    fp_stream *s = stream_of(proc, stream);
    if (!s)
        return -EINVAL;
    fp_reader *reader = calloc(1, sizeof *reader);
    if (!reader)
        return -ENOMEM;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    if (is_copy(proc, supervisor)) {
        fp_proc_unlock(proc, supervisor);
        free(reader);
        return -EOWNERDEAD;
    }
    fp_stream_make_room(s);
    /* What is kept of the beginning stays in any case. */
    *reader = (fp_reader){
        .next = s->readers, .proc = fp_proc_ref(proc), .stream = stream, .read_to = s->total - s->tail_bytes};
    s->readers = reader;
    /* He is the one who was waited for. */
    if (s->awaited)
        s->followed = s->awaited = false;
    fp_proc_unlock(proc, supervisor);
    *ret_reader = reader;
    return 0;
}

fp_reader *fp_reader_free(fp_reader *reader) {
    if (!reader)
        return NULL;
    fp_proc *proc = reader->proc;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    if (!is_copy(proc, supervisor)) {
        for (fp_reader **at = &stream_of(proc, reader->stream)->readers; *at; at = &(*at)->next) {
            if (*at == reader) {
                *at = reader->next;
                break;
            }
        }
        resume(supervisor, proc, reader->stream);
    }
    fp_proc_unlock(proc, supervisor);
    free(reader);
    fp_proc_unref(proc);
    return NULL;
}

/* Read at `*offset`, and move both that and `*read_to`, up to where this follower has read, on. */
static int64_t read_from(fp_proc *proc, int stream, uint64_t *offset, uint64_t *read_to, void *buffer,
                         size_t buffer_bytes, int64_t timeout_ns) {
    int64_t until = timeout_ns < 0 ? FP_NEVER : after(fp_now_ns(), timeout_ns);
    fp_stream *s = stream_of(proc, stream);
    int64_t r;

    if (!buffer_bytes)
        return -EINVAL;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    for (;;) {
        if (is_copy(proc, supervisor)) {
            r = -EOWNERDEAD;
            break;
        }
        uint64_t from;
        size_t n = fp_stream_copy(s, *offset, &from, buffer, buffer_bytes);
        if (n) {
            *offset = from + n;
            r = (int64_t)n;
            if (*read_to < *offset)
                *read_to = *offset;
            resume(supervisor, proc, stream);
            break;
        }
        int state = fp_proc_state(proc);
        if ((s->fd < 0 && state >= FP_STATE_RUNNING) || state == FP_STATE_FAILED) {
            r = 0;
            break;
        }
        if (until != FP_NEVER && fp_now_ns() >= until) {
            r = -ETIMEDOUT;
            break;
        }
        bool driven = supervisor && supervisor->has_thread;
        if (!driven && state >= FP_STATE_RUNNING) {
            uint64_t total = s->total;
            drive(supervisor, proc);
            if (s->total != total || s->fd < 0)
                continue;
        }
        uint32_t sequence = atomic_load_explicit(&proc->flow->sequence, memory_order_acquire);
        proc->flow->readers++;
        fp_proc_unlock(proc, supervisor);
        int64_t nap = driven ? FP_NEVER : fp_now_ns() + 5 * FP_NS_PER_MS;
        r = sys_futex_wait(&proc->flow->sequence, sequence, earliest(until, nap));
        supervisor = fp_proc_lock(proc);
        proc->flow->readers--;
        if (r == -EINTR)
            break;
    }
    fp_proc_unlock(proc, supervisor);
    return r;
}

int64_t fp_proc_read(fp_proc *proc, int stream, uint64_t *offset, void *buffer, size_t buffer_bytes,
                     int64_t timeout_ns) {
    fp_stream *s = stream_of(proc, stream);
    return s ? read_from(proc, stream, offset, &s->read_to, buffer, buffer_bytes, timeout_ns) : -EINVAL;
}

int64_t fp_reader_read(fp_reader *reader, void *buffer, size_t buffer_bytes, int64_t timeout_ns) {
    return read_from(reader->proc, reader->stream, &reader->offset, &reader->read_to, buffer, buffer_bytes, timeout_ns);
}
