/*
 * child.c: the child's half, from clone3(2) to execve(2).
 *
 * CHILD ZONE. This runs in the parent's memory, on a borrowed stack that stays
 * until it is gone, while all threads run on: the calling one stands still, or
 * waits for our end, or goes on, see nursery.c. Hence:
 *   - no libc, only sys.h: no malloc, no locks, no stdio, no errno;
 *   - no writes except to its own stack, to the failure report, and to the
 *     space the plan has set aside;
 *   - no decisions: plan.c has made them all, this file carries them out.
 *
 * nm(1) on the object file must list nothing outside tests/child_symbols.txt.
 * It is compiled without stack protector, sanitizers and profiling, whose
 * run-time parts would count the child's calls among the parent's.
 * Read with signal-safety(7), vfork(2) and clone(2) at hand.
 */
#ifndef __clang__
#pragma GCC optimize("no-stack-protector", "no-tree-loop-distribute-patterns")
#endif

#include <sys/prctl.h>

#include "child.h"

enum { LAST_SIGNAL = 64, EXIT_UNBORN = 127 };

_Noreturn static void fail(const fp_child_plan *plan, int stage, long error, int detail) {
    plan->report->stage = stage;
    plan->report->detail = detail;
    plan->report->error = (int32_t)-error;
    sys_exit_group(EXIT_UNBORN);
}

/* ---- descriptors --------------------------------------------------------- */

