/*
 * sys.h: every system call the library makes, as a function that returns
 * -errno and leaves errno alone.
 *
 * They enter the kernel directly and not through libc for three reasons: the
 * child zone may call nothing else (its memory and its errno are the
 * parent's), a thread that is being cancelled must not stop between a start
 * and its record (pthreads(7), cancellation points), and one place is enough
 * to make any of them fail: in a build with FP_TEST_FAULTS each call first
 * asks fp_fault(), which the test program defines.
 *
 * Structures and constants that newer kernels have and older headers lack are
 * defined here under names of our own.
 */
#ifndef FASTPROC_SYS_H
#define FASTPROC_SYS_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include <linux/futex.h>
#include <linux/sched.h>
#ifndef STATX_INO
#include <linux/stat.h> /* musl before 1.2.5 has it only there */
#endif

/* ---- What older headers lack --------------------------------------------- */

/* From Linux 5.1 on all architectures share the numbers of new calls. */
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif

#define FP_CLONE_CLEAR_SIGHAND UINT64_C(0x100000000) /* Linux 5.5 */
#define FP_CLONE_INTO_CGROUP UINT64_C(0x200000000)   /* Linux 5.7 */
#define FP_CLOSE_RANGE_UNSHARE (1u << 1)             /* Linux 5.9 */
#define FP_P_PIDFD 3                                 /* waitid(2), Linux 5.4 */
#define FP_PIDFD_SIGNAL_PROCESS_GROUP (1u << 2)      /* pidfd_send_signal(2), Linux 6.9 */

/* struct clone_args up to `cgroup`, Linux 5.7; see clone(2). */
typedef struct fp_clone_args {
    uint64_t flags;
    uint64_t pidfd;
    uint64_t child_tid;
    uint64_t parent_tid;
    uint64_t exit_signal;
    uint64_t stack;
    uint64_t stack_size;
    uint64_t tls;
    uint64_t set_tid;
    uint64_t set_tid_size;
    uint64_t cgroup;
} fp_clone_args;

/* struct pidfd_info of Linux 6.13; from 6.15 with the exit status. Ask for
 * bits in `mask`, and believe only those that are set in it afterwards. */
typedef struct fp_pidfd_info {
    uint64_t mask;
    uint64_t cgroup_id;
    uint32_t pid;
    uint32_t tgid;
    uint32_t ppid;
    uint32_t ruid;
    uint32_t rgid;
    uint32_t euid;
    uint32_t egid;
    uint32_t suid;
    uint32_t sgid;
    uint32_t fsuid;
    uint32_t fsgid;
    int32_t exit_code; /* as wait(2) tells it, with FP_PIDFD_INFO_EXIT */
} fp_pidfd_info;

#define FP_PIDFD_GET_INFO 0xc040ff0bul /* _IOWR(0xff, 11, 64 bytes) */
#define FP_PIDFD_INFO_EXIT UINT64_C(8)

/* The record of getdents64(2). */
typedef struct fp_dirent {
    uint64_t inode;
    int64_t offset;
    uint16_t record_bytes;
    uint8_t type;
    char name[];
} fp_dirent;

/* A set of signals as the kernel sees it: bit n - 1 is signal n. */
typedef uint64_t fp_sigset;

/* What rt_sigaction(2) takes on x86-64 and aarch64, which differs from libc's structure. */
typedef struct fp_sigaction {
    uintptr_t handler;
    unsigned long flags;
    uintptr_t restorer;
    fp_sigset mask;
} fp_sigaction;

/* ---- Entering the kernel -------------------------------------------------- */

#ifdef FP_TEST_FAULTS
/* 0, or -errno to let this call fail with. Also called in the child zone,
 * where it may touch nothing but its own counters. */
int fp_fault(const char *call);
#define FP_FAULT(call)                                                                                                 \
    do {                                                                                                               \
        int fault_error = fp_fault(call);                                                                              \
        if (fault_error < 0)                                                                                           \
            return fault_error;                                                                                        \
    } while (0)
#else
#define FP_FAULT(call) ((void)0)
#endif

#if defined(__x86_64__) && !defined(__ILP32__)

