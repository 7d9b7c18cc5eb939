/*
 * fastproc.h: start processes, keep their deadlines, end them for certain, and
 * know how each ended. The whole public interface of libfastproc.
 *
 * The idea in one sentence: say what to start and when it must end; a
 * supervisor carries it out; everyone who waits hears the same, true answer.
 *
 *     fp_supervisor *supervisor;
 *     fp_supervisor_new(NULL, &supervisor);
 *     // lend it a thread: pthread_create(..., fp_supervisor_run, supervisor)
 *
 *     fp_spec spec = FP_SPEC_INIT;
 *     spec.argv = (const char *const[]){"make", "-j2", NULL};
 *     spec.timeout_ns = 60 * INT64_C(1000000000);
 *
 *     fp_proc *proc;
 *     fp_failure failure;
 *     int r = fp_spawn(supervisor, &spec, &proc, &failure);
 *     fp_exit exit;
 *     fp_proc_wait(proc, FP_STATE_DONE, -1, &exit);
 *     proc = fp_proc_free(proc);
 *
 * Conventions
 *   - Functions return 0 or a count on success and -errno on failure; errno
 *     itself is not touched. Results leave through `ret_` parameters, which
 *     are not written on failure; details of failures through `reterr_` ones.
 *   - *borrowed*: for the length of the call. *owned*: you free it. *taken*:
 *     ours from now on, even on failure. fp_x_free() accepts NULL and returns NULL.
 *   - Times are nanoseconds of CLOCK_MONOTONIC, sizes are bytes.
 *   - Every function may be called from any thread at any time, unless its
 *     comment says otherwise. None may be called from a signal handler.
 *   - In option structs all zeros is the sensible default, and `size` must be
 *     sizeof the struct: it tells the library which fields the caller knows.
 *   - The library starts no thread but one small one a crew, that watches over
 *     births, see fp_supervisor_options; it installs no signal handler, never
 *     waits for children it did not start, and keeps no global state but what
 *     it learnt about the kernel and, for fork(2), a list of its supervisors.
 *   - After fork(2) the copy owns nothing: its calls return -EOWNERDEAD. It has
 *     closed our descriptors, by pthread_atfork(3), so that no child waits for
 *     the end of a pipe that only the copy holds. Copies made past libc, by
 *     clone(2) itself, keep them until they end or execute a program.
 *
 * Sources: clone(2), execve(2), pidfd_open(2), pidfd_send_signal(2), waitid(2),
 * cgroups(7), setsid(2), close_range(2). Linux only.
 */
#ifndef FASTPROC_H
#define FASTPROC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FP_API __attribute__((visibility("default")))

#define FP_VERSION_MAJOR 0
#define FP_VERSION_MINOR 1
#define FP_VERSION_PATCH 0

/* What stands between the two markers also feeds cffi: declarations only. */
/* cdef: begin */

typedef struct fp_supervisor fp_supervisor;
typedef struct fp_mailbox fp_mailbox;
typedef struct fp_proc fp_proc;
typedef struct fp_env fp_env;

/* ---- What to start ------------------------------------------------------ */

/* Where a standard stream of the child comes from. */
enum fp_stdio_kind {
    FP_STDIO_INHERIT = 0,  /* the caller's own */
    FP_STDIO_DEVNULL = 1,
    FP_STDIO_PIPE = 2,     /* out: captured by the supervisor; in: fed from `input` */
    FP_STDIO_FD = 3,       /* a copy of descriptor `fd`, borrowed */
    FP_STDIO_READ = 4,     /* `path`, opened for reading by the child */
    FP_STDIO_APPEND = 5,   /* `path`, created and appended to by the child, mode 0666 less umask */
    FP_STDIO_TRUNCATE = 6, /* `path`, created and emptied by the child */
    FP_STDIO_STDOUT = 7    /* standard error only: where standard output goes */
};

typedef struct fp_stdio {
    int32_t kind;
    int32_t fd;
    const char *path; /* relative to the caller's directory, not to `cwd` */
} fp_stdio;

/* One more descriptor for the child: `source` in the caller, `target` in the child. */
typedef struct fp_fd_map {
    int32_t source;
    int32_t target;
} fp_fd_map;

/* The nine limits of setrlimit(2) that a child may be born with, as indices. */
enum fp_rlimit_index {
    FP_RLIMIT_CPU = 0, /* seconds */
    FP_RLIMIT_ADDRESS_SPACE = 1,
    FP_RLIMIT_DATA = 2,
    FP_RLIMIT_FILE_SIZE = 3,
    FP_RLIMIT_CORE = 4,
    FP_RLIMIT_STACK = 5,
    FP_RLIMIT_OPEN_FILES = 6,    /* count */
    FP_RLIMIT_PROCESSES = 7,     /* count */
    FP_RLIMIT_LOCKED_MEMORY = 8,
    FP_RLIMIT_COUNT = 9
};

typedef struct fp_rlimit {
    uint64_t soft; /* UINT64_MAX: unlimited */
    uint64_t hard;
} fp_rlimit;

