/*
 * proc.h: one process, and what is kept of it: its times, its place on the stop
 * ladder, its news, its leaf, its streams, its end.
 */
#ifndef FASTPROC_PROC_H
#define FASTPROC_PROC_H

#include "host.h"

#pragma GCC visibility push(hidden)

/* ---- timer.c: when each process next needs a look ------------------------ */

typedef struct fp_timer {
    int64_t when_ns;
    fp_proc *proc;
} fp_timer;

typedef struct fp_timers {
    fp_timer *heap;
    uint32_t count;
    uint32_t capacity;
} fp_timers;

/* Make room for `count` timers, so that setting one cannot fail. */
int fp_timers_reserve(fp_timers *timers, uint32_t count);
void fp_timers_done(fp_timers *timers);
/* Look at `proc` at `when_ns`, instead of what was set before; FP_NEVER clears. */
void fp_timers_set(fp_timers *timers, fp_proc *proc, int64_t when_ns);
/* When `proc` is to be looked at; FP_NEVER: nothing is set. */
int64_t fp_timers_when(const fp_timers *timers, const fp_proc *proc);
/* The one whose time comes first; NULL and FP_NEVER: there is none. */
fp_timer fp_timers_first(const fp_timers *timers);

/* ---- stop.c: the stop ladder -------------------------------------------- */

typedef enum fp_rung {
    FP_RUNG_NONE = 0,  /* nobody asked */
    FP_RUNG_ASKED,     /* the stop signal has been sent */
    FP_RUNG_KILLED,    /* SIGKILL has been sent */
    FP_RUNG_GIVEN_UP,  /* reported unkillable, looked after now and then */
    FP_RUNG_EMPTY,     /* nothing is left to stop */
    FP_RUNG_COUNT
} fp_rung;

typedef enum fp_stop_event {
    FP_STOP_ASK = 0, /* stop, with a grace */
    FP_STOP_NOW,     /* stop, without */
    FP_STOP_TIME,    /* the time of the present rung is over */
    FP_STOP_CLEARED, /* the containment is empty */
    FP_STOP_EVENT_COUNT
} fp_stop_event;

typedef enum fp_stop_action {
    FP_DO_NOTHING = 0,
    FP_DO_ASK,      /* send the stop signal and SIGCONT, start the grace */
    FP_DO_KILL,     /* send SIGKILL, start the kill time-out */
    FP_DO_REPORT,   /* tell that it cannot be killed */
    FP_DO_KILL_AGAIN,
    FP_DO_FINISH    /* tell that nothing is left */
} fp_stop_action;

/* One step: moves `*rung` and says what to do. */
fp_stop_action fp_stop_step(fp_rung *rung, fp_stop_event event);

/* ---- mailbox.c ----------------------------------------------------------- */

fp_mailbox *fp_mailbox_ref(fp_mailbox *mailbox);
/* One reference less, that of a process for one; frees with the last. */
void fp_mailbox_unref(fp_mailbox *mailbox);
/* Does anybody want to hear of news at once? */
bool fp_mailbox_is_listened_to(fp_mailbox *mailbox);
/* Add `what` to the news about `proc`, under the lock of its supervisor. */
void fp_mailbox_post(fp_mailbox *mailbox, fp_proc *proc, uint32_t what);
/*
 * The same, waking nobody until fp_mailbox_flush(); false if so much has piled up that somebody should be: post it.
 * `queued` starts keep the crew busy meanwhile.
 */
bool fp_mailbox_post_later(fp_mailbox *mailbox, fp_proc *proc, uint32_t what, uint32_t queued, int64_t now);
/* When such news have to be told, whoever has posted them; FP_NEVER: there are none. */
int64_t fp_mailbox_tell_at(fp_mailbox *mailbox);
void fp_mailbox_flush(fp_mailbox *mailbox);
/* Add `what` to whatever is posted next: it is not worth waking anybody. */
void fp_mailbox_note(fp_mailbox *mailbox, fp_proc *proc, uint32_t what);
/* News about an orphan; lost only when memory is. False: nobody reads that mailbox any more. */
bool fp_mailbox_post_orphan(fp_mailbox *mailbox, const fp_exit *exit);
/* Where orphans of processes that name `mailbox` are told of; borrowed from it; NULL: it has not been said. */
fp_mailbox *fp_mailbox_of_orphans(fp_mailbox *mailbox);

