/*
 * turn.c: what is due for one process, and what follows from what happens to it.
 *
 * fp_proc_turn() is the one place that decides what comes next: it looks at
 * what is due, acts, and sets the next time to look. Whoever changes anything
 * about a process runs it afterwards, under the same lock. It may be the last
 * of the process: `proc` is gone then, unless the caller has a reference.
 *
 * fp_proc_try_exit() alone calls the reap: what a child has left in its pipes
 * is taken before anybody hears of the end.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "internal.h"
#include "sys.h"

#define UNWATCHED_GAP (20 * FP_NS_PER_MS)
enum {
    MOST_EXIT_GAP_US = 20000,   /* without a pidfd: how late an exit may be noticed */
    MOST_EMPTY_GAP_US = 50000,  /* while a ladder is climbed */
    MOST_KEPT_GAP_US = 1000000, /* leftovers that are kept */
    LAST_PUMP_BYTES = 4 << 20,  /* what an exiting child may have left in its pipes */
    LOST_GAP_US = 2000,
    PUMPS_AT_ONCE = 64,
};

static fp_supervisor *supervisor_of(const fp_proc *proc) {
    return atomic_load_explicit(&proc->supervisor, memory_order_relaxed);
}

/* ---- watches ------------------------------------------------------------------- */

void fp_proc_unwatch_exit(fp_supervisor *supervisor, fp_proc *proc) {
    if (proc->in_epoll)
        fp_supervisor_unwatch(supervisor, proc->pidfd);
    proc->in_epoll = false;
}

static void unwatch_stream(fp_supervisor *supervisor, fp_stream *stream) {
    if (stream->in_epoll && stream->fd >= 0)
        fp_supervisor_unwatch(supervisor, stream->fd);
    stream->in_epoll = false;
}

void fp_proc_watch_stream(fp_supervisor *supervisor, fp_proc *proc, int which) {
    fp_stream *stream = &proc->flow->streams[which];
    if (stream->fd < 0 || stream->in_epoll)
        return;
    stream->in_epoll = fp_supervisor_watch(supervisor, proc, stream->fd, FP_KIND_OUT + which, EPOLLIN) == 0;
    if (!stream->in_epoll && fp_timers_when(&supervisor->timers, proc) > fp_now_ns() + UNWATCHED_GAP)
        fp_supervisor_set_timer(supervisor, proc, fp_now_ns() + UNWATCHED_GAP);
}

void fp_proc_watch_input(fp_supervisor *supervisor, fp_proc *proc) {
    fp_flow *flow = proc->flow;
    if (flow->in_fd >= 0 && !flow->in_epoll)
        flow->in_epoll = fp_supervisor_watch(supervisor, proc, flow->in_fd, FP_KIND_IN, EPOLLOUT) == 0;
}

void fp_proc_attend(fp_supervisor *supervisor, fp_proc *proc) {
    if (!proc->flow || !proc->flow->unattended)
        return;
    proc->flow->unattended = false;
    for (int which = 0; which < 2; which++)
        fp_proc_watch_stream(supervisor, proc, which);
    fp_proc_watch_input(supervisor, proc);
}

static void unwatch_input(fp_supervisor *supervisor, fp_flow *flow) {
    if (flow->in_epoll && flow->in_fd >= 0)
        fp_supervisor_unwatch(supervisor, flow->in_fd);
    flow->in_epoll = false;
}

static void unwatch_flow(fp_supervisor *supervisor, fp_proc *proc) {
    if (!proc->flow)
        return;
    for (int i = 0; i < 2; i++)
        unwatch_stream(supervisor, &proc->flow->streams[i]);
    unwatch_input(supervisor, proc->flow);
}

/* ---- pipes --------------------------------------------------------------------- */

