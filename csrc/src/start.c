/*
 * start.c: a process comes under its supervisor: a place in the table, a leaf,
 * the birth itself, and who watches for its exit from then on.
 *
 * The place is taken first, so that nothing after the birth can fail for lack
 * of memory; only what the child has used may be forgotten then. The lock is
 * let go while the child is being made, and the crew sees for how long, see
 * births.c. Beside some of a batch the loop does not stand: what is done once
 * they have passed execve(2) is done later then, see nursery.c. A start that
 * fails has given everything back.
 */
#include <errno.h>

#include "internal.h"
#include "sys.h"

/* ---- who watches for the exit -------------------------------------------------- */

/*
 * A child that its starter waits for at once, and most of those do not live
 * long, is not put under watch only to be taken out again, and no second
 * thread is woken for it. So the watch begins a little later, unless somebody
 * listens who wants to hear of the exit at once. The same goes for its streams,
 * if nobody follows them: what a program says that ends soon is taken with its
 * exit, by whoever waits for that.
 *
 * For each supervisor there is one that is not watched yet: the next start
 * looks at it, or else the loop, which a timer wakes. While starts and waits
 * follow one another the timer is only put off, and the loop sleeps: to wake
 * it every other millisecond took 3 % of such starts.
 */
static bool may_watch_later(const fp_supervisor *supervisor, const fp_proc *proc) {
    return supervisor->has_thread && !proc->batch && proc->pidfd >= 0 && !fp_mailbox_is_listened_to(proc->mailbox);
}

static void look_at(fp_supervisor *supervisor, fp_proc **which, int64_t now) {
    fp_proc *proc = *which;

    if (!proc)
        return;
    *which = NULL;
    /* Who waits for it by himself puts it under watch when he gives up. */
    if (fp_proc_state(proc) == FP_STATE_RUNNING && !proc->claimed && !proc->in_epoll && !proc->by_polling) {
        if (fp_proc_try_exit(supervisor, proc, now))
            fp_proc_turn(proc, now);
        else
            fp_proc_watch_exit(supervisor, proc, now);
    }
    if (!proc->claimed)
        fp_proc_attend(supervisor, proc);
    fp_proc_unref(proc);
}

void fp_proc_look_at_young(fp_supervisor *supervisor, int64_t now) {
    look_at(supervisor, &supervisor->young, now);
}

void fp_proc_look_at_late(fp_supervisor *supervisor, int64_t now) {
    look_at(supervisor, &supervisor->late, now);
}

static void watch_later(fp_supervisor *supervisor, fp_proc *proc) {
    fp_proc_look_at_late(supervisor, proc->started_ns);
    if (supervisor->late_fd >= 0 && sys_timerfd_set(supervisor->late_fd, FP_WATCH_LATER) >= 0) {
        supervisor->late = fp_proc_ref(proc);
        return;
    }
    /* Then the loop has to turn for it. */
    supervisor->late_watch_ns = proc->started_ns + FP_WATCH_LATER;
    fp_proc_running(proc)->watch_ns = supervisor->late_watch_ns;
}

/* The loop starts it by itself, so it comes to look again before it sleeps. */
static bool is_started_by_loop(const fp_supervisor *supervisor, const fp_proc *proc) {
    return supervisor->has_thread && proc->batch && proc->pidfd >= 0;
}

/* Nobody follows them, and no clock or limit asks for what they say, so they may wait a moment. */
static bool may_attend_later(const fp_proc *proc) {
    const fp_flow *flow = proc->flow;

    for (int which = 0; which < 2; which++)
        if (fp_stream_is_followed(&flow->streams[which]))
            return false;
    return !flow->idle_timeout_ns && !flow->max_bytes;
}

static void watch_all(fp_supervisor *supervisor, fp_proc *proc) {
    bool later = may_watch_later(supervisor, proc);

    if (later) {
        watch_later(supervisor, proc);
    } else if (is_started_by_loop(supervisor, proc)) {
        fp_proc_look_at_young(supervisor, fp_now_ns());
        supervisor->young = fp_proc_ref(proc);
    } else {
        fp_proc_watch_exit(supervisor, proc, proc->started_ns);
    }
    if (!later || !proc->flow || !may_attend_later(proc)) {
        fp_proc_attend(supervisor, proc);
        return;
    }
    /* Mostly all of it fits into the pipe. */
    fp_proc_feed(supervisor, proc);
    fp_proc_watch_input(supervisor, proc);
}

/* ---- the birth ----------------------------------------------------------------- */

