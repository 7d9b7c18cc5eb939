/*
 * internal.h: what the files of libfastproc promise one another, in the order
 * of their layers. Read it as the table of contents.
 *
 * Calls go down this list, but for a few: references are taken and given back
 * everywhere; turn.c tells a batch of an end, and nursery.c of a start; start.c
 * has others leave the nursery first; proc.c asks a batch for its lock, and
 * places.c how many it has queued; mailbox.c asks how those stand of whom it has
 * news; fork.c closes what slots.c and spawn.c have open; probe.c tries what
 * others do.
 *
 *     supervisor.c   supervisors and crews: made, ended, referenced
 *     loop.c         the loop of one thread, the only place where time passes
 *     ask.c          how a process stands; signals, stopping, who is left
 *     wait.c         threads that wait for a process
 *     follow.c       those who read what it says
 *     batch.c        queued starts, and who takes from them
 *     nursery.c      births of a batch, beside which the loop does not stand
 *     start.c        a process comes under its supervisor, and is watched
 *     births.c       births that hang, and the thread that watches for them
 *     turn.c         what is due for a process, and what follows from it
 *     ladder.c       a process on the stop ladder
 *     stop.c         the stop ladder, a transition table; pure
 *     places.c       what a supervisor keeps of each process: watches, times
 *     proc.c         the handle of a process: references, lock, state
 *     contain.c      the set that descendants are kept in: session or cgroup
 *     orphans.c      adopted orphans of our children
 *     reap.c         the one reap, and what an exit means
 *     output.c       captured streams, input, idle clocks
 *     timer.c        a heap of processes by the time they next need a look
 *     mailbox.c      news for one consumer
 *     cgroup.c       leaves of the cgroup v2 tree
 *     spawn.c        the parent's half of a birth
 *     child.c        the child's half
 *     plan.c         from a spec to the plan that the child carries out
 *     spec.c         checks and copies a spec; the packed environment
 *     fdplan.c       orders descriptor moves; pure
 *     census.c       who is alive, read from /proc in slices
 *     slots.c        low descriptors kept in reserve
 *     moment.c       who has just been started is given a moment to end
 *     nap.c          how long the main thread sleeps at a time
 *     dispositions.c which signals this process ignores; SIGCHLD while we sleep
 *     fork.c         is this a forked copy of the host? What it must not keep
 *     probe.c        what the kernel allows
 *     names.c        words
 *     sys.h          system calls, -errno
 *
 * Locks: one mutex a supervisor guards its processes, timers and leaves; one
 * a mailbox guards its list; one a crew its members and births; one a birth
 * its pipes. The supervisor's is taken first, and the crew's before that of a
 * birth. None is held while a child is being made. Only fork.c holds more than
 * one of a kind.
 */
#ifndef FASTPROC_INTERNAL_H
#define FASTPROC_INTERNAL_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "fastproc.h"

#define FP_NS_PER_S INT64_C(1000000000)
#define FP_NS_PER_MS INT64_C(1000000)
#define FP_NEVER INT64_MAX
#define FP_NO_INDEX UINT32_MAX

static inline int64_t fp_after(int64_t now, int64_t length) {
    return length >= FP_NEVER - now ? FP_NEVER : now + length;
}

static inline int64_t fp_earliest(int64_t a, int64_t b) {
    return a < b ? a : b;
}

#define FP_HIDDEN __attribute__((visibility("hidden")))
#pragma GCC visibility push(hidden)

/* ---- probe.c: what this kernel allows ---------------------------------- */

/* Like fp_probe(), for capabilities that are known to exist. Probes on first use. */
bool fp_can(int capability);

/* ---- nap.c: so that a host misses no signal ------------------------------ */

/* Until when the calling thread may sleep before its host looks for signals; FP_NEVER: as long as it likes. */
int64_t fp_nap_end(int64_t now);
/* It has slept that long. Returns -EINTR. */
int fp_nap_over(int64_t now);

/* ---- moment.c: who has just been started is given a moment --------------- */

