/*
 * glue.h: between cffi and libfastproc. Each crossing of that border, and each
 * field read or written across it, costs as much as some hundred lines of C;
 * what is needed for every process is therefore done here in one step.
 *
 * No Python in it: it is called without the interpreter's lock.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "fastproc.h"

/* What stands between the two markers also feeds cffi. */
/* cdef: begin */

/* Cells that own what is stored in them, see owners.py. */
typedef struct {
    fp_proc *proc;
    int64_t stand;      /* how it stood when its end was first heard of; 0: that has not been */
    fp_failure failure; /* of a start that has failed at once */
} proc_owner;
typedef struct {
    fp_reader *reader;
} reader_owner;
typedef struct {
    fp_mailbox *mailbox;
} mailbox_owner;
typedef struct {
    fp_env *env;
} env_owner;

typedef struct {
    fp_solo *solo;
} solo_owner;

static void *owner_new(size_t size);
static void proc_owner_free(void *cell);
static void reader_owner_free(void *cell);
static void mailbox_owner_free(void *cell);
static void env_owner_free(void *cell);
/* It goes on, and is reaped one day. */
static void solo_owner_free(void *cell);
/* From one cell to another, which is empty. */
static void solo_pass_on(solo_owner *from, solo_owner *to);

/*
 * How a process stands, in one number; 0 or less is an error or nothing:
 *   bits 0 to 2 state, 3 to 11 flags, 12 to 15 reason, 16 to 23 signal, from 24 exit code + 1
 */
static int64_t stand_of(proc_owner *owner);

/* What a manager has counted, see metrics.py. Histograms have room for 15 bounds. */
typedef struct {
    int64_t started;
    int64_t spawn_ns;
    int64_t spawn_counts[16];
    int64_t exited;
    int64_t signaled;
    int64_t unknown;
    int64_t escalated;
    int64_t killed;
    int64_t run_ns;
    int64_t run_counts[16];
    int64_t reasons[16];
    int64_t user_us;
    int64_t system_us;
    int64_t max_rss_bytes;
} sums;

typedef struct {
    int64_t lock[8];             /* a pthread_mutex_t, of which cffi knows nothing */
    int64_t spawn_bounds_ns[16]; /* ended by INT64_MAX */
    int64_t run_bounds_ns[16];
    sums sums;
} tally;

/* So many starts took that long each; negative: nobody knows. */
static void tally_starts(tally *tally, uint32_t n, int64_t length_ns);
/* How this one ended, unless that has been counted; it is noted in owner->stand. */
static void tally_exit(tally *tally, proc_owner *owner, const fp_exit *exit);
static void tally_end(tally *tally, proc_owner *owner);
static void tally_read(tally *tally, sums *ret_sums);

/* Who starts, and what all starts have in common. */
typedef struct {
    fp_supervisor **crew;
    uint32_t n_crew;
    uint32_t turn;
    tally *tally;
    fp_spec common;
} starts;

/* The same of a starter: so many that have waited for their turn, one that has ended. */
static void count_starts(starts *starts, uint32_t n);
static void count_end(starts *starts, proc_owner *owner);

/* Start a program of which nothing is said but its arguments. 0 or -errno, with owner->failure. */
static int start_plain(starts *starts, proc_owner *owner, const char *args, size_t args_bytes, env_owner *env,
                       uint64_t token);
/* Start a program by its spec. */
static int start_spec(starts *starts, proc_owner *owner, const fp_spec *spec);
/* Queue many, all or none. */
static int start_many(starts *starts, proc_owner **owners, const fp_spec **specs, size_t n, uint32_t max_running);
/* The same for those of which nothing is said but their arguments, which stand one behind the other in `args`. */
static int start_all_plain(starts *starts, proc_owner **owners, const char *args, const size_t *args_bytes,
                           const uint64_t *tokens, env_owner *env, size_t n, uint32_t max_running);
/* Block until each has been started or has failed; how many have failed, or -errno. */
static int wait_all_started(proc_owner **owners, size_t n);

/*
 * Block until it has exited, count that, and say how it stands. News about one
 * of which nothing is left are dropped: the caller has heard all.
 */
static int64_t wait_exit(starts *starts, proc_owner *owner, int64_t timeout_ns);
/* The same in two steps. */
static int64_t await_end(starts *starts, proc_owner *owner, int64_t timeout_ns);
static void drop_news(starts *starts, proc_owner *owner);

/* A piece of news, as much of it as is mostly needed. */
typedef struct {
    uint64_t token;
    int64_t stand;
    uint32_t what;
    int32_t error;
    int32_t stage;
    int32_t detail;
} brief;

