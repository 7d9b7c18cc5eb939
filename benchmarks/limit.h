/* What limit.c and yardsticks.c offer the benchmarks; see there. */
#ifndef LIMIT_H
#define LIMIT_H

#include <stdint.h>

/* How a child is made; more than one CPU is used as `threads` and LIMIT_PIN say. */
enum limit_how {
    LIMIT_CLONE3 = 0,      /* the least that does the job */
    LIMIT_CLONE3_FLAT = 1, /* and does not copy the table of descriptors, see CLOSE_RANGE_UNSHARE in close_range(2) */
    LIMIT_POSIX_SPAWN = 2,
    LIMIT_FORK = 3,
    LIMIT_VFORK = 4,
    /* What a child of fastproc gets besides: a session, /dev/null as input, no stray descriptor, an empty
     * signal mask, and no signal of ours between clone3(2) and execve(2). No cgroup. */
    LIMIT_CLEAN = 5,
    LIMIT_PIN = 1 << 8 /* each thread, and so its children, on a CPU of its own */
};

/*
 * Start and reap `n` children, shared out among `threads`, each of which has `window` alive at a
 * time; one thread is the caller's own. Returns the seconds it took, or -errno: a child that could
 * not be started, or whose exit code was not `code`, ends the measurement.
 */
double limit_loop(const char *path, int code, int n, int threads, int how, int window);
/* The same in one thread, with the seconds of each child by itself. 0 or -errno. */
int limit_each(const char *path, int code, int n, int how, double *ret_seconds);

/* Start one by clone3(2); its pidfd is owned by the caller, for limit_finish(). 0 or -errno. */
int limit_start(const char *path, char *const *argv, int how, int stdout_fd, int *ret_pidfd);
/* Reap it and look at its code. 0 or -errno. */
int limit_finish(int pidfd, int code);

/* Start, read one stream to its end, reap, `n` times; each child must write `bytes`. Seconds or -errno. */
double limit_capture(const char *path, const char *mode, int code, int n, int bytes);
/*
 * Start, wait, look at the clock, `n` times. The child writes the clock to `stamp_fd`, a file, just
 * before it exits: the differences are stored in nanoseconds. 0 or -errno.
 */
int limit_wake(const char *path, const char *mode, int code, int n, int stamp_fd, int64_t *ret_ns);
/* Reap children that are dead already, by their pid or, with `any`, whoever comes. CPU seconds or -errno. */
double limit_reap(const int *pids, int n, int code, int any);

#endif
