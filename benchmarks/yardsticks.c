/*
 * yardsticks: what capturing, waking and reaping take when C does it and does
 * nothing else. Beside limit.c, which starts the children; the same terms hold.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "limit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t clock_ns(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int capture_one(const char *path, char *const *argv, int code, int bytes) {
    char buffer[65536];
    int ends[2], pidfd = -1, got = 0;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    int r = limit_start(path, argv, LIMIT_CLONE3, ends[1], &pidfd);
    close(ends[1]);
    while (r == 0) {
        ssize_t came = read(ends[0], buffer, sizeof buffer);
        if (came < 0 && errno == EINTR)
            continue;
        if (came <= 0)
            break;
        got += (int)came;
    }
    close(ends[0]);
    if (pidfd >= 0) {
        int end = limit_finish(pidfd, code);
        r = r ? r : end;
    }
    return r == 0 && got != bytes ? -EBADMSG : r;
}

double limit_capture(const char *path, const char *mode, int code, int n, int bytes) {
    char *const argv[] = {(char *)path, (char *)mode, NULL};
    int64_t start = clock_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < n; i++) {
        int r = capture_one(path, argv, code, bytes);
        if (r < 0)
            return r;
    }
    return 1e-9 * (double)(clock_ns(CLOCK_MONOTONIC) - start);
}

int limit_wake(const char *path, const char *mode, int code, int n, int stamp_fd, int64_t *ret_ns) {
    char *const argv[] = {(char *)path, (char *)mode, NULL};
    for (int i = 0; i < n; i++) {
        int64_t stamp = 0;
        int pidfd;
        if (lseek(stamp_fd, 0, SEEK_SET) < 0)
            return -errno;
        int r = limit_start(path, argv, LIMIT_CLONE3, stamp_fd, &pidfd);
        if (r < 0)
            return r;
        r = limit_finish(pidfd, code);
        int64_t woken = clock_ns(CLOCK_MONOTONIC);
        if (r < 0)
            return r;
        if (pread(stamp_fd, &stamp, sizeof stamp, 0) != sizeof stamp)
            return -EBADMSG;
        ret_ns[i] = woken - stamp;
    }
    return 0;
}

double limit_reap(const int *pids, int n, int code, int any) {
    int64_t start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < n; i++) {
        siginfo_t end = {0};
        if (waitid(any ? P_ALL : P_PID, any ? 0 : (id_t)pids[i], &end, WEXITED | WNOHANG) < 0)
            return -errno;
        if (end.si_pid == 0 || end.si_code != CLD_EXITED || end.si_status != code)
            return -EBADMSG;
    }
    return 1e-9 * (double)(clock_ns(CLOCK_THREAD_CPUTIME_ID) - start);
}
