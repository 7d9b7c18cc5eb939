/*
 * spawn.c: the parent's half of a birth: pipes, the way the child is made, the
 * reading of its report.
 *
 * The child is made by the first of these that the kernel has:
 *   clone3(2)  in our memory (CLONE_VM), while we stand still (CLONE_VFORK), so
 *              that its cost does not grow with ours, and its report is a
 *              variable. With CLONE_FILES it is born with our descriptor table
 *              and copies only the low part of it, see slots.c. Who would wait
 *              for its end then may do so at once instead of standing still,
 *              and a word that the kernel clears tells when the child has left
 *              our memory: a program that ends soon is switched to once and
 *              not twice.
 *   clone(2)   the same for kernels and filters without clone3(2).
 *   fork       a copy of our memory, for machines on which memory is not
 *              shared as promised (emulators). The report is then a shared
 *              page, and a pipe tells by its end that execve(2) has passed.
 *
 * All signals are blocked meanwhile, those included that libc uses for itself:
 * a handler must not run in a child that shares our memory, and the child must
 * not die of what was meant for us. SIGKILL and SIGSTOP remain.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "child.h"

enum {
    CHILD_STACK_BYTES = 24 * 1024,
    PLAN_BYTES = 8 * 1024, /* plans up to this size need no malloc */
    BUSY_RETRIES = 3,      /* execve(2) of a file that somebody has open for writing */
    BUSY_WAIT_MS = 10,
};

/* How often to look whether a forked child has passed execve(2), should the pipe not tell. */
#define EXEC_LOOK (20 * FP_NS_PER_MS)

/* The ways that share our memory. */
enum way { BY_CLONE3, BY_CLONE };

/* One birth under way. */
struct birth {
    const fp_spec *spec;
    const fp_birthplace *place;
    fp_pipes *pipes;
    void *space; /* of the plan */
    fp_child_plan plan;
    int borrowed[FP_SLOT_COUNT];
    int n_borrowed;
    int lowest_bound; /* all that the child needs is below; -1: its table must be a copy */
    bool without_pidfd;
    bool interrupted;
    bool stayed;
    bool ended;
    pid_t pid;
    int pidfd;
    int64_t started_ns;
};

static int fail(fp_failure *reterr_failure, int error, int stage, int detail) {
    if (reterr_failure)
        *reterr_failure = (fp_failure){.error = -error, .stage = stage, .detail = detail};
    return error;
}

static void close_fd(int *ret_fd) {
    int fd = *ret_fd;

    /* In this order: a copy that is forked in between must not close what has the number by then. */
    *ret_fd = -1;
    if (fd >= 0)
        sys_close(fd);
}

/* ---- descriptors ------------------------------------------------------------ */

/*
 * Are the descriptors open that the child is to get? Asked before we open any
 * of our own, which might take the number of a closed one and be handed over
 * in its place.
 */
static int check_sources(const fp_spec *spec, fp_failure *reterr_failure) {
    int r;

    for (int target = 0; target < 3; target++) {
        const fp_stdio *stream = &spec->stdio[target];
        int source = -1;
        if (stream->kind == FP_STDIO_FD)
            source = stream->fd;
        else if (stream->kind == FP_STDIO_STDOUT && spec->stdio[1].kind == FP_STDIO_INHERIT)
            source = 1;
        if (source < 0)
            continue;
        r = sys_fcntl(source, F_GETFD, 0);
        if (r < 0)
            return fail(reterr_failure, r, FP_STAGE_FDS, target);
    }
    for (size_t i = 0; i < spec->n_fds; i++) {
        r = sys_fcntl(spec->fds[i].source, F_GETFD, 0);
        if (r < 0)
            return fail(reterr_failure, r, FP_STAGE_FDS, spec->fds[i].target);
    }
    return 0;
}

/* Where the caller has closed a standard stream, a new descriptor gets its number, and would be taken for it. */
static int lift_above_2(int *fd) {
    if (*fd > 2)
        return 0;
    int r = sys_fcntl(*fd, F_DUPFD_CLOEXEC, 3);
    if (r < 0)
        return r;
    sys_close(*fd);
    *fd = r;
    return 0;
}