/* What the child leads. A session is also a group, and cannot be left for the caller's group. */
enum fp_lead {
    FP_LEAD_SESSION = 0,
    FP_LEAD_GROUP = 1,  /* stays in the caller's session, for jobs on a terminal */
    FP_LEAD_NOTHING = 2 /* stays in the caller's group: only the child itself can be signalled */
};

/* The set that the child's descendants are kept in, and found by. */
enum fp_containment {
    FP_CONTAIN_AUTO = 0,    /* a cgroup where one can be had, else the session */
    FP_CONTAIN_SESSION = 1,
    FP_CONTAIN_CGROUP = 2,  /* an error where none can be had */
    FP_CONTAIN_GUARD = 3    /* not in this version: -ENOTSUP */
};

enum fp_spec_flag {
    FP_KEEP_LEFTOVERS = 1 << 0,     /* what outlives the child's own end runs on; it is DONE when they have ended */
    FP_NO_NEW_PRIVS = 1 << 1,       /* PR_SET_NO_NEW_PRIVS */
    FP_DIE_WITH_PARENT = 1 << 2,    /* SIGKILL when the caller's process dies; see prctl(2) PR_SET_PDEATHSIG */
    FP_SET_UID = 1 << 3,
    FP_SET_GID = 1 << 4,
    FP_SET_GROUPS = 1 << 5,         /* `groups`, also when empty: then all are dropped */
    FP_SET_UMASK = 1 << 6,
    FP_SET_NICE = 1 << 7,
    FP_STOP_AT_MAX_OUTPUT = 1 << 8, /* stop the child once `max_output_bytes` have come */
    FP_KEEP_SIGNALS = 1 << 9,       /* leave ignored signals ignored instead of resetting all */
    FP_ONE_PATH = 1 << 10,          /* `program` is a path even without a slash: no search */
    FP_QUIET_START = 1 << 11,       /* FP_NEWS_STARTED wakes nobody: it comes with the next news */
    FP_FOLLOW_STDOUT = 1 << 12,     /* lose nothing of that captured stream before the first reader has come */
    FP_FOLLOW_STDERR = 1 << 13,
    FP_PATIENT_START = 1 << 14,     /* in a batch it may run 5 ms before it is RUNNING; so may a quiet one */
    FP_KEEP_MASK = 1 << 16,         /* the caller's signal mask, and what `sigmask` adds */
    FP_INHERIT_FDS = 1 << 17,       /* every descriptor of the caller that is not close-on-exec */
    FP_SEARCH_ON = 1 << 18,         /* a search goes on after any failure, as os.execvpe() of Python has it */
    FP_JOIN_GROUP = 1 << 19,        /* `process_group`, after what it leads */
    FP_ASK_FOR_ROOM = 1 << 20       /* fp_run() only: the caller lends memory for long output, see fp_solo_lend() */
};

typedef struct fp_spec {
    size_t size;    /* sizeof(fp_spec) */
    uint64_t token; /* yours; comes back in every news about this process */

    /* The program and its arguments: `argv`, ended by NULL, or `args`, the
     * strings one behind the other, each ended by a NUL, `args_bytes` in all. */
    const char *const *argv;
    const char *args;
    size_t args_bytes;
    const char *program;     /* what to execute; NULL: the first argument */
    const char *search_path; /* directories for a program without a slash; NULL: PATH of the child's environment */

    /* The environment: `env`, or `envp` ended by NULL, or with both NULL the caller's. */
    fp_env *env;
    const char *const *envp;

    const char *cwd;
    fp_stdio stdio[3];
    const fp_fd_map *fds;
    size_t n_fds;
    const void *input; /* fed to standard input when that is a pipe; copied */
    size_t input_bytes;

    int32_t lead;        /* enum fp_lead */
    int32_t containment; /* enum fp_containment */
    uint32_t flags;      /* enum fp_spec_flag */
    uint32_t rlimit_set; /* bit i: rlimits[i] counts */
    fp_rlimit rlimits[9];

    uint32_t uid;
    uint32_t gid;
    const uint32_t *groups;
    size_t n_groups;
    uint32_t umask;
    int32_t nice;             /* absolute, -20 to 19 */
    const uint64_t *affinity; /* bit n: CPU n may be used */
    size_t n_affinity;        /* words of 64 bits */
    uint64_t sigmask;         /* bit n - 1: signal n starts blocked */
    uint64_t sigignore;       /* bit n - 1: signal n starts ignored */

    /* By cgroup v2, and an error of stage `cgroup` where it lacks; 0: no limit. */
    uint64_t memory_max_bytes;
    uint64_t pids_max;
    uint64_t cpu_max_millis; /* thousandths of one CPU */

    /* When it must end. 0: never, except grace and kill_timeout: 5 s. */
    int64_t timeout_ns;      /* from its start */
    int64_t deadline_ns;     /* on the monotonic clock; the earlier of the two counts */
    int32_t deadline_reason; /* what `deadline_ns` is called: 0 means FP_REASON_TIMEOUT */
    int32_t stop_signal;     /* 0: SIGTERM */
    int64_t idle_timeout_ns; /* without a byte on a captured stream */
    int64_t grace_ns;        /* from the stop signal to SIGKILL; negative: none */
    int64_t kill_timeout_ns; /* from SIGKILL to "unkillable" */

    /* What is kept of each captured stream; 0: 64 KiB and 192 KiB. */
    uint64_t head_bytes;
    uint64_t tail_bytes;
    uint64_t max_output_bytes; /* of both streams together; 0: no limit */

    fp_mailbox *mailbox; /* who hears the news; NULL: nobody */

    uint64_t sigdefault;   /* with FP_KEEP_SIGNALS, bit n - 1: signal n is put to default all the same */
    int32_t process_group; /* with FP_JOIN_GROUP: the group to enter, 0 a new one of its own, see setpgid(2) */
    int32_t reserved;
} fp_spec;