static int take_leaf(fp_supervisor *supervisor, fp_proc *proc, const fp_spec *spec, fp_failure *reterr_failure) {
    int which = -1;
    bool must = proc->needs_leaf || proc->containment == FP_CONTAIN_CGROUP;

    if (proc->containment == FP_CONTAIN_SESSION && !proc->needs_leaf)
        return 0;
    uint32_t freezes = atomic_load_explicit(&supervisor->crew->freezes, memory_order_acquire);
    if (freezes != supervisor->freezes_seen) {
        supervisor->freezes_seen = freezes;
        fp_leaves_drop_frozen(&supervisor->leaves);
    }
    int r = fp_leaf_take(&supervisor->leaves, spec, &proc->leaf, &which);
    if (r < 0 && must) {
        *reterr_failure = (fp_failure){.error = -r, .stage = FP_STAGE_CGROUP, .detail = which};
        return r;
    }
    return 0;
}

/* 1: it is under way, on `cradle`. */
static int make_birth(fp_supervisor *supervisor, fp_proc *proc, const fp_spec *spec, fp_birth_watch *watch,
                      fp_cradle *cradle, fp_birth *ret_birth, fp_failure *reterr_failure) {
    fp_birthplace place = {
        .slots = supervisor->slots,
        .cgroup_fd = fp_leaf_fd(proc->leaf),
        .born_pid = &watch->pid,
        .pipes = &watch->pipes,
    };
    /* One of a batch is started by the loop, and by nobody else. */
    if (proc->batch) {
        place.ignored = &supervisor->ignored;
        place.asked_ns = supervisor->asked_ns;
    }
    atomic_store(&watch->pid, 0);
    if (cradle && fp_birth_begin(spec, &place, cradle))
        return 1;
    /* Those under way would not run for anybody until this one does, and hold the slots that it needs. */
    if (proc->batch)
        fp_nursery_see_off(supervisor);
    return fp_birth_make(spec, &place, ret_birth, reterr_failure);
}

/* From here on our ends of the pipes are to be found with the process. */
static void take_pipes(fp_proc *proc, const fp_birth *birth, fp_pipes *pipes) {
    pthread_mutex_lock(&pipes->lock);
    fp_flow_attach(proc->flow, birth);
    for (int i = 0; i < 3; i++)
        pipes->ours[i] = -1;
    pthread_mutex_unlock(&pipes->lock);
}

static void adopt(fp_supervisor *supervisor, fp_proc *proc, const fp_spec *spec, const fp_birth *birth,
                  fp_pipes *pipes) {
    int64_t by_timeout = spec->timeout_ns > 0 ? fp_after(birth->started_ns, spec->timeout_ns) : FP_NEVER;
    int64_t by_deadline = spec->deadline_ns > 0 ? spec->deadline_ns : FP_NEVER;

    proc->pid = birth->pid;
    proc->pidfd = birth->pidfd;
    proc->started_ns = birth->started_ns;
    proc->containment = proc->leaf ? FP_CONTAIN_CGROUP : FP_CONTAIN_SESSION;
    proc->deadline_reason = FP_REASON_TIMEOUT;
    if (by_deadline < by_timeout && spec->deadline_reason)
        proc->deadline_reason = (uint8_t)spec->deadline_reason;
    if (proc->flow)
        take_pipes(proc, birth, pipes);
    fp_proc_tell(proc, FP_STATE_RUNNING, 0);
    *fp_proc_running(proc) = (fp_running){.deadline_ns = fp_earliest(by_timeout, by_deadline), .watch_ns = FP_NEVER};
    watch_all(supervisor, proc);
    fp_supervisor_set_timer(supervisor, proc, fp_proc_next_look(proc, birth->started_ns));
}

/* Somebody has asked for its end before it was born. If it has ended by itself since then, that counts. */
static void stop_as_asked(fp_supervisor *supervisor, fp_proc *proc, int64_t now) {
    uint8_t reason = proc->reason;

    proc->reason = FP_REASON_NONE;
    if (fp_proc_try_exit(supervisor, proc, now))
        fp_proc_turn(proc, now);
    /* What it has left behind is to end as well. */
    if (fp_proc_state(proc) == FP_STATE_DONE || proc->rung != FP_RUNG_NONE)
        return;
    fp_proc_ask_to_stop(proc, reason, now);
    fp_proc_turn(proc, now);
}

/* It has not been born. */
static void give_all_back(fp_supervisor *supervisor, fp_proc *proc) {
    fp_leaf_give(&supervisor->leaves, proc->leaf, false);
    proc->leaf = NULL;
    fp_supervisor_dismiss(supervisor, proc);
}

