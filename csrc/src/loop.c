/*
 * loop.c: the loop of one thread, and the only place where time passes.
 *
 * One turn: start what is queued and allowed, look at those whose time has
 * come, walk on through a census, sleep until the next time or event, take the
 * events. The lock of the supervisor is held all the time but for the sleep,
 * and while a child is being made or an orphan looked for.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>

#include "internal.h"
#include "sys.h"

enum {
    EVENTS_AT_ONCE = 64,
    TURNS_AT_ONCE = 256,  /* timers looked at before events get their turn */
    CENSUS_AT_ONCE = 128, /* about a millisecond */
    MOST_NAPS = 40,       /* of GIVE_WAY_FOR */
    MOST_UNASKED = 8,     /* starts in a row between two looks at the other events */
};
#define ORPHANS_LOOK (500 * FP_NS_PER_MS)
#define LOST_NAP (5 * FP_NS_PER_MS)
#define LONGEST_SLEEP (5 * FP_NS_PER_S)
#define MOST_CONTENDED FP_NS_PER_MS
#define GIVE_WAY_FOR (FP_NS_PER_MS / 20)

/* ---- what is done in a turn ---------------------------------------------------- */

static void look_at_due(fp_supervisor *supervisor, int64_t now) {
    for (int i = 0; i < TURNS_AT_ONCE; i++) {
        fp_timer first = fp_timers_first(&supervisor->timers);
        fp_proc *proc = first.proc;
        if (!proc || first.when_ns > now)
            break;
        fp_timers_set(&supervisor->timers, proc, FP_NEVER);
        fp_proc_ref(proc);
        fp_proc_turn(proc, now);
        fp_proc_unref(proc);
    }
}

static void walk_census(fp_supervisor *supervisor) {
    int r = supervisor->census_wanted ? fp_census_step(&supervisor->census, CENSUS_AT_ONCE) : 0;
    if (r == 0)
        return;
    int64_t now = fp_now_ns();
    supervisor->census_wanted = false;
    if (r < 0)
        return; /* those who wait ask again when they are next looked at */
    for (uint32_t i = 0; i < supervisor->n_places; i++) {
        fp_proc *proc = supervisor->places[i].proc;
        if (!proc || !proc->census_ns)
            continue;
        fp_proc_ref(proc);
        fp_proc_on_census(proc, now);
        fp_proc_unref(proc);
    }
}

static void take_event(fp_supervisor *supervisor, uint64_t key, int64_t now) {
    if (key == FP_KEY_KICK) {
        sys_eventfd_lower(supervisor->event_fd);
        return;
    }
    if (key == FP_KEY_LATE) {
        sys_timerfd_lower(supervisor->late_fd);
        fp_proc_look_at_late(supervisor, now);
        return;
    }
    fp_proc *proc = fp_supervisor_find(supervisor, key);
    if (!proc)
        return;
    int kind = (int)(key >> 62);
    fp_proc_ref(proc);
    if (kind == FP_KIND_PIDFD)
        fp_proc_on_exit_event(proc, now);
    else
        fp_proc_on_stream_event(proc, kind - FP_KIND_OUT, now);
    fp_proc_unref(proc);
}

static void look_after_orphans(fp_supervisor *supervisor, int64_t now) {
    if (!supervisor->adopts_orphans || now < supervisor->orphans_ns)
        return;
    supervisor->orphans_ns = now + ORPHANS_LOOK;
    pthread_mutex_unlock(&supervisor->lock);
    fp_orphans_reap(supervisor);
    pthread_mutex_lock(&supervisor->lock);
}

/* ---- the sleep ----------------------------------------------------------------- */

/* When the loop must turn again by itself. */
static int64_t next_turn(const fp_supervisor *supervisor, int64_t now, bool more) {
    int64_t when = fp_timers_first(&supervisor->timers).when_ns;

    if (more || supervisor->census_wanted || supervisor->stopping)
        return now;
    /* While starts come in close succession the loop keeps turning, so that none of them has to wake it. */
    if (now - supervisor->late_watch_ns < FP_WATCH_LATER && when > now + FP_WATCH_LATER)
        when = now + FP_WATCH_LATER;
    when = fp_earliest(when, fp_nursery_next_look(&supervisor->nursery, now));
    if (supervisor->adopts_orphans && when > supervisor->orphans_ns)
        when = supervisor->orphans_ns;
    /* Should the host close our descriptors, nobody can wake us to tell: while somebody lives we look. */
    if (supervisor->active && when > now + LONGEST_SLEEP)
        when = now + LONGEST_SLEEP;
    if (supervisor->unheard && when > supervisor->tell_ns)
        when = supervisor->tell_ns;
    return when;
}

