/*
 * internal.h: what the files of libfastproc promise one another; here that of
 * those that know supervisors, the rest in proc.h and host.h. Read the list as
 * the table of contents.
 *
 * Calls go down this list, but for a few: references are taken and given back
 * everywhere; turn.c tells a batch of an end, and nursery.c of a start; start.c
 * has others leave the nursery first; proc.c asks a batch for its lock, and
 * places.c how many it has queued; mailbox.c asks how those stand of whom it has
 * news; fork.c closes what slots.c and cradle.c have open; probe.c tries what
 * others do.
 *
 *     run.c            a program without a supervisor, run to its end; see solo.h
 *     solo.c           its start, its identity, its one reap, its signals
 *     kin.c            its descendants, found in /proc
 *     pile.c           what its captured streams have brought
 *     supervisor.c     supervisors and crews: made, ended, referenced
 *     loop.c           the loop of one thread, the only place where time passes
 *     ask.c            how a process stands; signals, stopping, who is left
 *     wait.c           threads that wait for a process
 *     follow.c         those who read what it says
 *     batch.c          queued starts, and who takes from them
 *     nursery.c        births of a batch, beside which the loop does not stand
 *     start.c          a process comes under its supervisor, and is watched
 *     births.c         births that hang, and the thread that watches for them
 *     turn.c           what is due for a process, and what follows from it
 *     ladder.c         a process on the stop ladder
 *     stop.c           the stop ladder, a transition table; pure
 *     places.c         what a supervisor keeps of each process: watches, times
 *     proc.c           the handle of a process: references, lock, state
 *     contain.c        the set that descendants are kept in: session or cgroup
 *     orphans.c        adopted orphans of our children
 *     reap.c           the one reap, and what an exit means
 *     output.c         captured streams, input, idle clocks
 *     timer.c          a heap of processes by the time they next need a look
 *     mailbox.c        news for one consumer
 *     cgroup.c         leaves of the cgroup v2 tree
 *     cgroup_tree.c    what lies below a cgroup
 *     cradle.c         births for which nobody stands still; see birth.h
 *     spawn.c          the parent's half of a birth, in order
 *     spawn_shared.c   the child is made in our memory
 *     spawn_fork.c     the child is made as a copy
 *     spawn_signals.c  signals meanwhile
 *     spawn_pipes.c    its pipes
 *     spawn_report.c   what has become of it
 *     dumpable.c       core dumps of ours, while children change their ids
 *     outcome.c        how a process has ended, as the kernel says it
 *     child.c          the child's half
 *     plan.c           from a spec to the plan that the child carries out
 *     spec.c           checks and copies a spec; the packed environment
 *     fdplan.c         orders descriptor moves; pure
 *     census.c         who is alive, read from /proc in slices
 *     slots.c          low descriptors kept in reserve
 *     moment.c         who has just been started is given a moment to end
 *     nap.c            how long the main thread sleeps at a time
 *     dispositions.c   which signals this process ignores; SIGCHLD while we sleep
 *     fork.c           is this a forked copy of the host? What it must not keep
 *     probe.c          what the kernel allows
 *     names.c          words
 *     sys.h            system calls, -errno
 *
 * Locks: one mutex a supervisor guards its processes, timers and leaves; one
 * a mailbox guards its list; one a crew its members and births; one a birth
 * its pipes. The supervisor's is taken first, and the crew's before that of a
 * birth. None is held while a child is being made. Only fork.c holds more than
 * one of a kind.
 */
#ifndef FASTPROC_INTERNAL_H
#define FASTPROC_INTERNAL_H

#include "proc.h"

#pragma GCC visibility push(hidden)

/* ---- fork.c: supervisors in forked copies of the host ------------------------------------------ */

/* Is the caller a forked copy of the process that made it? The lock of a copy may be held for ever, by a thread that
 * has not come along: it is not taken. */
bool fp_supervisor_is_copy(const fp_supervisor *supervisor);

/* From now on a forked copy of the host closes what this supervisor has open. */
void fp_fork_enlist(fp_supervisor *supervisor);
/* No more; without its lock. It need not be enlisted. */
void fp_fork_delist(fp_supervisor *supervisor);

/* ---- births.c: births that hang ------------------------------------------------ */

/* A birth under way, so that the watcher can see that it hangs. */
typedef struct fp_birth_watch {
    struct fp_birth_watch *next;
    struct fp_birth_watch *prev;
    int64_t since_ns;
    _Atomic pid_t pid;
    int leaf_fd; /* where it is born, or -1; good as long as the birth is in the list */
    fp_pipes pipes;
} fp_birth_watch;

