/*
 * dispositions.c: which signals does this process ignore?
 *
 * What has a handler is put to default by CLONE_CLEAR_SIGHAND; what is ignored
 * passes through clone(2) and execve(2) alike, so the child has to reset it.
 * To reset all signals takes 10 % of a start, and hardly ever more than two of
 * them are ignored. For 1 to 31 the kernel says it in one line of text,
 * /proc/pid/stat, see proc(5): one read from a file that is kept open costs a
 * third. It is read for each start, of a batch for each millisecond; what
 * another thread begins to ignore between that and the birth may be handed on.
 *
 * The line does not tell of the real-time signals. They are asked for one by
 * one, not more often than every millisecond: a host that begins to ignore one
 * and starts a child within that time may hand it on.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "host.h"
#include "sys.h"

enum { FIRST_REALTIME = 32, LAST_REALTIME = 64, SIGIGNORE_FIELD = 33 };

#define BELOW_REALTIME ((UINT64_C(1) << (FIRST_REALTIME - 1)) - 1)

/*
 * The file of the main thread, as all threads share their dispositions: that
 * of the whole process would add up the times of all its threads.
 */
int fp_dispositions_open(void) {
    char path[48];

    if (!fp_can(FP_CAP_PROCFS))
        return -EOPNOTSUPP;
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)sys_getpid());
    return sys_aside(sys_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0));
}

static int64_t number_at(const char **text) {
    int64_t number = 0;

    for (; **text >= '0' && **text <= '9'; (*text)++)
        number = number * 10 + (**text - '0');
    return number;
}

bool fp_dispositions_parse(const char *text, pid_t pid, uint64_t *ret_ignored) {
    const char *at = text;

    /* Somebody who closes descriptors that are not his may have put another file in its place. */
    if (number_at(&at) != pid || *at != ' ')
        return false;
    /* The name may have spaces and brackets in it; nothing behind it has. */
    at = strrchr(text, ')');
    for (int field = 2; at && field < SIGIGNORE_FIELD; field++)
        at = strchr(at + 1, ' ');
    if (!at || at[1] < '0' || at[1] > '9')
        return false;
    at++;
    fp_sigset ignored = (fp_sigset)number_at(&at);
    if (*at != ' ' || ignored & ~BELOW_REALTIME)
        return false;
    *ret_ignored = ignored;
    return true;
}

static fp_sigset ignored_below_realtime(int fd) {
    char text[1024];
    fp_sigset ignored;

    ssize_t n = fd >= 0 ? sys_pread(fd, text, sizeof text - 1, 0) : -1;
    if (n <= 0)
        return BELOW_REALTIME;
    text[n] = '\0';
    return fp_dispositions_parse(text, fp_own_pid(), &ignored) ? ignored : BELOW_REALTIME;
}

static fp_sigset ignored_realtime(void) {
    static _Atomic int64_t looked_ns = INT64_MIN / 2;
    static _Atomic fp_sigset ignored;
    fp_sigset found = 0;
    int64_t now = fp_now_ns();

    if (now - atomic_load_explicit(&looked_ns, memory_order_acquire) < FP_NS_PER_MS)
        return atomic_load_explicit(&ignored, memory_order_relaxed);
    for (int sig = FIRST_REALTIME; sig <= LAST_REALTIME; sig++) {
        fp_sigaction action;
        if (sys_rt_sigaction(sig, NULL, &action) < 0 || action.handler == (uintptr_t)SIG_IGN)
            found |= UINT64_C(1) << (sig - 1);
    }
    atomic_store_explicit(&ignored, found, memory_order_relaxed);
    atomic_store_explicit(&looked_ns, now, memory_order_release);
    return found;
}

uint64_t fp_dispositions_ignored(int fd) {
    return ignored_below_realtime(fd) | ignored_realtime();
}

/*
 * What was seen after it had been asked for is right for whoever ignores a
 * signal and starts children then. It is up to a millisecond old where another
 * thread begins to ignore one while the start waits for its turn: which of those
 * that wait come before that and which behind, nobody could have told.
 */
uint64_t fp_dispositions_ignored_since(fp_ignored *last, int fd, int64_t asked_ns) {
    int64_t now = fp_now_ns();

    if (last->looked_ns <= asked_ns || now - last->looked_ns >= FP_NS_PER_MS) {
        last->signals = fp_dispositions_ignored(fd);
        last->looked_ns = now;
    }
    return last->signals;
}

/*
 * When a child ends, the kernel drops SIGCHLD at once if nobody handles it, but not if the thread that made the child
 * blocks it, as supervisors do: their children would wake a thread of the host each, only to have the signal dropped
 * there. Supervisors must block it, since hosts wait for it by sigwait(3) and signalfd(2), and it must not be taken
 * from them. But who sleeps in a call of ours may block it as well: it stays pending, and is dropped once, at the end.
 */
bool fp_sigchld_hold_back(uint64_t *ret_mask) {
    static const fp_sigset sigchld = UINT64_C(1) << (SIGCHLD - 1);
    fp_sigaction action;

    if (sys_rt_sigaction(SIGCHLD, NULL, &action) < 0 ||
        (action.handler != (uintptr_t)SIG_DFL && action.handler != (uintptr_t)SIG_IGN))
        return false;
    sys_rt_sigprocmask(SIG_BLOCK, &sigchld, ret_mask);
    return true;
}

void fp_sigchld_let_in(const uint64_t *mask) {
    sys_rt_sigprocmask(SIG_SETMASK, mask, NULL);
}

/*
 * All but those that libc keeps for itself, see nptl(7): with one of them it
 * makes every thread change its ids when the host calls setuid(2), and would
 * wait for ever for a thread that does not hear it.
 */
uint64_t fp_signals_of_the_host(void) {
    uint64_t set = ~UINT64_C(0);

    for (int sig = 32; sig < SIGRTMIN; sig++)
        set &= ~(UINT64_C(1) << (sig - 1));
    return set;
}