static inline long sys_call(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/*
 * As sys_call(), for clone(2) and clone3(2) with a new stack: where they return
 * 0, function `main(arg)` is called on that stack, and its result is the exit
 * code. There is no way back from there, so the frame of the caller is safe.
 */
static inline long sys_call_to_child(long number, long a, long b, long c, int (*main)(void *), void *arg) {
    long result;
    register long r10 __asm__("r10") = 0;
    register long r8 __asm__("r8") = 0;
    register int (*r12)(void *) __asm__("r12") = main;
    register void *r13 __asm__("r13") = arg;

    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xorl %%ebp, %%ebp\n\t"
                     "movq %%r13, %%rdi\n\t"
                     "call *%%r12\n\t"
                     "movl %%eax, %%edi\n\t"
                     "movl %[exit_group], %%eax\n\t"
                     "syscall\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r12),
                       "r"(r13), [exit_group] "i"(SYS_exit_group)
                     : "rcx", "r11", "memory", "cc");
    return result;
}

#elif defined(__aarch64__)

static inline long sys_call(long number, long a, long b, long c, long d, long e, long f) {
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;

    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory", "cc");
    return x0;
}

static inline long sys_call_to_child(long number, long a, long b, long c, int (*main)(void *), void *arg) {
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = 0;
    register long x4 __asm__("x4") = 0;
    register int (*x10)(void *) __asm__("x10") = main;
    register void *x11 __asm__("x11") = arg;

    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "mov x30, xzr\n\t"
                     "mov x0, x11\n\t"
                     "blr x10\n\t"
                     "mov x8, %[exit_group]\n\t"
                     "svc #0\n\t"
                     "brk #1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x10), "r"(x11), [exit_group] "i"(SYS_exit_group)
                     : "memory", "cc");
    return x0;
}

#else

/* Elsewhere libc enters the kernel, and children are made by a plain fork. */

#include <unistd.h>

static inline long sys_call(long number, long a, long b, long c, long d, long e, long f) {
    int saved_errno = errno;
    long result = syscall(number, a, b, c, d, e, f);

    if (result < 0)
        result = -errno;
    errno = saved_errno;
    return result;
}

static inline long sys_call_to_child(long number, long a, long b, long c, int (*main)(void *), void *arg) {
    (void)number, (void)a, (void)b, (void)c, (void)main, (void)arg;
    return -ENOSYS;
}

#endif

#define SYS_CALL_0(n) sys_call((n), 0, 0, 0, 0, 0, 0)
#define SYS_CALL_1(n, a) sys_call((n), (long)(a), 0, 0, 0, 0, 0)
#define SYS_CALL_2(n, a, b) sys_call((n), (long)(a), (long)(b), 0, 0, 0, 0)
#define SYS_CALL_3(n, a, b, c) sys_call((n), (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS_CALL_4(n, a, b, c, d) sys_call((n), (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define SYS_CALL_5(n, a, b, c, d, e) sys_call((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define SYS_CALL_6(n, a, b, c, d, e, f) sys_call((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

/* ---- Time ------------------------------------------------------------------ */

/* CLOCK_MONOTONIC; by the vDSO, so it costs no system call. Not for the child zone. */
static inline int64_t fp_now_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static inline struct timespec sys_timespec(int64_t ns) {
    struct timespec time = {.tv_sec = ns / INT64_C(1000000000), .tv_nsec = ns % INT64_C(1000000000)};

    return time;
}

/* ---- Processes -------------------------------------------------------------- */

static inline long sys_clone3_to_child(const fp_clone_args *args, int (*main)(void *), void *arg) {
    FP_FAULT("clone3");
    return sys_call_to_child(SYS_clone3, (long)args, sizeof(*args), 0, main, arg);
}

/* With CLONE_PIDFD the pidfd is stored where `parent_tid` points, see clone(2). */
static inline long sys_clone_to_child(unsigned long flags, void *stack_top, int *parent_tid, int (*main)(void *),
                                      void *arg) {
    FP_FAULT("clone");
    return sys_call_to_child(SYS_clone, (long)flags, (long)stack_top, (long)parent_tid, main, arg);
}