/* ---- cgroup.c: leaves ----------------------------------------------------- */

/* Can leaves be made at all? Found out by trying, once. For probe.c. */
bool fp_cgroup_available(void);

typedef struct fp_leaf fp_leaf;

enum { FP_PAST_LEAVES = 64 };

typedef struct fp_leaves {
    int dir_fd;         /* this supervisor's own directory, or -1 */
    fp_leaf *idle;      /* empty, never killed: may serve again */
    fp_leaf *doomed;    /* to be removed once the kernel lets us */
    uint32_t n_idle;
    uint64_t next_name;
    char path[256];
    /* Whose the latest leaves were that went out of use: their dead may still wait to be reaped. */
    struct {
        uint64_t name;
        fp_mailbox *mailbox; /* referenced, or NULL */
    } past[FP_PAST_LEAVES];
    uint32_t next_past;
} fp_leaves;

/* Make a directory for leaves below `parent` (NULL: found by itself; "": none). Never fails: leaves are then not to be had. */
void fp_leaves_init(fp_leaves *leaves, const char *parent);
/* Remove all that can be removed. */
void fp_leaves_done(fp_leaves *leaves);
/* An empty leaf with the limits of `spec`. -EOPNOTSUPP: none can be had. On failure *reterr_which says whose
 * controller is missing: 0 memory, 1 pids, 2 cpu, -1 none. */
int fp_leaf_take(fp_leaves *leaves, const fp_spec *spec, fp_leaf **ret_leaf, int *reterr_which);
/* The only one that `leaves` will ever have, without limits: its directory itself, so that there is one less. */
int fp_leaf_take_alone(fp_leaves *leaves, fp_leaf **ret_leaf);
/* Give a leaf back; it is kept for the next job if it is empty (`empty`: that is known) and was never killed. */
void fp_leaf_give(fp_leaves *leaves, fp_leaf *leaf, bool empty);
/* The same, but it serves nobody any more: who died in it is known to be of a process that told its news to `mailbox`. */
void fp_leaf_retire(fp_leaves *leaves, fp_leaf *leaf, fp_mailbox *mailbox);
/* Let go of a leaf that somebody may still live in; its directory stays for whoever comes next. */
void fp_leaf_drop(fp_leaf *leaf);
/* Try again to remove doomed leaves. Returns how many are left. */
uint32_t fp_leaves_sweep(fp_leaves *leaves);
int fp_leaf_fd(const fp_leaf *leaf);
/* 1 somebody is in it, 0 nobody, -errno. */
int fp_leaf_populated(fp_leaf *leaf);
/* Let go on what somebody has frozen, in the leaf with this descriptor. True: it was. */
bool fp_leaf_thaw(int leaf_fd);
/* Frozen leaves serve nobody any more: look through those that are kept. */
void fp_leaves_drop_frozen(fp_leaves *leaves);
/* Kill all that is in it, at once where the kernel can. */
int fp_leaf_kill(fp_leaf *leaf);
/* Up to `n` pids that are in it. */
int fp_leaf_members(fp_leaf *leaf, pid_t *ret_pids, int n);
/* How often the OOM killer struck in it. */
uint64_t fp_leaf_oom_kills(fp_leaf *leaf);
/* Is process `pid` in a leaf below `leaves`? In which: see fp_leaf_name(); removed ones included. */
bool fp_leaves_hold(const fp_leaves *leaves, pid_t pid, uint64_t *ret_name);
uint64_t fp_leaf_name(const fp_leaf *leaf);
/* Whose it was, see fp_leaf_retire(). */
fp_mailbox *fp_leaves_past(const fp_leaves *leaves, uint64_t name);

/* ---- cgroup_tree.c: what lies below a cgroup -------------------------------- */

/* Those who live in it, and in what programs have made below it; how many, `most` at most, or -errno. */
int fp_cgroup_members(int cgroup_fd, pid_t *ret_pids, int most);
/* Remove it, with all below it if nobody lives there. As rmdir(2). */
int fp_cgroup_remove(int dir_fd, const char *name);

/* ---- output.c: captured streams ------------------------------------------- */