/* Read once, and see to what follows from it. False when there is no more for now. */
static bool pump(fp_supervisor *supervisor, fp_proc *proc, int which, int64_t now) {
    fp_flow *flow = proc->flow;
    fp_stream *stream = &flow->streams[which];

    if (stream->fd < 0)
        return false;
    int64_t n = fp_stream_pump(flow, stream, &supervisor->intake, now);
    bool ended = n <= 0 && n != -EAGAIN;
    if (ended || stream->paused)
        unwatch_stream(supervisor, stream);
    if (ended)
        fp_stream_close(flow, stream, n == 0);
    return n > 0;
}

static void feed(fp_supervisor *supervisor, fp_proc *proc) {
    if (!fp_flow_feed(proc->flow))
        return;
    unwatch_input(supervisor, proc->flow);
    fp_flow_close_input(proc->flow);
}

/* The same in any thread: those of the host do not block SIGPIPE, and must not hear of ours. */
void fp_proc_feed(fp_supervisor *supervisor, fp_proc *proc) {
    const fp_sigset broken_pipe = UINT64_C(1) << (SIGPIPE - 1);
    fp_sigset old;

    if (proc->flow->in_fd < 0)
        return;
    sys_rt_sigprocmask(SIG_BLOCK, &broken_pipe, &old);
    feed(supervisor, proc);
    if (!(old & broken_pipe))
        sys_rt_sigtimedwait(&broken_pipe);
    sys_rt_sigprocmask(SIG_SETMASK, &old, NULL);
}

/* A captured stream has brought something, or has ended. */
static void tell_followers(fp_proc *proc) {
    const fp_flow *flow = proc->flow;
    if (flow->streams[0].followed || flow->streams[1].followed)
        fp_mailbox_post(proc->mailbox, proc, FP_NEWS_OUTPUT);
}

static void enforce_output_limit(fp_proc *proc, int64_t now) {
    if (proc->stop_at_max_output && fp_flow_over_limit(proc->flow) && proc->rung == FP_RUNG_NONE)
        fp_proc_ask_to_stop(proc, FP_REASON_OUTPUT_LIMIT, now);
}

/* ---- when to look again -------------------------------------------------------- */

static void widen_gap(fp_proc *proc, int64_t now, int32_t most_us) {
    if (proc->check_gap_us < FP_FIRST_GAP_US)
        proc->check_gap_us = FP_FIRST_GAP_US;
    proc->check_ns = now + proc->check_gap_us * INT64_C(1000);
    proc->check_gap_us += proc->check_gap_us / 2;
    if (proc->check_gap_us > most_us)
        proc->check_gap_us = most_us;
}

void fp_proc_look_again(fp_proc *proc, int64_t now) {
    proc->by_polling = true;
    widen_gap(proc, now, proc->lost ? LOST_GAP_US : MOST_EXIT_GAP_US);
}

static bool is_unwatched(const fp_flow *flow) {
    if (flow->unattended)
        return false;
    for (int which = 0; which < 2; which++)
        if (flow->streams[which].fd >= 0 && !flow->streams[which].in_epoll && !flow->streams[which].paused)
            return true;
    return flow->in_fd >= 0 && !flow->in_epoll;
}

int64_t fp_proc_next_look(fp_proc *proc, int64_t now) {
    int64_t when = proc->step_ns;

    if (proc->census_ns)
        when = fp_earliest(when, proc->census_ns);
    if (proc->flow && is_unwatched(proc->flow))
        when = fp_earliest(when, now + UNWATCHED_GAP);
    if (fp_proc_state(proc) == FP_STATE_RUNNING) {
        const fp_running *running = fp_proc_running(proc);
        when = fp_earliest(when, fp_earliest(running->deadline_ns, running->watch_ns));
        if (proc->by_polling)
            when = fp_earliest(when, proc->check_ns);
        if (proc->flow && fp_flow_open(proc->flow) && proc->rung == FP_RUNG_NONE)
            when = fp_earliest(when, fp_flow_idle_at(proc->flow, now));
    } else {
        when = fp_earliest(when, proc->check_ns);
        if (proc->flow && fp_flow_open(proc->flow))
            when = fp_earliest(when, fp_flow_drain_until(proc->flow, now, proc->hurry));
    }
    return when;
}