/* clone(2) into a copy of our memory: returns twice. The lowest byte of `flags` is the exit signal. */
static inline long sys_fork(unsigned long flags, int *parent_tid) {
    FP_FAULT("fork");
#if defined(__s390__) || defined(__s390x__)
    return SYS_CALL_5(SYS_clone, 0, flags, parent_tid, 0, 0);
#else
    return SYS_CALL_5(SYS_clone, flags, 0, parent_tid, 0, 0);
#endif
}

static inline int sys_execve(const char *path, const char *const *argv, const char *const *envp) {
    FP_FAULT("execve");
    return (int)SYS_CALL_3(SYS_execve, path, argv, envp);
}

_Noreturn static inline void sys_exit_group(int code) {
    for (;;)
        SYS_CALL_1(SYS_exit_group, code);
}

static inline int sys_waitid(int idtype, int id, siginfo_t *info, int options, struct rusage *usage) {
    FP_FAULT("waitid");
    return (int)SYS_CALL_5(SYS_waitid, idtype, id, info, options, usage);
}

static inline int sys_pidfd_open(pid_t pid, unsigned flags) {
    FP_FAULT("pidfd_open");
    return (int)SYS_CALL_2(SYS_pidfd_open, pid, flags);
}

static inline int sys_pidfd_send_signal(int pidfd, int sig, siginfo_t *info, unsigned flags) {
    FP_FAULT("pidfd_send_signal");
    return (int)SYS_CALL_4(SYS_pidfd_send_signal, pidfd, sig, info, flags);
}

static inline int sys_kill(pid_t pid, int sig) {
    FP_FAULT("kill");
    return (int)SYS_CALL_2(SYS_kill, pid, sig);
}

static inline pid_t sys_getpid(void) {
    return (pid_t)SYS_CALL_0(SYS_getpid);
}

static inline pid_t sys_getppid(void) {
    return (pid_t)SYS_CALL_0(SYS_getppid);
}

static inline pid_t sys_gettid(void) {
    return (pid_t)SYS_CALL_0(SYS_gettid);
}

static inline int sys_getsid(pid_t pid) {
    FP_FAULT("getsid");
    return (int)SYS_CALL_1(SYS_getsid, pid);
}

static inline int sys_getpgid(pid_t pid) {
    FP_FAULT("getpgid");
    return (int)SYS_CALL_1(SYS_getpgid, pid);
}

static inline int sys_setsid(void) {
    FP_FAULT("setsid");
    return (int)SYS_CALL_0(SYS_setsid);
}

static inline int sys_setpgid(pid_t pid, pid_t group) {
    FP_FAULT("setpgid");
    return (int)SYS_CALL_2(SYS_setpgid, pid, group);
}

static inline int sys_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d) {
    FP_FAULT("prctl");
    return (int)SYS_CALL_5(SYS_prctl, option, a, b, c, d);
}

/* ---- Signals ------------------------------------------------------------------ */

/* Cannot fail with these arguments, so it is no place for a fault. */
static inline void sys_rt_sigprocmask(int how, const fp_sigset *set, fp_sigset *ret_old) {
    SYS_CALL_4(SYS_rt_sigprocmask, how, set, ret_old, sizeof(fp_sigset));
}

/* Take one signal of `set` that is pending, without waiting; -EAGAIN: there is none. */
/* What is pending for this thread, or for all of this process. */
static inline fp_sigset sys_rt_sigpending(void) {
    fp_sigset set = 0;

    SYS_CALL_2(SYS_rt_sigpending, &set, sizeof set);
    return set;
}

static inline int sys_rt_sigtimedwait(const fp_sigset *set) {
    struct timespec none = {0};

    return (int)SYS_CALL_4(SYS_rt_sigtimedwait, set, NULL, &none, sizeof(fp_sigset));
}

static inline int sys_rt_sigaction(int sig, const fp_sigaction *action, fp_sigaction *ret_old) {
    FP_FAULT("rt_sigaction");
    return (int)SYS_CALL_4(SYS_rt_sigaction, sig, action, ret_old, sizeof(fp_sigset));
}

/* ---- Attributes of a process ------------------------------------------------- */