/*
 * A timer of less than a tick of the kernel's clock has to be entered into the hardware, which took 20 us of a run in a
 * virtual machine: so it is longer than that.
 */
#define FP_MOMENT (5 * FP_NS_PER_MS)
/*
 * Wait for its exit, for `longest` and FP_MOMENT at most, and no longer than it says little on those streams (-1: none).
 * 1: it has ended; 0: it is to be read, or the time is over; -EINTR, or what poll(2) says.
 */
int fp_await_quick_end(int pidfd, const int fds[2], int64_t longest);

/* ---- dispositions.c: which signals this process ignores ------------------ */

/* What a thread of ours blocks. */
uint64_t fp_signals_of_the_host(void);

/* A descriptor that makes the question cheap, or -errno. */
int fp_dispositions_open(void);
/* Bit n - 1: signal n is or may be ignored. `fd` may be negative: then more of them may be. */
uint64_t fp_dispositions_ignored(int fd);
/* What one thread has last seen of them. */
typedef struct fp_ignored {
    uint64_t signals;
    int64_t looked_ns;
} fp_ignored;
/* The same for a start that was asked for at `asked_ns` and has waited for its turn: not read for each. */
uint64_t fp_dispositions_ignored_since(fp_ignored *last, int fd, int64_t asked_ns);
/* Read them from the text of /proc/pid/stat. False: it is not that of `pid`. Pure. */
bool fp_dispositions_parse(const char *text, pid_t pid, uint64_t *ret_ignored);
/*
 * For the time of a sleep: the calling thread is not to be woken for each child that ends, unless it has to run a
 * handler for that. True: give `*ret_mask` to fp_sigchld_let_in() afterwards.
 */
bool fp_sigchld_hold_back(uint64_t *ret_mask);
void fp_sigchld_let_in(const uint64_t *mask);

/* ---- slots.c: low descriptors kept in reserve --------------------------- */

/*
 * A child that shares the descriptor table for a moment (CLONE_FILES) keeps
 * what lies below a bound K and copies little else, so the cost of a start
 * does not grow with the table. What the child needs must therefore be below
 * K: it is dup3()ed there for the time of the start, into a slot.
 * The slots hold a placeholder when not in use, so that nobody takes the number.
 */
enum { FP_SLOT_COUNT = 24 }; /* at most */

typedef struct fp_slots {
    pthread_mutex_t lock;
    int placeholder_fd; /* the null device, opened read-write */
    int count;
    uint32_t free; /* bit i: fd[i] is free */
    int fd[FP_SLOT_COUNT];
    _Atomic int low; /* what is below lies low: all slots do */
    int dispositions_fd; /* for fp_dispositions_ignored(), or negative */
} fp_slots;

int fp_slots_init(fp_slots *slots);
/* Some more, as one more supervisor uses them. */
void fp_slots_add(fp_slots *slots);
int fp_slots_low(const fp_slots *slots);
void fp_slots_done(fp_slots *slots);
/* Close them, and no more, in a forked copy. */
void fp_slots_close(fp_slots *slots);
/* Put a copy of `fd` into a slot and return its number, or -ENOSPC. */
int fp_slots_borrow(fp_slots *slots, int fd);
void fp_slots_return(fp_slots *slots, int slot_fd);

/* ---- spec.c: the caller's wish, checked and copied ----------------------- */

/* Check everything that can be known before a process exists. On failure
 * -errno, with stage FP_STAGE_REQUEST (or CGROUP for what cannot be had). */
int fp_spec_check(const fp_spec *spec, fp_failure *reterr_failure);
/* A deep copy in one allocation, freed with free(); NULL when out of memory. */
fp_spec *fp_spec_copy(const fp_spec *spec);
/* Drop what fp_spec_copy() had referenced (env, mailbox), and the copy. */
fp_spec *fp_spec_free_copy(fp_spec *copy);

/* Has it limits that a cgroup keeps? */
bool fp_spec_needs_controllers(const fp_spec *spec);

/* The program to execute, and the environment it gets, as execve(2) wants it; borrowed. */
const char *fp_spec_program(const fp_spec *spec);
const char *const *fp_spec_environment(const fp_spec *spec);

