/*
 * batch.c: starts that are queued, and the supervisors that take from them.
 *
 * A batch is a list with a lock of its own. Each supervisor that takes part has
 * a share: how many of the batch it may run at a time, and how many it runs.
 * The shares of a bounded batch add up to its bound, so that it is kept without
 * asking the others; calls for the same mailbox are one batch. As long as
 * anything is queued somebody has a share.
 *
 * A process belongs to the batch until a supervisor pops it, which sets
 * `supervisor` under the lock of the batch: so fp_proc_lock() knows what guards
 * it.
 */
#include <errno.h>
#include <stdlib.h>

#include "internal.h"
#include "sys.h"

enum { FEW = 4 }; /* see may_go_on() */

struct fp_batch {
    _Atomic uint32_t refs;
    pid_t owner;
    pthread_mutex_t lock;
    fp_proc *first;
    fp_proc **last;
    _Atomic uint32_t queued; /* how many these are; written with the lock held */
    uint32_t shares;     /* supervisors that still take from it */
    int64_t asked_ns;    /* when its last ones were asked for */
    fp_mailbox *mailbox; /* whose bounded batches these are, compared only; NULL: of one call */
};

void fp_batch_unref(fp_batch *batch) {
    if (atomic_fetch_sub_explicit(&batch->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&batch->lock);
    free(batch);
}

uint32_t fp_batch_queued(const fp_batch *batch) {
    return atomic_load_explicit(&batch->queued, memory_order_relaxed);
}

bool fp_batch_is_copy(const fp_batch *batch) {
    return batch->owner != fp_own_pid();
}

pthread_mutex_t *fp_batch_lock(fp_batch *batch) {
    return &batch->lock;
}

/* Take the next one, which is this supervisor's from now on. With its lock and a reference. */
static fp_proc *batch_pop(fp_batch *batch, fp_supervisor *supervisor, int64_t *ret_asked_ns) {
    pthread_mutex_lock(&batch->lock);
    fp_proc *proc = batch->first;
    if (proc) {
        batch->first = fp_proc_queued(proc)->next;
        if (!batch->first)
            batch->last = &batch->first;
        fp_proc_queued(proc)->next = NULL;
        atomic_fetch_sub_explicit(&batch->queued, 1, memory_order_relaxed);
        *ret_asked_ns = batch->asked_ns;
        atomic_store_explicit(&proc->supervisor, fp_supervisor_ref(supervisor), memory_order_release);
    }
    pthread_mutex_unlock(&batch->lock);
    return proc;
}

/* ---- a supervisor's part ------------------------------------------------------- */

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
    int64_t asked_ns;
    /* Nobody is left to start them. */
    while (last && for_ever && (proc = batch_pop(batch, supervisor, &asked_ns))) {
        fp_proc_fail(proc, &closing);
        fp_proc_unref(proc);
    }
    fp_batch_unref(batch);
    free(share);
    return true;
}