/* Of the calling process; unlimited is UINT64_MAX. */
static inline int sys_prlimit(pid_t pid, int resource, const uint64_t limit[2], uint64_t ret_old[2]) {
    FP_FAULT("prlimit64");
    return (int)SYS_CALL_4(SYS_prlimit64, pid, resource, limit, ret_old);
}

static inline int sys_setpriority(int which, int who, int nice) {
    FP_FAULT("setpriority");
    return (int)SYS_CALL_3(SYS_setpriority, which, who, nice);
}

static inline int sys_sched_setaffinity(pid_t pid, size_t mask_bytes, const void *mask) {
    FP_FAULT("sched_setaffinity");
    return (int)SYS_CALL_3(SYS_sched_setaffinity, pid, mask_bytes, mask);
}

static inline int sys_setgroups(size_t n, const uint32_t *groups) {
    FP_FAULT("setgroups");
    return (int)SYS_CALL_2(SYS_setgroups, n, groups);
}

static inline int sys_getgroups(size_t n, uint32_t *ret_groups) {
    FP_FAULT("getgroups");
    return (int)SYS_CALL_2(SYS_getgroups, n, ret_groups);
}

static inline int sys_setresgid(uint32_t real, uint32_t effective, uint32_t saved) {
    FP_FAULT("setresgid");
    return (int)SYS_CALL_3(SYS_setresgid, real, effective, saved);
}

static inline int sys_setresuid(uint32_t real, uint32_t effective, uint32_t saved) {
    FP_FAULT("setresuid");
    return (int)SYS_CALL_3(SYS_setresuid, real, effective, saved);
}

static inline int sys_getresgid(uint32_t *ret_real, uint32_t *ret_effective, uint32_t *ret_saved) {
    FP_FAULT("getresgid");
    return (int)SYS_CALL_3(SYS_getresgid, ret_real, ret_effective, ret_saved);
}

static inline int sys_getresuid(uint32_t *ret_real, uint32_t *ret_effective, uint32_t *ret_saved) {
    FP_FAULT("getresuid");
    return (int)SYS_CALL_3(SYS_getresuid, ret_real, ret_effective, ret_saved);
}

static inline int sys_umask(unsigned mask) {
    return (int)SYS_CALL_1(SYS_umask, mask);
}

static inline int sys_chdir(const char *path) {
    FP_FAULT("chdir");
    return (int)SYS_CALL_1(SYS_chdir, path);
}

/* ---- Files and directories ----------------------------------------------------- */

static inline int sys_openat(int dir_fd, const char *path, int flags, unsigned mode) {
    FP_FAULT("openat");
    return (int)SYS_CALL_4(SYS_openat, dir_fd, path, flags, mode);
}

/* Never to be repeated: the descriptor is gone even when this fails, see close(2). */
static inline int sys_close(int fd) {
    int r = (int)SYS_CALL_1(SYS_close, fd);

    FP_FAULT("close");
    return r;
}

static inline ssize_t sys_read(int fd, void *buffer, size_t bytes) {
    FP_FAULT("read");
    return SYS_CALL_3(SYS_read, fd, buffer, bytes);
}

static inline ssize_t sys_readv(int fd, const struct iovec *parts, int n) {
    FP_FAULT("readv");
    return SYS_CALL_3(SYS_readv, fd, parts, n);
}

/* From a pipe, and from or to where its descriptor stands. */
static inline ssize_t sys_splice(int from_fd, int to_fd, size_t bytes, unsigned flags) {
    FP_FAULT("splice");
    return SYS_CALL_6(SYS_splice, from_fd, 0, to_fd, 0, bytes, flags);
}

static inline ssize_t sys_write(int fd, const void *buffer, size_t bytes) {
    FP_FAULT("write");
    return SYS_CALL_3(SYS_write, fd, buffer, bytes);
}

static inline ssize_t sys_pread(int fd, void *buffer, size_t bytes, int64_t offset) {
    FP_FAULT("pread64");
    return SYS_CALL_4(SYS_pread64, fd, buffer, bytes, offset);
}