/* One who follows a stream, in the list of all who do. */
struct fp_reader {
    fp_reader *next;
    fp_proc *proc; /* referenced */
    int stream;
    uint64_t offset;  /* of the next byte he reads */
    uint64_t read_to; /* nothing behind is lost; ahead of `offset` when he begins late */
};

typedef struct fp_stream {
    int fd; /* our end, -1: closed */
    bool captured;
    bool complete; /* it ended by end of file */
    bool followed; /* lose nothing behind `read_to` */
    bool awaited;  /* followed since birth, for the first reader */
    bool paused;   /* not read until the followers have caught up */
    bool in_epoll;
    bool enlarged;
    bool unskippable; /* splice(2) has refused once */
    uint64_t total;
    uint64_t read_to;
    fp_reader *readers;
    uint64_t owed_to; /* up to here the child itself had written when it ended; only if followed */
    uint8_t *head;
    size_t head_bytes;
    size_t head_room;
    size_t head_max;
    uint8_t *tail; /* a ring */
    size_t tail_at;
    size_t tail_bytes;
    size_t tail_max;
} fp_stream;

typedef struct fp_flow {
    fp_stream streams[2]; /* standard output, standard error */
    int in_fd;
    bool in_epoll;
    bool unattended; /* nobody watches them yet, see start.c */
    uint8_t *input;
    size_t input_bytes;
    size_t input_at;
    uint64_t max_bytes;
    int64_t idle_timeout_ns;
    int64_t last_byte_ns;
    int64_t drain_from_ns;
    _Atomic uint32_t sequence; /* a futex: moves with every change */
    uint32_t readers;
} fp_flow;

/* Make room for the streams of `spec`; NULL in *ret_flow if it has none. */
int fp_flow_new(const fp_spec *spec, fp_flow **ret_flow);
/* Our ends of the pipes, which are taken. */
void fp_flow_attach(fp_flow *flow, const fp_birth *birth);
fp_flow *fp_flow_free(fp_flow *flow);
/* What reading lends to all streams. */
typedef struct fp_intake {
    uint8_t *scratch;
    size_t scratch_bytes;
    int null_fd; /* where bytes go that nobody will see; -1: they are read like the others */
} fp_intake;

int fp_intake_init(fp_intake *intake, int null_fd);
/* Read once. Bytes taken, 0 at the end, -EAGAIN when there is nothing, or the follower lags (paused); else -errno. */
int64_t fp_stream_pump(fp_flow *flow, fp_stream *stream, const fp_intake *intake, int64_t now);
void fp_stream_close(fp_flow *flow, fp_stream *stream, bool complete);
/* Does anybody want to lose nothing of it? */
bool fp_stream_is_followed(const fp_stream *stream);
/* From now on somebody does: what he has not read yet must be somewhere. */
void fp_stream_make_room(fp_stream *stream);
bool fp_flow_over_limit(const fp_flow *flow);
/* The follower has caught up: reading goes on, and the idle clock begins anew. */
void fp_stream_resume(fp_flow *flow, fp_stream *stream, int64_t now);
/* Write some input; true when that is over. Only in a thread that blocks SIGPIPE. */
bool fp_flow_feed(fp_flow *flow);
void fp_flow_close_input(fp_flow *flow);
/* Is a captured stream still open? */
bool fp_flow_open(const fp_flow *flow);
/* When it will have been silent for too long. */
int64_t fp_flow_idle_at(const fp_flow *flow, int64_t now);
/* The child has exited: from now on the drain rules count. */
void fp_flow_begin_drain(fp_flow *flow, int64_t now);
/* When the drain is over, `now` or earlier: it is. `hurry`: somebody wants an end, do not wait for followers. */
int64_t fp_flow_drain_until(const fp_flow *flow, int64_t now, bool hurry);
/* Close what is open. */
void fp_flow_end(fp_flow *flow);
void fp_stream_describe(const fp_stream *stream, fp_output *ret_output);
/* Copy from `offset` on, or from the oldest byte kept; *ret_from says from where. */
size_t fp_stream_copy(const fp_stream *stream, uint64_t offset, uint64_t *ret_from, uint8_t *buffer, size_t n);
size_t fp_stream_copy_all(const fp_stream *stream, uint8_t *buffer, size_t n);

