/*
 * dumpable.c: whether our memory may be dumped, while children change their ids.
 *
 * A child that changes its ids while it shares our memory makes that memory
 * "not dumpable" (the kernel protects it from the new user, see prctl(2),
 * PR_SET_DUMPABLE), and for us that would last: no core dumps, no debugger.
 * So the first of such births that go on at a time notes what it was, and the
 * last restores it; no earlier, since it protects the others. One process has
 * one such flag, hence one note.
 */
#include <sys/prctl.h>

#include "birth.h"

static struct {
    _Atomic pid_t holder; /* the process of the thread that is at it, or 0 */
    pid_t owner;          /* a forked copy begins anew */
    int births;
    int dumpable;
} dumpable_note;

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

void fp_note_dumpable(void) {
    dumpable_lock();
    if (dumpable_note.owner != sys_getpid()) {
        dumpable_note.owner = sys_getpid();
        dumpable_note.births = 0;
    }
    if (dumpable_note.births++ == 0)
        dumpable_note.dumpable = sys_prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
    dumpable_unlock();
}

void fp_restore_dumpable(void) {
    dumpable_lock();
    if (--dumpable_note.births == 0 && dumpable_note.dumpable == 1 && sys_prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 1)
        sys_prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    dumpable_unlock();
}