static int make_pipe(int *ret_ours, int *ret_theirs, bool child_reads) {
    int ends[2];

    int r = sys_pipe2(ends, O_CLOEXEC);
    if (r < 0)
        return r;
    r = lift_above_2(&ends[0]);
    if (r >= 0)
        r = lift_above_2(&ends[1]);
    /* The two ends have flags of their own: the child's stays blocking, as programs expect. */
    if (r >= 0)
        r = sys_fcntl(ends[child_reads], F_SETFL, O_NONBLOCK);
    if (r < 0) {
        close_fd(&ends[0]);
        close_fd(&ends[1]);
        return r;
    }
    *ret_ours = ends[child_reads];
    *ret_theirs = ends[!child_reads];
    return 0;
}

static bool has_pipes(const fp_spec *spec) {
    for (int target = 0; target < 3; target++)
        if (spec->stdio[target].kind == FP_STDIO_PIPE)
            return true;
    return false;
}

/* Under their lock, so that a fork finds each pipe either noted or not made. */
static int make_pipes(const fp_spec *spec, fp_pipes *pipes, fp_failure *reterr_failure) {
    int r = 0;

    pthread_mutex_lock(&pipes->lock);
    for (int target = 0; target < 3 && r >= 0; target++) {
        if (spec->stdio[target].kind != FP_STDIO_PIPE)
            continue;
        r = make_pipe(&pipes->ours[target], &pipes->theirs[target], target == 0);
        if (r < 0)
            fail(reterr_failure, r, FP_STAGE_PIPE, target);
    }
    pthread_mutex_unlock(&pipes->lock);
    return r;
}

/* The child has got its ends, or has failed, and ours are of no use either. */
static void close_pipes(fp_pipes *pipes, bool failed) {
    pthread_mutex_lock(&pipes->lock);
    for (int i = 0; i < 3; i++) {
        close_fd(&pipes->theirs[i]);
        if (failed)
            close_fd(&pipes->ours[i]);
    }
    pthread_mutex_unlock(&pipes->lock);
}

/* Put a copy of every descriptor that the child needs and that lies high into a slot. */
static int bring_low(struct birth *birth) {
    fp_child_plan *plan = &birth->plan;
    fp_slots *slots = birth->place->slots;
    int low = fp_slots_low(slots);
    int highest = 2;

    for (size_t i = 0; i < plan->n_moves; i++) {
        int source = plan->moves[i].source;
        if (source >= low) {
            if (birth->n_borrowed == FP_SLOT_COUNT)
                return -ENOSPC;
            int slot_fd = fp_slots_borrow(slots, source);
            if (slot_fd < 0)
                return slot_fd;
            birth->borrowed[birth->n_borrowed++] = slot_fd;
            for (size_t j = i; j < plan->n_moves; j++)
                if (plan->moves[j].source == source)
                    plan->moves[j].source = slot_fd;
            source = slot_fd;
        }
        if (highest < source)
            highest = source;
    }
    return highest + 1;
}

/* The bound of what the child needs, where that lies low already. */
static int bound_of_the_low(const fp_child_plan *plan) {
    int highest = 2;

    for (size_t i = 0; i < plan->n_moves; i++)
        if (highest < plan->moves[i].source)
            highest = plan->moves[i].source;
    return highest < FP_LOW_FDS ? highest + 1 : -1;
}

static void return_slots(struct birth *birth) {
    while (birth->n_borrowed > 0)
        fp_slots_return(birth->place->slots, birth->borrowed[--birth->n_borrowed]);
}

/* ---- our own standing meanwhile ----------------------------------------------- */

/*
 * A child that changes its ids while it shares our memory makes that memory
 * "not dumpable" (the kernel protects it from the new user, see prctl(2),
 * PR_SET_DUMPABLE), and for us that would last: no core dumps, no debugger.
 * So the first of such births that go on at a time notes what it was, and the
 * last restores it; no earlier, since it protects the others. One process has
 * one such flag, hence one note.
 */
