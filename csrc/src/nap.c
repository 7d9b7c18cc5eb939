/*
 * nap.c: a main thread that sleeps in naps, so that its host misses no signal.
 *
 * An interpreter notes a signal in a flag and looks at the flag before it calls
 * us. A signal that comes between that look and the sleep interrupts no system
 * call, nor does one whose handler ran in another thread: the host would hear
 * of it when the sleep is over, which may be never. Only ppoll(2) can let
 * signals in and fall asleep in one step; a futex cannot, and the host would
 * have to block all signals before it looks.
 *
 * So the first sleep is short, each next one twice as long, up to a second, and
 * -EINTR lets the host look. Only the main thread does that: elsewhere hosts
 * run no handlers.
 */
#include <errno.h>

#include "host.h"
#include "sys.h"

#define FIRST_NAP (20 * FP_NS_PER_MS)
#define LONGEST_NAP FP_NS_PER_S

static _Atomic bool wanted;

/* Of the main thread alone. A copy made by fork(2) has one of its own. */
static int64_t length = FIRST_NAP;
static int64_t last_end;

void fp_main_thread_naps(int on) {
    atomic_store_explicit(&wanted, on != 0, memory_order_relaxed);
}

/* Asked of the kernel once for each thread, and again in a forked copy, where another one is the main thread. */
static bool is_main_thread(void) {
    static _Thread_local pid_t asked_as;
    static _Thread_local bool is_main;
    pid_t pid = fp_own_pid();

    if (asked_as != pid) {
        asked_as = pid;
        is_main = sys_gettid() == pid;
    }
    return is_main;
}

int64_t fp_nap_end(int64_t now) {
    if (!atomic_load_explicit(&wanted, memory_order_relaxed) || !is_main_thread())
        return FP_NEVER;
    /* Does this sleep go on with the last one? */
    if (now - last_end > FIRST_NAP)
        length = FIRST_NAP;
    return fp_after(now, length);
}

int fp_nap_over(int64_t now) {
    length = 2 * length < LONGEST_NAP ? 2 * length : LONGEST_NAP;
    last_end = now;
    return -EINTR;
}

fp_sleep fp_sleep_begin(int64_t timeout_ns) {
    return (fp_sleep){.until_ns = timeout_ns < 0 ? FP_NEVER : fp_after(fp_now_ns(), timeout_ns)};
}

int fp_sleep_next(fp_sleep *sleep, int64_t now, int64_t *ret_wake_ns) {
    if (now >= sleep->until_ns)
        return -ETIMEDOUT;
    if (!sleep->look_ns)
        sleep->look_ns = fp_nap_end(now);
    if (now >= sleep->look_ns)
        return fp_nap_over(now);
    *ret_wake_ns = fp_earliest(sleep->until_ns, sleep->look_ns);
    return 0;
}
