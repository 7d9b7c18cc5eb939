/*
 * supervisor.c: the loop of one thread, and the only place where time passes.
 *
 * One turn: start what is queued and allowed, look at those whose time has
 * come, walk on through a census, sleep until the next time or event, take the
 * events. It shares nothing with its siblings but queued batches, and who
 * watches over births, see births.c.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "internal.h"
#include "sys.h"

enum {
    EVENTS_AT_ONCE = 64,
    TURNS_AT_ONCE = 256,   /* timers looked at before events get their turn */
    CENSUS_AT_ONCE = 128,  /* about a millisecond */
    MOST_NAPS = 40,        /* of GIVE_WAY_FOR */
    STARTS_AT_ONCE = 1,    /* drain before the next start: what is dead costs less than what is alive */
    MOST_UNASKED = 8,      /* starts in a row between two looks at the other events */
};
#define UNHEARD_FOR (5 * FP_NS_PER_MS)
#define ORPHANS_LOOK (500 * FP_NS_PER_MS)
#define LOST_NAP (5 * FP_NS_PER_MS)
#define LONGEST_SLEEP (5 * FP_NS_PER_S)
#define MOST_CONTENDED FP_NS_PER_MS
#define GIVE_WAY_FOR (FP_NS_PER_MS / 20)
#define KICK_KEY UINT64_MAX
/* For `wakes_ns`: the loop turns. */
#define AWAKE INT64_MIN

/* ---- keys ----------------------------------------------------------------------------- */

/* 32 bits of place, 30 bits of use, 2 bits of kind. */
static uint64_t key_of(const fp_supervisor *supervisor, const fp_proc *proc, int kind) {
    uint64_t uses = supervisor->places[proc->slot].uses & 0x3fffffff;
    return (uint64_t)kind << 62 | uses << 32 | proc->slot;
}

/* The process that a key means, or NULL if it has gone meanwhile. */
static fp_proc *find(const fp_supervisor *supervisor, uint64_t key) {
    uint32_t slot = (uint32_t)key;
    if (slot >= supervisor->n_places || (supervisor->places[slot].uses & 0x3fffffff) != ((key >> 32) & 0x3fffffff))
        return NULL;
    return supervisor->places[slot].proc;
}

/* ---- making and ending ------------------------------------------------------------------ */

fp_supervisor *fp_supervisor_ref(fp_supervisor *supervisor) {
    atomic_fetch_add_explicit(&supervisor->refs, 1, memory_order_relaxed);
    return supervisor;
}

static void crew_unref(fp_crew *crew) {
    if (!crew || atomic_fetch_sub_explicit(&crew->refs, 1, memory_order_acq_rel) != 1)
        return;
    fp_mailbox_unref(crew->orphan_mailbox);
    pthread_mutex_destroy(&crew->lock);
    free(crew);
}

void fp_supervisor_unref(fp_supervisor *supervisor) {
    if (atomic_fetch_sub_explicit(&supervisor->refs, 1, memory_order_acq_rel) != 1)
        return;
    fp_census_done(&supervisor->census);
    free(supervisor->scratch);
    free(supervisor->places);
    fp_timers_done(&supervisor->timers);
    crew_unref(supervisor->crew);
    pthread_mutex_destroy(&supervisor->lock);
    free(supervisor);
}

/* ---- forked copies ---------------------------------------------------------------------- */

/*
 * Our pid, in a page that the kernel empties in a forked copy (MADV_WIPEONFORK,
 * Linux 4.14): so every call can ask whether it is in one, for the price of a
 * look at memory. NULL: the kernel is asked each time.
 */
static pthread_once_t own_pid_once = PTHREAD_ONCE_INIT;
static _Atomic pid_t *own_pid_page;