static struct {
    _Atomic pid_t holder; /* the process of the thread that is at it, or 0 */
    pid_t owner;          /* a forked copy begins anew */
    int births;
    int dumpable;
} dumpable_note;

static bool changes_ids(const fp_spec *spec) {
    return spec->flags & (FP_SET_UID | FP_SET_GID);
}

/* No mutex: in a forked copy one would be held for ever if another thread of the original was at it just then. */
static void dumpable_lock(void) {
    pid_t self = fp_own_pid();
    pid_t seen = 0;

    while (!atomic_compare_exchange_strong_explicit(&dumpable_note.holder, &seen, self, memory_order_acquire,
                                                    memory_order_relaxed)) {
        /* Anybody but ourselves has been left behind by a fork. */
        if (seen != self)
            continue;
        seen = 0;
        sys_poll(NULL, 0, FP_NS_PER_MS / 20);
    }
}

static void dumpable_unlock(void) {
    atomic_store_explicit(&dumpable_note.holder, 0, memory_order_release);
}

static void note_dumpable(void) {
    dumpable_lock();
    if (dumpable_note.owner != sys_getpid()) {
        dumpable_note.owner = sys_getpid();
        dumpable_note.births = 0;
    }
    if (dumpable_note.births++ == 0)
        dumpable_note.dumpable = sys_prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
    dumpable_unlock();
}

static void restore_dumpable(void) {
    dumpable_lock();
    if (--dumpable_note.births == 0 && dumpable_note.dumpable == 1 && sys_prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 1)
        sys_prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    dumpable_unlock();
}

/* ---- signals ---------------------------------------------------------------------- */

static fp_sigset ignored_now(const fp_birthplace *place) {
    int fd = place->slots ? place->slots->dispositions_fd : -1;
    if (place->ignored)
        return fp_dispositions_ignored_since(place->ignored, fd, place->asked_ns);
    return fp_dispositions_ignored(fd);
}

/* What the child has to put to default by itself. `cleared`: the kernel has done so with all handlers. */
static void plan_signals(struct birth *birth, bool cleared) {
    fp_child_plan *plan = &birth->plan;
    bool keep_ignored = birth->spec->flags & FP_KEEP_SIGNALS;

    plan->sigdefault = birth->spec->sigdefault & FP_SIGNALS_CHANGEABLE & ~plan->sigignore;
    plan->caught_to_default = keep_ignored && !cleared;
    if (!keep_ignored) {
        plan->sigdefault = cleared ? ignored_now(birth->place) : ~UINT64_C(0);
        plan->sigdefault &= FP_SIGNALS_CHANGEABLE & ~plan->sigignore;
    }
}

/* ---- the child that was not born ------------------------------------------------- */

/*
 * Collect a child that has failed before execve(2). Returns the signal that
 * killed it, or 0. Beside reap.c the only place that waits for a child: nobody
 * has heard of this one.
 */
static int reap_unborn(struct birth *birth) {
    siginfo_t info = {0};
    int r;

    /* From here on the number may become another process's. */
    if (birth->place->born_pid)
        atomic_store_explicit(birth->place->born_pid, 0, memory_order_release);
    bool by_pidfd = birth->pidfd >= 0 && fp_can(FP_CAP_PIDFD_WAIT);
    do {
        if (by_pidfd)
            r = sys_waitid(FP_P_PIDFD, birth->pidfd, &info, WEXITED, NULL);
        else
            r = sys_waitid(P_PID, birth->pid, &info, WEXITED, NULL);
        /* The host has closed it, and the number may be that of a file by now. */
        bool lost = by_pidfd && r == -EBADF;
        by_pidfd = by_pidfd && !lost;
        if (lost)
            r = -EINTR;
    } while (r == -EINTR);
    close_fd(&birth->pidfd);
    if (r < 0)
        return 0; /* The host has taken it already. */
    return info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED ? info.si_status : 0;
}