/* As fp_mailbox_take() or fp_mailbox_take_many(); *ret_what has all bits of all that was taken. */
static int take_news(fp_mailbox *mailbox, fp_news *ret_news, brief *ret_briefs, size_t n, int64_t timeout_ns,
                     int patient, uint32_t *ret_what);

/* cdef: end */

/* ---- owners ---------------------------------------------------------------- */

static void *owner_new(size_t size) {
    return calloc(1, size);
}

static void proc_owner_free(void *cell) {
    fp_proc_free(((proc_owner *)cell)->proc);
    free(cell);
}

static void reader_owner_free(void *cell) {
    fp_reader_free(((reader_owner *)cell)->reader);
    free(cell);
}

static void mailbox_owner_free(void *cell) {
    fp_mailbox_free(((mailbox_owner *)cell)->mailbox);
    free(cell);
}

static void env_owner_free(void *cell) {
    fp_env_free(((env_owner *)cell)->env);
    free(cell);
}

static void solo_owner_free(void *cell) {
    fp_solo_leave(((solo_owner *)cell)->solo);
    free(cell);
}

static void solo_pass_on(solo_owner *from, solo_owner *to) {
    to->solo = from->solo;
    from->solo = NULL;
}

/* ---- how it stands ------------------------------------------------------------ */

static int64_t stand_of_exit(const fp_exit *exit) {
    return exit->state | (int64_t)exit->flags << 3 | (int64_t)exit->reason << 12 | (int64_t)exit->signal << 16 |
           (int64_t)(exit->code + 1) << 24;
}

static int64_t stand_of(proc_owner *owner) {
    fp_exit exit;
    if (!owner->proc)
        return 0;
    fp_proc_status(owner->proc, &exit);
    return stand_of_exit(&exit);
}

/* ---- counting ------------------------------------------------------------------- */

/* Zeroed memory is a mutex, as PTHREAD_MUTEX_INITIALIZER is. */
_Static_assert(sizeof(pthread_mutex_t) <= sizeof(((tally *)0)->lock), "the place for the mutex is too small");

static void tally_lock(tally *tally) {
    pthread_mutex_lock((pthread_mutex_t *)tally->lock);
}

static void tally_unlock(tally *tally) {
    pthread_mutex_unlock((pthread_mutex_t *)tally->lock);
}

static int bucket_of(const int64_t *bounds, int64_t length) {
    int i = 0;
    while (length > bounds[i])
        i++;
    return i;
}

static void tally_starts(tally *tally, uint32_t n, int64_t length_ns) {
    tally_lock(tally);
    tally->sums.started += n;
    if (length_ns >= 0) {
        tally->sums.spawn_ns += n * length_ns;
        tally->sums.spawn_counts[bucket_of(tally->spawn_bounds_ns, length_ns)] += n;
    }
    tally_unlock(tally);
}

static void tally_exit(tally *tally, proc_owner *owner, const fp_exit *exit) {
    sums *sums = &tally->sums;
    int64_t length = exit->ended_ns > exit->started_ns ? exit->ended_ns - exit->started_ns : 0;

    tally_lock(tally);
    if (!owner->stand) {
        owner->stand = stand_of_exit(exit);
        sums->reasons[exit->reason]++;
        if (exit->code >= 0)
            sums->exited++;
        else if (exit->signal)
            sums->signaled++;
        else
            sums->unknown++;
        sums->killed += exit->signal == SIGKILL;
        sums->escalated += (exit->flags & FP_EXIT_ESCALATED) != 0;
        sums->run_ns += length;
        sums->run_counts[bucket_of(tally->run_bounds_ns, length)]++;
        sums->user_us += exit->usage.user_us;
        sums->system_us += exit->usage.system_us;
        if (sums->max_rss_bytes < exit->usage.max_rss_bytes)
            sums->max_rss_bytes = exit->usage.max_rss_bytes;
    }
    tally_unlock(tally);
}

static void tally_end(tally *tally, proc_owner *owner) {
    fp_exit exit;
    if (!owner->proc)
        return;
    fp_proc_status(owner->proc, &exit);
    if (exit.state >= FP_STATE_EXITED)
        tally_exit(tally, owner, &exit);
}

static void tally_read(tally *tally, sums *ret_sums) {
    tally_lock(tally);
    *ret_sums = tally->sums;
    tally_unlock(tally);
}

/* ---- starts ------------------------------------------------------------------------ */

static void count_starts(starts *starts, uint32_t n) {
    tally_starts(starts->tally, n, -1);
}