/* ---- What went wrong ---------------------------------------------------- */

/* The step at which a start failed. */
enum fp_stage {
    FP_STAGE_NONE = 0,
    FP_STAGE_REQUEST = 1,  /* the spec itself */
    FP_STAGE_PIPE = 2,
    FP_STAGE_CLONE = 3,
    FP_STAGE_PRE_EXEC = 4, /* killed from outside before execve(2); `detail` is the signal */
    FP_STAGE_SESSION = 5,
    FP_STAGE_CGROUP = 6,   /* `detail` is the missing controller: 0 memory, 1 pids, 2 cpu, -1 the cgroup itself */
    FP_STAGE_FDS = 7,      /* `detail` is the target descriptor */
    FP_STAGE_RLIMIT = 8,   /* `detail` is an fp_rlimit_index */
    FP_STAGE_NICE = 9,
    FP_STAGE_AFFINITY = 10,
    FP_STAGE_CWD = 11,
    FP_STAGE_IDS = 12,
    FP_STAGE_SANDBOX = 13,
    FP_STAGE_SIGNALS = 14,
    FP_STAGE_EXEC = 15,
    FP_STAGE_SUPERVISOR = 16, /* it is closing, or has no room */
    FP_STAGE_COUNT = 17
};

typedef struct fp_failure {
    int32_t error;  /* errno */
    int32_t stage;  /* enum fp_stage */
    int32_t detail; /* see the stage; -1: nothing more to say */
    int32_t reserved;
} fp_failure;

/* ---- How it ended ------------------------------------------------------- */

enum fp_state {
    FP_STATE_QUEUED = 0,  /* handed to a supervisor, not started yet */
    FP_STATE_FAILED = 1,  /* never started: see fp_proc_failure() */
    FP_STATE_RUNNING = 2,
    FP_STATE_EXITED = 3,  /* the status is known; descendants or output may remain, kept leftovers too */
    FP_STATE_DONE = 4     /* nothing remains, as far as the containment can tell */
};

enum fp_reason {
    FP_REASON_NONE = 0,
    FP_REASON_EXITED = 1,
    FP_REASON_SIGNALED = 2,
    FP_REASON_TIMEOUT = 3,
    FP_REASON_IDLE_TIMEOUT = 4,
    FP_REASON_TERMINATED = 5, /* somebody asked for it */
    FP_REASON_CANCELLED = 6,
    FP_REASON_OUTPUT_LIMIT = 7,
    FP_REASON_CPU_LIMIT = 8,
    FP_REASON_OOM = 9,
    FP_REASON_UNKNOWN = 10, /* somebody else took the status, and the kernel cannot tell it any more */
    FP_REASON_COUNT = 11
};

enum fp_exit_flag {
    FP_EXIT_CORE_DUMPED = 1 << 0,
    FP_EXIT_ESCALATED = 1 << 1,  /* SIGKILL was needed for the child */
    FP_EXIT_FOREIGN = 1 << 2,    /* somebody else reaped it; the usage is lost */
    FP_EXIT_UNKILLABLE = 1 << 3, /* it has outlived SIGKILL by `kill_timeout_ns` */
    FP_EXIT_LEFTOVERS = 1 << 4,  /* descendants outlived the child */
    FP_EXIT_STOPPED = 1 << 5,    /* the stop ladder was climbed for it or its leftovers */
    FP_EXIT_LEFTOVERS_ESCALATED = 1 << 6, /* SIGKILL was needed for descendants after the child had ended */
    FP_EXIT_USAGE_LOST = 1 << 7           /* there was no memory to keep what it used; the usage is zeros */
};

/*
 * Of getrusage(2): the child and the descendants it has waited for. The most
 * memory is never said to be less than what the caller itself had resident
 * at the start: the child runs in its memory until execve(2), and the kernel
 * carries that mark over.
 */
typedef struct fp_usage {
    int64_t user_us;
    int64_t system_us;
    int64_t max_rss_bytes;
    int64_t minor_faults;
    int64_t major_faults;
    int64_t blocks_in;
    int64_t blocks_out;
    int64_t voluntary_switches;
    int64_t involuntary_switches;
} fp_usage;