void fp_proc_watch_exit(fp_supervisor *supervisor, fp_proc *proc, int64_t now) {
    int r = proc->pidfd < 0 ? -EBADF : fp_supervisor_watch(supervisor, proc, proc->pidfd, FP_KIND_PIDFD, EPOLLIN);
    proc->in_epoll = r == 0;
    if (r == 0)
        return;
    fp_proc_look_again(proc, now);
    fp_supervisor_set_timer(supervisor, proc, fp_proc_next_look(proc, now));
}

/* ---- the end ------------------------------------------------------------------- */

/* Nothing of it is left. The table's reference goes: `proc` may be gone with it, unless the caller has his own. */
static void finish(fp_supervisor *supervisor, fp_proc *proc) {
    fp_proc_bury(proc);
    fp_proc_unwatch_exit(supervisor, proc);
    unwatch_flow(supervisor, proc);
    if (proc->flow)
        fp_flow_end(proc->flow);
    fp_contain_forget(proc);
    if (fp_adopts_orphans(supervisor))
        fp_leaf_retire(&supervisor->leaves, proc->leaf, proc->mailbox);
    else
        fp_leaf_give(&supervisor->leaves, proc->leaf, proc->proof == FP_PROOF_CGROUP);
    proc->leaf = NULL;
    /* Somebody may be about to poll it: closed under his hands the number could be another's by then. */
    if (!proc->claimed)
        fp_proc_close_pidfd(proc);
    fp_supervisor_set_timer(supervisor, proc, FP_NEVER);
    fp_proc_tell(proc, FP_STATE_DONE, 0);
    fp_supervisor_post(supervisor, proc, proc->news | FP_NEWS_DONE);
    proc->news = 0;
    fp_supervisor_batch_done(supervisor, proc);
    fp_supervisor_dismiss(supervisor, proc);
}

/* It has exited: is it over? True if it was, and `proc` may be gone. */
static bool settle(fp_supervisor *supervisor, fp_proc *proc, int64_t now) {
    fp_flow *flow = proc->flow;

    if (!proc->empty && now >= proc->check_ns) {
        bool again = proc->check_gap_us > FP_FIRST_GAP_US;
        proc->empty = fp_contain_empty(proc, now);
        /* While a ladder is climbed "not empty" may mean "not known yet", or that the last are just dying. */
        if (!proc->empty && (proc->rung == FP_RUNG_NONE || (proc->leaf && again)))
            proc->flags |= FP_EXIT_LEFTOVERS;
        if (!proc->empty)
            widen_gap(proc, now,
                      proc->keep_leftovers && proc->rung == FP_RUNG_NONE ? MOST_KEPT_GAP_US : MOST_EMPTY_GAP_US);
    }
    if (!proc->empty) {
        if (proc->rung == FP_RUNG_NONE && !proc->keep_leftovers)
            fp_proc_climb(proc, proc->grace_ns < 0 ? FP_STOP_NOW : FP_STOP_ASK, now);
        if (now >= proc->step_ns)
            fp_proc_climb(proc, FP_STOP_TIME, now);
    } else {
        fp_proc_climb(proc, FP_STOP_CLEARED, now);
        proc->check_ns = FP_NEVER;
    }
    if (flow && fp_flow_open(flow)) {
        bool over = fp_flow_drain_until(flow, now, proc->hurry) <= now;
        if (over) {
            unwatch_flow(supervisor, proc);
            fp_flow_end(flow);
            tell_followers(proc);
        }
    }
    if (!proc->empty || (flow && fp_flow_open(flow)))
        return false;
    finish(supervisor, proc);
    return true;
}

/* What a process has besides while it runs gives way to what is known of its end. */
static void note_end(fp_proc *proc, const fp_usage *usage, int64_t now) {
    bool known = !(proc->flags & FP_EXIT_FOREIGN);
    fp_usage *kept = known ? malloc(sizeof *kept) : NULL;

    if (kept)
        *kept = *usage;
    *fp_proc_ended(proc) = (fp_ended){.usage = kept, .ended_ns = now};
    if (known && !kept)
        proc->flags |= FP_EXIT_USAGE_LOST;
}

