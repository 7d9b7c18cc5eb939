/*
 * spawn_report.c: what has become of a child: a program, or a report of what
 * went wrong before. One that was not born is collected here.
 */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "birth.h"

int fp_birth_fail(fp_failure *reterr_failure, int error, int stage, int detail) {
    if (reterr_failure)
        *reterr_failure = (fp_failure){.error = -error, .stage = stage, .detail = detail};
    return error;
}

/*
 * Collect a child that has failed before execve(2), and that nobody has heard
 * of. Returns the signal that killed it, or 0.
 */
static int reap_unborn(struct birth *birth) {
    fp_outcome outcome;
    int r;

    /* From here on the number may become another process's. */
    if (birth->place->born_pid)
        atomic_store_explicit(birth->place->born_pid, 0, memory_order_release);
    do
        r = fp_outcome_collect(birth->pidfd, birth->pid, WEXITED, &outcome);
    while (r == -EINTR);
    fp_close_fd(&birth->pidfd);
    return r > 0 ? outcome.signal : 0; /* else the host has taken it already */
}

int fp_birth_read_report(struct birth *birth, const fp_child_report *report, fp_failure *reterr_failure) {
    if (report->error == 0 && report->reached_exec)
        return 0;

    int sig = reap_unborn(birth);
    if (report->error != 0)
        return fp_birth_fail(reterr_failure, -report->error, report->stage, report->detail);
    return fp_birth_fail(reterr_failure, -ESRCH, FP_STAGE_PRE_EXEC, sig);
}

/*
 * A kernel that does not know CLONE_PIDFD has ignored it, see clone(2). The
 * child cannot have been replaced by another process of that number: it is
 * ours, and nobody has reaped it but perhaps the host.
 */
int fp_birth_open_pidfd_late(struct birth *birth, fp_failure *reterr_failure) {
    if (birth->pidfd >= 0 || birth->without_pidfd || !fp_can(FP_CAP_PIDFD))
        return 0;
    int r = sys_pidfd_open(birth->pid, 0);
    if (r >= 0) {
        birth->pidfd = r;
        return 0;
    }
    sys_kill(birth->pid, SIGKILL);
    reap_unborn(birth);
    return fp_birth_fail(reterr_failure, r, FP_STAGE_CLONE, -1);
}