typedef struct fp_exit {
    int32_t state;  /* enum fp_state */
    int32_t reason; /* enum fp_reason; FP_REASON_NONE while it runs */
    int32_t code;   /* exit code, or -1 */
    int32_t signal; /* signal that ended it, or 0 */
    uint32_t flags; /* enum fp_exit_flag */
    int32_t pid;
    int64_t started_ns;
    int64_t ended_ns; /* when the end was noticed, see fp_spawn(); 0 while it runs */
    fp_usage usage;
} fp_exit;

/* How far the emptiness of the containment is proven. */
enum fp_proof {
    FP_PROOF_NONE = 0,    /* nobody looked, or somebody is left */
    FP_PROOF_SESSION = 1, /* no member of what it led, and no descendant that was followed, is alive */
    FP_PROOF_CGROUP = 2,  /* the kernel says that the cgroup is empty */
    FP_PROOF_GUARD = 3
};

typedef struct fp_stop_report {
    int32_t proof;       /* enum fp_proof */
    int32_t n_survivors; /* how many were found; at most 32 are listed */
    int32_t survivors[32];
} fp_stop_report;

/* ---- News --------------------------------------------------------------- */

enum fp_news_kind {
    FP_NEWS_STARTED = 1 << 0, /* a queued start has succeeded */
    FP_NEWS_FAILED = 1 << 1,  /* a queued start has failed: see `failure` */
    FP_NEWS_EXITED = 1 << 2,
    FP_NEWS_DONE = 1 << 3,
    FP_NEWS_UNKILLABLE = 1 << 4,
    FP_NEWS_ESCALATED = 1 << 5, /* SIGKILL has been sent after the grace */
    FP_NEWS_OUTPUT = 1 << 6,    /* a captured stream has more, or has ended; only while followed */
    FP_NEWS_ORPHAN = 1 << 7     /* an orphan of one of our children was reaped: `exit` is about it, token 0 */
};

typedef struct fp_news {
    uint64_t token;
    uint32_t what; /* enum fp_news_kind, all that happened since the last news about it */
    uint32_t reserved;
    fp_failure failure;
    fp_exit exit;
} fp_news;

/* ---- Environments and supervisors --------------------------------------- */

/* An environment, packed once and shared by many starts. `block` holds
 * NAME=value strings one behind the other, each ended by a NUL; borrowed.
 * -EINVAL: a string without '=' or with an empty name, or two of one name. */
FP_API int fp_env_new(const char *block, size_t block_bytes, fp_env **ret_env);
/* The same without these checks: the strings go to execve(2) as they are. */
FP_API int fp_env_new_as_is(const char *block, size_t block_bytes, fp_env **ret_env);
FP_API fp_env *fp_env_ref(fp_env *env);
FP_API fp_env *fp_env_free(fp_env *env);

typedef struct fp_supervisor_options {
    size_t size;
    fp_supervisor *sibling; /* joins its crew: batches may be shared, and one watcher serves all */
    const char *cgroup_dir; /* directory for leaves; NULL: found by itself; "": none */
    int32_t adopt_orphans;  /* make the process a subreaper and reap orphans of our children */
    int32_t reserved;
    fp_mailbox *orphan_mailbox;
} fp_supervisor_options;

/* A supervisor: it keeps deadlines, empties pipes, stops and reaps.
 * `options` may be NULL; it is borrowed, the mailbox in it must live longer.
 *
 * With the first start under a crew a thread is made that looks after births
 * which hang, as a child that somebody stops or freezes before execve(2) holds
 * the thread that makes it. It blocks all signals, sleeps while nothing is
 * started, and ends in fp_supervisor_free() of the last member. Where no thread
 * is to be had, starts go on without it. */
FP_API int fp_supervisor_new(const fp_supervisor_options *options, fp_supervisor **ret_supervisor);
/* Lend it the calling thread: returns after fp_supervisor_stop(). Blocks all
 * signals in that thread, but those that libc uses for itself. -EBUSY: it has
 * a thread already. */
FP_API int fp_supervisor_run(fp_supervisor *supervisor);
/* Refuse further starts, let fp_supervisor_run() return. What still runs is left running, unwatched. */
FP_API int fp_supervisor_stop(fp_supervisor *supervisor);
/* Only after fp_supervisor_run() has returned. Handles of its processes stay valid. */
FP_API fp_supervisor *fp_supervisor_free(fp_supervisor *supervisor);
/* How many of its processes are not done. */
FP_API int fp_supervisor_active(fp_supervisor *supervisor);
/* Switch the adoption of orphans on; it stays on. Orphan news go to the mailbox of the process that they descend from
 * if it is said there where to, see fp_mailbox_tell_orphans(), else to `mailbox` of the latest such call; to that of
 * its processes in any case. */
FP_API int fp_supervisor_adopt_orphans(fp_supervisor *supervisor, fp_mailbox *mailbox);