bool fp_proc_try_exit(fp_supervisor *supervisor, fp_proc *proc, int64_t now) {
    fp_usage usage;

    if (!fp_proc_reap(proc, &usage))
        return false;
    fp_proc_unwatch_exit(supervisor, proc);
    proc->end_reason = fp_proc_why_it_ended(proc, &usage);
    if (proc->flow) {
        /* What the child has written is in the pipes: take it before anybody hears of the end. */
        for (int which = 0; which < 2; which++) {
            uint64_t most = proc->flow->streams[which].total + LAST_PUMP_BYTES;
            while (proc->flow->streams[which].total < most && pump(supervisor, proc, which, now))
                ;
        }
        /* Somebody else holds them. */
        fp_proc_attend(supervisor, proc);
        fp_flow_begin_drain(proc->flow, now);
    }
    proc->check_ns = now;
    proc->check_gap_us = FP_FIRST_GAP_US;
    /* Told by fp_proc_turn(), which every caller runs next: mostly it is the end of all, and one piece of news. */
    atomic_fetch_add_explicit(&proc->word, FP_STATE_EXITED - FP_STATE_RUNNING, memory_order_acq_rel);
    note_end(proc, &usage, now);
    proc->news = FP_NEWS_EXITED;
    return true;
}

/* ---- the turn ------------------------------------------------------------------ */

/* Which limit of time a running process has passed; FP_REASON_NONE: none. */
static int what_is_overdue(fp_proc *proc, int64_t now) {
    if (now >= fp_proc_running(proc)->deadline_ns)
        return proc->deadline_reason;
    if (proc->rung == FP_RUNG_NONE && proc->flow && fp_flow_open(proc->flow) && now >= fp_flow_idle_at(proc->flow, now))
        return FP_REASON_IDLE_TIMEOUT;
    return FP_REASON_NONE;
}

/* epoll had no room for a stream (its limit is a user's, see epoll(7)): look by ourselves, and try again. */
static void look_after_unwatched(fp_supervisor *supervisor, fp_proc *proc, int64_t now) {
    fp_flow *flow = proc->flow;

    if (!flow || !supervisor->has_thread || !is_unwatched(flow))
        return;
    for (int which = 0; which < 2; which++) {
        fp_stream *stream = &flow->streams[which];
        if (stream->in_epoll)
            continue;
        for (int i = 0; i < PUMPS_AT_ONCE && pump(supervisor, proc, which, now); i++)
            ;
        if (!stream->paused)
            fp_proc_watch_stream(supervisor, proc, which);
    }
    tell_followers(proc);
    if (!flow->in_epoll) {
        fp_proc_feed(supervisor, proc);
        fp_proc_watch_input(supervisor, proc);
    }
    enforce_output_limit(proc, now);
}

