/*
 * probe.c: what this kernel and container allow, found out by trying, once.
 *
 * Version numbers do not tell: a seccomp filter may refuse a call that the
 * kernel has (with ENOSYS or EPERM), and an emulator may have a call that does
 * less than it says. So a trial child is made in each way, and what it leaves
 * behind is looked at. It has no exit signal: the host's handler for SIGCHLD
 * and its waits do not notice it.
 *
 * FASTPROC_DISABLE=clone3,pidfd,... hides capabilities, so that what an older
 * kernel would do can be tested on this one; "all" hides all but procfs.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "child.h"
#include "proc.h"

enum { TRIAL_STACK_BYTES = 8 * 1024 };

static const char *const names[FP_CAP_COUNT] = {
    [FP_CAP_CLONE3] = "clone3",
    [FP_CAP_CLONE] = "clone",
    [FP_CAP_PIDFD] = "pidfd",
    [FP_CAP_PIDFD_SIGNAL] = "pidfd_signal",
    [FP_CAP_PIDFD_WAIT] = "pidfd_wait",
    [FP_CAP_PIDFD_GROUP] = "pidfd_group",
    [FP_CAP_PIDFD_INFO] = "pidfd_info",
    [FP_CAP_CLOSE_RANGE] = "close_range",
    [FP_CAP_CGROUP] = "cgroup",
    [FP_CAP_INTO_CGROUP] = "into_cgroup",
    [FP_CAP_CGROUP_KILL] = "cgroup_kill",
    [FP_CAP_PROCFS] = "procfs",
};

/* What a capability is nothing without; FP_CAP_COUNT: it stands alone. */
static const int needs[FP_CAP_COUNT] = {
    [FP_CAP_CLONE3] = FP_CAP_COUNT,       [FP_CAP_CLONE] = FP_CAP_COUNT,
    [FP_CAP_PIDFD] = FP_CAP_COUNT,        [FP_CAP_PIDFD_SIGNAL] = FP_CAP_PIDFD,
    [FP_CAP_PIDFD_WAIT] = FP_CAP_PIDFD,   [FP_CAP_PIDFD_GROUP] = FP_CAP_PIDFD_SIGNAL,
    [FP_CAP_PIDFD_INFO] = FP_CAP_PIDFD,   [FP_CAP_CLOSE_RANGE] = FP_CAP_COUNT,
    [FP_CAP_CGROUP] = FP_CAP_COUNT,       [FP_CAP_INTO_CGROUP] = FP_CAP_CLONE3,
    [FP_CAP_CGROUP_KILL] = FP_CAP_CGROUP, [FP_CAP_PROCFS] = FP_CAP_COUNT,
};

static bool found[FP_CAP_COUNT];

/* ---- FASTPROC_DISABLE --------------------------------------------------------- */

static bool lists(const char *list, const char *name) {
    size_t bytes = strlen(name);

    while (*list) {
        size_t word_bytes = strcspn(list, ", ");
        if (word_bytes == bytes && memcmp(list, name, bytes) == 0)
            return true;
        list += word_bytes;
        list += strspn(list, ", ");
    }
    return false;
}

static bool is_hidden(int capability) {
    const char *list = getenv("FASTPROC_DISABLE");

    if (!list)
        return false;
    return lists(list, names[capability]) || (capability != FP_CAP_PROCFS && lists(list, "all"));
}

/* ---- trial children -------------------------------------------------------------- */

/* A child that has ended and has not been reaped. */
struct trial {
    pid_t pid;
    int pidfd; /* -1: the kernel has not given one */
    bool shared_memory;
    bool unshared_table;
};

static bool is_open(int fd) {
    return sys_fcntl(fd, F_GETFD, 0) >= 0;
}

/*
 * Make a child in our memory that takes a copy of our descriptor table and
 * closes something in it: it must be closed there, not here.
 */