static inline int sys_statx(int dir_fd, const char *path, int flags, unsigned mask, struct statx *ret_statx) {
    FP_FAULT("statx");
    return (int)SYS_CALL_5(SYS_statx, dir_fd, path, flags, mask, ret_statx);
}

static inline int sys_faccessat(int dir_fd, const char *path, int mode) {
    FP_FAULT("faccessat");
    return (int)SYS_CALL_3(SYS_faccessat, dir_fd, path, mode);
}

static inline int sys_mkdirat(int dir_fd, const char *path, unsigned mode) {
    FP_FAULT("mkdirat");
    return (int)SYS_CALL_3(SYS_mkdirat, dir_fd, path, mode);
}

static inline int sys_unlinkat(int dir_fd, const char *path, int flags) {
    FP_FAULT("unlinkat");
    return (int)SYS_CALL_3(SYS_unlinkat, dir_fd, path, flags);
}

static inline int sys_flock(int fd, int operation) {
    FP_FAULT("flock");
    return (int)SYS_CALL_2(SYS_flock, fd, operation);
}

/* Fills `buffer` with fp_dirent records; 0 at the end. */
static inline ssize_t sys_getdents64(int fd, void *buffer, size_t bytes) {
    FP_FAULT("getdents64");
    return SYS_CALL_3(SYS_getdents64, fd, buffer, bytes);
}

static inline int sys_ioctl(int fd, unsigned long request, void *arg) {
    FP_FAULT("ioctl");
    return (int)SYS_CALL_3(SYS_ioctl, fd, request, arg);
}

/* ---- Descriptors ------------------------------------------------------------------ */

static inline int sys_fcntl(int fd, int command, long arg) {
    FP_FAULT("fcntl");
    return (int)SYS_CALL_3(SYS_fcntl, fd, command, arg);
}

/*
 * What is below is cheap to copy, and copied with any part of a table: the
 * kernel counts descriptors by the word of its bitmap, see fs/file.c.
 */
enum { FP_LOW_FDS = 64 };

/*
 * A descriptor that we keep, or an error, as it came; but out of the way of
 * children, each of which copies what is low, and closes it again: 40 ns and
 * 60 ns (Linux 6.18). Where there is no number so high, at least not that of a
 * standard stream which the host has closed: what it opens there later would
 * replace ours, and a child would inherit ours as its stream.
 */
static inline int sys_aside(int fd) {
    if (fd < 0 || fd >= FP_LOW_FDS)
        return fd;
    int r = sys_fcntl(fd, F_DUPFD_CLOEXEC, FP_LOW_FDS);
    if (r < 0 && fd > 2)
        return fd;
    if (r < 0)
        r = sys_fcntl(fd, F_DUPFD_CLOEXEC, 3);
    sys_close(fd);
    return r;
}

static inline int sys_dup3(int from, int to, int flags) {
    FP_FAULT("dup3");
    return (int)SYS_CALL_3(SYS_dup3, from, to, flags);
}

static inline int sys_pipe2(int ret_fds[2], int flags) {
    FP_FAULT("pipe2");
    return (int)SYS_CALL_2(SYS_pipe2, ret_fds, flags);
}

static inline int sys_close_range(unsigned first, unsigned last, unsigned flags) {
    FP_FAULT("close_range");
    return (int)SYS_CALL_3(SYS_close_range, first, last, flags);
}

static inline int sys_eventfd(unsigned count, int flags) {
    FP_FAULT("eventfd2");
    return (int)SYS_CALL_2(SYS_eventfd2, count, flags);
}

/* Make an eventfd readable. Fails only at a count of 2^64 - 2, which ours never reach: no place for a fault. */
static inline void sys_eventfd_raise(int fd) {
    uint64_t one = 1;
    SYS_CALL_3(SYS_write, fd, &one, sizeof(one));
}

/* Make one that does not block unreadable. */
static inline void sys_eventfd_lower(int fd) {
    uint64_t count;
    SYS_CALL_3(SYS_read, fd, &count, sizeof(count));
}

static inline int sys_timerfd(int clock, int flags) {
    FP_FAULT("timerfd_create");
    return (int)SYS_CALL_2(SYS_timerfd_create, clock, flags);
}

