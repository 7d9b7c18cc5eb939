/*
 * outcome.c: how a process has ended, as the kernel says it.
 *
 * The one place that collects a child; who may do so, and when, is in reap.c,
 * solo.c and spawn_report.c. To look without collecting is another matter, see
 * spawn_shared.c.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "host.h"
#include "sys.h"

static fp_usage usage_of(const struct rusage *usage) {
    return (fp_usage){
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

int fp_outcome_collect(int pidfd, pid_t pid, int options, fp_outcome *ret_outcome) {
    bool by_pidfd = pidfd >= 0 && fp_can(FP_CAP_PIDFD_WAIT);
    struct rusage usage;
    siginfo_t info;

    memset(&info, 0, sizeof info);
    memset(&usage, 0, sizeof usage);
    int r = sys_waitid(by_pidfd ? FP_P_PIDFD : P_PID, by_pidfd ? pidfd : pid, &info, options, &usage);
    /* The host has closed our descriptor: then by its number, which is good until it is reaped. */
    if (r == -EBADF && by_pidfd)
        r = sys_waitid(P_PID, pid, &info, options, &usage);
    if (r < 0 || info.si_pid == 0)
        return r < 0 ? r : 0;
    *ret_outcome = (fp_outcome){.core_dumped = info.si_code == CLD_DUMPED, .usage = usage_of(&usage)};
    if (info.si_code == CLD_EXITED)
        ret_outcome->code = (int16_t)info.si_status;
    else
        ret_outcome->signal = (int16_t)info.si_status;
    return 1;
}

bool fp_outcome_ask(int pidfd, fp_outcome *ret_outcome) {
    fp_pidfd_info info = {.mask = FP_PIDFD_INFO_EXIT};

    if (sys_ioctl(pidfd, FP_PIDFD_GET_INFO, &info) < 0 || !(info.mask & FP_PIDFD_INFO_EXIT))
        return false;
    *ret_outcome = (fp_outcome){0};
    /* As wait(2) packs it. */
    if (WIFEXITED(info.exit_code)) {
        ret_outcome->code = (int16_t)WEXITSTATUS(info.exit_code);
    } else {
        ret_outcome->signal = (int16_t)WTERMSIG(info.exit_code);
        ret_outcome->core_dumped = WCOREDUMP(info.exit_code);
    }
    return true;
}