/* The packed environment as execve(2) wants it. */
const char *const *fp_env_strings(const fp_env *env);
/* The value of PATH in it, or NULL. */
const char *fp_env_path(const fp_env *env);

/* ---- spawn.c: the parent's half ----------------------------------------- */

/* The pipes of a birth under way, for a copy that is forked just then. */
typedef struct fp_pipes {
    pthread_mutex_t lock; /* what is written here is open as long as it is held */
    int ours[3];          /* -1: none */
    int theirs[3];        /* the child's ends */
    bool locked_for_fork;
    struct fp_pipes *next; /* see fork.c */
} fp_pipes;

#define FP_PIPES_NONE {.lock = PTHREAD_MUTEX_INITIALIZER, .ours = {-1, -1, -1}, .theirs = {-1, -1, -1}}

/* Where and how a child is born. */
typedef struct fp_birthplace {
    fp_slots *slots;         /* NULL: none, the table is copied */
    int cgroup_fd;           /* directory of the leaf, or -1 */
    _Atomic pid_t *born_pid; /* holds the pid while the birth lasts, 0 afterwards; may be NULL */
    fp_pipes *pipes;         /* still holds our ends after the birth; may be NULL */
    bool pidfd_optional;     /* rather no pidfd than no child, where no descriptor is free */
    fp_ignored *ignored;     /* of this thread, for a start that was asked for at `asked_ns`; or NULL */
    int64_t asked_ns;
    bool notes_signals;      /* say whether one came while all were blocked: its handler has run unseen */
    /*
     * Called with `stay_arg`, the pidfd and our ends of the pipes instead of standing still until execve(2): a part
     * of what the caller would do then anyway. The pipes do not end yet, as we hold the child's ends too. Says whether
     * the child has ended. May be NULL; not called where the kernel cannot tell when the child has left our memory.
     */
    bool (*stay)(void *arg, int pidfd, const int *pipe_fds);
    void *stay_arg;
} fp_birthplace;

/* A child that has passed execve(2). All descriptors are the receiver's, close-on-exec. */
typedef struct fp_birth {
    pid_t pid;
    int pidfd;      /* -1: this kernel has none */
    int pipe_fd[3]; /* our ends, non-blocking; -1: none */
    int64_t started_ns;
    bool interrupted; /* with `notes_signals` */
    bool stayed;      /* `stay` was called */
    bool ended;       /* and it has ended */
} fp_birth;

/*
 * Make the child that `spec` describes. `spec` has passed fp_spec_check().
 * Blocks until execve(2). On failure -errno; no child, descriptor or slot is
 * left; the failure names the stage.
 */
int fp_birth_make(const fp_spec *spec, const fp_birthplace *place, fp_birth *ret_birth, fp_failure *reterr_failure);

/* What a child lives on until it has left our memory, if nobody stands still for that. */
typedef struct fp_cradle fp_cradle;

/* Freed with free(), when it is left. */
fp_cradle *fp_cradle_new(void);
/*
 * As fp_birth_make(), but on return the child is on its way, and lives on `cradle` until it has passed execve(2) or failed;
 * fp_birth_end() must follow. All that `place` and `spec` point to stays until then. False: nothing has happened, as
 * this needs somebody who stands still, or has failed: fp_birth_make() will do it, or say why not.
 */
bool fp_birth_begin(const fp_spec *spec, const fp_birthplace *place, fp_cradle *cradle);
/* How it went, as fp_birth_make() says it. Waits, if need be, until the cradle is left. */
int fp_birth_end(fp_cradle *cradle, fp_birth *ret_birth, fp_failure *reterr_failure);
/* Has the child left our memory? One that dumps core before execve(2) may seem to stay, but its pidfd is readable. */
bool fp_cradle_is_left(const fp_cradle *cradle);
/* Sleep until it has, at most until `until_ns`. */
void fp_cradle_watch(fp_cradle *cradle, int64_t until_ns);
/* Readable when the child has ended; borrowed. */
int fp_cradle_pidfd(const fp_cradle *cradle);
/* Close it, and no more, in a forked copy. */
void fp_cradle_close(fp_cradle *cradle);

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