__attribute__((noinline)) static struct trial try_shared(bool by_clone3, bool with_table) {
    _Alignas(16) char stack[TRIAL_STACK_BYTES];
    fp_child_trial report = {.unshared = -1, .fd = -1};
    struct trial trial = {.pidfd = -1};
    uint64_t flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD;
    static const fp_sigset all = ~UINT64_C(0);
    fp_sigset mask;
    long r;

    if (with_table)
        report.fd = sys_openat(AT_FDCWD, "/", O_PATH | O_CLOEXEC, 0);
    if (report.fd >= 0)
        flags |= CLONE_FILES;
    sys_rt_sigprocmask(SIG_SETMASK, &all, &mask);
    if (by_clone3) {
        fp_clone_args args = {
            .flags = flags | FP_CLONE_CLEAR_SIGHAND,
            .pidfd = (uintptr_t)&trial.pidfd,
            .stack = (uintptr_t)stack,
            .stack_size = sizeof stack,
        };
        r = sys_clone3_to_child(&args, fp_child_try, &report);
    } else {
        r = sys_clone_to_child((unsigned long)flags, stack + sizeof stack, &trial.pidfd, fp_child_try, &report);
    }
    sys_rt_sigprocmask(SIG_SETMASK, &mask, NULL);
    if (r > 0)
        trial.pid = (pid_t)r;
    trial.shared_memory = r > 0 && report.born;
    trial.unshared_table = report.fd >= 0 && report.unshared == 0 && is_open(report.fd);
    if (report.fd >= 0)
        sys_close(report.fd);
    return trial;
}

static struct trial try_fork(void) {
    struct trial trial = {.pidfd = -1};
    static const fp_sigset all = ~UINT64_C(0);
    fp_sigset mask;

    sys_rt_sigprocmask(SIG_SETMASK, &all, &mask);
    long r = sys_fork(CLONE_PIDFD, &trial.pidfd);
    if (r == 0)
        sys_exit_group(0);
    sys_rt_sigprocmask(SIG_SETMASK, &mask, NULL);
    if (r > 0)
        trial.pid = (pid_t)r;
    return trial;
}

/* Collect the child; true if that went by its pidfd. */
static bool reap_trial(const struct trial *trial) {
    siginfo_t info;
    int r = -EINVAL;

    if (trial->pid <= 0)
        return false;
    if (trial->pidfd >= 0)
        do
            r = sys_waitid(FP_P_PIDFD, trial->pidfd, &info, WEXITED | __WALL, NULL);
        while (r == -EINTR);
    /* -ECHILD: the host has taken it, but the kernel knew what we meant. */
    if (r >= 0 || r == -ECHILD)
        return true;
    do
        r = sys_waitid(P_PID, trial->pid, &info, WEXITED | __WALL, NULL);
    while (r == -EINTR);
    return false;
}

static void end_trial(struct trial *trial) {
    reap_trial(trial);
    if (trial->pidfd >= 0)
        sys_close(trial->pidfd);
}

/* ---- what the kernel can ------------------------------------------------------------ */

static void probe_ways(void) {
    bool unshares = true;

    for (int by_clone3 = 0; by_clone3 <= 1; by_clone3++) {
        int capability = by_clone3 ? FP_CAP_CLONE3 : FP_CAP_CLONE;
        if (is_hidden(capability))
            continue;
        struct trial trial = try_shared(by_clone3, true);
        found[capability] = trial.shared_memory;
        if (trial.shared_memory && !trial.unshared_table)
            unshares = false;
        end_trial(&trial);
    }
    /* Asked for a range in which nothing can be open. */
    found[FP_CAP_CLOSE_RANGE] = unshares && sys_close_range(UINT_MAX, UINT_MAX, 0) == 0;
}

