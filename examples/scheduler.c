/*
 * scheduler: a small job scheduler on libfastproc, without Python.
 *
 * A thousand commands, sixty-four at a time, each with a deadline. The main
 * thread sleeps in an epoll loop of its own, hears of every end through the
 * descriptor of a mailbox and starts the next command; two supervisors keep
 * the deadlines and reap, each in a thread that is lent to it. Some commands
 * fail, some crash, some sleep too long, some do not exist: the summary counts
 * how each ended, and the exit code is 0 if all ended as they should.
 *
 *   cc -o scheduler scheduler.c $(pkg-config --cflags --libs fastproc)
 *   ./scheduler [commands [at-a-time]]
 *
 * Ctrl-C stops what runs, politely first, and starts nothing more.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fastproc.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define MS INT64_C(1000000)
#define SUPERVISORS 2
#define NEWS_AT_ONCE 64

/* What is run, and what must come of it. */
struct job {
    const char *argv[4];
    int64_t timeout_ns;
    int reason; /* enum fp_reason; FP_REASON_NONE: it cannot be started */
    int code;   /* exit code, or -1 */
    int signal; /* signal that ends it, or 0 */
    bool deaf;  /* starts with SIGTERM ignored: its grace passes, and SIGKILL has to come */
};

static const struct job jobs[] = {
    {{"true"}, 10000 * MS, FP_REASON_EXITED, 0, 0, false},
    {{"sh", "-c", "exit 3"}, 10000 * MS, FP_REASON_EXITED, 3, 0, false},
    {{"true"}, 10000 * MS, FP_REASON_EXITED, 0, 0, false},
    {{"sh", "-c", "kill -SEGV $$"}, 10000 * MS, FP_REASON_SIGNALED, -1, SIGSEGV, false},
    {{"true"}, 10000 * MS, FP_REASON_EXITED, 0, 0, false},
    {{"sleep", "60"}, 50 * MS, FP_REASON_TIMEOUT, -1, SIGTERM, false},
    {{"true"}, 10000 * MS, FP_REASON_EXITED, 0, 0, false},
    {{"no-such-program-anywhere"}, 10000 * MS, FP_REASON_NONE, -1, 0, false},
    {{"true"}, 10000 * MS, FP_REASON_EXITED, 0, 0, false},
    {{"sleep", "60"}, 50 * MS, FP_REASON_TIMEOUT, -1, SIGKILL, true},
};
#define N_JOBS (sizeof jobs / sizeof *jobs)

struct scheduler {
    fp_supervisor *supervisors[SUPERVISORS];
    pthread_t threads[SUPERVISORS];
    int n_threads;
    fp_mailbox *mailbox;
    int epoll_fd;
    int signal_fd;
    size_t n_commands;
    size_t at_a_time;
    fp_proc **procs; /* by token; NULL before its start and after its end */
    size_t next;     /* the command to start next */
    size_t running;
    size_t most_running;
    size_t by_reason[FP_REASON_COUNT]; /* FP_REASON_NONE: could not be started */
    size_t unexpected;
    bool interrupted;
};

static const struct job *job_of(uint64_t token) {
    return &jobs[token % N_JOBS];
}

static void *lend(void *supervisor) {
    fp_supervisor_run(supervisor);
    return NULL;
}

