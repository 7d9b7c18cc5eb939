/*
 * limit: how fast this kernel starts, ends and reaps processes when nothing
 * else is done: the yardstick that all ratios are taken against.
 *
 * A loop of clone3(2), execve(2) and waitid(2) on the pidfd, in one thread or in
 * several that share nothing, each with one child alive or with several; beside it
 * what C programs usually do. The child is mostly benchmarks/child.c: its exit code
 * proves that each start was a start. Other yardsticks are in yardsticks.c.
 *
 *   cc -O2 -pthread -o limit limit.c && ./limit ./child 2000 1
 *   cc -O2 -pthread -shared -fPIC -o limit.so limit.c yardsticks.c     for ctypes, see surroundings.py
 *
 * Nothing here keeps state, so it may be measured in turn with anything else in one
 * process, under the same load and with the same open files.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "limit.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CHILD_CODE = 7, THREADS_AT_MOST = 64, WINDOW_AT_MOST = 1024, STACK_BYTES = 16384 };

extern char **environ;

/* linux/close_range.h is missing where the kernel's headers are older than 5.9. */
#define UNSHARE_TABLE (1U << 1)
/* linux/sched.h of Linux before 5.5 has no name for it. */
#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif

struct order {
    const char *path;
    char *const *argv;
    int how;
    int stdout_fd;      /* to become the child's standard output, or -1 */
    uint64_t mask;      /* of the caller, for the child of LIMIT_CLEAN */
    volatile int error; /* written by the child, which shares our memory until execve(2) */
};

/*
 * [child zone] The compiler must not add a call to anything: the child runs
 * in our memory, on a stack of its own.
 */
#if defined(__x86_64__)
static inline long raw4(long number, long a, long b, long c, long d) {
    register long fourth __asm__("r10") = d;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static inline long raw4(long number, long a, long b, long c, long d) {
    register long which __asm__("x8") = number;
    register long first __asm__("x0") = a;
    register long second __asm__("x1") = b;
    register long third __asm__("x2") = c;
    register long fourth __asm__("x3") = d;
    __asm__ volatile("svc #0" : "+r"(first) : "r"(which), "r"(second), "r"(third), "r"(fourth) : "memory");
    return first;
}
#else
#error "limit.c knows x86_64 and aarch64"
#endif

__attribute__((noreturn)) static void child_main(struct order *order) {
    int how = order->how & ~LIMIT_PIN;
    if (order->stdout_fd >= 0)
        raw4(SYS_dup3, order->stdout_fd, 1, 0, 0);
    if (how == LIMIT_CLONE3_FLAT || how == LIMIT_CLEAN)
        raw4(SYS_close_range, 3, UINT_MAX, UNSHARE_TABLE, 0);
    if (how == LIMIT_CLEAN) {
        raw4(SYS_setsid, 0, 0, 0, 0);
        long null = raw4(SYS_openat, AT_FDCWD, (long)"/dev/null", O_RDONLY, 0);
        raw4(SYS_dup3, null, 0, 0, 0);
        raw4(SYS_close, null, 0, 0, 0);
        uint64_t none = 0;
        raw4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, sizeof none);
    }
    order->error = (int)-raw4(SYS_execve, (long)order->path, (long)order->argv, (long)environ, 0);
    for (;;)
        raw4(SYS_exit_group, 127, 0, 0, 0);
}

/* clone3(2) for a child that starts in child_main() on another stack; returns its pid or -errno. */
static long clone3_call(struct clone_args *args, struct order *order) {
#if defined(__x86_64__)
    long result;
    __asm__ volatile("syscall\n"
                     "    test %%rax, %%rax\n"
                     "    jnz 1f\n"
                     "    xor %%ebp, %%ebp\n"
                     "    mov %[order], %%rdi\n"
                     "    call *%[main]\n"
                     "1:"
                     : "=a"(result)
                     : "a"((long)SYS_clone3), "D"(args), "S"(sizeof *args), [order] "r"(order), [main] "r"(child_main)
                     : "rcx", "r11", "memory");
    return result;
#else
    register long result __asm__("x0") = (long)args;
    register long size __asm__("x1") = sizeof *args;
    register long number __asm__("x8") = SYS_clone3;
    __asm__ volatile("svc #0\n"
                     "    cbnz x0, 1f\n"
                     "    mov x29, #0\n"
                     "    mov x0, %[order]\n"
                     "    blr %[main]\n"
                     "1:"
                     : "+r"(result)
                     : "r"(size), "r"(number), [order] "r"(order), [main] "r"(child_main)
                     : "memory");
    return result;
#endif
}