void fp_proc_turn(fp_proc *proc, int64_t now) {
    fp_supervisor *supervisor = supervisor_of(proc);
    int state = fp_proc_state(proc);

    look_after_unwatched(supervisor, proc, now);
    if (state == FP_STATE_RUNNING && proc->by_polling && now >= proc->check_ns) {
        if (!fp_proc_try_exit(supervisor, proc, now))
            fp_proc_look_again(proc, now);
    }
    /* Its time is up: unless it has ended meanwhile, and only the news of it are still to come. */
    int overdue = fp_proc_state(proc) == FP_STATE_RUNNING ? what_is_overdue(proc, now) : FP_REASON_NONE;
    if (overdue && !fp_proc_try_exit(supervisor, proc, now)) {
        fp_proc_running(proc)->deadline_ns = FP_NEVER;
        fp_proc_ask_to_stop(proc, overdue, now);
    }
    if (fp_proc_state(proc) == FP_STATE_RUNNING && now >= proc->step_ns)
        fp_proc_climb(proc, FP_STOP_TIME, now);
    if (fp_proc_state(proc) == FP_STATE_RUNNING && now >= fp_proc_running(proc)->watch_ns) {
        fp_proc_running(proc)->watch_ns = FP_NEVER;
        if (!proc->claimed && !proc->in_epoll && !proc->by_polling)
            fp_proc_watch_exit(supervisor, proc, now);
        if (!proc->claimed)
            fp_proc_attend(supervisor, proc);
    }
    if (fp_proc_state(proc) == FP_STATE_EXITED) {
        if (settle(supervisor, proc, now))
            return;
        if (proc->news) {
            fp_proc_tell(proc, FP_STATE_EXITED, 0);
            fp_supervisor_post(supervisor, proc, proc->news);
            proc->news = 0;
        }
    }
    if (proc->census_ns && now >= proc->census_ns)
        supervisor->census_wanted = true;
    int64_t when = fp_proc_next_look(proc, now);
    /* A census is under way: it calls us back, the clock need not. */
    if (proc->census_ns && proc->census_ns <= now && when == proc->census_ns)
        when = now + 20 * FP_NS_PER_MS;
    fp_supervisor_set_timer(supervisor, proc, when);
}

void fp_proc_on_census(fp_proc *proc, int64_t now) {
    fp_supervisor *supervisor = supervisor_of(proc);

    if (!proc->census_ns || supervisor->census.counted_ns < proc->census_ns)
        return;
    proc->census_ns = 0;
    if (fp_contain_count(proc, &supervisor->census) > 0) {
        proc->flags |= FP_EXIT_LEFTOVERS;
    } else if (fp_can(FP_CAP_PROCFS)) {
        proc->swept = true;
        proc->proof = FP_PROOF_SESSION;
        proc->check_ns = now;
    }
    fp_proc_turn(proc, now);
}

void fp_proc_on_exit_event(fp_proc *proc, int64_t now) {
    fp_supervisor *supervisor = supervisor_of(proc);

    if (fp_proc_state(proc) != FP_STATE_RUNNING || proc->claimed)
        return;
    if (!fp_proc_try_exit(supervisor, proc, now)) {
        /* Readable, but not to be waited for: a tracer holds it back, or the status is still to come. Do not spin. */
        fp_proc_unwatch_exit(supervisor, proc);
        fp_proc_look_again(proc, now);
    }
    fp_proc_turn(proc, now);
}

void fp_proc_on_stream_event(fp_proc *proc, int which, int64_t now) {
    fp_supervisor *supervisor = supervisor_of(proc);

    if (!proc->flow)
        return;
    if (which == 2) {
        feed(supervisor, proc);
        return;
    }
    bool was_open = fp_flow_open(proc->flow);
    pump(supervisor, proc, which, now);
    fp_mailbox_post(fp_stream_is_followed(&proc->flow->streams[which]) ? proc->mailbox : NULL, proc, FP_NEWS_OUTPUT);
    enforce_output_limit(proc, now);
    /* The idle clock and the drain are looked at when their time comes; only an end cannot wait. */
    if ((was_open && !fp_flow_open(proc->flow)) || proc->rung != FP_RUNG_NONE)
        fp_proc_turn(proc, now);
}

void fp_proc_drive(fp_supervisor *supervisor, fp_proc *proc) {
    int64_t now = fp_now_ns();
    proc->by_polling = true;
    proc->check_ns = now;
    if (proc->flow) {
        for (int which = 0; which < 2; which++)
            for (int i = 0; i < PUMPS_AT_ONCE && pump(supervisor, proc, which, now); i++)
                ;
        fp_proc_feed(supervisor, proc);
        if (fp_proc_state(proc) == FP_STATE_RUNNING)
            enforce_output_limit(proc, now);
    }
    fp_proc_turn(proc, now);
    bool wanted = proc->census_ns && now >= proc->census_ns && fp_proc_state(proc) != FP_STATE_DONE;
    if (wanted && fp_census_count_all(&supervisor->census))
        fp_proc_on_census(proc, now);
}