/* Supervisors that know one another. */
typedef struct fp_crew {
    _Atomic uint32_t refs;
    pthread_mutex_t lock;
    fp_supervisor *members; /* through crew_next; borrowed */
    fp_birth_watch *births;
    int64_t last_birth_ns;
    pthread_t watcher;
    bool has_watcher;
    bool watching; /* it looks again by itself, soon */
    bool ended;    /* it is to go */
    _Atomic uint32_t watcher_calls; /* a futex: moves to wake it */
    _Atomic uint32_t freezes;       /* leaves that it had to thaw */
    bool locked_for_fork;
    fp_slots slots;
    bool has_slots;
    _Atomic bool adopts_orphans;
    fp_mailbox *orphan_mailbox; /* referenced, or NULL */
} fp_crew;

/* From here to its end the crew sees how long a birth takes. Without the lock of the supervisor at the beginning. */
void fp_birth_begins(fp_crew *crew, fp_birth_watch *birth);
void fp_birth_ends(fp_crew *crew, fp_birth_watch *birth);
/* The last supervisor goes, and the watcher with it. */
void fp_births_end(fp_crew *crew);

/* ---- supervisor.c: supervisors and crews ----------------------------------------- */

/* One of a batch whose birth is under way, see nursery.c. */
typedef struct fp_unborn {
    struct fp_unborn *next;
    fp_proc *proc; /* referenced */
    fp_spec *spec; /* a copy, owned */
    fp_birth_watch watch;
    fp_cradle *cradle; /* owned */
    bool ended;        /* it has, as its pidfd says */
} fp_unborn;

enum { FP_MOST_UNBORN = 4 };

/* Of the loop alone, but for a fork, which sees those that were entered with the lock held. */
typedef struct fp_nursery {
    fp_unborn *first; /* in the order of their starts */
    fp_unborn *empty;
    uint32_t made;
} fp_nursery;

typedef struct fp_place {
    fp_proc *proc;
    uint32_t uses; /* how often the place was given away */
    uint32_t next_free;
} fp_place;

/* A supervisor's part in a batch. */
typedef struct fp_share {
    struct fp_share *next;
    fp_batch *batch; /* referenced */
    uint32_t max_running;
    uint32_t running;
} fp_share;

struct fp_supervisor {
    _Atomic uint32_t refs;
    pid_t owner; /* the process that made it: a forked copy is inert */
    pthread_mutex_t lock;
    _Atomic uint32_t waiting; /* threads that sleep until they get the lock */
    _Atomic uint32_t served;  /* how often one of them has got it */
    int epoll_fd;
    int event_fd;
    int late_fd; /* a timer, readable when it is time to look at `late`; or -1 */
    bool has_thread;
    bool stopping;
    bool kicked;
    bool bears;  /* the loop is starting one of a batch */
    bool called; /* for one that is queued */
    int64_t wakes_ns; /* when the loop will look by itself */
    fp_mailbox *unheard; /* has news that nobody was woken for; referenced */
    int64_t tell_ns;     /* when somebody is to be */
    int64_t posted_ns; /* when there were last news of a batch */
    int64_t late_watch_ns; /* the last such time that a start has asked for */
    fp_proc *late;  /* the last start by another thread, not watched yet, see watch_later(); referenced, or NULL */
    fp_proc *young; /* the last start of a batch, not watched yet, see fp_proc_look_at_young(); referenced, or NULL */

    fp_place *places;
    uint32_t n_places; /* ever given away; there is room for more */
    uint32_t places_room;
    uint32_t first_free;
    uint32_t active;

    fp_timers timers;
    fp_share *shares;
    fp_leaves leaves;
    uint32_t freezes_seen; /* see fp_crew */
    fp_slots *slots; /* of the crew; NULL: there are none */
    fp_nursery nursery; /* of the loop alone, as are the next two */
    fp_ignored ignored;
    int64_t asked_ns;   /* when that was asked for which it has last taken from a batch, or later */
    fp_census census;
    bool census_wanted;
    fp_intake intake;

    fp_crew *crew;
    fp_supervisor *crew_next;
    fp_supervisor *fork_next; /* see fork.c */
    bool locked_for_fork;

    bool adopts_orphans;
    int64_t orphans_ns;
};

/* For `wakes_ns`: the loop turns. */
#define FP_AWAKE INT64_MIN

/* Take the lock as one who is not the loop: it is told when somebody has to wait, see give_way() in loop.c. */
static inline void fp_supervisor_lock(fp_supervisor *supervisor) {
    if (pthread_mutex_trylock(&supervisor->lock) == 0)
        return;
    atomic_fetch_add_explicit(&supervisor->waiting, 1, memory_order_relaxed);
    pthread_mutex_lock(&supervisor->lock);
    atomic_fetch_sub_explicit(&supervisor->waiting, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&supervisor->served, 1, memory_order_relaxed);
}

