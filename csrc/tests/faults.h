/*
 * faults.h: makes the n-th system call of the library fail, in turn for each n
 * until there are no more calls, and for each error that fits the call. For
 * programs linked with the library built with -DFP_TEST_FAULTS, see sys.h.
 *
 * fp_fault() also runs in the child zone. So it calls nothing, is built
 * without sanitizers, and keeps its state in a shared page: a child that has a
 * copy of our memory then counts on where we were.
 *
 * In plain builds malloc(3) and its kin are calls as well. Sanitizers bring
 * their own.
 */
#ifndef FASTPROC_FAULTS_H
#define FASTPROC_FAULTS_H

#include <sys/mman.h>

#include "crew.h"
#include "sys.h"

enum { MOST_ERRORS = 5 };

typedef struct fault_errors {
    const char *call;
    int errors[MOST_ERRORS];
} fault_errors;

/* What may happen to whom. A call that is not named here cannot fail with us. */
static const fault_errors fault_table[] = {
    {"clone3", {EAGAIN, ENOMEM, ENOSYS, EPERM, EBUSY}},
    {"clone", {EAGAIN, ENOSYS, EPERM}},
    {"fork", {EAGAIN, ENOMEM}},
    {"execve", {ENOMEM, EACCES, EIO, ETXTBSY, ENOENT}},
    {"waitid", {EINTR}},
    {"pidfd_open", {EMFILE, ENOMEM}},
    {"pidfd_send_signal", {EPERM, EAGAIN}},
    {"kill", {EPERM, EAGAIN}},
    {"getpgid", {EPERM}},
    {"setsid", {EPERM}},
    {"setpgid", {EPERM}},
    {"prctl", {EPERM}},
    {"rt_sigaction", {EINVAL}},
    {"prlimit64", {EPERM}},
    {"setpriority", {EPERM}},
    {"sched_setaffinity", {EINVAL}},
    {"setgroups", {ENOMEM, EPERM}},
    {"getgroups", {EPERM}},
    {"setresgid", {EAGAIN, EPERM}},
    {"setresuid", {EAGAIN, EPERM}},
    {"getresgid", {EPERM}},
    {"getresuid", {EPERM}},
    {"chdir", {EIO, ENOMEM}},
    {"openat", {EMFILE, ENOMEM, EINTR, EIO}},
    {"close", {EINTR, EIO}},
    {"read", {EINTR, EAGAIN, EIO}},
    {"write", {EINTR, EAGAIN, EIO}},
    {"pread64", {EINTR, EIO, ENODEV}},
    {"mkdirat", {ENOMEM, EPERM}},
    {"unlinkat", {EBUSY, EIO}},
    {"getdents64", {EINTR, ENOMEM, EIO}},
    {"ioctl", {ENOSYS, EIO}},
    {"splice", {ENOSYS, EPERM, EINTR}},
    {"readv", {EINTR, EIO}},
    {"fcntl", {EMFILE, EPERM}},
    {"dup3", {EMFILE, EINTR}},
    {"pipe2", {EMFILE, ENOMEM}},
    {"close_range", {ENOSYS, ENOMEM, EMFILE}},
    {"eventfd2", {EMFILE, ENOMEM}},
    {"timerfd_create", {EMFILE, ENOMEM}},
    {"timerfd_settime", {EINVAL}},
    {"epoll_create1", {EMFILE, ENOMEM}},
    {"epoll_ctl", {ENOSPC, ENOMEM}},
    {"epoll_pwait", {EINTR}},
    {"ppoll", {EINTR, ENOMEM}},
    {"futex", {EINTR, EAGAIN}},
    {"mmap", {ENOMEM}},
    {"madvise", {EINVAL}},
    {"malloc", {ENOMEM}},
};

typedef struct fault_state {
    int armed;
    int count;       /* calls so far */
    int nth;         /* which is to fail */
    int round;       /* with which of its errors */
    int rounds;      /* how many it has */
    int fired;       /* the error it failed with */
    char call[24];   /* which it was */
    int before_exec; /* a signal that the child sends to itself when it calls setsid(2) */
    int listings;    /* calls of getdents64(2) */
    int no_memory;   /* all of malloc(3) fails */
} fault_state;

static fault_state *fault;

/* The program's own calls, as long as this is not 0 in a thread, are none of the library's. */
static __thread int fault_pauses;

#define NOT_INSTRUMENTED __attribute__((noinline, no_sanitize("address", "undefined", "thread")))

NOT_INSTRUMENTED static const fault_errors *fault_find(const char *call) {
    for (size_t i = 0; i < sizeof fault_table / sizeof *fault_table; i++) {
        const char *a = fault_table[i].call, *b = call;
        while (*a && *a == *b)
            a++, b++;
        if (*a == *b)
            return &fault_table[i];
    }
    return NULL;
}