void fp_supervisor_drop_shares(fp_supervisor *supervisor) {
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

void fp_batch_started(fp_supervisor *supervisor, fp_proc *proc, fp_spec *spec, int result, const fp_failure *failure) {
    if (result < 0) {
        fp_share *share = share_of(supervisor, proc->batch);
        if (share)
            share->running--;
        fp_proc_fail(proc, failure);
    } else if (fp_proc_state(proc) != FP_STATE_RUNNING) {
        /* Its end has been told already, which says that it was started. */
    } else if (spec->flags & FP_QUIET_START) {
        fp_mailbox_note(proc->mailbox, proc, FP_NEWS_STARTED);
    } else {
        fp_supervisor_post(supervisor, proc, FP_NEWS_STARTED);
    }
    fp_spec_free_copy(spec);
}

/*
 * Shall the loop go on before this one is born? If little else is to be started, so that a wake-up is saved. Where many
 * wait, more of them would be alive at a time, which costs a tenth: see docs/adr/0026.
 */
static bool may_go_on(const fp_share *share) {
    return share->running + 1 >= share->max_running || fp_batch_queued(share->batch) <= FEW;
}

static void start_queued(fp_supervisor *supervisor, fp_share *share, fp_proc *proc) {
    fp_failure failure;
    fp_spec *spec = fp_proc_queued(proc)->spec;
    fp_unborn *unborn = may_go_on(share) ? fp_nursery_room(&supervisor->nursery) : NULL;

    share->running++;
    fp_proc_queued(proc)->spec = NULL;
    supervisor->bears = true;
    int r = fp_proc_start(supervisor, proc, spec, unborn, &failure);
    supervisor->bears = false;
    if (r == 1) {
        fp_nursery_enter(&supervisor->nursery, unborn, proc, spec);
        return;
    }
    if (unborn)
        fp_nursery_give(&supervisor->nursery, unborn);
    fp_batch_started(supervisor, proc, spec, r, &failure);
}

/* One at a time: between two starts the dead are reaped, as who is dead costs less than who is alive. */
bool fp_supervisor_run_queue(fp_supervisor *supervisor) {
    fp_share *share = supervisor->shares;

    supervisor->called = false;
    while (share) {
        fp_share *next = share->next;
        if (share->running >= share->max_running) {
            /* A lowered bound leaves it no part, unless two who lowered it at once have left none to anybody. */
            if (share->running == 0 && !drop_share(supervisor, share, false))
                share->max_running = 1;
            else
                share = next;
            continue;
        }
        fp_proc *proc = batch_pop(share->batch, supervisor, &supervisor->asked_ns);
        if (!proc) {
            if (share->running == 0)
                drop_share(supervisor, share, false);
            share = next;
            continue;
        }
        start_queued(supervisor, share, proc);
        fp_proc_unref(proc);
        return true;
    }
    return false;
}

bool fp_supervisor_has_queued(const fp_supervisor *supervisor) {
    bool queued = false;

    for (const fp_share *share = supervisor->shares; share && !queued; share = share->next) {
        pthread_mutex_lock(&share->batch->lock);
        queued = share->batch->first != NULL;
        pthread_mutex_unlock(&share->batch->lock);
    }
    return queued;
}

/* ---- the calls ----------------------------------------------------------------- */

int fp_proc_withdraw(fp_proc *proc) {
    fp_failure withdrawn = {.error = ECANCELED, .stage = FP_STAGE_REQUEST, .detail = -1};
    int r = -EALREADY;

    fp_supervisor *supervisor = fp_proc_lock(proc);
    if (!supervisor && fp_batch_is_copy(proc->batch))
        r = -EOWNERDEAD;
    else if (!supervisor && fp_proc_state(proc) == FP_STATE_QUEUED) {
        fp_batch *batch = proc->batch;
        for (fp_proc **at = &batch->first; *at; at = &fp_proc_queued(*at)->next) {
            if (*at != proc)
                continue;
            *at = fp_proc_queued(proc)->next;
            if (batch->last == &fp_proc_queued(proc)->next)
                batch->last = at;
            fp_proc_queued(proc)->next = NULL;
            atomic_fetch_sub_explicit(&batch->queued, 1, memory_order_relaxed);
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

/*
 * Have the loop look at the queue, if there are any of those `*unclaimed` left that no other has been called for. One
 * that is busy with a birth will look, but nobody knows when.
 */
static void call_for_starts(fp_supervisor *supervisor, const fp_share *share, size_t *unclaimed) {
    bool comes_soon = supervisor->has_thread && !supervisor->bears;

    if (comes_soon) {
        if (*unclaimed == 0 || supervisor->called || share->running >= share->max_running)
            return;
        --*unclaimed;
        supervisor->called = true;
    }
    fp_supervisor_kick(supervisor);
}

/* See that `supervisor` takes part. `*spare` is a share to use if it has none yet. */
static void take_part(fp_supervisor *supervisor, fp_batch *batch, uint32_t max_running, fp_share **spare,
                      size_t *unclaimed) {
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
        call_for_starts(supervisor, share, unclaimed);
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
        fp_proc_queued(proc)->spec = fp_spec_copy(specs[made]);
        if (!fp_proc_queued(proc)->spec) {
            made++;
            goto out;
        }
    }
    pthread_mutex_lock(&batch->lock);
    batch->asked_ns = fp_now_ns();
    atomic_fetch_add_explicit(&batch->queued, (uint32_t)n, memory_order_relaxed);
    for (size_t i = 0; i < n; i++) {
        *batch->last = fp_proc_ref(ret_procs[i]);
        batch->last = &fp_proc_queued(ret_procs[i])->next;
    }
    pthread_mutex_unlock(&batch->lock);
    /* All that are queued: those of earlier calls too, if the bound was raised. */
    size_t unclaimed = fp_batch_queued(batch);
    for (size_t i = 0; i < takers; i++)
        take_part(crew[i], batch, fair_part(max_running, i, n_crew), &spares[i], &unclaimed);
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