static int listen_to(struct scheduler *scheduler, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(scheduler->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int scheduler_open(struct scheduler *scheduler) {
    sigset_t stops;
    int r;

    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    /* Before any thread exists, so that all inherit it. Children start with an empty mask all the same. */
    pthread_sigmask(SIG_BLOCK, &stops, NULL);
    scheduler->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    scheduler->signal_fd = signalfd(-1, &stops, SFD_CLOEXEC | SFD_NONBLOCK);
    scheduler->procs = calloc(scheduler->n_commands, sizeof(fp_proc *));
    if (scheduler->epoll_fd < 0 || scheduler->signal_fd < 0 || !scheduler->procs)
        return -errno;
    r = fp_mailbox_new(&scheduler->mailbox);
    if (r < 0)
        return r;
    for (int i = 0; i < SUPERVISORS; i++) {
        fp_supervisor_options options = FP_SUPERVISOR_OPTIONS_INIT;
        options.sibling = i > 0 ? scheduler->supervisors[0] : NULL;
        r = fp_supervisor_new(&options, &scheduler->supervisors[i]);
        if (r < 0)
            return r;
        r = -pthread_create(&scheduler->threads[i], NULL, lend, scheduler->supervisors[i]);
        if (r < 0)
            return r;
        scheduler->n_threads++;
    }
    r = listen_to(scheduler, scheduler->signal_fd);
    return r < 0 ? r : listen_to(scheduler, fp_mailbox_fd(scheduler->mailbox));
}

static void scheduler_close(struct scheduler *scheduler) {
    for (int i = 0; i < scheduler->n_threads; i++) {
        fp_supervisor_stop(scheduler->supervisors[i]);
        pthread_join(scheduler->threads[i], NULL);
    }
    for (int i = 0; i < SUPERVISORS; i++)
        scheduler->supervisors[i] = fp_supervisor_free(scheduler->supervisors[i]);
    for (size_t i = 0; scheduler->procs && i < scheduler->n_commands; i++)
        fp_proc_free(scheduler->procs[i]);
    free(scheduler->procs);
    fp_mailbox_free(scheduler->mailbox);
    if (scheduler->signal_fd >= 0)
        close(scheduler->signal_fd);
    if (scheduler->epoll_fd >= 0)
        close(scheduler->epoll_fd);
}

/* Count an end, and say so if it is not the one that was expected. */
static void record(struct scheduler *scheduler, uint64_t token, const fp_exit *exit) {
    const struct job *job = job_of(token);
    scheduler->by_reason[exit->reason]++;
    if (exit->reason == job->reason && exit->code == job->code && exit->signal == job->signal)
        return;
    if (scheduler->interrupted && exit->reason == FP_REASON_TERMINATED)
        return;
    scheduler->unexpected++;
    printf("command %llu (%s): %s, code %d, signal %s\n", (unsigned long long)token, job->argv[0],
           fp_reason_name(exit->reason), exit->code, exit->signal ? fp_signal_name(exit->signal) : "none");
}

/* Start the next command; a failure is one of the ways a command may end. */
static void start_next(struct scheduler *scheduler) {
    uint64_t token = scheduler->next++;
    const struct job *job = job_of(token);
    fp_spec spec = FP_SPEC_INIT;
    fp_failure failure;

    spec.token = token;
    spec.argv = job->argv;
    spec.timeout_ns = job->timeout_ns;
    spec.grace_ns = 100 * MS;
    spec.sigignore = job->deaf ? UINT64_C(1) << (SIGTERM - 1) : 0;
    spec.mailbox = scheduler->mailbox;
    spec.stdio[0].kind = FP_STDIO_DEVNULL;
    int r = fp_spawn(scheduler->supervisors[token % SUPERVISORS], &spec, &scheduler->procs[token], &failure);
    if (r == 0) {
        scheduler->running++;
        if (scheduler->running > scheduler->most_running)
            scheduler->most_running = scheduler->running;
        return;
    }
    scheduler->by_reason[FP_REASON_NONE]++;
    if (job->reason == FP_REASON_NONE && failure.stage == FP_STAGE_EXEC && r == -ENOENT)
        return;
    scheduler->unexpected++;
    printf("command %llu (%s): not started, step %s: %s\n", (unsigned long long)token, job->argv[0],
           fp_stage_name(failure.stage), fp_strerror(failure.error));
}

static void start_what_may(struct scheduler *scheduler) {
    while (!scheduler->interrupted && scheduler->running < scheduler->at_a_time &&
           scheduler->next < scheduler->n_commands)
        start_next(scheduler);
}

/* Take the news of commands of which nothing is left: the program, its descendants, its output. */
static void hear(struct scheduler *scheduler) {
    fp_news news[NEWS_AT_ONCE];
    int n = fp_mailbox_take(scheduler->mailbox, news, NEWS_AT_ONCE, 0);
    for (int i = 0; i < n; i++) {
        if (!(news[i].what & FP_NEWS_DONE))
            continue;
        record(scheduler, news[i].token, &news[i].exit);
        scheduler->procs[news[i].token] = fp_proc_free(scheduler->procs[news[i].token]);
        scheduler->running--;
    }
}

static void interrupt(struct scheduler *scheduler) {
    struct signalfd_siginfo signal;
    fp_proc **running = calloc(scheduler->n_commands, sizeof(fp_proc *));
    size_t n = 0;

    if (read(scheduler->signal_fd, &signal, sizeof signal) < 0 || !running) {
        free(running);
        return;
    }
    for (size_t i = 0; i < scheduler->next; i++)
        if (scheduler->procs[i])
            running[n++] = scheduler->procs[i];
    printf("interrupted: stopping %zu commands\n", n);
    scheduler->interrupted = true;
    fp_procs_stop(running, n, FP_REASON_TERMINATED, 0, 0);
    free(running);
}

static int schedule(struct scheduler *scheduler) {
    start_what_may(scheduler);
    while (scheduler->running > 0) {
        struct epoll_event events[2];
        int n = epoll_wait(scheduler->epoll_fd, events, 2, -1);
        if (n < 0 && errno != EINTR)
            return -errno;
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == scheduler->signal_fd)
                interrupt(scheduler);
            else
                hear(scheduler);
        }
        start_what_may(scheduler);
    }
    return 0;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void summarize(const struct scheduler *scheduler, double seconds) {
    printf("%zu commands, at most %zu at a time, %.2f s\n", scheduler->next, scheduler->most_running, seconds);
    for (int reason = 0; reason < FP_REASON_COUNT; reason++)
        if (scheduler->by_reason[reason])
            printf("%8zu %s\n", scheduler->by_reason[reason],
                   reason == FP_REASON_NONE ? "not started" : fp_reason_name(reason));
    printf("%8zu other than expected\n", scheduler->unexpected);
}

static size_t count_argument(int argc, char **argv, int i, size_t otherwise) {
    char *end;
    unsigned long value = i < argc ? strtoul(argv[i], &end, 10) : otherwise;
    return i < argc && (*end || value > 1000000) ? 0 : value;
}

int main(int argc, char **argv) {
    struct scheduler scheduler = {
        .epoll_fd = -1,
        .signal_fd = -1,
        .n_commands = count_argument(argc, argv, 1, 1000),
        .at_a_time = count_argument(argc, argv, 2, 64),
    };
    if (argc > 3 || !scheduler.n_commands || !scheduler.at_a_time) {
        fprintf(stderr, "usage: scheduler [commands [at-a-time]]\n");
        return 2;
    }
    int r = scheduler_open(&scheduler);
    double start = now();
    if (r == 0)
        r = schedule(&scheduler);
    if (r < 0)
        fprintf(stderr, "scheduler: %s\n", fp_strerror(-r));
    else
        summarize(&scheduler, now() - start);
    bool bad = r < 0 || scheduler.unexpected || scheduler.interrupted;
    scheduler_close(&scheduler);
    return bad ? 1 : 0;
}