/* Wait and look what came; 0 or -errno. A code other than the expected one is -EBADMSG. */
static int reap(idtype_t type, id_t id, int code) {
    siginfo_t end;
    do {
        if (waitid(type, id, &end, WEXITED) == 0)
            return end.si_code == CLD_EXITED && end.si_status == code ? 0 : -EBADMSG;
    } while (errno == EINTR);
    return -errno;
}

/* Start a child; 0 and its pidfd, or -errno. */
static int start_by_clone3(struct order *order, void *stack, int *ret_pidfd) {
    int pidfd = -1, how = order->how & ~LIMIT_PIN;
    struct clone_args args = {
        .flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        .pidfd = (uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
        .stack = (uintptr_t)stack,
        .stack_size = STACK_BYTES,
    };
    /* A descriptor that is moved before the table is the child's own would move in ours. */
    if ((how == LIMIT_CLONE3_FLAT || how == LIMIT_CLEAN) && order->stdout_fd < 0)
        args.flags |= CLONE_FILES;
    order->error = 0;
    uint64_t every = ~UINT64_C(0);
    if (how == LIMIT_CLEAN)
        raw4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&every, (long)&order->mask, sizeof every);
    long pid = clone3_call(&args, order);
    if (how == LIMIT_CLEAN)
        raw4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&order->mask, 0, sizeof every);
    if (pid < 0)
        return (int)pid;
    if (order->error > 0) {
        reap(P_PIDFD, (id_t)pidfd, 127);
        close(pidfd);
        return -order->error;
    }
    *ret_pidfd = pidfd;
    return 0;
}

/* Reap and forget it; 0 or -errno. */
static int finish(int pidfd, int code) {
    int r = reap(P_PIDFD, (id_t)pidfd, code);
    close(pidfd);
    return r;
}

int limit_start(const char *path, char *const *argv, int how, int stdout_fd, int *ret_pidfd) {
    _Alignas(16) char stack[STACK_BYTES];
    struct order order = {.path = path, .argv = argv, .how = how, .stdout_fd = stdout_fd};
    return start_by_clone3(&order, stack, ret_pidfd);
}

int limit_finish(int pidfd, int code) {
    return finish(pidfd, code);
}

static int one_by_posix_spawn(const struct order *order, int code) {
    pid_t pid;
    int error = posix_spawn(&pid, order->path, NULL, NULL, order->argv, environ);
    return error ? -error : reap(P_PID, (id_t)pid, code);
}

static int one_by_fork(const struct order *order, int code) {
    pid_t pid = (order->how & ~LIMIT_PIN) == LIMIT_VFORK ? vfork() : fork();
    if (pid < 0)
        return -errno;
    if (pid == 0) {
        execve(order->path, order->argv, environ);
        _exit(127);
    }
    return reap(P_PID, (id_t)pid, code);
}