/* Judge by its report whether the child has become a program; if not, collect it. */
static int read_report(struct birth *birth, const fp_child_report *report, fp_failure *reterr_failure) {
    if (report->error == 0 && report->reached_exec)
        return 0;

    int sig = reap_unborn(birth);
    if (report->error != 0)
        return fail(reterr_failure, -report->error, report->stage, report->detail);
    return fail(reterr_failure, -ESRCH, FP_STAGE_PRE_EXEC, sig);
}

/* ---- the ways ------------------------------------------------------------------------ */

/* Did the request fail because of the cgroup, see clone(2), CLONE_INTO_CGROUP? */
static int stage_of_clone_error(int error, bool into_cgroup) {
    if (!into_cgroup)
        return FP_STAGE_CLONE;
    switch (-error) {
    case EACCES:
    case EBADF:
    case EBUSY:
    case ENODEV:
    case ENOENT:
    case EOPNOTSUPP:
        return FP_STAGE_CGROUP;
    default:
        return FP_STAGE_CLONE;
    }
}

/*
 * A kernel that does not know CLONE_PIDFD has ignored it, see clone(2). The
 * child cannot have been replaced by another process of that number: it is
 * ours, and nobody has reaped it but perhaps the host.
 */
static int open_pidfd_late(struct birth *birth, fp_failure *reterr_failure) {
    if (birth->pidfd >= 0 || birth->without_pidfd || !fp_can(FP_CAP_PIDFD))
        return 0;
    int r = sys_pidfd_open(birth->pid, 0);
    if (r >= 0) {
        birth->pidfd = r;
        return 0;
    }
    sys_kill(birth->pid, SIGKILL);
    reap_unborn(birth);
    return fail(reterr_failure, r, FP_STAGE_CLONE, -1);
}

/*
 * Wait until the child has left our memory, with what it stands on. The word
 * alone says so, not the pidfd, which other threads may have closed. One that
 * dumps core before execve(2) does not clear the word on some kernels, but it
 * can be reaped, or has been.
 */
static void await_leave(pid_t pid, _Atomic uint32_t *in_our_memory) {
    while (atomic_load_explicit(in_our_memory, memory_order_acquire)) {
        siginfo_t info = {0};
        sys_futex_wait_for_kernel(in_our_memory, 1, fp_now_ns() + EXEC_LOOK);
        int r = sys_waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT, NULL);
        if (r == -ECHILD || (r == 0 && info.si_pid == pid))
            break;
    }
}

/* Whatever the caller does meanwhile: the child runs on a stack of this frame. */
static void stay_beside(struct birth *birth, pid_t pid, _Atomic uint32_t *in_our_memory) {
    birth->stayed = true;
    birth->ended = birth->place->stay(birth->place->stay_arg, birth->pidfd, birth->pipes->ours);
    await_leave(pid, in_our_memory);
}

/* `stack` has CHILD_STACK_BYTES; the kernel clears `in_our_memory` when the child has left, if `flags` say so. */
static long clone3_to_child(struct birth *birth, uint64_t flags, char *stack, _Atomic uint32_t *in_our_memory) {
    _Atomic pid_t *born_pid = birth->place->born_pid;
    fp_clone_args args = {
        .flags = flags | FP_CLONE_CLEAR_SIGHAND | (born_pid ? CLONE_PARENT_SETTID : 0),
        .pidfd = (uintptr_t)&birth->pidfd,
        .child_tid = (uintptr_t)in_our_memory,
        .parent_tid = (uintptr_t)born_pid,
        .exit_signal = SIGCHLD,
        .stack = (uintptr_t)stack,
        .stack_size = CHILD_STACK_BYTES,
        .cgroup = flags & FP_CLONE_INTO_CGROUP ? (uint64_t)birth->place->cgroup_fd : 0,
    };

    return sys_clone3_to_child(&args, fp_child_main, &birth->plan);
}