/* ---- proc.c: the handle of one process ---------------------------------------- */

/* The futex word: the state in the low bits, and who cares. */
enum {
    FP_WORD_STATE = 0x7,
    FP_WORD_UNKILLABLE = 0x8,
    FP_WORD_WAITERS = 0x10,
};

typedef struct fp_batch fp_batch; /* starts that wait together, see batch.c */

/* A descendant outside the group, followed by identity; session containment only. */
typedef struct fp_tracked {
    pid_t pid;
    int pidfd; /* -1: by number and start time */
    uint64_t start;
} fp_tracked;

/* What a process has besides while it is QUEUED, */
typedef struct fp_queued {
    fp_spec *spec; /* a copy, until the start; NULL: it is being born, or waits in no queue */
    fp_proc *next; /* in the queue */
} fp_queued;

/* while it is RUNNING, */
typedef struct fp_running {
    int64_t deadline_ns;
    int64_t watch_ns; /* its exit is to be watched for from then on */
} fp_running;

/* and from EXITED on. */
typedef struct fp_ended {
    fp_usage *usage; /* owned; NULL: not known */
    int64_t ended_ns;
} fp_ended;

/*
 * There may be many thousands, and most of them just run: what is small lies
 * together, what no process has at the same time shares its place, and what
 * only some have, or all only after their end, is kept elsewhere.
 */
struct fp_proc {
    _Atomic uint32_t refs;
    _Atomic uint32_t word;
    uint64_t token;
    _Atomic(fp_supervisor *) supervisor; /* referenced; NULL while queued, the batch's lock counts then */
    fp_mailbox *mailbox;                 /* referenced, or NULL */

    /* Identity. The numbers are used only as long as `reaped` is false. */
    pid_t pid;
    int pidfd;
    uint32_t slot; /* in the supervisor's table, FP_NO_INDEX: not adopted */
    uint32_t heap_index;

    uint8_t lead;
    uint8_t containment;
    uint8_t proof;
    uint8_t rung;   /* fp_rung */
    uint8_t reason; /* why we stop it, FP_REASON_NONE: we do not */
    uint8_t deadline_reason;
    uint8_t stop_signal;
    uint8_t news; /* what is to be told at the end of this turn */
    uint8_t lost_looks;
    uint8_t end_reason;
    bool reaped : 1;
    bool claimed : 1; /* a thread in fp_proc_wait() watches the pidfd itself */
    bool in_epoll : 1;
    bool by_polling : 1; /* the pidfd does not tell us: look now and then */
    bool keep_leftovers : 1;
    bool stop_at_max_output : 1;
    bool swept : 1;      /* a census has confirmed that nobody is left */
    bool lost : 1;       /* somebody else reaped it, and the kernel has not told the status yet */
    bool stop_early : 1; /* fp_proc_stop() came before the birth was over */
    bool hurry : 1;      /* somebody wants an end: do not wait for who follows its output */
    bool empty : 1;      /* nobody is left in the containment */
    bool needs_leaf : 1; /* limits that only a cgroup can keep */
    bool cpu_limited : 1;

    /* How it ended; complete once the state is EXITED. */
    int16_t code;
    int16_t signal;
    uint32_t flags; /* fp_exit_flag */
    int32_t check_gap_us;
    int64_t started_ns;

    /* One place for what different times of its life need. Never named but by the four functions below. */
    union {
        fp_queued queued;
        fp_failure failure;
        fp_running running;
        fp_ended ended;
    } now;

    /* When to look again: the earliest of these, and of what a running one has besides, is its timer. */
    int64_t step_ns;   /* end of the present rung */
    int64_t check_ns;  /* next look at emptiness, or for the exit when polling */
    int64_t census_ns; /* a census begun after this is wanted; 0: none */
    int64_t grace_ns;
    int64_t kill_timeout_ns;
    int64_t cpu_limit_s;

    fp_leaf *leaf;
    fp_flow *flow;
    fp_tracked *tracked;
    uint32_t n_tracked;

    /* The mailbox list, guarded by the mailbox's lock. */
    uint32_t mail_news : 31;
    uint32_t in_mail : 1;
    fp_proc *mail_next;
    fp_proc *mail_prev;

