/*
 * spawn_shared.c: a child that is made in our memory.
 *
 * By clone3(2), or clone(2) where that is missing: with CLONE_VM, while we stand
 * still (CLONE_VFORK), so that its cost does not grow with ours, and its report
 * is a variable. With CLONE_FILES it is born with our descriptor table and
 * copies only the low part of it, see slots.c. Who would wait for its end then
 * may do so at once instead of standing still, and a word that the kernel clears
 * tells when the child has left our memory: a program that ends soon is switched
 * to once and not twice. So may who has something else to do, see cradle.c.
 */
#include <errno.h>
#include <signal.h>

#include "birth.h"

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

/* One that dumps core before execve(2) does not clear the word on some kernels, but it can be reaped, or has been. */
void fp_birth_await_leave(pid_t pid, _Atomic uint32_t *in_our_memory) {
    while (atomic_load_explicit(in_our_memory, memory_order_acquire)) {
        siginfo_t info = {0};
        sys_futex_wait_for_kernel(in_our_memory, 1, fp_now_ns() + FP_EXEC_LOOK);
        int r = sys_waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT, NULL);
        if (r == -ECHILD || (r == 0 && info.si_pid == pid))
            break;
    }
}

/* Whatever the caller does meanwhile: the child runs on a stack of this frame. */
static void stay_beside(struct birth *birth, pid_t pid, _Atomic uint32_t *in_our_memory) {
    birth->stayed = true;
    birth->ended = birth->place->stay(birth->place->stay_arg, birth->pidfd, birth->pipes->ours);
    fp_birth_await_leave(pid, in_our_memory);
}

long fp_birth_clone3(struct birth *birth, uint64_t flags, char *stack, _Atomic uint32_t *in_our_memory) {
    _Atomic pid_t *born_pid = birth->place->born_pid;
    fp_clone_args args = {
        .flags = flags | FP_CLONE_CLEAR_SIGHAND | (born_pid ? CLONE_PARENT_SETTID : 0),
        .pidfd = (uintptr_t)&birth->pidfd,
        .child_tid = (uintptr_t)in_our_memory,
        .parent_tid = (uintptr_t)born_pid,
        .exit_signal = SIGCHLD,
        .stack = (uintptr_t)stack,
        .stack_size = FP_CHILD_STACK_BYTES,
        .cgroup = flags & FP_CLONE_INTO_CGROUP ? (uint64_t)birth->place->cgroup_fd : 0,
    };

    return sys_clone3_to_child(&args, fp_child_main, &birth->plan);
}

/* Not inlined: its frame holds the child's stack, which the kernel must find in memory that stays. */
__attribute__((noinline)) static long clone_shared(struct birth *birth, fp_way way, uint64_t flags) {
    _Alignas(16) char stack[FP_CHILD_STACK_BYTES];
    _Atomic uint32_t in_our_memory = 1;

    if (way == FP_BY_CLONE3) {
        long r = fp_birth_clone3(birth, flags, stack, &in_our_memory);
        if (r > 0 && flags & CLONE_CHILD_CLEARTID)
            stay_beside(birth, (pid_t)r, &in_our_memory);
        return r;
    }
    return sys_clone_to_child((unsigned long)flags | SIGCHLD, stack + sizeof stack, &birth->pidfd, fp_child_main,
                              &birth->plan);
}

uint64_t fp_birth_plan_shared(struct birth *birth, fp_way way, fp_child_report *report) {
    fp_child_plan *plan = &birth->plan;
    uint64_t flags = CLONE_VM;

    if (fp_can(FP_CAP_PIDFD) && !birth->without_pidfd)
        flags |= CLONE_PIDFD;
    plan->report = report;
    plan->keep_below = birth->lowest_bound;
    plan->cgroup_fd = birth->place->cgroup_fd;
    plan->born_pid = NULL;
    fp_birth_plan_signals(birth, way == FP_BY_CLONE3);
    if (way == FP_BY_CLONE3 && plan->cgroup_fd >= 0 && fp_can(FP_CAP_INTO_CGROUP)) {
        flags |= FP_CLONE_INTO_CGROUP;
        plan->cgroup_fd = -1;
    }
    /* There the place for the parent's copy of the pid is taken by the pidfd. */
    if (way == FP_BY_CLONE)
        plan->born_pid = birth->place->born_pid;
    if (plan->keep_below >= 0) {
        flags |= CLONE_FILES;
        if (plan->keep_below <= plan->cgroup_fd)
            plan->keep_below = plan->cgroup_fd + 1;
    }
    return flags;
}

int fp_bear_shared(struct birth *birth, fp_way way, fp_failure *reterr_failure) {
    fp_child_report report = {0};
    uint64_t flags = fp_birth_plan_shared(birth, way, &report);
    fp_sigset mask;

    flags |= way == FP_BY_CLONE3 && birth->place->stay && flags & CLONE_PIDFD ? CLONE_CHILD_CLEARTID : CLONE_VFORK;
    if (fp_changes_ids(birth->spec))
        fp_note_dumpable();
    fp_birth_block_signals(birth, &mask);
    long r = clone_shared(birth, way, flags);
    /* An emulator may share memory only with who stands still. */
    if (r == -EINVAL && flags & CLONE_CHILD_CLEARTID)
        r = clone_shared(birth, way, (flags & ~(uint64_t)CLONE_CHILD_CLEARTID) | CLONE_VFORK);
    /* We were held until the child left our memory: its report is complete, see clone(2), CLONE_VFORK. */
    /* SIGCHLD does not count: a short-lived child has sent it by now. */
    if (birth->place->notes_signals)
        birth->interrupted = sys_rt_sigpending() & ~mask & ~(UINT64_C(1) << (SIGCHLD - 1));
    fp_birth_allow_signals(&mask);
    if (fp_changes_ids(birth->spec))
        fp_restore_dumpable();

    if (r < 0)
        return fp_birth_fail(reterr_failure, (int)r, stage_of_clone_error((int)r, flags & FP_CLONE_INTO_CGROUP), -1);
    birth->pid = (pid_t)r;
    int e = fp_birth_read_report(birth, &report, reterr_failure);
    return e < 0 ? e : fp_birth_open_pidfd_late(birth, reterr_failure);
}