static void make_own_pid_page(void) {
    void *page;
    if (sys_mmap(sizeof(pid_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, &page) < 0)
        return;
    if (sys_madvise(page, sizeof(pid_t), MADV_WIPEONFORK) < 0)
        sys_munmap(page, sizeof(pid_t));
    else
        own_pid_page = page;
}

pid_t fp_own_pid(void) {
    pthread_once(&own_pid_once, make_own_pid_page);
    if (!own_pid_page)
        return sys_getpid();
    pid_t pid = atomic_load_explicit(own_pid_page, memory_order_relaxed);
    if (pid == 0) {
        pid = sys_getpid();
        atomic_store_explicit(own_pid_page, pid, memory_order_relaxed);
    }
    return pid;
}

/* An emulator may accept the advice and not follow it, see QEMU: copies that libc makes do not rely on it. */
void fp_own_pid_forget(void) {
    if (own_pid_page)
        atomic_store_explicit(own_pid_page, 0, memory_order_relaxed);
}

bool fp_supervisor_is_copy(const fp_supervisor *supervisor) {
    return supervisor->owner != fp_own_pid();
}

/* ---- crews -------------------------------------------------------------------------------- */

static int join_crew(fp_supervisor *supervisor, fp_supervisor *sibling) {
    fp_crew *crew;

    if (sibling) {
        crew = sibling->crew;
        atomic_fetch_add_explicit(&crew->refs, 1, memory_order_relaxed);
    } else {
        crew = calloc(1, sizeof *crew);
        if (!crew)
            return -ENOMEM;
        atomic_init(&crew->refs, 1);
        pthread_mutex_init(&crew->lock, NULL);
    }
    pthread_mutex_lock(&crew->lock);
    supervisor->crew = crew;
    supervisor->crew_next = crew->members;
    crew->members = supervisor;
    pthread_mutex_unlock(&crew->lock);
    return 0;
}

static void leave_crew(fp_supervisor *supervisor) {
    fp_crew *crew = supervisor->crew;
    if (!crew)
        return;
    pthread_mutex_lock(&crew->lock);
    for (fp_supervisor **at = &crew->members; *at; at = &(*at)->crew_next) {
        if (*at == supervisor) {
            *at = supervisor->crew_next;
            break;
        }
    }
    bool last = !crew->members;
    pthread_mutex_unlock(&crew->lock);
    if (last)
        fp_births_end(crew);
}

int fp_supervisor_new(const fp_supervisor_options *options, fp_supervisor **ret_supervisor) {
    fp_supervisor_options none = FP_SUPERVISOR_OPTIONS_INIT;
    struct epoll_event kick = {.events = EPOLLIN, .data.u64 = KICK_KEY};
    int r;

    if (!options)
        options = &none;
    if (options->size != sizeof *options || !ret_supervisor)
        return -EINVAL;
    fp_supervisor *supervisor = calloc(1, sizeof *supervisor);
    if (!supervisor)
        return -ENOMEM;
    atomic_init(&supervisor->refs, 1);
    supervisor->owner = fp_own_pid();
    supervisor->epoll_fd = supervisor->event_fd = -1;
    supervisor->first_free = FP_NO_INDEX;
    supervisor->wakes_ns = FP_NEVER;
    pthread_mutex_init(&supervisor->lock, NULL);
    fp_census_init(&supervisor->census);
    fp_leaves_init(&supervisor->leaves, options->cgroup_dir);

    /* Before all that stays open: these shall lie low. */
    fp_slots *donor = options->sibling && options->sibling->has_slots ? &options->sibling->slots : NULL;
    supervisor->has_slots = fp_slots_init(&supervisor->slots, donor) == 0;
    r = supervisor->epoll_fd = sys_above_2(sys_epoll_create(EPOLL_CLOEXEC));
    if (r >= 0)
        r = supervisor->event_fd = sys_above_2(sys_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (r >= 0)
        r = sys_epoll_ctl(supervisor->epoll_fd, EPOLL_CTL_ADD, supervisor->event_fd, &kick);
    if (r >= 0) {
        supervisor->scratch = malloc(FP_SCRATCH_BYTES);
        r = supervisor->scratch ? join_crew(supervisor, options->sibling) : -ENOMEM;
    }
    if (r < 0) {
        fp_supervisor_free(supervisor);
        return r;
    }
    if (options->adopt_orphans)
        r = fp_supervisor_adopt_orphans(supervisor, options->orphan_mailbox);
    if (r < 0) {
        fp_supervisor_free(supervisor);
        return r;
    }
    fp_fork_enlist(supervisor);
    *ret_supervisor = supervisor;
    return 0;
}

int fp_supervisor_stop(fp_supervisor *supervisor) {
    if (fp_supervisor_is_copy(supervisor))
        return -EOWNERDEAD;
    fp_supervisor_lock(supervisor);
    supervisor->stopping = true;
    fp_supervisor_kick(supervisor);
    pthread_mutex_unlock(&supervisor->lock);
    return 0;
}

static void drop_shares(fp_supervisor *supervisor);

fp_supervisor *fp_supervisor_free(fp_supervisor *supervisor) {
    if (!supervisor)
        return NULL;
    bool copy = fp_supervisor_is_copy(supervisor);
    fp_fork_delist(supervisor);
    if (!copy) {
        leave_crew(supervisor);
        pthread_mutex_lock(&supervisor->lock);
        supervisor->stopping = true;
        drop_shares(supervisor);
        fp_leaves_done(&supervisor->leaves);
    }
    if (supervisor->epoll_fd >= 0)
        sys_close(supervisor->epoll_fd);
    if (supervisor->event_fd >= 0)
        sys_close(supervisor->event_fd);
    supervisor->epoll_fd = supervisor->event_fd = -1;
    if (supervisor->has_slots)
        fp_slots_done(&supervisor->slots);
    supervisor->has_slots = false;
    if (!copy) {
        for (uint32_t i = 0; i < supervisor->n_places; i++) {
            fp_proc *proc = supervisor->places[i].proc;
            if (!proc)
                continue;
            proc->in_epoll = false;
            fp_timers_set(&supervisor->timers, proc, FP_NEVER);
            fp_supervisor_dismiss(supervisor, proc);
        }
        pthread_mutex_unlock(&supervisor->lock);
    }
    fp_supervisor_unref(supervisor);
    return NULL;
}

int fp_supervisor_active(fp_supervisor *supervisor) {
    if (fp_supervisor_is_copy(supervisor))
        return 0;
    fp_supervisor_lock(supervisor);
    int active = (int)supervisor->active;
    pthread_mutex_unlock(&supervisor->lock);
    return active;
}

/* ---- places, watches, timers ---------------------------------------------------------------- */

int fp_supervisor_admit(fp_supervisor *supervisor, fp_proc *proc) {
    if (supervisor->first_free == FP_NO_INDEX) {
        uint32_t n = supervisor->n_places ? 2 * supervisor->n_places : 64;
        fp_place *places = realloc(supervisor->places, n * sizeof *places);
        if (!places)
            return -ENOMEM;
        supervisor->places = places;
        for (uint32_t i = n; i-- > supervisor->n_places;) {
            places[i] = (fp_place){.next_free = supervisor->first_free};
            supervisor->first_free = i;
        }
        supervisor->n_places = n;
    }
    int r = fp_timers_reserve(&supervisor->timers, supervisor->n_places);
    if (r < 0)
        return r;
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
    if (supervisor->wakes_ns == AWAKE)
        return; /* it looks at `kicked` before it sleeps */
    sys_eventfd_raise(supervisor->event_fd);
}

void fp_supervisor_set_timer(fp_supervisor *supervisor, fp_proc *proc, int64_t when_ns) {
    if (proc->slot == FP_NO_INDEX)
        return;
    fp_timers_set(&supervisor->timers, proc, when_ns);
    /* Without a kick where the loop wakes early enough anyway. */
    if (when_ns < supervisor->wakes_ns)
        fp_supervisor_kick(supervisor);
}

/* ---- queued starts ------------------------------------------------------------------------------- */

struct fp_batch {
    _Atomic uint32_t refs;
    pid_t owner;
    pthread_mutex_t lock;
    fp_proc *first;
    fp_proc **last;
    uint32_t shares;     /* supervisors that still take from it */
    fp_mailbox *mailbox; /* whose bounded batches these are, compared only; NULL: of one call */
};

void fp_batch_unref(fp_batch *batch) {
    if (atomic_fetch_sub_explicit(&batch->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&batch->lock);
    free(batch);
}

bool fp_batch_is_copy(const fp_batch *batch) {
    return batch->owner != fp_own_pid();
}

pthread_mutex_t *fp_batch_lock(fp_batch *batch) {
    return &batch->lock;
}

/* Take the next one, which is this supervisor's from now on. With its lock and a reference. */
static fp_proc *batch_pop(fp_batch *batch, fp_supervisor *supervisor) {
    pthread_mutex_lock(&batch->lock);
    fp_proc *proc = batch->first;
    if (proc) {
        batch->first = proc->queue_next;
        if (!batch->first)
            batch->last = &batch->first;
        proc->queue_next = NULL;
        atomic_store_explicit(&proc->supervisor, fp_supervisor_ref(supervisor), memory_order_release);
    }
    pthread_mutex_unlock(&batch->lock);
    return proc;
}

static fp_share *share_of(fp_supervisor *supervisor, const fp_batch *batch) {
    for (fp_share *share = supervisor->shares; share; share = share->next)
        if (share->batch == batch)
            return share;
    return NULL;
}

/* Take no part any more. False: it is kept, as nobody else would start what is queued; never if `for_ever`. */
static bool drop_share(fp_supervisor *supervisor, fp_share *share, bool for_ever) {
    fp_batch *batch = share->batch;
    fp_failure closing = {.error = ESHUTDOWN, .stage = FP_STAGE_SUPERVISOR, .detail = -1};

    pthread_mutex_lock(&batch->lock);
    bool last = batch->shares == 1;
    bool kept = last && batch->first && !for_ever;
    if (!kept)
        batch->shares--;
    pthread_mutex_unlock(&batch->lock);
    if (kept)
        return false;
    for (fp_share **at = &supervisor->shares; *at; at = &(*at)->next) {
        if (*at == share) {
            *at = share->next;
            break;
        }
    }
    fp_proc *proc;
    /* Nobody is left to start them. */
    while (last && for_ever && (proc = batch_pop(batch, supervisor))) {
        fp_proc_fail(proc, &closing);
        fp_proc_unref(proc);
    }
    fp_batch_unref(batch);
    free(share);
    return true;
}

static void drop_shares(fp_supervisor *supervisor) {
    while (supervisor->shares)
        drop_share(supervisor, supervisor->shares, true);
}

void fp_supervisor_batch_done(fp_supervisor *supervisor, fp_proc *proc) {
    fp_share *share = proc->batch ? share_of(supervisor, proc->batch) : NULL;
    if (!share)
        return;
    share->running--;
    fp_supervisor_kick(supervisor);
}

static void start_queued(fp_supervisor *supervisor, fp_share *share, fp_proc *proc) {
    fp_failure failure;
    fp_spec *spec = proc->spec;

    share->running++;
    proc->spec = NULL;
    int r = fp_proc_start(supervisor, proc, spec, &failure);
    if (r < 0) {
        share = share_of(supervisor, proc->batch);
        if (share)
            share->running--;
        fp_proc_fail(proc, &failure);
    } else if (spec->flags & FP_QUIET_START) {
        fp_mailbox_note(proc->mailbox, proc, FP_NEWS_STARTED);
    } else {
        fp_supervisor_post(supervisor, proc, FP_NEWS_STARTED);
    }
    fp_spec_free_copy(spec);
}

/* Start what may be started, a few at a time. True if there is more. */
static bool run_queue(fp_supervisor *supervisor) {
    int started = 0;
    fp_share *share = supervisor->shares;

    while (share && started < STARTS_AT_ONCE) {
        fp_share *next = share->next;
        if (share->running >= share->max_running) {
            /* A lowered bound leaves it no part, unless two who lowered it at once have left none to anybody. */
            if (share->running == 0 && !drop_share(supervisor, share, false))
                share->max_running = 1;
            else
                share = next;
            continue;
        }
        fp_proc *proc = batch_pop(share->batch, supervisor);
        if (!proc) {
            if (share->running == 0)
                drop_share(supervisor, share, false);
            share = next;
            continue;
        }
        start_queued(supervisor, share, proc);
        fp_proc_unref(proc);
        started++;
        /* The lock was let go: the list may have changed. */
        share = supervisor->shares;
    }
    return started > 0;
}

int fp_proc_withdraw(fp_proc *proc) {
    fp_failure withdrawn = {.error = ECANCELED, .stage = FP_STAGE_REQUEST, .detail = -1};
    int r = -EALREADY;

    fp_supervisor *supervisor = fp_proc_lock(proc);
    if (!supervisor && fp_batch_is_copy(proc->batch))
        r = -EOWNERDEAD;
    else if (!supervisor && fp_proc_state(proc) == FP_STATE_QUEUED) {
        fp_batch *batch = proc->batch;
        for (fp_proc **at = &batch->first; *at; at = &(*at)->queue_next) {
            if (*at != proc)
                continue;
            *at = proc->queue_next;
            if (batch->last == &proc->queue_next)
                batch->last = at;
            proc->queue_next = NULL;
            fp_proc_fail(proc, &withdrawn);
            r = 0;
            break;
        }
    }
    fp_proc_unlock(proc, supervisor);
    if (r == 0)
        fp_proc_unref(proc);
    return r;
}

/* How many of `max` this supervisor may run; at least one, or none at all. */
static uint32_t fair_part(uint32_t max, size_t i, size_t n) {
    if (max == 0)
        return UINT32_MAX;
    return max / (uint32_t)n + (i < max % n ? 1 : 0);
}

static int check_all(const fp_spec *const *specs, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int r = specs[i] ? fp_spec_check(specs[i], &(fp_failure){0}) : -EINVAL;
        if (r < 0)
            return r;
    }
    return 0;
}

static fp_batch *batch_new(fp_mailbox *mailbox) {
    fp_batch *batch = calloc(1, sizeof *batch);
    if (!batch)
        return NULL;
    atomic_init(&batch->refs, 1);
    pthread_mutex_init(&batch->lock, NULL);
    batch->owner = fp_own_pid();
    batch->last = &batch->first;
    batch->mailbox = mailbox;
    return batch;
}

static fp_batch *batch_ref(fp_batch *batch) {
    atomic_fetch_add_explicit(&batch->refs, 1, memory_order_relaxed);
    return batch;
}

/* The bounded batch of this mailbox that is still being worked on, referenced; or NULL. */
static fp_batch *batch_find(fp_supervisor *supervisor, const fp_mailbox *mailbox) {
    fp_batch *found = NULL;
    fp_supervisor_lock(supervisor);
    for (fp_share *share = supervisor->shares; share && !found; share = share->next)
        if (share->batch->mailbox == mailbox)
            found = batch_ref(share->batch);
    pthread_mutex_unlock(&supervisor->lock);
    return found;
}

/* The bound has become so low that there is no part for `supervisor`. */
static void take_no_part(fp_supervisor *supervisor, const fp_batch *batch) {
    fp_supervisor_lock(supervisor);
    fp_share *share = share_of(supervisor, batch);
    if (share) {
        share->max_running = 0;
        fp_supervisor_kick(supervisor);
    }
    pthread_mutex_unlock(&supervisor->lock);
}

/* See that `supervisor` takes part. `*spare` is a share to use if it has none yet. */
static void take_part(fp_supervisor *supervisor, fp_batch *batch, uint32_t max_running, fp_share **spare) {
    fp_supervisor_lock(supervisor);
    fp_share *share = share_of(supervisor, batch);
    if (!share) {
        share = *spare;
        *spare = NULL;
        *share = (fp_share){.next = supervisor->shares, .batch = batch_ref(batch)};
        supervisor->shares = share;
        pthread_mutex_lock(&batch->lock);
        batch->shares++;
        pthread_mutex_unlock(&batch->lock);
    }
    share->max_running = max_running;
    if (supervisor->stopping)
        drop_share(supervisor, share, true);
    else
        fp_supervisor_kick(supervisor);
    pthread_mutex_unlock(&supervisor->lock);
}

int fp_spawn_many(fp_supervisor *const *crew, size_t n_crew, const fp_spec *const *specs, size_t n,
                  uint32_t max_running, fp_proc **ret_procs) {
    size_t made = 0, takers = 0;
    fp_share **spares = NULL;
    fp_batch *batch = NULL;

    if (!crew || !n_crew || (n && (!specs || !ret_procs)))
        return -EINVAL;
    if (n == 0)
        return 0;
    if (fp_supervisor_is_copy(crew[0]))
        return -EOWNERDEAD;
    int r = check_all(specs, n);
    if (r < 0)
        return r;

    r = -ENOMEM;
    fp_mailbox *mailbox = max_running ? specs[0]->mailbox : NULL;
    for (size_t i = 0; i < n_crew && mailbox && !batch; i++)
        batch = batch_find(crew[i], mailbox);
    if (!batch)
        batch = batch_new(mailbox);
    spares = calloc(n_crew, sizeof *spares);
    if (!batch || !spares)
        goto out;
    for (; takers < n_crew && fair_part(max_running, takers, n_crew); takers++) {
        spares[takers] = calloc(1, sizeof **spares);
        if (!spares[takers])
            goto out;
    }
    for (; made < n; made++) {
        fp_proc *proc = fp_proc_new(specs[made]);
        if (!proc)
            goto out;
        ret_procs[made] = proc;
        proc->batch = batch_ref(batch);
        proc->spec = fp_spec_copy(specs[made]);
        if (!proc->spec) {
            made++;
            goto out;
        }
    }
    pthread_mutex_lock(&batch->lock);
    for (size_t i = 0; i < n; i++) {
        *batch->last = fp_proc_ref(ret_procs[i]);
        batch->last = &ret_procs[i]->queue_next;
    }
    pthread_mutex_unlock(&batch->lock);
    for (size_t i = 0; i < takers; i++)
        take_part(crew[i], batch, fair_part(max_running, i, n_crew), &spares[i]);
    for (size_t i = takers; i < n_crew; i++)
        take_no_part(crew[i], batch);
    made = 0;
    r = 0;
out:
    for (size_t i = 0; i < made; i++)
        ret_procs[i] = fp_proc_free(ret_procs[i]);
    for (size_t i = 0; spares && i < n_crew; i++)
        free(spares[i]);
    free(spares);
    if (batch)
        fp_batch_unref(batch);
    return r;
}

/* ---- the loop ---------------------------------------------------------------------------------------- */

static void look_at_due(fp_supervisor *supervisor, int64_t now) {
    for (int i = 0; i < TURNS_AT_ONCE; i++) {
        fp_proc *proc = fp_timers_first(&supervisor->timers);
        if (!proc || proc->when_ns > now)
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
    if (key == KICK_KEY) {
        sys_eventfd_lower(supervisor->event_fd);
        return;
    }
    fp_proc *proc = find(supervisor, key);
    if (!proc)
        return;
    int kind = (int)(key >> 62);
    fp_proc_ref(proc);
    if (kind == FP_KEY_PIDFD)
        fp_proc_on_exit_event(proc, now);
    else
        fp_proc_on_stream_event(proc, kind - FP_KEY_OUT, now);
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

/*
 * While starts are queued, those who wait for the ends are woken for many of
 * them at a time: each wake takes a CPU from the starts. See fp_mailbox_post_later().
 * What comes after a silence is told at once: who waits for slow ones does not wait longer.
 */
static void tell_unheard(fp_supervisor *supervisor) {
    if (!supervisor->unheard)
        return;
    fp_mailbox_flush(supervisor->unheard);
    fp_mailbox_unref(supervisor->unheard);
    supervisor->unheard = NULL;
}

/* Does anybody wait for his turn? Then there is work here that nobody who is told has to ask for. */
static bool has_queued(const fp_supervisor *supervisor) {
    bool queued = false;

    for (const fp_share *share = supervisor->shares; share && !queued; share = share->next) {
        pthread_mutex_lock(&share->batch->lock);
        queued = share->batch->first != NULL;
        pthread_mutex_unlock(&share->batch->lock);
    }
    return queued;
}

void fp_supervisor_post(fp_supervisor *supervisor, fp_proc *proc, uint32_t what) {
    bool later = proc->batch && proc->mailbox && supervisor->wakes_ns == AWAKE && supervisor->shares;
    int64_t now = later ? fp_now_ns() : 0;

    if (later) {
        later = now - supervisor->posted_ns < UNHEARD_FOR;
        supervisor->posted_ns = now;
    }
    if (later && supervisor->unheard && supervisor->unheard != proc->mailbox)
        tell_unheard(supervisor);
    if (!later || !fp_mailbox_post_later(proc->mailbox, proc, what)) {
        fp_mailbox_post(proc->mailbox, proc, what);
    } else if (!supervisor->unheard) {
        supervisor->unheard = fp_mailbox_ref(proc->mailbox);
        supervisor->unheard_ns = now;
    }
}

/* When the loop must turn again by itself. */
static int64_t next_turn(const fp_supervisor *supervisor, int64_t now, bool more) {
    const fp_proc *first = fp_timers_first(&supervisor->timers);
    int64_t when = first ? first->when_ns : FP_NEVER;

    if (more || supervisor->census_wanted || supervisor->stopping)
        return now;
    /* While starts come in close succession the loop keeps turning, so that none of them has to wake it. */
    if (now - supervisor->late_watch_ns < FP_WATCH_LATER && when > now + FP_WATCH_LATER)
        when = now + FP_WATCH_LATER;
    if (supervisor->adopts_orphans && when > supervisor->orphans_ns)
        when = supervisor->orphans_ns;
    /* Should the host close our descriptors, nobody can wake us to tell: while somebody lives we look. */
    if (supervisor->active && when > now + LONGEST_SLEEP)
        when = now + LONGEST_SLEEP;
    if (supervisor->unheard && when > supervisor->unheard_ns + UNHEARD_FOR)
        when = supervisor->unheard_ns + UNHEARD_FOR;
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
 * Sleep until an event, or `when`. The last start of a batch is not put under watch for that: it mostly is what wakes
 * us, and for one sleep poll(2) costs less than to enter it and to take it out again.
 */
static int await_events(fp_supervisor *supervisor, int young_fd, struct epoll_event *ret_events, int timeout_ms) {
    struct pollfd wait[2] = {{.fd = young_fd, .events = POLLIN}, {.fd = supervisor->epoll_fd, .events = POLLIN}};

    if (young_fd >= 0) {
        int r = sys_poll(wait, 2, timeout_ms < 0 ? -1 : timeout_ms * FP_NS_PER_MS);
        if (r <= 0)
            return r;
        if (!wait[1].revents)
            return 0;
        timeout_ms = 0;
    }
    return sys_epoll_wait(supervisor->epoll_fd, ret_events, EVENTS_AT_ONCE, timeout_ms);
}

int fp_supervisor_run(fp_supervisor *supervisor) {
    struct epoll_event events[EVENTS_AT_ONCE];
    int n_unasked = 0;
    int64_t contended_ns = 0;
    fp_sigset all = fp_signals_of_the_host(), broken_pipe = UINT64_C(1) << (SIGPIPE - 1), old;

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
    supervisor->wakes_ns = AWAKE;
    while (!supervisor->stopping) {
        supervisor->kicked = false;
        bool more = run_queue(supervisor);
        int64_t now = fp_now_ns();
        look_at_due(supervisor, now);
        walk_census(supervisor);
        look_after_orphans(supervisor, now);
        if (supervisor->leaves.doomed)
            fp_leaves_sweep(&supervisor->leaves);

        now = fp_now_ns();
        more |= supervisor->kicked;
        if (supervisor->unheard && (now - supervisor->unheard_ns >= UNHEARD_FOR || (!more && !has_queued(supervisor))))
            tell_unheard(supervisor);
        int64_t when = next_turn(supervisor, now, more);
        supervisor->wakes_ns = when;
        int timeout_ms = sleep_ms(now, when), young_fd = -1, n = 0;
        if (timeout_ms && supervisor->young)
            young_fd = supervisor->young->pidfd;
        pthread_mutex_unlock(&supervisor->lock);
        if (timeout_ms || ++n_unasked >= MOST_UNASKED) {
            n = await_events(supervisor, young_fd, events, timeout_ms);
            n_unasked = 0;
        }
        /* The host has closed our descriptor: who waits looks for himself, and we keep the deadlines. */
        if (n < 0 && n != -EINTR)
            sys_poll(NULL, 0, LOST_NAP);
        give_way(supervisor, &contended_ns);
        pthread_mutex_lock(&supervisor->lock);
        supervisor->wakes_ns = AWAKE;
        now = fp_now_ns();
        if (timeout_ms)
            fp_proc_look_at_young(supervisor, now);
        for (int i = 0; i < n; i++)
            take_event(supervisor, events[i].data.u64, now);
    }
    fp_proc_look_at_young(supervisor, fp_now_ns());
    drop_shares(supervisor);
    tell_unheard(supervisor);
    supervisor->has_thread = false;
    for (uint32_t i = 0; i < supervisor->n_places; i++)
        if (supervisor->places[i].proc)
            fp_proc_rouse(supervisor->places[i].proc);
    supervisor->wakes_ns = FP_NEVER;
    /* What our writes to closed pipes have left pending must not hit the host when signals are let in. */
    if (!(old & broken_pipe))
        sys_rt_sigtimedwait(&broken_pipe);
    sys_rt_sigprocmask(SIG_SETMASK, &old, NULL);
    pthread_mutex_unlock(&supervisor->lock);
    return 0;
}

int fp_supervisor_adopt_orphans(fp_supervisor *supervisor, fp_mailbox *mailbox) {
    if (fp_supervisor_is_copy(supervisor))
        return -EOWNERDEAD;
    int r = sys_prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    if (r < 0)
        return r;
    fp_crew *crew = supervisor->crew;
    pthread_mutex_lock(&crew->lock);
    fp_mailbox *before = crew->orphan_mailbox;
    crew->orphan_mailbox = fp_mailbox_ref(mailbox);
    if (mailbox)
        fp_mailbox_tell_orphans(mailbox, mailbox);
    atomic_store_explicit(&crew->adopts_orphans, true, memory_order_relaxed);
    pthread_mutex_unlock(&crew->lock);
    fp_mailbox_unref(before);
    pthread_mutex_lock(&supervisor->lock);
    supervisor->adopts_orphans = true;
    fp_supervisor_kick(supervisor);
    pthread_mutex_unlock(&supervisor->lock);
    return 0;
}