static void count_end(starts *starts, proc_owner *owner) {
    tally_end(starts->tally, owner);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int start_under(starts *starts, uint32_t number, proc_owner *owner, const fp_spec *spec) {
    int64_t began = now_ns();
    int r = fp_spawn(starts->crew[number % starts->n_crew], spec, &owner->proc, &owner->failure);
    if (r == 0)
        tally_starts(starts->tally, 1, now_ns() - began);
    return r;
}

static int start_spec(starts *starts, proc_owner *owner, const fp_spec *spec) {
    /* Two threads may draw the same turn: no harm, it only spreads the load. */
    return start_under(starts, __atomic_add_fetch(&starts->turn, 1, __ATOMIC_RELAXED), owner, spec);
}

/*
 * There is no output to be read, so it need not be spread: under the supervisor of this CPU. What that has is in its
 * caches, and where starts and waits follow one another it is not woken, see watch_later() in start.c.
 */
static int start_plain(starts *starts, proc_owner *owner, const char *args, size_t args_bytes, env_owner *env,
                       uint64_t token) {
    int cpu = sched_getcpu();
    fp_spec spec = starts->common;
    spec.env = env->env;
    spec.args = args;
    spec.args_bytes = args_bytes;
    spec.token = token;
    return start_under(starts, cpu < 0 ? 0 : (uint32_t)cpu, owner, &spec);
}

static int start_many(starts *starts, proc_owner **owners, const fp_spec **specs, size_t n, uint32_t max_running) {
    fp_proc **procs = calloc(n ? n : 1, sizeof *procs);
    int r = -ENOMEM;
    if (procs)
        r = fp_spawn_many(starts->crew, starts->n_crew, specs, n, max_running, procs);
    for (size_t i = 0; r >= 0 && i < n; i++)
        owners[i]->proc = procs[i];
    free(procs);
    return r;
}

static int start_all_plain(starts *starts, proc_owner **owners, const char *args, const size_t *args_bytes,
                           const uint64_t *tokens, env_owner *env, size_t n, uint32_t max_running) {
    fp_spec *specs = malloc((n ? n : 1) * sizeof *specs);
    const fp_spec **pointers = malloc((n ? n : 1) * sizeof *pointers);
    int r = -ENOMEM;
    if (specs && pointers) {
        for (size_t i = 0; i < n; i++) {
            specs[i] = starts->common;
            specs[i].args = args;
            specs[i].args_bytes = args_bytes[i];
            specs[i].env = env->env;
            specs[i].token = tokens[i];
            pointers[i] = &specs[i];
            args += args_bytes[i];
        }
        r = start_many(starts, owners, pointers, n, max_running);
    }
    free(pointers);
    free(specs);
    return r;
}

static int wait_all_started(proc_owner **owners, size_t n) {
    fp_failure failure;
    int failed = 0;
    /* From the end: they are started in order, so mostly this waits but once. */
    for (size_t i = n; i-- > 0;) {
        int r = fp_procs_wait_started(&owners[i]->proc, 1, -1);
        if (r < 0)
            return r;
        failed += fp_proc_failure(owners[i]->proc, &failure) == 0;
    }
    return failed;
}

/* ---- ends ---------------------------------------------------------------------------- */

static int64_t await_end(starts *starts, proc_owner *owner, int64_t timeout_ns) {
    fp_exit exit;
    if (!owner->proc)
        return -ECHILD;
    int r = fp_proc_wait(owner->proc, FP_STATE_EXITED, timeout_ns, &exit);
    if (r < 0)
        return r;
    tally_exit(starts->tally, owner, &exit);
    return stand_of_exit(&exit);
}

static void drop_news(starts *starts, proc_owner *owner) {
    if (starts->common.mailbox)
        fp_mailbox_forget(starts->common.mailbox, owner->proc);
}

static int64_t wait_exit(starts *starts, proc_owner *owner, int64_t timeout_ns) {
    int64_t stand = await_end(starts, owner, timeout_ns);
    if (stand > 0 && (stand & 7) == FP_STATE_DONE)
        drop_news(starts, owner);
    return stand;
}

static int take_news(fp_mailbox *mailbox, fp_news *ret_news, brief *ret_briefs, size_t n, int64_t timeout_ns,
                     int patient, uint32_t *ret_what) {
    int taken = patient ? fp_mailbox_take_many(mailbox, ret_news, n, timeout_ns)
                        : fp_mailbox_take(mailbox, ret_news, n, timeout_ns);
    uint32_t what = 0;
    for (int i = 0; i < taken; i++) {
        const fp_news *news = &ret_news[i];
        what |= news->what;
        ret_briefs[i] = (brief){
            .token = news->token,
            .stand = stand_of_exit(&news->exit),
            .what = news->what,
            .error = news->failure.error,
            .stage = news->failure.stage,
            .detail = news->failure.detail,
        };
    }
    *ret_what = what;
    return taken;
}