/* ---- Starts ------------------------------------------------------------- */

/*
 * Start the program described by `spec`, in the calling thread.
 *
 * Returns 0 once the child has passed execve(2), and stores its handle in
 * `*ret_proc`, owned by the caller: see fp_proc_free(). On failure returns
 * -errno and says in `*reterr_failure`, unless NULL, which step failed; the
 * child, if there was one, has been reaped.
 *
 * `spec` is borrowed. Blocks the calling thread, and only it, until execve(2).
 *
 * The supervisor begins to watch for the exit 5 ms later, as most callers wait
 * for it themselves; at once if somebody listens to the mailbox of the spec.
 */
FP_API int fp_spawn(fp_supervisor *supervisor, const fp_spec *spec, fp_proc **ret_proc, fp_failure *reterr_failure);

/*
 * Hand `n` starts to a crew; they happen in its threads, in order, as many at
 * a time as `max_running` allows (0: no bound). Returns at once. All handles
 * are stored in `ret_procs`, owned by the caller, in state FP_STATE_QUEUED;
 * failures of single starts come as FP_NEWS_FAILED and fp_proc_failure().
 * Bounded calls that name the same mailbox (that of specs[0]) form one queue:
 * the latest bound counts for all of them together.
 * The specs are copied. On failure nothing has been queued, and what has been
 * written to `ret_procs` is NULL.
 *
 * Who listens to a mailbox is woken for many news at a time while starts of a
 * batch are still queued: for half as many as these, 3 to 32, or after 5 ms.
 */
FP_API int fp_spawn_many(fp_supervisor *const *crew, size_t n_crew, const fp_spec *const *specs, size_t n,
                         uint32_t max_running, fp_proc **ret_procs);
/* Block until each of them has been started or has failed. -ETIMEDOUT, -EINTR. */
FP_API int fp_procs_wait_started(fp_proc *const *procs, size_t n, int64_t timeout_ns);
/* Take a queued start back. 0: it will never start (state FAILED, -ECANCELED); -EALREADY: too late. */
FP_API int fp_proc_withdraw(fp_proc *proc);

FP_API fp_proc *fp_proc_ref(fp_proc *proc);
/* Give a handle back. The process itself is not touched: its supervisor goes on. */
FP_API fp_proc *fp_proc_free(fp_proc *proc);

/* ---- Waits and stops ---------------------------------------------------- */

/*
 * Block until the process has reached `state` (EXITED or DONE), and say how it
 * ended. Waits for the exit, never for the end of a pipe. The caller reaps by
 * itself where it can: no other thread is woken.
 *
 * timeout_ns: 0 asks once, negative waits for ever.
 *   -ETIMEDOUT  not yet; *ret_exit, unless NULL, holds what is known
 *   -EINTR      a signal handler ran in this thread; call again
 *   -ECHILD     it never started: see fp_proc_failure()
 */
FP_API int fp_proc_wait(fp_proc *proc, int state, int64_t timeout_ns, fp_exit *ret_exit);
/*
 * A signal that comes just before a call falls asleep, or whose handler runs in
 * another thread, interrupts no call. For hosts whose handlers only set a flag,
 * as those of CPython do: from now on a call that sleeps in the main thread
 * returns -EINTR after 20 ms, called again after 40, and so on, at least every
 * second, so that the host can look at its flag. Only where -EINTR is said to
 * be possible, not within a minute of a clock that fp_run() keeps, and not in
 * fp_solo_talk() with an idle time-out.
 */
FP_API void fp_main_thread_naps(int on);
/* What is known now, without asking the kernel. */
FP_API void fp_proc_status(fp_proc *proc, fp_exit *ret_exit);
/* Why a queued start failed. -ENODATA: it did not fail. */
FP_API int fp_proc_failure(fp_proc *proc, fp_failure *ret_failure);
FP_API int fp_proc_pid(fp_proc *proc);
/* Its pidfd, borrowed, or -EBADF once it is done or where the kernel has none. */
FP_API int fp_proc_pidfd(fp_proc *proc);
/* FP_CONTAIN_SESSION or FP_CONTAIN_CGROUP: what it got. */
FP_API int fp_proc_containment(fp_proc *proc);

/* Send one signal to the child, or to its whole group. -ESRCH: it has ended. */
FP_API int fp_proc_signal(fp_proc *proc, int sig, int to_group);

/*
 * Begin to stop the child and all that it contains, in the background: stop
 * signal and SIGCONT to the group, after `grace_ns` SIGKILL to the whole
 * containment, after `kill_timeout_ns` the report that it cannot be killed.
 *
 * Wait for the outcome with fp_proc_wait_stopped(). A ladder that is being
 * climbed already is not begun again, nobody gets the stop signal twice; a
 * shorter grace shortens it. `reason` is what the exit will be called.
 * grace_ns: 0 is that of the spec, negative none. kill_timeout_ns: 0 is that of the spec.
 * -ESRCH: nothing is left to stop.
 */
