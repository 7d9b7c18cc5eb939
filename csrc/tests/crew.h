/*
 * crew.h: what the tests with real processes share: a crew with its threads,
 * jobs for the shell, and the proofs that nothing of them is left.
 *
 * The proofs do not ask the library: descriptors are counted in /proc, children
 * are looked for with waitpid(2), and a lifeline, a pipe that every descendant
 * of a job holds open, ends when the last of them is gone.
 */
#ifndef FASTPROC_CREW_H
#define FASTPROC_CREW_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "fastproc.h"

#define MS INT64_C(1000000)
#define LONG (20000 * MS) /* for what must come, on a slow machine as well */

/* A spec that lets the shell run `script`; more fields may follow. It lives as long as the block round it. */
#define SHELL(script, ...)                                                                                             \
    (&(const fp_spec){                                                                                                 \
        .size = sizeof(fp_spec), .argv = (const char *const[]){"/bin/sh", "-c", script, NULL}, __VA_ARGS__})
/* The same as a value to be stored; `script` must be a literal. */
#define STORED(script, ...)                                                                                            \
    ((fp_spec){.size = sizeof(fp_spec),                                                                                \
               .args = "/bin/sh\0-c\0" script,                                                                         \
               .args_bytes = sizeof("/bin/sh\0-c\0" script),                                                           \
               __VA_ARGS__})

static inline int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static inline void nap(int64_t ns) {
    struct timespec time = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    while (nanosleep(&time, &time) < 0)
        continue;
}

/* ---- a crew ------------------------------------------------------------------ */

enum { MOST_CREW = 4 };

typedef struct crew {
    fp_supervisor *of[MOST_CREW];
    pthread_t threads[MOST_CREW];
    int n;
} crew;

static inline void *crew_thread(void *supervisor) {
    fp_supervisor_run(supervisor);
    return NULL;
}

/* As fp_spawn_many() wants it. */
static inline fp_supervisor *const *members(const crew *c) {
    return (fp_supervisor *const *)c->of;
}

static inline void crew_begin(crew *c, int n) {
    for (c->n = 0; c->n < n; c->n++) {
        fp_supervisor_options options = {.size = sizeof options, .sibling = c->n ? c->of[0] : NULL};
        CHECK_EQ(fp_supervisor_new(&options, &c->of[c->n]), 0);
        pthread_create(&c->threads[c->n], NULL, crew_thread, c->of[c->n]);
    }
}

static inline void crew_end(crew *c) {
    for (int i = 0; i < c->n; i++)
        CHECK_EQ(fp_supervisor_stop(c->of[i]), 0);
    for (int i = 0; i < c->n; i++)
        pthread_join(c->threads[i], NULL);
    for (int i = 0; i < c->n; i++)
        c->of[i] = fp_supervisor_free(c->of[i]);
}

/* ---- a job ------------------------------------------------------------------- */

static inline fp_proc *start(fp_supervisor *supervisor, const fp_spec *spec) {
    fp_failure failure = {0};
    fp_proc *proc = NULL;
    int r = fp_spawn(supervisor, spec, &proc, &failure);
    if (r < 0) {
        fprintf(stderr, "cannot start: %s, stage %s\n", fp_strerror(r), fp_stage_name(failure.stage));
        abort();
    }
    return proc;
}

/* `ret_list` as fp_spawn_many() wants it. */
static inline void list_specs(const fp_spec *specs, const fp_spec **ret_list, int n) {
    for (int i = 0; i < n; i++)
        ret_list[i] = &specs[i];
}

/* Wait until nothing of it is left; gives the handle back. */
static inline fp_exit ended(fp_proc *proc) {
    fp_exit exit = {0};
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, &exit), 0);
    CHECK_EQ(exit.state, FP_STATE_DONE);
    fp_proc_free(proc);
    return exit;
}

/* Wait until `n` bytes have come on a captured standard output. */
static inline void await_output(fp_proc *proc, uint64_t n) {
    uint64_t offset = 0;
    char buffer[256];
    while (offset < n) {
        int64_t r = fp_proc_read(proc, 1, &offset, buffer, sizeof buffer, LONG);
        CHECK(r > 0);
        if (r <= 0)
            break;
    }
}

/* ---- proofs -------------------------------------------------------------------- */

static inline int open_descriptors(void) {
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n;
}

/* Neither a living child nor a zombie. */
static inline bool has_no_child(void) {
    return waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD;
}

typedef struct lifeline {
    int ours;
    int theirs;
    fp_fd_map map; /* for `fds` of the spec */
} lifeline;

static inline void lifeline_begin(lifeline *l) {
    int ends[2] = {-1, -1};
    CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
    *l = (lifeline){.ours = ends[0], .theirs = ends[1], .map = {.source = ends[1], .target = 9}};
}

/* Is everybody gone, or at least within `wait_ms`? */
static inline bool lifeline_is_cut(lifeline *l, int wait_ms) {
    if (l->theirs >= 0)
        close(l->theirs);
    l->theirs = -1;
    struct pollfd end = {.fd = l->ours, .events = POLLIN};
    return poll(&end, 1, wait_ms) == 1 && (end.revents & POLLHUP);
}

static inline void lifeline_end(lifeline *l) {
    if (l->theirs >= 0)
        close(l->theirs);
    close(l->ours);
}

/* ---- threads -------------------------------------------------------------------- */

enum { MOST_THREADS = 16 };

static inline void in_threads(int n, void *(*main)(void *), void *arg) {
    pthread_t threads[MOST_THREADS];
    for (int i = 0; i < n; i++)
        pthread_create(&threads[i], NULL, main, arg);
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

static inline bool no_threads_in_copies(void) {
#ifdef __SANITIZE_THREAD__
    return true;
#else
    return false;
#endif
}

/* A test that hangs dies, and says which it was. */
static const char *watched;

static inline void say_who_hangs(int sig) {
    static const char text[] = " does not come to an end\n";
    (void)sig;
    if (write(2, watched, strlen(watched)) < 0 || write(2, text, sizeof text - 1) < 0)
        _exit(3);
    _exit(2);
}

static inline void watch_for_hang(const char *test, unsigned seconds) {
    watched = test;
    if (getenv("VERBOSE"))
        fprintf(stderr, "%s\n", test);
    signal(SIGALRM, say_who_hangs);
    alarm(seconds);
}

#define WATCHED(test)                                                                                                  \
    do {                                                                                                               \
        watch_for_hang(#test, 60);                                                                                     \
        RUN(test);                                                                                                     \
        alarm(0);                                                                                                      \
    } while (0)

#endif