/* Milliseconds to sleep, rounded up: not to wake a moment before the time. */
static int sleep_ms(int64_t now, int64_t when) {
    if (when == FP_NEVER)
        return -1;
    int64_t ms = when <= now ? 0 : (when - now + FP_NS_PER_MS - 1) / FP_NS_PER_MS;
    return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

/*
 * A mutex goes to who is awake, not to who has waited longest. A loop that is
 * never idle, because a child floods us with output, would have it again each
 * time before another thread is up: 180 ms were seen. So it holds back until
 * somebody has had it, for a few milliseconds at most.
 */
static void give_way(fp_supervisor *supervisor, int64_t *contended_ns) {
    int64_t now = fp_now_ns();

    if (!atomic_load_explicit(&supervisor->waiting, memory_order_relaxed)) {
        *contended_ns = 0;
    } else if (*contended_ns == 0) {
        *contended_ns = now;
    } else if (now - *contended_ns > MOST_CONTENDED) {
        uint32_t served = atomic_load_explicit(&supervisor->served, memory_order_relaxed);
        for (int i = 0; i < MOST_NAPS && atomic_load_explicit(&supervisor->served, memory_order_relaxed) == served; i++)
            sys_poll(NULL, 0, GIVE_WAY_FOR);
        *contended_ns = 0;
    }
}

/*
 * Sleep until an event, or `when`. The last starts of a batch are not put under watch for that: it mostly is them that
 * wake us, and for one sleep poll(2) costs less than to enter one and to take it out again.
 */
static int await_events(fp_supervisor *supervisor, int young_fd, struct epoll_event *ret_events, int timeout_ms) {
    struct pollfd wait[2 + FP_MOST_UNBORN] = {{.fd = supervisor->epoll_fd, .events = POLLIN}};
    fp_unborn *unborn = supervisor->nursery.first;
    unsigned n = 1;

    if (timeout_ms && (young_fd >= 0 || unborn)) {
        if (young_fd >= 0)
            wait[n++] = (struct pollfd){.fd = young_fd, .events = POLLIN};
        for (unsigned i = n; unborn; unborn = unborn->next, i++, n++)
            wait[i] = (struct pollfd){.fd = fp_cradle_pidfd(unborn->cradle), .events = POLLIN};
        int r = sys_poll(wait, n, timeout_ms < 0 ? -1 : timeout_ms * FP_NS_PER_MS);
        if (r <= 0)
            return r;
        unborn = supervisor->nursery.first;
        for (unsigned i = young_fd >= 0 ? 2 : 1; unborn; unborn = unborn->next, i++)
            unborn->ended = wait[i].revents;
        if (!wait[0].revents)
            return 0;
        timeout_ms = 0;
    }
    return sys_epoll_wait(supervisor->epoll_fd, ret_events, EVENTS_AT_ONCE, timeout_ms);
}

/* Tell the news of a batch that were held back, if it is time, or nothing else is to be done. */
static void tell_what_is_due(fp_supervisor *supervisor, int64_t now, bool more) {
    if (!supervisor->unheard)
        return;
    if (now >= supervisor->tell_ns) {
        /* A sibling may have told them meanwhile, and what there is now is younger. */
        int64_t tell_ns = fp_mailbox_tell_at(supervisor->unheard);
        if (tell_ns != FP_NEVER)
            supervisor->tell_ns = tell_ns;
    }
    if (now >= supervisor->tell_ns || (!more && !fp_supervisor_has_queued(supervisor)))
        fp_supervisor_tell_unheard(supervisor);
}

/* What one turn of the loop leaves to the next. */
struct pace {
    struct epoll_event events[EVENTS_AT_ONCE];
    int n_unasked; /* turns since epoll was asked last */
    int64_t contended_ns;
};

/* Let go of the lock, sleep until `when` or an event, and take the lock again. Returns how many events there are. */
static int rest(fp_supervisor *supervisor, struct pace *pace, int64_t now, int64_t when) {
    int timeout_ms = sleep_ms(now, when), young_fd = -1, n = 0;
    int64_t until = 0;
    fp_unborn *urgent = timeout_ms ? fp_nursery_urgent(&supervisor->nursery, now, &until) : NULL;

    if (timeout_ms && supervisor->young)
        young_fd = supervisor->young->pidfd;
    /* Who stands beside a birth cannot be woken, but looks soon. */
    if (urgent)
        supervisor->bears = true;
    else
        supervisor->wakes_ns = when;
    pthread_mutex_unlock(&supervisor->lock);
    if (urgent) {
        fp_cradle_watch(urgent->cradle, fp_earliest(when, until));
        pace->n_unasked = MOST_UNASKED; /* the others have waited long enough */
    } else if (timeout_ms || ++pace->n_unasked >= MOST_UNASKED) {
        n = await_events(supervisor, young_fd, pace->events, timeout_ms);
        pace->n_unasked = 0;
    }
    /* The host has closed our descriptor: who waits looks for himself, and we keep the deadlines. */
    if (n < 0 && n != -EINTR)
        sys_poll(NULL, 0, LOST_NAP);
    give_way(supervisor, &pace->contended_ns);
    pthread_mutex_lock(&supervisor->lock);
    supervisor->wakes_ns = FP_AWAKE;
    supervisor->bears = false;
    if (timeout_ms)
        fp_nursery_deliver(supervisor, false);
    /* Who has only just begun has not ended. */
    if (timeout_ms && !urgent)
        fp_proc_look_at_young(supervisor, fp_now_ns());
    return n;
}

/* ---- the loop ------------------------------------------------------------------ */

static void turn(fp_supervisor *supervisor, struct pace *pace) {
    supervisor->kicked = false;
    fp_nursery_deliver(supervisor, false);
    bool more = fp_supervisor_run_queue(supervisor);
    int64_t now = fp_now_ns();
    look_at_due(supervisor, now);
    walk_census(supervisor);
    look_after_orphans(supervisor, now);
    if (supervisor->leaves.doomed)
        fp_leaves_sweep(&supervisor->leaves);

    now = fp_now_ns();
    more |= supervisor->kicked;
    tell_what_is_due(supervisor, now, more);
    int n = rest(supervisor, pace, now, next_turn(supervisor, now, more));
    now = fp_now_ns();
    for (int i = 0; i < n; i++)
        take_event(supervisor, pace->events[i].data.u64, now);
}

/* The thread is lent no longer: nothing is under way in it, and whoever waits looks for himself. */
static void leave(fp_supervisor *supervisor) {
    fp_nursery_see_off(supervisor);
    pthread_mutex_lock(&supervisor->lock);
    fp_nursery_deliver(supervisor, true);
    fp_proc_look_at_young(supervisor, fp_now_ns());
    fp_proc_look_at_late(supervisor, fp_now_ns());
    bool left_some = supervisor->shares != NULL;
    fp_supervisor_drop_shares(supervisor);
    /* Of those that are queued some may have been called out to this one alone. */
    if (left_some)
        fp_crew_rouse(supervisor->crew);
    fp_supervisor_tell_unheard(supervisor);
    supervisor->has_thread = false;
    for (uint32_t i = 0; i < supervisor->n_places; i++)
        if (supervisor->places[i].proc)
            fp_proc_rouse(supervisor->places[i].proc);
    supervisor->wakes_ns = FP_NEVER;
}

int fp_supervisor_run(fp_supervisor *supervisor) {
    fp_sigset all = fp_signals_of_the_host(), broken_pipe = UINT64_C(1) << (SIGPIPE - 1), old;
    struct pace pace = {.n_unasked = 0};

    if (fp_supervisor_is_copy(supervisor))
        return -EOWNERDEAD;
    pthread_mutex_lock(&supervisor->lock);
    if (supervisor->has_thread || supervisor->epoll_fd < 0) {
        pthread_mutex_unlock(&supervisor->lock);
        return -EBUSY;
    }
    supervisor->has_thread = true;
    /* Signals belong to the host's own threads; and a write to a closed pipe must be an error here, not SIGPIPE. */
    sys_rt_sigprocmask(SIG_SETMASK, &all, &old);
    supervisor->wakes_ns = FP_AWAKE;
    while (!supervisor->stopping)
        turn(supervisor, &pace);
    pthread_mutex_unlock(&supervisor->lock);
    leave(supervisor);
    /* What our writes to closed pipes have left pending must not hit the host when signals are let in. */
    if (!(old & broken_pipe))
        sys_rt_sigtimedwait(&broken_pipe);
    sys_rt_sigprocmask(SIG_SETMASK, &old, NULL);
    pthread_mutex_unlock(&supervisor->lock);
    return 0;
}