FP_API int fp_proc_stop(fp_proc *proc, int reason, int64_t grace_ns, int64_t kill_timeout_ns);
/* The same for many, in one pass. Returns how many were stopped. */
FP_API int fp_procs_stop(fp_proc *const *procs, size_t n, int reason, int64_t grace_ns, int64_t kill_timeout_ns);
/* Block until it is done or reported unkillable. -ETIMEDOUT, -EINTR, -ECHILD as in fp_proc_wait(). */
FP_API int fp_proc_wait_stopped(fp_proc *proc, int64_t timeout_ns, fp_exit *ret_exit);
/* Who is left, and how sure that is. Looks at /proc when somebody may be. */
FP_API int fp_proc_report(fp_proc *proc, fp_stop_report *ret_report);

/* ---- Captured streams --------------------------------------------------- */

/* What a captured stream (1 or 2) has brought so far. */
typedef struct fp_output {
    uint64_t total_bytes;   /* all that came */
    uint64_t kept_bytes;    /* head and tail together: the size for fp_proc_output_copy() */
    uint64_t head_bytes;    /* how much of that is the head */
    int32_t ended;          /* no more will come */
    int32_t complete;       /* and it ended by end of file, not because we stopped listening */
} fp_output;

/* -EINVAL: that stream is not captured. */
FP_API int fp_proc_output(fp_proc *proc, int stream, fp_output *ret_output);
/* Copy head and tail into `buffer`; returns how many bytes. */
FP_API int64_t fp_proc_output_copy(fp_proc *proc, int stream, void *buffer, size_t buffer_bytes);
/*
 * From now on lose nothing that fp_proc_read() has not read, of what the tail
 * holds and of what comes: the child waits for us, as at a full pipe. `on` 0:
 * it need not wait any more.
 */
FP_API int fp_proc_follow(fp_proc *proc, int stream, int on);
/*
 * Read from a captured stream at `*offset`, and move it on. Returns the count,
 * 0 at the end. If bytes there are gone already, *offset first jumps to the
 * oldest one kept. -ETIMEDOUT, -EINTR.
 */
FP_API int64_t fp_proc_read(fp_proc *proc, int stream, uint64_t *offset, void *buffer, size_t buffer_bytes,
                            int64_t timeout_ns);

/*
 * A reader of a captured stream. As long as it lives nothing behind its
 * position is lost: the child waits for the slowest of all readers, as at a
 * full pipe. The first reader of a stream that is followed from birth begins
 * with the first byte; others with the oldest that is kept. Read by one thread
 * at a time. -EINVAL: that stream is not captured; -ENOMEM, -EOWNERDEAD.
 */
typedef struct fp_reader fp_reader;
FP_API int fp_reader_new(fp_proc *proc, int stream, fp_reader **ret_reader);
/* As fp_proc_read(), at the reader's own position. */
FP_API int64_t fp_reader_read(fp_reader *reader, void *buffer, size_t buffer_bytes, int64_t timeout_ns);
/* The child need not wait for it any more. */
FP_API fp_reader *fp_reader_free(fp_reader *reader);

/* ---- Mailboxes ---------------------------------------------------------- */

/* A mailbox: news of many processes for one consumer. */
FP_API int fp_mailbox_new(fp_mailbox **ret_mailbox);
/* Readable while there are news: for poll, epoll, an event loop. Borrowed. */
FP_API int fp_mailbox_fd(fp_mailbox *mailbox);
/* Take up to `n` news; waits for the first as fp_proc_wait() does. Returns how many, 0 on a wake-up. */
FP_API int fp_mailbox_take(fp_mailbox *mailbox, fp_news *ret_news, size_t n, int64_t timeout_ns);
/*
 * The same for one who does nothing else meanwhile: news that nobody is woken
 * for yet, see fp_spawn_many(), are left there until somebody is, for 64 of
 * them or after 10 ms.
 */
FP_API int fp_mailbox_take_many(fp_mailbox *mailbox, fp_news *ret_news, size_t n, int64_t timeout_ns);
/* Drop what is waiting about this process. */
FP_API int fp_mailbox_forget(fp_mailbox *mailbox, fp_proc *proc);
/* Orphans that descend from processes that name `mailbox` are told of at `where`, which may be the same. Only the first
 * call counts. */
FP_API int fp_mailbox_tell_orphans(fp_mailbox *mailbox, fp_mailbox *where);
/*
 * For the one consumer, when for some time he has no use for news: sleep until
 * fp_mailbox_wake(). News wake nobody meanwhile, and are there afterwards.
 * -ETIMEDOUT, -EINTR as in fp_proc_wait().
 */
FP_API int fp_mailbox_rest(fp_mailbox *mailbox, int64_t timeout_ns);
/* Let a blocked fp_mailbox_take() or fp_mailbox_rest() return 0. */
FP_API int fp_mailbox_wake(fp_mailbox *mailbox);
/* Processes that still name it keep it alive. */
FP_API fp_mailbox *fp_mailbox_free(fp_mailbox *mailbox);