fp_supervisor *fp_supervisor_ref(fp_supervisor *supervisor);
void fp_supervisor_unref(fp_supervisor *supervisor);

/*
 * From here on all with the lock of the supervisor held.
 */

/* ---- places.c: what a supervisor keeps of each process ----------------------------- */

/*
 * What epoll tells us is a key, never a pointer: the place in the table, how often it was given away, and which kind of
 * descriptor it is.
 */
enum { FP_KIND_PIDFD, FP_KIND_OUT, FP_KIND_ERR, FP_KIND_IN };
/* The one key that means no process: somebody has kicked the loop. */
#define FP_KEY_KICK UINT64_MAX
/* And another: it is time to look at the last start by another thread. */
#define FP_KEY_LATE (UINT64_MAX - 1)
/* News of a batch are told after so long at the latest. */
#define FP_UNHEARD_FOR (5 * FP_NS_PER_MS)

/* Give `proc` a place, and make sure that its timer can be set. */
int fp_supervisor_admit(fp_supervisor *supervisor, fp_proc *proc);
void fp_supervisor_dismiss(fp_supervisor *supervisor, fp_proc *proc);
/* The process that a key means, or NULL if it has gone meanwhile. */
fp_proc *fp_supervisor_find(const fp_supervisor *supervisor, uint64_t key);
/* Watch a descriptor of `proc`; -errno if epoll has no room. */
int fp_supervisor_watch(fp_supervisor *supervisor, fp_proc *proc, int fd, int kind, uint32_t events);
void fp_supervisor_unwatch(fp_supervisor *supervisor, int fd);
/* Look at `proc` at `when_ns`. */
void fp_supervisor_set_timer(fp_supervisor *supervisor, fp_proc *proc, int64_t when_ns);
/* See that the loop turns soon. */
void fp_supervisor_kick(fp_supervisor *supervisor);
/* The same of all in a crew; for this no lock is needed, or only that of one. */
void fp_crew_rouse(fp_crew *crew);
/* Post news about `proc`, at once or, in a batch, soon. */
void fp_supervisor_post(fp_supervisor *supervisor, fp_proc *proc, uint32_t what);
/*
 * While starts are queued, those who wait for the ends are woken for many of
 * them at a time: each wake takes a CPU from the starts. See fp_mailbox_post_later().
 * What comes after a silence is told at once: who waits for slow ones does not wait longer.
 */
void fp_supervisor_tell_unheard(fp_supervisor *supervisor);

/* ---- ladder.c: a process on the stop ladder ------------------------------------------ */

/* The first wait before another look at who is left; the later ones grow. */
enum { FP_FIRST_GAP_US = 500 };

/* One step; fp_proc_turn() must follow, or the timer be set. */
void fp_proc_climb(fp_proc *proc, fp_stop_event event, int64_t now);
/* The first step, with the grace that it has, because of `reason`. */
void fp_proc_ask_to_stop(fp_proc *proc, int reason, int64_t now);

/* ---- turn.c: what is due for a process ------------------------------------------------- */

/* Its time has come, or something has happened: look at everything and set the next time. */
void fp_proc_turn(fp_proc *proc, int64_t now);
/* Collect the exit if it is there, and see to all that follows from it. True: it was, and fp_proc_turn() must follow. */
bool fp_proc_try_exit(fp_supervisor *supervisor, fp_proc *proc, int64_t now);
/* When the next turn is due by what is known now. */
int64_t fp_proc_next_look(fp_proc *proc, int64_t now);
/* No event will tell of its exit: look by ourselves, soon and then less often. */
void fp_proc_look_again(fp_proc *proc, int64_t now);
/* Hear of the exit by epoll, or, where there is no pidfd or no room, by looking. */
void fp_proc_watch_exit(fp_supervisor *supervisor, fp_proc *proc, int64_t now);
void fp_proc_unwatch_exit(fp_supervisor *supervisor, fp_proc *proc);
/* The same for a captured stream (0, 1), */
void fp_proc_watch_stream(fp_supervisor *supervisor, fp_proc *proc, int which);
/* and for the input: ready for writing is told at once if it is so already. */
void fp_proc_watch_input(fp_supervisor *supervisor, fp_proc *proc);
/* All of them, if they are unattended. */
void fp_proc_attend(fp_supervisor *supervisor, fp_proc *proc);
/* Write what its input takes, in any thread. */
void fp_proc_feed(fp_supervisor *supervisor, fp_proc *proc);
/* Its pidfd is readable. */
void fp_proc_on_exit_event(fp_proc *proc, int64_t now);
/* A captured stream (0, 1) or the input (2) is ready. */
void fp_proc_on_stream_event(fp_proc *proc, int which, int64_t now);
/* A census that `proc` waited for has been made. */
void fp_proc_on_census(fp_proc *proc, int64_t now);
/* Nobody lends the supervisor a thread: the waiter turns this process by itself, now and then. */
void fp_proc_drive(fp_supervisor *supervisor, fp_proc *proc);
/* In between. */
#define FP_UNDRIVEN_NAP (5 * FP_NS_PER_MS)