/* Readable once, after so long; what was set before does not count any more. */
static inline int sys_timerfd_set(int fd, int64_t ns) {
    struct itimerspec when = {.it_value = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000}};
    FP_FAULT("timerfd_settime");
    return (int)SYS_CALL_4(SYS_timerfd_settime, fd, 0, &when, NULL);
}

/* Make one that does not block unreadable. */
static inline void sys_timerfd_lower(int fd) {
    uint64_t count;
    SYS_CALL_3(SYS_read, fd, &count, sizeof(count));
}

/* ---- Waiting ------------------------------------------------------------------------ */

static inline int sys_epoll_create(int flags) {
    FP_FAULT("epoll_create1");
    return (int)SYS_CALL_1(SYS_epoll_create1, flags);
}

static inline int sys_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event) {
    FP_FAULT("epoll_ctl");
    return (int)SYS_CALL_4(SYS_epoll_ctl, epoll_fd, operation, fd, event);
}

/* timeout_ms: negative waits for ever. */
static inline int sys_epoll_wait(int epoll_fd, struct epoll_event *ret_events, int n, int timeout_ms) {
    FP_FAULT("epoll_pwait");
    return (int)SYS_CALL_6(SYS_epoll_pwait, epoll_fd, ret_events, n, timeout_ms, 0, sizeof(fp_sigset));
}

/* timeout_ns: negative waits for ever. */
static inline int sys_poll(struct pollfd *fds, unsigned n, int64_t timeout_ns) {
    struct timespec timeout = sys_timespec(timeout_ns < 0 ? 0 : timeout_ns);

    FP_FAULT("ppoll");
    return (int)SYS_CALL_5(SYS_ppoll, fds, n, timeout_ns < 0 ? 0 : (long)&timeout, 0, sizeof(fp_sigset));
}

/*
 * Sleep while `*word` is `expected`, at most until `deadline_ns` on
 * CLOCK_MONOTONIC (INT64_MAX: no limit). 0 when woken, -EAGAIN when the word
 * differs, -ETIMEDOUT, -EINTR. Absolute, so that a repeated wait does not grow.
 */
static inline int sys_futex_wait(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns) {
    struct timespec deadline = sys_timespec(deadline_ns < 0 ? 0 : deadline_ns);

    FP_FAULT("futex");
    return (int)SYS_CALL_6(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected,
                           deadline_ns == INT64_MAX ? 0 : (long)&deadline, 0, FUTEX_BITSET_MATCH_ANY);
}

/* The same for a word that the kernel clears and wakes, see CLONE_CHILD_CLEARTID in clone(2). */
static inline int sys_futex_wait_for_kernel(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns) {
    struct timespec deadline = sys_timespec(deadline_ns < 0 ? 0 : deadline_ns);

    FP_FAULT("futex");
    return (int)SYS_CALL_6(SYS_futex, word, FUTEX_WAIT_BITSET, expected, (long)&deadline, 0, FUTEX_BITSET_MATCH_ANY);
}

/* Wake up to `n` who sleep on `word`; returns how many. */
static inline int sys_futex_wake(_Atomic uint32_t *word, int n) {
    return (int)SYS_CALL_3(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, n);
}

/* ---- Memory --------------------------------------------------------------------------- */

/* At an address of the kernel's choice, from the start of `fd` (or -1). */
static inline int sys_mmap(size_t bytes, int protection, int flags, int fd, void **ret_memory) {
    long result;

    FP_FAULT("mmap");
#if defined(SYS_mmap)
    result = SYS_CALL_6(SYS_mmap, 0, bytes, protection, flags, fd, 0);
#else
    result = SYS_CALL_6(SYS_mmap2, 0, bytes, protection, flags, fd, 0);
#endif
    if (result < 0 && result > -4096)
        return (int)result;
    *ret_memory = (void *)result;
    return 0;
}

static inline int sys_madvise(void *memory, size_t bytes, int advice) {
    FP_FAULT("madvise");
    return (int)SYS_CALL_3(SYS_madvise, memory, bytes, advice);
}

static inline void sys_munmap(void *memory, size_t bytes) {
    SYS_CALL_2(SYS_munmap, memory, bytes);
}

#endif