/* ---- census.c: who is alive ----------------------------------------------- */

/* One line of /proc: see proc(5), /proc/pid/stat. */
typedef struct fp_person {
    pid_t pid;
    pid_t parent;
    pid_t group;
    pid_t session;
    char state;      /* 'Z' and 'X' are dead */
    bool executed;   /* it has passed execve(2) since it was forked */
    uint64_t start;  /* clock ticks since boot */
} fp_person;

/* Parse the text of /proc/pid/stat, names with spaces and brackets included. 0 or -EINVAL. Pure. */
int fp_person_parse(const char *text, size_t text_bytes, fp_person *ret_person);
/* Read one. -ESRCH: it is not there. */
int fp_person_read(pid_t pid, fp_person *ret_person);
/* Pids of the living children of `pid`, all its threads considered; at most `n`. */
int fp_children_read(pid_t pid, pid_t *ret_pids, int n);

/* A walk through all of /proc, in slices, so that it holds up nobody. */
typedef struct fp_census {
    int dir_fd;         /* -1: none is under way */
    int64_t begun_ns;   /* of the one under way */
    int64_t counted_ns; /* when the last whole one began; 0: never */
    fp_person *people;  /* of the last whole one, sorted by pid */
    uint32_t count;
    fp_person *next;
    uint32_t next_count;
    uint32_t next_capacity;
} fp_census;

void fp_census_init(fp_census *census);
void fp_census_done(fp_census *census);
/* Go on, or begin: looks at about `n` processes. 1 once a whole one has been made, 0 before; -errno: given up. */
int fp_census_step(fp_census *census, uint32_t n);
/* A whole census in one go. */
bool fp_census_count_all(fp_census *census);
const fp_person *fp_census_find(const fp_census *census, pid_t pid);

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
struct rusage;
/* What wait(2) says of what a child has used. */
fp_usage fp_usage_of(const struct rusage *usage);
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

/* ---- fork.c: forked copies of the host ------------------------------------------ */

/* getpid(2), for less. */
pid_t fp_own_pid(void);
/* Is the caller a forked copy of the process that made it? The lock of a copy may be held for ever, by a thread that
 * has not come along: it is not taken. */
bool fp_supervisor_is_copy(const fp_supervisor *supervisor);

/* From now on a forked copy of the host closes what this supervisor has open. */
void fp_fork_enlist(fp_supervisor *supervisor);
/* No more; without its lock. It need not be enlisted. */
void fp_fork_delist(fp_supervisor *supervisor);
/* The same for the pipes of a birth without a supervisor, as long as it lasts. */
void fp_fork_note_pipes(fp_pipes *pipes);
void fp_fork_forget_pipes(fp_pipes *pipes);

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

/* For a birth that has not begun; its pipes' lock stays as it is. */
static inline void fp_birth_watch_reset(fp_birth_watch *watch) {
    watch->leaf_fd = -1;
    atomic_store_explicit(&watch->pid, 0, memory_order_relaxed);
    for (int i = 0; i < 3; i++)
        watch->pipes.ours[i] = watch->pipes.theirs[i] = -1;
    watch->pipes.locked_for_fork = false;
}

/* From here to its end the crew sees how long a birth takes. Without the lock of the supervisor at the beginning. */
void fp_birth_begins(fp_crew *crew, fp_birth_watch *birth);
void fp_birth_ends(fp_crew *crew, fp_birth_watch *birth);
/* The last supervisor goes, and the watcher with it. */
void fp_births_end(fp_crew *crew);

/* ---- supervisor.c: supervisors and crews ----------------------------------------- */

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

/* What epoll tells us is a key, never a pointer: the place in the table, how often it was given away, and which descriptor. */
enum { FP_KEY_PIDFD = 0, FP_KEY_OUT = 1, FP_KEY_ERR = 2, FP_KEY_IN = 3 };
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
int fp_supervisor_watch(fp_supervisor *supervisor, fp_proc *proc, int fd, int key, uint32_t events);
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
