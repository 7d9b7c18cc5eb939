/*
 * places.c: what a supervisor keeps of each of its processes: the place in the
 * table, what epoll watches for it, when to look at it next, and the news that
 * are still to be told.
 *
 * What epoll tells us is a key, never a pointer: an event that comes too late
 * finds an empty place, or one that was given away again, and never the
 * memory of a process that has gone. All of it with the lock of the supervisor
 * held.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "internal.h"
#include "sys.h"

/* ---- the table ----------------------------------------------------------------- */

/* 32 bits of place, 30 bits of use, 2 bits of kind. */
static uint64_t key_of(const fp_supervisor *supervisor, const fp_proc *proc, int kind) {
    uint64_t uses = supervisor->places[proc->slot].uses & 0x3fffffff;
    return (uint64_t)kind << 62 | uses << 32 | proc->slot;
}

fp_proc *fp_supervisor_find(const fp_supervisor *supervisor, uint64_t key) {
    uint32_t slot = (uint32_t)key;
    if (slot >= supervisor->n_places || (supervisor->places[slot].uses & 0x3fffffff) != ((key >> 32) & 0x3fffffff))
        return NULL;
    return supervisor->places[slot].proc;
}

/* Room for one more place than were ever given away at a time, and for its timer. */
static int reserve_place(fp_supervisor *supervisor) {
    if (supervisor->n_places == supervisor->places_room) {
        uint32_t room = supervisor->places_room ? 2 * supervisor->places_room : 64;
        fp_place *places = realloc(supervisor->places, room * sizeof *places);
        if (!places)
            return -ENOMEM;
        supervisor->places = places;
        supervisor->places_room = room;
    }
    return fp_timers_reserve(&supervisor->timers, supervisor->n_places + 1);
}

int fp_supervisor_admit(fp_supervisor *supervisor, fp_proc *proc) {
    /* A new place is touched when it is needed: room for more is not yet memory. */
    if (supervisor->first_free == FP_NO_INDEX) {
        int r = reserve_place(supervisor);
        if (r < 0)
            return r;
        supervisor->first_free = supervisor->n_places++;
        supervisor->places[supervisor->first_free] = (fp_place){.next_free = FP_NO_INDEX};
    }
    proc->slot = supervisor->first_free;
    fp_place *place = &supervisor->places[proc->slot];
    supervisor->first_free = place->next_free;
    place->uses++;
    place->proc = fp_proc_ref(proc);
    supervisor->active++;
    return 0;
}

void fp_supervisor_dismiss(fp_supervisor *supervisor, fp_proc *proc) {
    if (proc->slot == FP_NO_INDEX)
        return;
    fp_place *place = &supervisor->places[proc->slot];
    place->proc = NULL;
    place->next_free = supervisor->first_free;
    supervisor->first_free = proc->slot;
    proc->slot = FP_NO_INDEX;
    supervisor->active--;
    /* The last handle may go here, and with it the last reference to us: our caller holds one. */
    fp_proc_unref(proc);
}

/* ---- watches, and when to look ------------------------------------------------- */

int fp_supervisor_watch(fp_supervisor *supervisor, fp_proc *proc, int fd, int kind, uint32_t events) {
    if (supervisor->epoll_fd < 0 || proc->slot == FP_NO_INDEX || fp_supervisor_is_copy(supervisor))
        return -EBADF;
    struct epoll_event event = {.events = events, .data.u64 = key_of(supervisor, proc, kind)};
    return sys_epoll_ctl(supervisor->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

void fp_supervisor_unwatch(fp_supervisor *supervisor, int fd) {
    /* Before the descriptor is closed: a copy of it in a child that is being born would keep the entry alive. */
    if (supervisor->epoll_fd >= 0 && !fp_supervisor_is_copy(supervisor))
        sys_epoll_ctl(supervisor->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

void fp_supervisor_kick(fp_supervisor *supervisor) {
    if (supervisor->kicked || supervisor->event_fd < 0)
        return;
    supervisor->kicked = true;
    if (supervisor->wakes_ns == FP_AWAKE)
        return; /* it looks at `kicked` before it sleeps */
    sys_eventfd_raise(supervisor->event_fd);
}

void fp_crew_rouse(fp_crew *crew) {
    pthread_mutex_lock(&crew->lock);
    for (const fp_supervisor *member = crew->members; member; member = member->crew_next)
        if (member->event_fd >= 0)
            sys_eventfd_raise(member->event_fd);
    pthread_mutex_unlock(&crew->lock);
}

void fp_supervisor_set_timer(fp_supervisor *supervisor, fp_proc *proc, int64_t when_ns) {
    if (proc->slot == FP_NO_INDEX)
        return;
    fp_timers_set(&supervisor->timers, proc, when_ns);
    /* Without a kick where the loop wakes early enough anyway. */
    if (when_ns < supervisor->wakes_ns)
        fp_supervisor_kick(supervisor);
}

/* ---- news ---------------------------------------------------------------------- */

void fp_supervisor_tell_unheard(fp_supervisor *supervisor) {
    if (!supervisor->unheard)
        return;
    fp_mailbox_flush(supervisor->unheard);
    fp_mailbox_unref(supervisor->unheard);
    supervisor->unheard = NULL;
}

void fp_supervisor_post(fp_supervisor *supervisor, fp_proc *proc, uint32_t what) {
    bool later = proc->batch && proc->mailbox && supervisor->wakes_ns == FP_AWAKE && supervisor->shares;
    int64_t now = later ? fp_now_ns() : 0;

    if (later) {
        later = now - supervisor->posted_ns < FP_UNHEARD_FOR;
        supervisor->posted_ns = now;
    }
    if (later && supervisor->unheard && supervisor->unheard != proc->mailbox)
        fp_supervisor_tell_unheard(supervisor);
    if (!later || !fp_mailbox_post_later(proc->mailbox, proc, what, fp_batch_queued(proc->batch), now)) {
        fp_mailbox_post(proc->mailbox, proc, what);
    } else if (!supervisor->unheard) {
        supervisor->unheard = fp_mailbox_ref(proc->mailbox);
        supervisor->tell_ns = now + FP_UNHEARD_FOR;
    }
}