/* Not inlined: its frame holds the child's stack, which the kernel must find in memory that stays. */
__attribute__((noinline)) static long clone_shared(struct birth *birth, enum way way, uint64_t flags) {
    _Alignas(16) char stack[CHILD_STACK_BYTES];
    _Atomic uint32_t in_our_memory = 1;

    if (way == BY_CLONE3) {
        long r = clone3_to_child(birth, flags, stack, &in_our_memory);
        if (r > 0 && flags & CLONE_CHILD_CLEARTID)
            stay_beside(birth, (pid_t)r, &in_our_memory);
        return r;
    }
    return sys_clone_to_child((unsigned long)flags | SIGCHLD, stack + sizeof stack, &birth->pidfd, fp_child_main,
                              &birth->plan);
}

/* What the child in our memory has to do for itself, as it is born in this way. Returns the flags of clone(2). */
static uint64_t plan_shared(struct birth *birth, enum way way, fp_child_report *report) {
    fp_child_plan *plan = &birth->plan;
    uint64_t flags = CLONE_VM;

    if (fp_can(FP_CAP_PIDFD) && !birth->without_pidfd)
        flags |= CLONE_PIDFD;
    plan->report = report;
    plan->keep_below = birth->lowest_bound;
    plan->cgroup_fd = birth->place->cgroup_fd;
    plan->born_pid = NULL;
    plan_signals(birth, way == BY_CLONE3);
    if (way == BY_CLONE3 && plan->cgroup_fd >= 0 && fp_can(FP_CAP_INTO_CGROUP)) {
        flags |= FP_CLONE_INTO_CGROUP;
        plan->cgroup_fd = -1;
    }
    /* There the place for the parent's copy of the pid is taken by the pidfd. */
    if (way == BY_CLONE)
        plan->born_pid = birth->place->born_pid;
    if (plan->keep_below >= 0) {
        flags |= CLONE_FILES;
        if (plan->keep_below <= plan->cgroup_fd)
            plan->keep_below = plan->cgroup_fd + 1;
    }
    return flags;
}

/* Block all signals until allow_signals(). */
static void block_signals(struct birth *birth, fp_sigset *ret_mask) {
    static const fp_sigset all = ~UINT64_C(0);

    sys_rt_sigprocmask(SIG_SETMASK, &all, ret_mask);
    if (birth->spec->flags & FP_KEEP_MASK)
        birth->plan.sigmask = *ret_mask | birth->spec->sigmask;
    birth->started_ns = fp_now_ns();
}

static void allow_signals(const fp_sigset *mask) {
    sys_rt_sigprocmask(SIG_SETMASK, mask, NULL);
}

static int bear_shared(struct birth *birth, enum way way, fp_failure *reterr_failure) {
    fp_child_report report = {0};
    uint64_t flags = plan_shared(birth, way, &report);
    fp_sigset mask;

    flags |= way == BY_CLONE3 && birth->place->stay && flags & CLONE_PIDFD ? CLONE_CHILD_CLEARTID : CLONE_VFORK;
    if (changes_ids(birth->spec))
        note_dumpable();
    block_signals(birth, &mask);
    long r = clone_shared(birth, way, flags);
    /* An emulator may share memory only with who stands still. */
    if (r == -EINVAL && flags & CLONE_CHILD_CLEARTID)
        r = clone_shared(birth, way, (flags & ~(uint64_t)CLONE_CHILD_CLEARTID) | CLONE_VFORK);
    /* We were held until the child left our memory: its report is complete, see clone(2), CLONE_VFORK. */
    /* SIGCHLD does not count: a short-lived child has sent it by now. */
    if (birth->place->notes_signals)
        birth->interrupted = sys_rt_sigpending() & ~mask & ~(UINT64_C(1) << (SIGCHLD - 1));
    allow_signals(&mask);
    if (changes_ids(birth->spec))
        restore_dumpable();

    if (r < 0)
        return fail(reterr_failure, (int)r, stage_of_clone_error((int)r, flags & FP_CLONE_INTO_CGROUP), -1);
    birth->pid = (pid_t)r;
    int e = read_report(birth, &report, reterr_failure);
    return e < 0 ? e : open_pidfd_late(birth, reterr_failure);
}