/* With the lock again. */
static int conclude(fp_supervisor *supervisor, fp_proc *proc, const fp_spec *spec, int result, const fp_birth *birth,
                    fp_birth_watch *watch) {
    if (result >= 0)
        adopt(supervisor, proc, spec, birth, &watch->pipes);
    /* Only now: between the two it would be nobody's child, see orphans.c. */
    fp_birth_ends(supervisor->crew, watch);
    if (result < 0)
        give_all_back(supervisor, proc);
    else if (proc->stop_early)
        stop_as_asked(supervisor, proc, fp_now_ns());
    return result < 0 ? result : 0;
}

int fp_proc_start(fp_supervisor *supervisor, fp_proc *proc, const fp_spec *spec, fp_unborn *unborn,
                  fp_failure *reterr_failure) {
    fp_birth birth;
    fp_birth_watch here = {.leaf_fd = -1, .pipes = FP_PIPES_NONE};
    fp_birth_watch *watch = unborn ? &unborn->watch : &here;
    fp_cradle *cradle = unborn ? unborn->cradle : NULL;

    *reterr_failure = (fp_failure){.error = ESHUTDOWN, .stage = FP_STAGE_SUPERVISOR, .detail = -1};
    if (supervisor->stopping)
        return -ESHUTDOWN;
    int r = fp_supervisor_admit(supervisor, proc);
    if (r < 0) {
        reterr_failure->error = -r;
        return r;
    }
    r = take_leaf(supervisor, proc, spec, reterr_failure);
    if (r < 0) {
        give_all_back(supervisor, proc);
        return r;
    }

    watch->leaf_fd = fp_leaf_fd(proc->leaf);
    pthread_mutex_unlock(&supervisor->lock);
    fp_birth_begins(supervisor->crew, watch);
    r = make_birth(supervisor, proc, spec, watch, cradle, &birth, reterr_failure);
    if (r < 0 && reterr_failure->stage == FP_STAGE_CGROUP && proc->containment == FP_CONTAIN_AUTO &&
        !proc->needs_leaf) {
        /* The leaf cannot be entered, now or ever: the session will do. */
        fp_birth_ends(supervisor->crew, watch);
        watch->leaf_fd = -1;
        fp_supervisor_lock(supervisor);
        fp_leaf_give(&supervisor->leaves, proc->leaf, false);
        proc->leaf = NULL;
        pthread_mutex_unlock(&supervisor->lock);
        fp_birth_begins(supervisor->crew, watch);
        r = make_birth(supervisor, proc, spec, watch, cradle, &birth, reterr_failure);
    }
    fp_supervisor_lock(supervisor);
    return r == 1 ? 1 : conclude(supervisor, proc, spec, r, &birth, watch);
}

int fp_proc_deliver(fp_supervisor *supervisor, fp_unborn *unborn, fp_failure *reterr_failure) {
    fp_birth birth;

    pthread_mutex_unlock(&supervisor->lock);
    int r = fp_birth_end(unborn->cradle, &birth, reterr_failure);
    fp_supervisor_lock(supervisor);
    return conclude(supervisor, unborn->proc, unborn->spec, r, &birth, &unborn->watch);
}

void fp_proc_fail(fp_proc *proc, const fp_failure *failure) {
    fp_spec_free_copy(fp_proc_queued(proc)->spec);
    fp_proc_tell(proc, FP_STATE_FAILED, 0);
    *fp_proc_failed(proc) = *failure;
    fp_mailbox_post(proc->mailbox, proc, FP_NEWS_FAILED);
}

int fp_spawn(fp_supervisor *supervisor, const fp_spec *spec, fp_proc **ret_proc, fp_failure *reterr_failure) {
    fp_failure failure = {.error = EINVAL, .stage = FP_STAGE_REQUEST, .detail = -1};
    fp_proc *proc = NULL;
    int r = -EINVAL;

    if (!supervisor || !spec || !ret_proc)
        goto out;
    if (fp_supervisor_is_copy(supervisor)) {
        failure = (fp_failure){.error = EOWNERDEAD, .stage = FP_STAGE_SUPERVISOR, .detail = -1};
        r = -EOWNERDEAD;
        goto out;
    }
    r = fp_spec_check(spec, &failure);
    if (r < 0)
        goto out;
    proc = fp_proc_new(spec);
    if (!proc) {
        failure = (fp_failure){.error = ENOMEM, .stage = FP_STAGE_REQUEST, .detail = -1};
        r = -ENOMEM;
        goto out;
    }
    atomic_store(&proc->supervisor, fp_supervisor_ref(supervisor));
    fp_supervisor_lock(supervisor);
    r = fp_proc_start(supervisor, proc, spec, NULL, &failure);
    pthread_mutex_unlock(&supervisor->lock);
out:
    if (r < 0) {
        if (proc)
            fp_proc_unref(proc);
        if (reterr_failure)
            *reterr_failure = failure;
        return r;
    }
    *ret_proc = proc;
    return 0;
}