/* ---- One program, without a supervisor ---------------------------------- */

/*
 * A process that belongs to the caller alone. No thread and no supervisor
 * watches it: it costs one descriptor, its pidfd, and nothing happens to it
 * between two calls. Unlike those of a supervisor it runs in the caller's
 * session and group if `lead` says so, and is left running when its handle goes.
 *
 * One thread at a time may be in fp_run(), fp_solo_talk() and fp_solo_stop()
 * for one process; fp_solo_wait() and fp_solo_signal() may be called by any,
 * also meanwhile.
 */
typedef struct fp_solo fp_solo;

/* What a captured stream has brought; borrowed until the next call about its process. */
typedef struct fp_said {
    uint64_t total_bytes;
    const void *first; /* the first piece; for the others see fp_solo_piece() */
    uint64_t first_bytes;
    uint32_t n_pieces;
    int8_t captured;
    int8_t complete;   /* it ended by end of file, not because we stopped listening */
    int8_t wants_room; /* after -ENOBUFS: for this stream, see fp_solo_lend() */
} fp_said;

typedef struct fp_result {
    fp_exit exit;    /* state EXITED, or RUNNING if it has outlived SIGKILL by `kill_timeout_ns` */
    fp_said said[2]; /* standard output, standard error */
} fp_result;

/*
 * Run the program described by `spec` to its end: start it, feed its standard
 * input, keep all that comes on its captured streams, reap it. All of that in
 * the calling thread, in one call.
 *
 * Of the spec `token`, `mailbox` and the bounds of captured output do not
 * count; `timeout_ns`, `deadline_ns` and `idle_timeout_ns` do. When one of
 * them is over, the program and its descendants are stopped: the stop signal,
 * SIGKILL after `grace_ns`, and once it has ended, its streams are given up
 * after 0.1 s of silence, or 0.5 s, whoever holds them. exit.reason then tells
 * which. The descendants are those in its cgroup, where one can be had (it is
 * put into one only if it has a time-out, or limits that need it), else those
 * that /proc shows: children of its children, and the groups and sessions that
 * any of them has led. Without a time-out it returns when all captured streams
 * have ended and the program has, as communicate() of Python does.
 *
 * `*solo` must be NULL at first, and must be freed by the caller when it is
 * not NULL on return, also after an error: the output lies in it.
 *   -EINTR      a signal handler ran in this thread; call again, with the same
 *               arguments, and it goes on, or stop it and give it up
 *   -ENOMEM     no memory for what it writes; it is running still
 *   -ENOBUFS    with FP_ASK_FOR_ROOM: lend it room, and call again, see fp_solo_lend()
 *   else        it could not be started, see fp_spawn()
 * `spec` is borrowed, its `input` until the run is over.
 */
FP_API int fp_run(const fp_spec *spec, fp_solo **solo, fp_result *ret_result, fp_failure *reterr_failure);

/*
 * Start the program described by `spec` and leave the rest to the caller.
 * Errors as for fp_spawn(). Time-outs of the spec do not count, but that with
 * a `timeout_ns` it is put into a cgroup where one can be had, as by fp_run().
 * Pipes (FP_STDIO_PIPE) make sense for fp_run() only: here nobody reads them.
 */
FP_API int fp_solo_start(const fp_spec *spec, fp_solo **ret_solo, fp_failure *reterr_failure);
/* Take over a child that was started by other means and has not been reaped. `leads`: it leads a group of its own. */
FP_API int fp_solo_adopt(int pid, int leads, fp_solo **ret_solo);
/* Give it back. The process is not touched; unreaped it stays so. */
FP_API fp_solo *fp_solo_free(fp_solo *solo);
/* The same, but if it has not ended it is reaped one day: by the first fp_run() or fp_solo_start() after its end. */
FP_API fp_solo *fp_solo_leave(fp_solo *solo);
FP_API int fp_solo_pid(const fp_solo *solo);
/* Its pidfd, borrowed; -EBADF where the kernel has none, or had no descriptor left for it. */
FP_API int fp_solo_pidfd(fp_solo *solo);
/*
 * Block until it has ended, and say how, as fp_proc_wait() does: -ETIMEDOUT,
 * -EINTR. If somebody else has reaped it, the true status is asked for (Linux
 * 6.15), else the reason is FP_REASON_UNKNOWN. In a forked copy of the caller,
 * whose child it is not, it waits as well.
 */
FP_API int fp_solo_wait(fp_solo *solo, int64_t timeout_ns, fp_exit *ret_exit);
/*
 * The same for some milliseconds, as long as little comes on `fd`, a pipe that
 * it writes to: one that has ended by then can be read to its end without any
 * waiting in between.
 */