static bool is_in_gap(const fp_child_plan *plan, unsigned fd) {
    size_t low = 0;
    size_t high = plan->n_gaps;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (fd > plan->gaps[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < plan->n_gaps && fd >= plan->gaps[low].first;
}

/* A number in a directory, or -1 for "." and "..". */
static int number_of(const char *name) {
    int number = 0;

    if (*name < '0' || *name > '9')
        return -1;
    for (; *name >= '0' && *name <= '9'; name++)
        number = number * 10 + (*name - '0');
    return number;
}

/* Close what is in the gaps and open, as /proc tells it. */
static bool close_gaps_by_proc(const fp_child_plan *plan) {
    _Alignas(fp_dirent) char records[2048];
    ssize_t got;

    int dir_fd = sys_openat(AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir_fd < 0)
        return false;
    while ((got = sys_getdents64(dir_fd, records, sizeof records)) > 0) {
        for (ssize_t at = 0; at < got;) {
            const fp_dirent *entry = (const void *)(records + at);
            int fd = number_of(entry->name);
            if (fd >= 0 && fd != dir_fd && is_in_gap(plan, (unsigned)fd))
                sys_close(fd);
            at += entry->record_bytes;
        }
    }
    sys_close(dir_fd);
    return got == 0;
}

static void close_gaps_below(const fp_child_plan *plan, unsigned end) {
    for (size_t i = 0; i < plan->n_gaps; i++)
        for (unsigned fd = plan->gaps[i].first; fd <= plan->gaps[i].last && fd < end; fd++)
            sys_close((int)fd);
}

static bool starts_with(const char *text, const char *word) {
    while (*word && *text == *word) {
        text++;
        word++;
    }
    return !*word;
}

/* For how many descriptors our table has room, see proc_pid_status(5); 0: not to be had. */
static unsigned table_size(void) {
    char status[1024]; /* the line is one of the first dozen; a newline in our name is escaped */
    int number = -1;

    int fd = sys_openat(AT_FDCWD, "/proc/self/status", O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    ssize_t got = sys_read(fd, status, sizeof status - 1);
    sys_close(fd);
    status[got > 0 ? got : 0] = '\0';
    for (const char *at = status; *at && number < 0; at++)
        if (starts_with(at, "\nFDSize:\t"))
            number = number_of(at + sizeof "\nFDSize:\t" - 1);
    return number > 0 ? (unsigned)number : 0;
}

static unsigned descriptor_limit(void) {
    enum { MOST = 1 << 20 };
    uint64_t limit[2] = {MOST, MOST};

    sys_prlimit(0, RLIMIT_NOFILE, NULL, limit);
    return limit[0] < MOST ? (unsigned)limit[0] : MOST;
}

/*
 * Without close_range(2). What /proc lists costs microseconds for each that is
 * open, and as much again when we are reaped; an attempt to close what may not
 * be open costs a twentieth of that. So a table is walked only if it is large:
 * a few descriptors of high numbers may be all that it holds.
 */
static void close_gaps_without_range(const fp_child_plan *plan) {
    enum { LARGE = 1 << 14 };
    unsigned size = plan->has_proc ? table_size() : 0;

    if (size && size <= LARGE)
        close_gaps_below(plan, size);
    else if (!plan->has_proc || !close_gaps_by_proc(plan))
        close_gaps_below(plan, descriptor_limit());
}

static void close_gaps(const fp_child_plan *plan) {
    size_t closed = 0;

    if (plan->has_close_range)
        while (closed < plan->n_gaps && sys_close_range(plan->gaps[closed].first, plan->gaps[closed].last, 0) >= 0)
            closed++;
    if (closed < plan->n_gaps)
        close_gaps_without_range(plan);
}

/*
 * Opened without waiting, then made to wait: a FIFO that nobody has opened at
 * its other end would hold up not only us but the thread that makes us. For
 * writing such a FIFO is an error (ENXIO), for reading it is empty.
 * O_NOCTTY, because the leader of a new session gets a terminal that way.
 */
static void open_stream(const fp_child_plan *plan, const fp_child_open *open) {
    int fd = sys_openat(AT_FDCWD, open->path, open->flags | O_NONBLOCK | O_NOCTTY, 0666);
    if (fd < 0)
        fail(plan, FP_STAGE_FDS, fd, open->target);

    int r = sys_fcntl(fd, F_SETFL, open->flags & O_APPEND);
    if (r >= 0 && fd != open->target) {
        r = sys_dup3(fd, open->target, 0);
        sys_close(fd);
    }
    if (r < 0)
        fail(plan, FP_STAGE_FDS, r, open->target);
}

static void set_descriptors(const fp_child_plan *plan) {
    for (size_t i = 0; i < plan->n_ops; i++) {
        const fp_fd_op *op = &plan->ops[i];
        int r = op->from == op->to ? sys_fcntl(op->to, F_SETFD, 0) : sys_dup3(op->from, op->to, op->flags);
        if (r < 0)
            fail(plan, FP_STAGE_FDS, r, op->target);
    }
    for (size_t i = 0; i < plan->n_opens; i++)
        open_stream(plan, &plan->opens[i]);
    if (plan->error_follows_output) {
        int r = sys_dup3(1, 2, 0);
        if (r < 0)
            fail(plan, FP_STAGE_FDS, r, 2);
    }
    if (plan->keep_below != 3 || !plan->bare_above_2)
        close_gaps(plan);
}

/* ---- where we belong ----------------------------------------------------- */

static void join_cgroup(const fp_child_plan *plan) {
    int fd = sys_openat(plan->cgroup_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        fail(plan, FP_STAGE_CGROUP, fd, -1);
    ssize_t r = sys_write(fd, "0", 1);
    sys_close(fd);
    if (r < 0)
        fail(plan, FP_STAGE_CGROUP, r, -1);
}

static void lead(const fp_child_plan *plan) {
    int r = 0;

    if (plan->lead == FP_LEAD_SESSION)
        r = sys_setsid();
    else if (plan->lead == FP_LEAD_GROUP)
        r = sys_setpgid(0, 0);
    if (r >= 0 && plan->flags & FP_JOIN_GROUP)
        r = sys_setpgid(0, plan->process_group);
    if (r < 0)
        fail(plan, FP_STAGE_SESSION, r, -1);
}

/* ---- limits and attributes ------------------------------------------------ */

static void enter_directory(const fp_child_plan *plan) {
    int r = sys_chdir(plan->cwd);
    if (r < 0)
        fail(plan, FP_STAGE_CWD, r, -1);
}

static void set_attributes(const fp_child_plan *plan) {
    int r;

    for (size_t i = 0; i < plan->n_rlimits; i++) {
        r = sys_prlimit(0, plan->rlimits[i].resource, plan->rlimits[i].limit, NULL);
        if (r < 0)
            fail(plan, FP_STAGE_RLIMIT, r, plan->rlimits[i].index);
    }
    if (plan->flags & FP_SET_UMASK)
        sys_umask(plan->umask);
    if (plan->flags & FP_SET_NICE) {
        r = sys_setpriority(PRIO_PROCESS, 0, plan->nice);
        if (r < 0)
            fail(plan, FP_STAGE_NICE, r, -1);
    }
    if (plan->affinity_bytes > 0) {
        r = sys_sched_setaffinity(0, plan->affinity_bytes, plan->affinity);
        if (r < 0)
            fail(plan, FP_STAGE_AFFINITY, r, -1);
    }
    if (plan->cwd && !plan->cwd_first)
        enter_directory(plan);
}

/* ---- ids ------------------------------------------------------------------- */

static bool is_wanted_group(const fp_child_plan *plan, uint32_t group) {
    size_t low = 0;
    size_t high = plan->n_groups;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (group > plan->groups[middle])
            low = middle + 1;
        else
            high = middle;
    }
    return low < plan->n_groups && plan->groups[low] == group;
}

/* The kernel may sort and map what it was given, but must not have kept anything else. */
static bool groups_are_right(const fp_child_plan *plan) {
    /* Asked for one more than we set; for none, 0 would ask for the count. */
    int n = sys_getgroups(plan->n_groups + 1, plan->groups_seen);

    if (n < 0 || (size_t)n != plan->n_groups)
        return false;
    for (int i = 0; i < n; i++)
        if (!is_wanted_group(plan, plan->groups_seen[i]))
            return false;
    return true;
}

/*
 * Groups first, the user last: without root the others could not be changed.
 * Then the kernel is asked what it made of it, because a drop of privileges
 * that happened by half is worse than none: see setresuid(2), NOTES.
 */
static void set_ids(const fp_child_plan *plan) {
    uint32_t real, effective, saved;
    int r = 0;

    if (plan->flags & FP_SET_GROUPS) {
        r = sys_setgroups(plan->n_groups, plan->groups);
        if (r >= 0 && !groups_are_right(plan))
            r = -EPERM;
        if (r < 0)
            fail(plan, FP_STAGE_IDS, r, -1);
    }
    if (plan->flags & FP_SET_GID) {
        r = sys_setresgid(plan->gid, plan->gid, plan->gid);
        if (r < 0)
            fail(plan, FP_STAGE_IDS, r, -1);
    }
    if (plan->flags & FP_SET_UID) {
        r = sys_setresuid(plan->uid, plan->uid, plan->uid);
        if (r < 0)
            fail(plan, FP_STAGE_IDS, r, -1);
        r = sys_getresuid(&real, &effective, &saved);
        if (r >= 0 && (real != plan->uid || effective != plan->uid || saved != plan->uid))
            r = -EPERM;
        /* Must not succeed: it would with CAP_SETUID kept by securebits, see capabilities(7). */
        if (r >= 0 && plan->uid != 0 && sys_setresuid((uint32_t)-1, 0, (uint32_t)-1) >= 0)
            r = -EPERM;
        if (r < 0)
            fail(plan, FP_STAGE_IDS, r, -1);
    }
    if (plan->flags & FP_SET_GID) {
        r = sys_getresgid(&real, &effective, &saved);
        if (r >= 0 && (real != plan->gid || effective != plan->gid || saved != plan->gid))
            r = -EPERM;
        if (r < 0)
            fail(plan, FP_STAGE_IDS, r, -1);
    }
}

static void set_sandbox(const fp_child_plan *plan) {
    int r = 0;

    if (plan->flags & FP_DIE_WITH_PARENT) {
        /* After the ids: a change of them clears it. A parent that is dead already sends nothing any more;
         * 0 is a parent outside of our pid namespace, of whom we cannot tell. */
        r = sys_prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        pid_t parent_pid = sys_getppid();
        if (r >= 0 && parent_pid != plan->parent_pid && parent_pid != 0)
            r = -ESRCH;
        if (r < 0)
            fail(plan, FP_STAGE_SANDBOX, r, -1);
    }
    if (plan->flags & FP_NO_NEW_PRIVS) {
        r = sys_prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (r < 0)
            fail(plan, FP_STAGE_SANDBOX, r, -1);
    }
}

/* ---- signals ---------------------------------------------------------------- */

static void set_disposition(const fp_child_plan *plan, int sig, uintptr_t handler) {
    fp_sigaction action = {.handler = handler};

    int r = sys_rt_sigaction(sig, &action, NULL);
    if (r < 0)
        fail(plan, FP_STAGE_SIGNALS, r, sig);
}

static bool is_caught(int sig) {
    fp_sigaction old;

    return sys_rt_sigaction(sig, NULL, &old) < 0 ||
           (old.handler != (uintptr_t)SIG_DFL && old.handler != (uintptr_t)SIG_IGN);
}

/*
 * All signals have been blocked since before we were born. No handler may be
 * left when they are let in: it would run in the parent's memory.
 */
static void set_signals(const fp_child_plan *plan) {
    for (fp_sigset rest = plan->sigdefault; rest; rest &= rest - 1)
        set_disposition(plan, __builtin_ctzll(rest) + 1, (uintptr_t)SIG_DFL);
    if (plan->caught_to_default)
        for (int sig = 1; sig <= LAST_SIGNAL; sig++)
            if (sig != SIGKILL && sig != SIGSTOP && is_caught(sig))
                set_disposition(plan, sig, (uintptr_t)SIG_DFL);
    for (fp_sigset rest = plan->sigignore; rest; rest &= rest - 1)
        set_disposition(plan, __builtin_ctzll(rest) + 1, (uintptr_t)SIG_IGN);
    sys_rt_sigprocmask(SIG_SETMASK, &plan->sigmask, NULL);
}

/* ---- the program -------------------------------------------------------------- */

/* May a search go on behind this? As execvp(3) has it, but a script without "#!" is not given to a shell. */
static bool is_just_not_here(int error) {
    switch (-error) {
    case ENOENT:
    case ENOTDIR:
    case EACCES:
    case ENAMETOOLONG:
    case ENODEV:
    case ESTALE:
    case ETIMEDOUT:
        return true;
    default:
        return false;
    }
}

static void execute(const fp_child_plan *plan) {
    int error = -ENOENT;

    plan->report->reached_exec = 1;
    for (size_t i = 0; i < plan->n_paths; i++) {
        int r = sys_execve(plan->paths[i], plan->argv, plan->envp);
        if (!plan->searching || !(plan->searching_on || is_just_not_here(r)))
            fail(plan, FP_STAGE_EXEC, r, -1);
        /* Of several failures the last that is more than absence is told, as execvp(3) tells EACCES. */
        if (plan->searching_on ? r != -ENOENT && r != -ENOTDIR : r == -EACCES)
            error = r;
    }
    fail(plan, FP_STAGE_EXEC, error, -1);
}

int fp_child_main(void *arg) {
    const fp_child_plan *plan = arg;

    if (plan->born_pid)
        atomic_store_explicit(plan->born_pid, sys_getpid(), memory_order_release);
    if (plan->cwd_first)
        enter_directory(plan);
    /* Until this has succeeded, every descriptor we touch is the parent's. */
    if (plan->keep_below >= 0) {
        int r = sys_close_range((unsigned)plan->keep_below, ~0u, FP_CLOSE_RANGE_UNSHARE);
        if (r < 0)
            fail(plan, FP_STAGE_FDS, r, -1);
    }
    lead(plan);
    if (plan->cgroup_fd >= 0)
        join_cgroup(plan);
    set_descriptors(plan);
    set_attributes(plan);
    set_ids(plan);
    set_sandbox(plan);
    set_signals(plan);
    execute(plan);
    return EXIT_UNBORN;
}

int fp_child_try(void *arg) {
    fp_child_trial *trial = arg;

    trial->born = 1;
    if (trial->fd >= 0)
        trial->unshared = sys_close_range((unsigned)trial->fd, (unsigned)trial->fd, FP_CLOSE_RANGE_UNSHARE);
    return 0;
}