    fp_batch *batch; /* of queued starts; referenced */
};

/* One reference less; frees with the last. */
void fp_proc_unref(fp_proc *proc);
fp_proc *fp_proc_new(const fp_spec *spec);
/* Lock what guards this process: its supervisor, or NULL for its batch. */
fp_supervisor *fp_proc_lock(fp_proc *proc);
void fp_proc_unlock(fp_proc *proc, fp_supervisor *supervisor);
static inline int fp_proc_state(const fp_proc *proc) {
    return (int)(atomic_load_explicit(&proc->word, memory_order_acquire) & FP_WORD_STATE);
}

/* With its lock held: */

/* The state says what there is: who asks for something of another time is stopped at once. */
static inline fp_queued *fp_proc_queued(fp_proc *proc) {
    assert(fp_proc_state(proc) == FP_STATE_QUEUED);
    return &proc->now.queued;
}
static inline fp_failure *fp_proc_failed(fp_proc *proc) {
    assert(fp_proc_state(proc) == FP_STATE_FAILED);
    return &proc->now.failure;
}
static inline fp_running *fp_proc_running(fp_proc *proc) {
    assert(fp_proc_state(proc) == FP_STATE_RUNNING);
    return &proc->now.running;
}
static inline fp_ended *fp_proc_ended(fp_proc *proc) {
    assert(fp_proc_state(proc) == FP_STATE_EXITED || fp_proc_state(proc) == FP_STATE_DONE);
    return &proc->now.ended;
}

/* Is the caller a forked copy of the process that made it? `supervisor` is its own, or NULL. */
bool fp_proc_is_copy(const fp_proc *proc, const fp_supervisor *supervisor);
/* Change the state and what else the futex word says; wake who waits for it. */
void fp_proc_tell(fp_proc *proc, int state, uint32_t flags);
void fp_proc_describe(fp_proc *proc, fp_exit *ret_exit);
void fp_proc_close_pidfd(fp_proc *proc);

/* ---- reap.c: the one reap, and what an exit means ------------------------------ */

/*
 * Collect the exit if there is one. True: the status is known, as far as it ever will be, and so is what it has used,
 * all zeros if it is not. For fp_proc_try_exit().
 */
bool fp_proc_reap(fp_proc *proc, fp_usage *ret_usage);
/* The zombie that was kept for its number is needed no more. */
void fp_proc_bury(fp_proc *proc);
/* The reason of an end that was reaped just now. */
uint8_t fp_proc_why_it_ended(fp_proc *proc, const fp_usage *usage);
/* Reap a child that is no process of ours; see orphans.c. False: it is not dead, or not to be had. */
bool fp_orphan_collect(pid_t pid, fp_exit *ret_exit);

/* ---- contain.c: the set that descendants are kept in ------------------------ */

/* Send the stop signal, and SIGCONT so that it is heard, to all in it; nobody gets it twice. */
void fp_contain_ask(fp_proc *proc, int sig);
/* SIGKILL to all in it. */
void fp_contain_kill(fp_proc *proc);
/* Is nobody left? False when somebody is or may be; then a census may be asked for. `proc` has exited. */
bool fp_contain_empty(fp_proc *proc, int64_t now);
/* How many does the census find? Follows, and signals, what left the group. */
int fp_contain_count(fp_proc *proc, const fp_census *census);
/* One signal to the process itself, or its group. */
int fp_contain_signal(fp_proc *proc, int sig, bool to_group);
void fp_contain_forget(fp_proc *proc);
/* Who is alive in it, at most `n`; `census` may be NULL where the containment is a cgroup. Returns how many there are. */
int fp_contain_survivors(fp_proc *proc, const fp_census *census, int32_t *ret_pids, int n);

/* ---- orphans.c --------------------------------------------------------------- */

/* Has somebody asked for that? */
bool fp_adopts_orphans(const fp_supervisor *supervisor);

/* Reap those adopted children of this process that are dead and descend from processes of this crew. */
void fp_orphans_reap(fp_supervisor *supervisor);
/* A census has found this dead member of the session of `proc`: reap it if it has come to us. */
void fp_orphan_found(fp_proc *proc, const fp_person *person);

#pragma GCC visibility pop
#endif
