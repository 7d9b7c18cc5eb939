/*
 * host.h: what a start needs that knows nothing of supervised processes: what
 * kernel and host allow, the caller's wish, a birth, how one has ended.
 */
#ifndef FASTPROC_HOST_H
#define FASTPROC_HOST_H

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

#pragma GCC visibility push(hidden)

/* ---- probe.c: what this kernel allows ---------------------------------- */

/* Like fp_probe(), for capabilities that are known to exist. Probes on first use. */
bool fp_can(int capability);

/* ---- nap.c: so that a host misses no signal ------------------------------ */

/* Until when the calling thread may sleep before its host looks for signals; FP_NEVER: as long as it likes. */
int64_t fp_nap_end(int64_t now);
/* It has slept that long. Returns -EINTR. */
int fp_nap_over(int64_t now);

/* A wait that may take several sleeps. */
typedef struct fp_sleep {
    int64_t until_ns;
    int64_t look_ns; /* when the nap ends, 0: it has not begun */
} fp_sleep;

/* Nanoseconds, less than 0: for ever. */
fp_sleep fp_sleep_begin(int64_t timeout_ns);
/* Until when the next one may be; -ETIMEDOUT: the time is over; -EINTR: the host is to look for signals. */
int fp_sleep_next(fp_sleep *sleep, int64_t now, int64_t *ret_wake_ns);

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

/* ---- outcome.c: how a process has ended ---------------------------------- */

typedef struct fp_outcome {
    int16_t code; /* if `signal` is 0 */
    int16_t signal;
    bool core_dumped;
    fp_usage usage;
} fp_outcome;

/*
 * waitid(2) with these options, by the pidfd if there is one, else, or if the host has closed it, by the number. 1: it
 * has ended; 0: it has not; -EINTR; -ECHILD: it is not ours to collect, or somebody has done so already.
 */
int fp_outcome_collect(int pidfd, pid_t pid, int options, fp_outcome *ret_outcome);
/*
 * The kernel keeps the status with the pidfd (PIDFD_INFO_EXIT, Linux 6.15), a moment after that has turned readable,
 * whoever has collected it. Without usage. False: it is not to be had, or not yet.
 */
bool fp_outcome_ask(int pidfd, fp_outcome *ret_outcome);

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
bool fp_person_is_alive(const fp_person *person);
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

/* ---- spawn.c, cradle.c: the parent's half ----------------------------------------- */

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

/* ---- fork.c: forked copies of the host ----------------------------------- */

/* getpid(2), for less. */
pid_t fp_own_pid(void);
/* From now on a forked copy of the host closes these pipes of a birth without a supervisor, as long as it lasts. */
void fp_fork_note_pipes(fp_pipes *pipes);
void fp_fork_forget_pipes(fp_pipes *pipes);

#pragma GCC visibility pop
#endif
