/*
 * nursery.c: births of a batch, beside which the loop does not stand.
 *
 * To stand still until execve(2) has passed means to be woken for that, and a
 * program that ends soon is switched to twice then. So the loop goes on, to the
 * next start or to sleep until the end, and looks now and then whether a child
 * has left its cradle. Only then does its process run for all others; until
 * then it is QUEUED, in the hands of a supervisor.
 *
 * Who waits to hear of a start, or for what a child says, is not kept waiting
 * for that: if there is nothing else to be started the loop stands beside the
 * last cradle. But not for long: a birth may hang, see births.c, and the other
 * processes of this supervisor need it.
 */
#include <stdlib.h>

#include "internal.h"

/* For so long the loop stands beside one birth. */
#define PATIENCE (20 * FP_NS_PER_MS)
/* How often it looks at one beside which it does not: soon, and less often at one that hangs. */
#define FIRST_LOOK FP_WATCH_LATER
#define LAST_LOOK (50 * FP_NS_PER_MS)

static fp_unborn *make_room(fp_nursery *nursery) {
    fp_unborn *unborn = malloc(sizeof *unborn);
    fp_cradle *cradle = unborn ? fp_cradle_new() : NULL;

    if (!cradle) {
        free(unborn);
        return NULL;
    }
    unborn->cradle = cradle;
    pthread_mutex_init(&unborn->watch.pipes.lock, NULL);
    nursery->made++;
    return unborn;
}

/* For a birth that has not begun; its pipes' lock stays as it is. */
static void reset(fp_birth_watch *watch) {
    watch->leaf_fd = -1;
    atomic_store_explicit(&watch->pid, 0, memory_order_relaxed);
    for (int i = 0; i < 3; i++)
        watch->pipes.ours[i] = watch->pipes.theirs[i] = -1;
    watch->pipes.locked_for_fork = false;
}

fp_unborn *fp_nursery_room(fp_nursery *nursery) {
    fp_unborn *unborn = nursery->empty;

    if (unborn)
        nursery->empty = unborn->next;
    else if (nursery->made < FP_MOST_UNBORN)
        unborn = make_room(nursery);
    if (!unborn)
        return NULL;
    unborn->next = NULL;
    unborn->proc = NULL;
    unborn->spec = NULL;
    unborn->ended = false;
    reset(&unborn->watch);
    return unborn;
}

void fp_nursery_give(fp_nursery *nursery, fp_unborn *unborn) {
    unborn->next = nursery->empty;
    nursery->empty = unborn;
}

void fp_nursery_enter(fp_nursery *nursery, fp_unborn *unborn, fp_proc *proc, fp_spec *spec) {
    fp_unborn **last = &nursery->first;

    while (*last)
        last = &(*last)->next;
    *last = unborn;
    unborn->proc = fp_proc_ref(proc);
    unborn->spec = spec;
}

/* The first one in the list that begins at `at`. */
static void deliver(fp_supervisor *supervisor, fp_unborn **at) {
    fp_unborn *unborn = *at;
    fp_proc *proc = unborn->proc;
    fp_failure failure;
    bool bore = supervisor->bears;

    /* It may have to be tried again. */
    supervisor->bears = true;
    int r = fp_proc_deliver(supervisor, unborn, &failure);
    supervisor->bears = bore;
    /* No sooner, as the lock was let go: a fork has to find it. */
    *at = unborn->next;
    fp_batch_started(supervisor, proc, unborn->spec, r, &failure);
    fp_proc_unref(proc);
    fp_nursery_give(&supervisor->nursery, unborn);
}

void fp_nursery_deliver(fp_supervisor *supervisor, bool all) {
    fp_unborn **at = &supervisor->nursery.first;

    while (*at) {
        fp_unborn *unborn = *at;
        if (all || unborn->ended || fp_cradle_is_left(unborn->cradle))
            deliver(supervisor, at);
        else
            at = &unborn->next;
    }
}

void fp_nursery_see_off(fp_supervisor *supervisor) {
    if (!supervisor->nursery.first)
        return;
    for (fp_unborn *unborn = supervisor->nursery.first; unborn; unborn = unborn->next)
        if (!fp_cradle_is_left(unborn->cradle))
            fp_cradle_watch(unborn->cradle, unborn->watch.since_ns + PATIENCE);
    fp_supervisor_lock(supervisor);
    fp_nursery_deliver(supervisor, false);
    pthread_mutex_unlock(&supervisor->lock);
}

int64_t fp_nursery_next_look(const fp_nursery *nursery, int64_t now) {
    int64_t when = FP_NEVER;

    for (const fp_unborn *unborn = nursery->first; unborn; unborn = unborn->next) {
        int64_t gap = (now - unborn->watch.since_ns) / 4;
        gap = gap < FIRST_LOOK ? FIRST_LOOK : gap > LAST_LOOK ? LAST_LOOK : gap;
        when = fp_earliest(when, now + gap);
        /* Its time may be over before; but not again and again, if it hangs. */
        int64_t over =
            unborn->spec->timeout_ns > 0 ? fp_after(unborn->watch.since_ns, unborn->spec->timeout_ns) : FP_NEVER;
        if (unborn->spec->deadline_ns > 0)
            over = fp_earliest(over, unborn->spec->deadline_ns);
        if (over > now)
            when = fp_earliest(when, over);
    }
    return when;
}

fp_unborn *fp_nursery_urgent(const fp_nursery *nursery, int64_t now, int64_t *ret_until_ns) {
    fp_unborn *urgent = NULL;

    for (fp_unborn *unborn = nursery->first; unborn; unborn = unborn->next) {
        bool awaited = !(unborn->spec->flags & (FP_QUIET_START | FP_PATIENT_START)) || unborn->proc->flow;
        /* The last one: the others leave meanwhile. */
        if (awaited && now - unborn->watch.since_ns < PATIENCE)
            urgent = unborn;
    }
    if (urgent)
        *ret_until_ns = urgent->watch.since_ns + PATIENCE;
    return urgent;
}

void fp_nursery_done(fp_nursery *nursery) {
    while (nursery->empty) {
        fp_unborn *unborn = nursery->empty;
        nursery->empty = unborn->next;
        pthread_mutex_destroy(&unborn->watch.pipes.lock);
        free(unborn->cradle);
        free(unborn);
    }
}