static bool is_wanted_by_child(const fp_child_plan *plan, int fd) {
    for (size_t i = 0; i < plan->n_moves; i++)
        if (plan->moves[i].target == fd)
            return true;
    return fd <= 2 || fd == plan->spare_fd;
}

/* Give the pipe of the report a number that the child will not put anything else on. */
static int move_aside(const fp_child_plan *plan, int *fd) {
    while (is_wanted_by_child(plan, *fd)) {
        int r = sys_fcntl(*fd, F_DUPFD_CLOEXEC, *fd < 3 ? 3 : *fd + 1);
        if (r < 0)
            return r;
        sys_close(*fd);
        *fd = r;
    }
    return 0;
}

/* Wait for the end of the pipe that execve(2) closes. */
static int await_exec(const struct birth *birth, const fp_child_report *report, int fd) {
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    fp_person person;
    char end;

    for (;;) {
        /* A copy that the host has forked meanwhile holds the other end as long as it lives: so we look as well. */
        int r = sys_poll(&wait, 1, EXEC_LOOK);
        if (r == 0 &&
            (report->error || (fp_person_read(birth->pid, &person) == 0 && (person.executed || person.state == 'Z'))))
            return 0;
        /* Nobody writes, so what can be read is the end. */
        if (r > 0)
            return 0;
        if (r == 0 || r == -EINTR)
            continue;
        /* With RLIMIT_NOFILE at 0 there is no polling, see poll(2). */
        r = (int)sys_read(fd, &end, 1);
        if (r != -EINTR)
            return r;
    }
}