struct worker {
    pthread_t thread;
    const char *path;
    int code;
    int n;
    int how;
    int window; /* how many are alive at a time */
    int cpu;    /* to run on, or -1 */
    double *each; /* where the seconds of each child go, or NULL */
    int result; /* 0 or -errno */
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Several alive at a time: the oldest is reaped before the next is started. */
static int work_in_window(const struct worker *worker, struct order *order, void *stack) {
    int alive[WINDOW_AT_MOST];
    int r = 0, started = 0, finished = 0;
    while (started < worker->n && r == 0) {
        if (started - finished == worker->window)
            r = finish(alive[finished++ % worker->window], worker->code);
        if (r == 0)
            r = start_by_clone3(order, stack, &alive[started % worker->window]);
        started += r == 0;
    }
    while (finished < started) {
        int last = finish(alive[finished++ % worker->window], worker->code);
        r = r ? r : last;
    }
    return r;
}

static int work(const struct worker *worker) {
    char *const argv[] = {(char *)worker->path, NULL};
    struct order order = {.path = worker->path, .argv = argv, .how = worker->how, .stdout_fd = -1};
    int r = 0, pidfd;
    void *stack = aligned_alloc(16, STACK_BYTES);
    if (!stack)
        return -ENOMEM;
    if (worker->window > 1) {
        r = work_in_window(worker, &order, stack);
        free(stack);
        return r;
    }
    for (int i = 0; i < worker->n && r == 0; i++) {
        double start = worker->each ? now() : 0;
        switch (worker->how & ~LIMIT_PIN) {
        case LIMIT_CLONE3:
        case LIMIT_CLONE3_FLAT:
        case LIMIT_CLEAN:
            r = start_by_clone3(&order, stack, &pidfd);
            r = r ? r : finish(pidfd, worker->code);
            break;
        case LIMIT_POSIX_SPAWN:
            r = one_by_posix_spawn(&order, worker->code);
            break;
        case LIMIT_FORK:
        case LIMIT_VFORK:
            r = one_by_fork(&order, worker->code);
            break;
        default:
            r = -EINVAL;
        }
        if (worker->each)
            worker->each[i] = now() - start;
    }
    free(stack);
    return r;
}

static void *worker_main(void *argument) {
    struct worker *worker = argument;
    if (worker->cpu >= 0) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(worker->cpu, &cpus);
        sched_setaffinity(0, sizeof cpus, &cpus);
    }
    worker->result = work(worker);
    return NULL;
}

/* The `turn`-th CPU, round and round, that we may run on; -1 if there is no telling. */
static int cpu_of_turn(int turn) {
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) < 0)
        return -1;
    int left = turn % CPU_COUNT(&cpus);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &cpus) && left-- == 0)
            return cpu;
    return -1;
}

double limit_loop(const char *path, int code, int n, int threads, int how, int window) {
    if (n < 0 || threads < 1 || threads > THREADS_AT_MOST || window < 1 || window > WINDOW_AT_MOST)
        return -EINVAL;
    struct worker workers[THREADS_AT_MOST];
    for (int i = 0; i < threads; i++)
        workers[i] = (struct worker){
            .path = path,
            .code = code,
            .n = n / threads + (i < n % threads),
            .how = how,
            .window = window,
            .cpu = (how & LIMIT_PIN) ? cpu_of_turn(i) : -1,
        };

    double start = now();
    if (threads == 1 && !(how & LIMIT_PIN)) {
        workers[0].result = work(&workers[0]);
        return workers[0].result < 0 ? workers[0].result : now() - start;
    }
    int started = 0, error = 0;
    while (started < threads && error == 0) {
        error = pthread_create(&workers[started].thread, NULL, worker_main, &workers[started]);
        started += error == 0;
    }
    for (int i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
        if (workers[i].result < 0)
            error = -workers[i].result;
    }
    return error ? -error : now() - start;
}

int limit_each(const char *path, int code, int n, int how, double *ret_seconds) {
    struct worker worker = {.path = path, .code = code, .n = n, .how = how, .window = 1, .each = ret_seconds};
    return work(&worker);
}

static int number(const char *text, int otherwise) {
    char *end;
    long value = text ? strtol(text, &end, 10) : otherwise;
    return text && (*end || value < 1 || value > INT_MAX) ? -1 : (int)value;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int how;
    } ways[] = {
        {"clone3", LIMIT_CLONE3}, {"clone3, flat", LIMIT_CLONE3_FLAT}, {"clean", LIMIT_CLEAN},
        {"vfork", LIMIT_VFORK},   {"posix_spawn", LIMIT_POSIX_SPAWN},  {"fork", LIMIT_FORK},
    };
    int n = number(argc > 2 ? argv[2] : NULL, 2000);
    int threads = number(argc > 3 ? argv[3] : NULL, 1);
    if (argc < 2 || argc > 4 || n < 0 || threads < 0) {
        fprintf(stderr, "usage: limit CHILD [NUMBER [THREADS]]\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        for (int pin = 0; pin <= 1; pin++) {
            double seconds = limit_loop(argv[1], CHILD_CODE, n, threads, ways[i].how | (pin ? LIMIT_PIN : 0), 1);
            if (seconds < 0) {
                fprintf(stderr, "%s: %s\n", ways[i].name, strerror((int)-seconds));
                return 1;
            }
            printf("%-13s %s %7.1f us a process\n", ways[i].name, pin ? "pinned" : "free  ", seconds / n * 1e6);
        }
    }
    return 0;
}