/* The signal is 0 throughout, and the group that of a child which is no more: nobody hears of it. */
static void probe_pidfds(void) {
    struct trial trial;

    if (is_hidden(FP_CAP_PIDFD))
        return;
    trial = try_shared(true, false);
    if (trial.pid <= 0)
        trial = try_shared(false, false);
    if (trial.pid <= 0)
        trial = try_fork();
    if (trial.pid > 0 && trial.pidfd < 0) {
        int pidfd = sys_pidfd_open(trial.pid, 0);
        if (pidfd >= 0)
            trial.pidfd = pidfd;
    }
    found[FP_CAP_PIDFD_WAIT] = reap_trial(&trial);
    if (trial.pidfd < 0)
        return;

    fp_pidfd_info info = {.mask = FP_PIDFD_INFO_EXIT};
    found[FP_CAP_PIDFD] = true;
    /* -ESRCH is the right answer about the dead. */
    found[FP_CAP_PIDFD_SIGNAL] = sys_pidfd_send_signal(trial.pidfd, 0, NULL, 0) == -ESRCH;
    found[FP_CAP_PIDFD_GROUP] = sys_pidfd_send_signal(trial.pidfd, 0, NULL, FP_PIDFD_SIGNAL_PROCESS_GROUP) == -ESRCH;
    found[FP_CAP_PIDFD_INFO] =
        sys_ioctl(trial.pidfd, FP_PIDFD_GET_INFO, &info) == 0 && (info.mask & FP_PIDFD_INFO_EXIT);
    sys_close(trial.pidfd);
}

/* A kernel that knows the flag looks for the descriptor, which does not exist; another refuses the flag. */
static void probe_into_cgroup(void) {
    fp_clone_args args = {.flags = FP_CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = INT_MAX};

    found[FP_CAP_INTO_CGROUP] = sys_clone3_to_child(&args, fp_child_try, NULL) == -EBADF;
}

static void probe_procfs(void) {
    int fd = sys_openat(AT_FDCWD, "/proc/self/stat", O_RDONLY | O_CLOEXEC, 0);

    found[FP_CAP_PROCFS] = fd >= 0;
    if (fd >= 0)
        sys_close(fd);
}

static void probe_kernel(void) {
    probe_ways();
    probe_pidfds();
    probe_into_cgroup();
    probe_procfs();
    /* What another needs comes before it in the list, so one pass does. */
    for (int capability = 0; capability < FP_CAP_COUNT; capability++) {
        if (capability == FP_CAP_CGROUP || capability == FP_CAP_CGROUP_KILL)
            continue;
        if (is_hidden(capability) || (needs[capability] != FP_CAP_COUNT && !found[needs[capability]]))
            found[capability] = false;
    }
}

/* ---- what the container allows -------------------------------------------------------- */

/* Apart from the rest, because it writes to the cgroup tree: only those who want a cgroup pay for that. */
static void probe_cgroup(void) {
    found[FP_CAP_CGROUP] = !is_hidden(FP_CAP_CGROUP) && fp_cgroup_available();
}

/* The root of the tree has no cgroup.kill, so the answer is in a directory below. */
static void probe_cgroup_kill(void) {
    const char *dir = fp_cgroup_dir();
    char path[PATH_MAX];

    if (!dir || is_hidden(FP_CAP_CGROUP_KILL))
        return;
    int length = snprintf(path, sizeof path, "%s/fastproc-try-%d", dir, (int)sys_getpid());
    if (length < 0 || (size_t)length + sizeof "/cgroup.kill" > sizeof path || sys_mkdirat(AT_FDCWD, path, 0755) < 0)
        return;
    strcpy(path + length, "/cgroup.kill");
    found[FP_CAP_CGROUP_KILL] = sys_faccessat(AT_FDCWD, path, 2) == 0;
    path[length] = '\0';
    sys_unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

bool fp_can(int capability) {
    static pthread_once_t kernel = PTHREAD_ONCE_INIT;
    static pthread_once_t cgroup = PTHREAD_ONCE_INIT;
    static pthread_once_t cgroup_kill = PTHREAD_ONCE_INIT;

    switch (capability) {
    case FP_CAP_CGROUP:
        pthread_once(&cgroup, probe_cgroup);
        break;
    case FP_CAP_CGROUP_KILL:
        pthread_once(&cgroup_kill, probe_cgroup_kill);
        break;
    default:
        pthread_once(&kernel, probe_kernel);
    }
    return found[capability];
}

int fp_probe(int capability) {
    if (capability < 0 || capability >= FP_CAP_COUNT)
        return -EINVAL;
    return fp_can(capability);
}

const char *fp_capability_name(int capability) {
    return capability >= 0 && capability < FP_CAP_COUNT ? names[capability] : "unknown";
}