int fp_fault(const char *call);
NOT_INSTRUMENTED int fp_fault(const char *call) {
    fault_state *f = fault;
    if (!f || !__atomic_load_n(&f->armed, __ATOMIC_RELAXED) || fault_pauses)
        return 0;
    if (f->before_exec && call[0] == 's' && call[3] == 's')
        sys_call(SYS_kill, sys_call(SYS_getpid, 0, 0, 0, 0, 0, 0), f->before_exec, 0, 0, 0, 0);
    if (call[0] == 'g' && call[3] == 'd')
        __atomic_add_fetch(&f->listings, 1, __ATOMIC_RELAXED);
    if (f->no_memory && call[0] == 'm' && call[1] == 'a')
        return -ENOMEM;
    const fault_errors *errors = fault_find(call);
    if (!errors || __atomic_add_fetch(&f->count, 1, __ATOMIC_RELAXED) != f->nth)
        return 0;
    int n = 0, i = 0;
    while (n < MOST_ERRORS && errors->errors[n])
        n++;
    for (; call[i] && i < (int)sizeof f->call - 1; i++)
        f->call[i] = call[i];
    f->call[i] = '\0';
    f->rounds = n;
    f->fired = errors->errors[f->round % n];
    return -f->fired;
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__GLIBC__)
#define MALLOC_FAILS true
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t n, size_t bytes);
extern void *__libc_realloc(void *memory, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

void *malloc(size_t bytes) {
    if (fp_fault("malloc") == 0)
        return __libc_malloc(bytes);
    errno = ENOMEM;
    return NULL;
}

void *calloc(size_t n, size_t bytes) {
    if (fp_fault("malloc") == 0)
        return __libc_calloc(n, bytes);
    errno = ENOMEM;
    return NULL;
}

void *realloc(void *memory, size_t bytes) {
    if (fp_fault("malloc") == 0)
        return __libc_realloc(memory, bytes);
    errno = ENOMEM;
    return NULL;
}

int posix_memalign(void **ret_memory, size_t alignment, size_t bytes) {
    void *memory = fp_fault("malloc") == 0 ? __libc_memalign(alignment, bytes) : NULL;
    if (!memory)
        return ENOMEM;
    *ret_memory = memory;
    return 0;
}
#else
#define MALLOC_FAILS false
#endif

static inline void faults_begin(void) {
    fault = mmap(NULL, sizeof *fault, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (fault == MAP_FAILED)
        abort();
}

/* Which call the running scenario lets fail, and with which of its errors. */
static int fault_n, fault_round;

/* From here on calls are counted. */
static inline void faults_on(void) {
    *fault = (fault_state){.nth = fault_n, .round = fault_round, .rounds = 1};
    __atomic_store_n(&fault->armed, 1, __ATOMIC_SEQ_CST);
}

static inline void faults_off(void) {
    __atomic_store_n(&fault->armed, 0, __ATOMIC_SEQ_CST);
}

enum { FAULT_BUDGET_MS = 80 };

/*
 * Run `scenario` with the first call failing, then the second, and so on until
 * none is left. Each gets one of its errors, by turns, and where that would
 * take too long not every call has its turn. With FASTPROC_FAULTS=all in the
 * environment each call fails, and with each of its errors; FASTPROC_ONLY names
 * the one scenario to run. Returns how many faults there were.
 */
static inline int for_each_fault(const char *name, void (*scenario)(void)) {
    const char *wish = getenv("FASTPROC_FAULTS");
    bool all = wish && strcmp(wish, "all") == 0;
    static char story[160];
    int faults = 0, failures_before = check_failures;

    const char *only = getenv("FASTPROC_ONLY");
    if (only && strcmp(only, name) != 0)
        return 0;
    /* Once without a fault, to see how long it takes. */
    fault_n = 0;
    int64_t before = now_ns();
    scenario();
    int64_t took = (now_ns() - before) * fault->count;
    int step = all ? 1 : 1 + (int)(took / (FAULT_BUDGET_MS * MS));

    for (fault_n = 1;; fault_n += step) {
        int rounds = 1;
        for (int round = 0; round < rounds; round++) {
            int failures = check_failures;
            fault_round = all ? round : fault_n;
            snprintf(story, sizeof story, "%s: call %d, error %d of it,", name, fault_n, fault_round);
            watched = story;
            signal(SIGALRM, say_who_hangs);
            alarm(30);
            scenario();
            faults_off();
            alarm(0);
            if (check_failures > failures)
                fprintf(stderr, "  that was %s, call %d: %s, %s\n", name, fault_n, fault->fired ? fault->call : "none",
                        fp_strerror(fault->fired));
            if (check_failures > failures_before + 10)
                return faults;
            faults += fault->fired != 0;
            rounds = all ? fault->rounds : 1;
        }
        if (!fault->fired)
            return faults;
    }
}

#endif