FP_API int fp_solo_wait_a_moment(fp_solo *solo, int fd, fp_exit *ret_exit);
/* Send it a signal. -ESRCH: it has ended; no other process can be hit. */
FP_API int fp_solo_signal(fp_solo *solo, int sig);
/*
 * Stop it and its descendants, as fp_run() does when its time is over, and
 * wait for that. grace_ns: 0 is 5 s, negative none; kill_timeout_ns: 0 is 5 s.
 * 0: nobody is left that could be found; -ETIMEDOUT: somebody is, after
 * SIGKILL and `kill_timeout_ns`; -EINTR: call again.
 */
FP_API int fp_solo_stop(fp_solo *solo, int64_t grace_ns, int64_t kill_timeout_ns, fp_exit *ret_exit);

enum fp_talk_flag {
    FP_TALK_TO_THE_END = 1 << 0, /* also after SIGKILL wait for the end of every stream, whoever holds it */
    FP_TALK_AND_WAIT = 1 << 1,   /* and then for the exit of the process */
    FP_TALK_ASK_FOR_ROOM = 1 << 2 /* the caller lends memory for long output, see fp_solo_lend() */
};

/* A conversation through descriptors of the caller's. */
typedef struct fp_talk {
    size_t size;
    int32_t fds[3]; /* our ends of the pipes of its streams 0 to 2, borrowed; -1: none, or over */
    uint32_t flags; /* enum fp_talk_flag */
    const void *input; /* the same at each call; it is gone on with where the last call has ended */
    size_t input_bytes;
    int64_t timeout_ns; /* negative: none */
    int64_t idle_timeout_ns; /* without a byte on an output; 0: none */
} fp_talk;

/*
 * Feed and empty the pipes of a process until its outputs have ended; if it
 * was killed through fp_solo_signal(), not longer than 0.5 s after its end.
 * The pipe of the input is made not to block meanwhile.
 *
 *   0           all is over
 *   1           the input is over, or nobody reads it: close that pipe, and call again without it
 *   -ETIMEDOUT, -EINTR   call again to go on; nothing is lost
 *   -ETIME      the same at `idle_timeout_ns`
 *   -ENOBUFS    with FP_TALK_ASK_FOR_ROOM: lend it room, and call again
 * What has come so far is in `ret_result` in any case, together with what is known of the exit.
 */
FP_API int fp_solo_talk(fp_solo *solo, const fp_talk *talk, fp_result *ret_result);
/* The bytes of one piece of a captured stream (1 or 2); how many, or -ENODATA. */
FP_API int64_t fp_solo_piece(const fp_solo *solo, int stream, uint32_t index, const void **ret_bytes);
/*
 * Lend memory to a captured stream (1 or 2) that asks for it when it turns out
 * to be long (more than some KiB): what it has brought is then in one piece,
 * in memory that can be handed on as it is, and not joined at twice its size.
 * Lent again, larger, the memory must hold what the last one held; so
 * realloc(3) does. NULL: the bytes are taken, the stream begins anew with none.
 * -EINVAL: too small for what has come.
 */
FP_API int fp_solo_lend(fp_solo *solo, int stream, void *room, size_t bytes);

/* ---- What is possible here ---------------------------------------------- */

/* What this kernel and container allow, found out by trying, once. */
enum fp_capability {
    FP_CAP_CLONE3 = 0,
    FP_CAP_CLONE = 1,        /* clone(2) with shared memory */
    FP_CAP_PIDFD = 2,        /* CLONE_PIDFD or pidfd_open(2) */
    FP_CAP_PIDFD_SIGNAL = 3, /* pidfd_send_signal(2) */
    FP_CAP_PIDFD_WAIT = 4,   /* waitid(P_PIDFD) */
    FP_CAP_PIDFD_GROUP = 5,  /* PIDFD_SIGNAL_PROCESS_GROUP */
    FP_CAP_PIDFD_INFO = 6,   /* PIDFD_GET_INFO with PIDFD_INFO_EXIT */
    FP_CAP_CLOSE_RANGE = 7,
    FP_CAP_CGROUP = 8,       /* a writable cgroup v2 directory */
    FP_CAP_INTO_CGROUP = 9,  /* CLONE_INTO_CGROUP */
    FP_CAP_CGROUP_KILL = 10,
    FP_CAP_PROCFS = 11,
    FP_CAP_COUNT = 12
};

/* 1, 0, or -EINVAL for an unknown capability. Set FASTPROC_DISABLE=clone3,pidfd,... to hide some. */
FP_API int fp_probe(int capability);
FP_API const char *fp_capability_name(int capability);
/* The directory that cgroup leaves are made in, or NULL. */
FP_API const char *fp_cgroup_dir(void);

/* ---- Words -------------------------------------------------------------- */

/* Never NULL. */
FP_API const char *fp_strerror(int error);
FP_API const char *fp_stage_name(int stage);
FP_API const char *fp_reason_name(int reason);
FP_API const char *fp_signal_name(int sig);
FP_API const char *fp_version(void);

/* cdef: end */

#define FP_SPEC_INIT {.size = sizeof(fp_spec)}
#define FP_SUPERVISOR_OPTIONS_INIT {.size = sizeof(fp_supervisor_options)}

#ifdef __cplusplus
}
#endif
#endif
