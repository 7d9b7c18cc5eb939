/*
 * ask.c: calls that ask something about a process, or of it, and return at
 * once: how it stands, a signal, its end, who is left.
 *
 * What has ended is not signalled: who wants a signal or a stop looks for that
 * first, under the lock of the process. None waits for what it asks for, see
 * wait.c.
 */
#include <errno.h>
#include <string.h>

#include "internal.h"
#include "sys.h"

/* ---- how it stands ------------------------------------------------------------- */

void fp_proc_status(fp_proc *proc, fp_exit *ret_exit) {
    /* Nothing changes any more, and who asks for thousands shall not hold up those who start them. */
    if (fp_proc_state(proc) == FP_STATE_DONE) {
        fp_proc_describe(proc, ret_exit);
        return;
    }
    fp_supervisor *supervisor = fp_proc_lock(proc);
    fp_proc_describe(proc, ret_exit);
    fp_proc_unlock(proc, supervisor);
}

int fp_proc_failure(fp_proc *proc, fp_failure *ret_failure) {
    int r = -ENODATA;
    /* Mostly it has not, and who asks for thousands shall not hold up those who start them. */
    if (fp_proc_state(proc) != FP_STATE_FAILED)
        return r;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    if (fp_proc_state(proc) == FP_STATE_FAILED) {
        *ret_failure = *fp_proc_failed(proc);
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

/* ---- signals and stopping ------------------------------------------------------ */

int fp_proc_signal(fp_proc *proc, int sig, int to_group) {
    int r = -ESRCH;

    if (sig < 0 || sig > 64)
        return -EINVAL;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    int state = fp_proc_state(proc);
    if (fp_proc_is_copy(proc, supervisor))
        r = -EOWNERDEAD;
    else if (state == FP_STATE_RUNNING)
        r = fp_contain_signal(proc, sig, to_group);
    else if (state == FP_STATE_EXITED && to_group)
        r = fp_contain_signal(proc, sig, true);
    fp_proc_unlock(proc, supervisor);
    return r;
}

static int stop_one(fp_proc *proc, int reason, int64_t grace_ns, int64_t kill_timeout_ns) {
    int r = 0;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    int64_t now = fp_now_ns();

    if (fp_proc_is_copy(proc, supervisor)) {
        r = -EOWNERDEAD;
        goto out;
    }
    if (fp_proc_state(proc) == FP_STATE_RUNNING && fp_proc_try_exit(supervisor, proc, now)) {
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
        fp_proc_ask_to_stop(proc, reason, now);
    } else if (proc->rung == FP_RUNG_ASKED) {
        int64_t grace = grace_ns ? grace_ns : proc->grace_ns;
        if (grace < 0)
            fp_proc_climb(proc, FP_STOP_NOW, now);
        else
            proc->step_ns = fp_earliest(proc->step_ns, fp_after(now, grace));
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
    int state = supervisor ? fp_proc_state(proc) : FP_STATE_DONE;
    /* Who is not born yet has no session of his own. */
    bool look = (state == FP_STATE_RUNNING || state == FP_STATE_EXITED) && !proc->leaf && fp_can(FP_CAP_PROCFS);

    memset(ret_report, 0, sizeof *ret_report);
    fp_census_init(&census);
    if (look) {
        /* Looking through /proc takes its time: not under the lock. */
        fp_proc_unlock(proc, supervisor);
        look = fp_census_count_all(&census);
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
