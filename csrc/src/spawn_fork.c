/*
 * spawn_fork.c: a child that is made as a copy of our memory, which takes the
 * longer the more we have. Its report is a shared page, and a pipe tells by its
 * end that execve(2) has passed.
 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

#include "birth.h"

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
        int r = sys_poll(&wait, 1, FP_EXEC_LOOK);
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

int fp_bear_by_fork(struct birth *birth, fp_failure *reterr_failure) {
    fp_child_plan *plan = &birth->plan;
    int ends[2] = {-1, -1};
    void *page = NULL;
    fp_sigset mask;

    int r = sys_mmap(sizeof(fp_child_report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, &page);
    if (r < 0)
        return fp_birth_fail(reterr_failure, r, FP_STAGE_CLONE, -1);
    r = sys_pipe2(ends, O_CLOEXEC);
    if (r >= 0)
        r = move_aside(plan, &ends[1]);
    if (r < 0) {
        fp_birth_fail(reterr_failure, r, FP_STAGE_PIPE, -1);
        goto out;
    }
    plan->report = page;
    plan->keep_below = -1;
    plan->cgroup_fd = birth->place->cgroup_fd;
    plan->born_pid = NULL;
    fp_birth_plan_signals(birth, false);
    fp_plan_gaps(plan, ends[1]);

    fp_birth_block_signals(birth, &mask);
    long pid = sys_fork(SIGCHLD | (fp_can(FP_CAP_PIDFD) && !birth->without_pidfd ? CLONE_PIDFD : 0), &birth->pidfd);
    if (pid == 0) {
        fp_child_main(plan);
        sys_exit_group(0);
    }
    fp_birth_allow_signals(&mask);
    if (pid < 0) {
        r = fp_birth_fail(reterr_failure, (int)pid, FP_STAGE_CLONE, -1);
        goto out;
    }
    birth->pid = (pid_t)pid;
    if (birth->place->born_pid)
        atomic_store_explicit(birth->place->born_pid, birth->pid, memory_order_release);
    r = fp_birth_open_pidfd_late(birth, reterr_failure);
    if (r < 0)
        goto out;
    fp_close_fd(&ends[1]);
    r = await_exec(birth, page, ends[0]);
    /* Without that end we cannot tell what has become of it. */
    if (r < 0)
        sys_kill(birth->pid, SIGKILL);
    r = fp_birth_read_report(birth, page, reterr_failure);
out:
    fp_close_fd(&ends[0]);
    fp_close_fd(&ends[1]);
    sys_munmap(page, sizeof(fp_child_report));
    return r;
}