/* ---- start.c: a process comes under its supervisor --------------------------------------- */

/* So long after its start, at the latest, the exit of a process is watched for. */
#define FP_WATCH_LATER (5 * FP_NS_PER_MS)

/*
 * Bring it into the world and under `supervisor`, whose lock is let go meanwhile. With `unborn` it may be 1: the birth
 * is under way, and fp_proc_deliver() must follow; `spec` stays until then. NULL: it is over on return.
 */
int fp_proc_start(fp_supervisor *supervisor, fp_proc *proc, const fp_spec *spec, fp_unborn *unborn,
                  fp_failure *reterr_failure);
/* The rest of that, with the same answers but 1. Waits until the child has passed execve(2). */
int fp_proc_deliver(fp_supervisor *supervisor, fp_unborn *unborn, fp_failure *reterr_failure);
/* It will never start. */
void fp_proc_fail(fp_proc *proc, const fp_failure *failure);
/*
 * [supervisor thread] Most of a batch are short: by the time the next one runs the last one has ended, and was never
 * put under watch. Reap it, or watch for its exit from now on.
 */
void fp_proc_look_at_young(fp_supervisor *supervisor, int64_t now);
/* The same for the last one that another thread has started; its time has come. */
void fp_proc_look_at_late(fp_supervisor *supervisor, int64_t now);

/* ---- batch.c: queued starts ----------------------------------------------------------------- */

/* Without any lock: */
void fp_batch_unref(fp_batch *batch);
pthread_mutex_t *fp_batch_lock(fp_batch *batch);
/* How many of it wait for their turn. */
uint32_t fp_batch_queued(const fp_batch *batch);
/* As fp_supervisor_is_copy(). */
bool fp_batch_is_copy(const fp_batch *batch);

/* Start what may be started, a few at a time. True if there is more. */
bool fp_supervisor_run_queue(fp_supervisor *supervisor);
/* Does anybody wait for his turn? Then there is work here that nobody who is told has to ask for. */
bool fp_supervisor_has_queued(const fp_supervisor *supervisor);
/* Take part in nothing any more, for ever: what nobody else would start has failed. */
void fp_supervisor_drop_shares(fp_supervisor *supervisor);
/* A process of this batch is done: its place is free for the next. */
void fp_supervisor_batch_done(fp_supervisor *supervisor, fp_proc *proc);
/* Its start is over, and that is told. Takes `spec`. */
void fp_batch_started(fp_supervisor *supervisor, fp_proc *proc, fp_spec *spec, int result, const fp_failure *failure);

/* ---- nursery.c: births under way, [supervisor thread] ------------------------------------- */

/* An empty place, or NULL; to be entered or given back. */
fp_unborn *fp_nursery_room(fp_nursery *nursery);
void fp_nursery_give(fp_nursery *nursery, fp_unborn *unborn);
/* fp_proc_start() has said 1. Takes `spec`. */
void fp_nursery_enter(fp_nursery *nursery, fp_unborn *unborn, fp_proc *proc, fp_spec *spec);
/* Those that have left their cradle run, or have failed. `all`: wait for that. The lock is let go meanwhile. */
void fp_nursery_deliver(fp_supervisor *supervisor, bool all);
/* Before the loop stands beside another birth, for who knows how long: let those leave that can. Without the lock. */
void fp_nursery_see_off(fp_supervisor *supervisor);
/* When to look whether somebody has left; FP_NEVER: nobody is there. */
int64_t fp_nursery_next_look(const fp_nursery *nursery, int64_t now);
/* The birth that somebody waits for, and until when to stand beside it; or NULL. */
fp_unborn *fp_nursery_urgent(const fp_nursery *nursery, int64_t now, int64_t *ret_until_ns);
/* Without the lock; none is under way. */
void fp_nursery_done(fp_nursery *nursery);

/* ---- wait.c: threads that wait ----------------------------------------------------------------- */

/* Its supervisor has no thread any more: who waits has to look for himself. */
void fp_proc_rouse(fp_proc *proc);

#pragma GCC visibility pop
#endif