static int bear_by_fork(struct birth *birth, fp_failure *reterr_failure) {
    fp_child_plan *plan = &birth->plan;
    int ends[2] = {-1, -1};
    void *page = NULL;
    fp_sigset mask;

    int r = sys_mmap(sizeof(fp_child_report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, &page);
    if (r < 0)
        return fail(reterr_failure, r, FP_STAGE_CLONE, -1);
    r = sys_pipe2(ends, O_CLOEXEC);
    if (r >= 0)
        r = move_aside(plan, &ends[1]);
    if (r < 0) {
        fail(reterr_failure, r, FP_STAGE_PIPE, -1);
        goto out;
    }
    plan->report = page;
    plan->keep_below = -1;
    plan->cgroup_fd = birth->place->cgroup_fd;
    plan->born_pid = NULL;
    plan_signals(birth, false);
    fp_plan_gaps(plan, ends[1]);

    block_signals(birth, &mask);
    long pid = sys_fork(SIGCHLD | (fp_can(FP_CAP_PIDFD) && !birth->without_pidfd ? CLONE_PIDFD : 0), &birth->pidfd);
    if (pid == 0) {
        fp_child_main(plan);
        sys_exit_group(0);
    }
    allow_signals(&mask);
    if (pid < 0) {
        r = fail(reterr_failure, (int)pid, FP_STAGE_CLONE, -1);
        goto out;
    }
    birth->pid = (pid_t)pid;
    if (birth->place->born_pid)
        atomic_store_explicit(birth->place->born_pid, birth->pid, memory_order_release);
    r = open_pidfd_late(birth, reterr_failure);
    if (r < 0)
        goto out;
    close_fd(&ends[1]);
    r = await_exec(birth, page, ends[0]);
    /* Without that end we cannot tell what has become of it. */
    if (r < 0)
        sys_kill(birth->pid, SIGKILL);
    r = read_report(birth, page, reterr_failure);
out:
    close_fd(&ends[0]);
    close_fd(&ends[1]);
    sys_munmap(page, sizeof(fp_child_report));
    return r;
}

/* One birth, by the best way there is. A way that is refused as such leads to the next. */
static int bear(struct birth *birth, fp_failure *reterr_failure) {
    int r = -ENOSYS;

    if (fp_can(FP_CAP_CLONE3))
        r = bear_shared(birth, BY_CLONE3, reterr_failure);
    if ((r == -ENOSYS || r == -EPERM) && birth->pid == 0 && fp_can(FP_CAP_CLONE))
        r = bear_shared(birth, BY_CLONE, reterr_failure);
    if ((r == -ENOSYS || r == -EPERM) && birth->pid == 0)
        r = bear_by_fork(birth, reterr_failure);
    return r;
}

/* Between fork(2) and execve(2) a stranger may hold the program open for writing, for a moment only. */
static int bear_patiently(struct birth *birth, fp_failure *reterr_failure) {
    for (int retries = 0;; retries++) {
        birth->pid = 0;
        birth->pidfd = -1;
        birth->stayed = birth->ended = false;
        int r = bear(birth, reterr_failure);
        if (r != -ETXTBSY || retries == BUSY_RETRIES)
            return r;
        sys_poll(NULL, 0, BUSY_WAIT_MS * FP_NS_PER_MS);
    }
}

/* Can its table be cut, and may it? */
static bool is_to_be_flat(const struct birth *birth) {
    return birth->plan.has_close_range && !(birth->spec->flags & FP_INHERIT_FDS);
}

/* Pipes, the plan and what it needs. `small_space` has PLAN_BYTES. conclude() must follow, also on failure. */
static int prepare(struct birth *birth, const fp_spec *spec, const fp_birthplace *place, fp_pipes *nobody_elses,
                   void *small_space, fp_failure *reterr_failure) {
    int null_fd = place->slots ? place->slots->placeholder_fd : -1;

    birth->spec = spec;
    birth->place = place;
    birth->pipes = place->pipes ? place->pipes : nobody_elses;
    birth->space = small_space;
    birth->n_borrowed = 0;
    birth->lowest_bound = -1;
    birth->without_pidfd = birth->interrupted = birth->stayed = birth->ended = false;
    birth->pid = 0;
    birth->pidfd = -1;
    if (has_pipes(spec)) {
        if (birth->pipes == nobody_elses)
            fp_fork_note_pipes(birth->pipes);
        int r = make_pipes(spec, birth->pipes, reterr_failure);
        if (r < 0)
            return r;
    }
    size_t bytes = fp_plan_space(spec);
    if (bytes > PLAN_BYTES)
        birth->space = malloc(bytes);
    if (!birth->space)
        return fail(reterr_failure, -ENOMEM, FP_STAGE_REQUEST, -1);
    fp_plan_make(&birth->plan, birth->space, spec, birth->pipes->theirs, null_fd);
    /* Where no slot is free the whole table is copied: slower, and as right. */
    if (is_to_be_flat(birth))
        birth->lowest_bound = place->slots ? bring_low(birth) : bound_of_the_low(&birth->plan);
    if (birth->lowest_bound < 0)
        birth->lowest_bound = -1;
    fp_plan_fds(&birth->plan);
    fp_plan_gaps(&birth->plan, -1);
    return 0;
}

/* It is over, well or badly (`failed`). */
static void conclude(struct birth *birth, const fp_pipes *nobody_elses, const void *small_space, bool failed) {
    if (birth->place->born_pid)
        atomic_store_explicit(birth->place->born_pid, 0, memory_order_release);
    return_slots(birth);
    if (birth->space != small_space)
        free(birth->space);
    if (has_pipes(birth->spec)) {
        close_pipes(birth->pipes, failed);
        if (birth->pipes == nobody_elses)
            fp_fork_forget_pipes(birth->pipes);
    }
}

static void describe(struct birth *birth, fp_birth *ret_birth) {
    if (birth->pidfd >= 0)
        lift_above_2(&birth->pidfd);
    *ret_birth = (fp_birth){
        .pid = birth->pid,
        .pidfd = birth->pidfd,
        .pipe_fd = {birth->pipes->ours[0], birth->pipes->ours[1], birth->pipes->ours[2]},
        .started_ns = birth->started_ns,
        .interrupted = birth->interrupted,
        .stayed = birth->stayed,
        .ended = birth->ended,
    };
}

int fp_birth_make(const fp_spec *spec, const fp_birthplace *place, fp_birth *ret_birth, fp_failure *reterr_failure) {
    _Alignas(16) char small_space[PLAN_BYTES];
    fp_pipes nobody_elses = FP_PIPES_NONE;
    struct birth birth;

    int r = check_sources(spec, reterr_failure);
    if (r < 0)
        return r;
    r = prepare(&birth, spec, place, &nobody_elses, small_space, reterr_failure);
    if (r < 0)
        goto out;
    r = bear_patiently(&birth, reterr_failure);
    if ((r == -EMFILE || r == -ENFILE) && place->pidfd_optional && birth.pid == 0) {
        birth.without_pidfd = true;
        r = bear_patiently(&birth, reterr_failure);
    }
    if (r >= 0)
        describe(&birth, ret_birth);
out:
    conclude(&birth, &nobody_elses, small_space, r < 0);
    return r;
}

/* ---- births for which nobody stands still ----------------------------------------------- */

struct fp_cradle {
    struct birth birth;
    fp_birthplace place;
    fp_child_report report;
    _Atomic uint32_t in_our_memory; /* cleared by the kernel */
    _Alignas(16) char space[PLAN_BYTES];
    _Alignas(16) char stack[CHILD_STACK_BYTES];
};

fp_cradle *fp_cradle_new(void) {
    return malloc(sizeof(fp_cradle));
}

/* The memory must be shared as promised, its end be seen by the pidfd, and all that can fail be told by the report. */
static bool may_be_left(const fp_spec *spec, const fp_birthplace *place) {
    return fp_can(FP_CAP_CLONE3) && fp_can(FP_CAP_PIDFD) && !changes_ids(spec) &&
           (place->cgroup_fd < 0 || fp_can(FP_CAP_INTO_CGROUP));
}

bool fp_birth_begin(const fp_spec *spec, const fp_birthplace *place, fp_cradle *cradle) {
    struct birth *birth = &cradle->birth;
    fp_sigset mask;
    long r;

    if (!may_be_left(spec, place) || check_sources(spec, NULL) < 0)
        return false;
    cradle->place = *place;
    cradle->report = (fp_child_report){0};
    atomic_store_explicit(&cradle->in_our_memory, 1, memory_order_relaxed);
    r = prepare(birth, spec, &cradle->place, NULL, cradle->space, NULL);
    /* Others under way have all the slots: to wait for these is better than to copy a table that may be large. */
    if (r == 0 && birth->lowest_bound < 0 && is_to_be_flat(birth))
        r = -ENOSPC;
    if (r == 0) {
        uint64_t flags = plan_shared(birth, BY_CLONE3, &cradle->report);
        block_signals(birth, &mask);
        r = clone3_to_child(birth, flags | CLONE_CHILD_CLEARTID, cradle->stack, &cradle->in_our_memory);
        allow_signals(&mask);
    }
    if (r < 0)
        conclude(birth, NULL, cradle->space, true);
    else
        birth->pid = (pid_t)r;
    return r >= 0;
}

bool fp_cradle_is_left(const fp_cradle *cradle) {
    return !atomic_load_explicit(&cradle->in_our_memory, memory_order_acquire);
}

void fp_cradle_watch(fp_cradle *cradle, int64_t until_ns) {
    sys_futex_wait_for_kernel(&cradle->in_our_memory, 1, until_ns);
}

int fp_cradle_pidfd(const fp_cradle *cradle) {
    return cradle->birth.pidfd;
}

void fp_cradle_close(fp_cradle *cradle) {
    close_fd(&cradle->birth.pidfd);
}

int fp_birth_end(fp_cradle *cradle, fp_birth *ret_birth, fp_failure *reterr_failure) {
    struct birth *birth = &cradle->birth;

    await_leave(birth->pid, &cradle->in_our_memory);
    int r = read_report(birth, &cradle->report, reterr_failure);
    /* As in bear_patiently(); this has been the first attempt. */
    if (r == -ETXTBSY)
        r = bear_patiently(birth, reterr_failure);
    if (r >= 0)
        describe(birth, ret_birth);
    conclude(birth, NULL, cradle->space, r < 0);
    return r;
}
