/*
 * test_supervise_wait.c: threads that wait for a process: many at a time, with
 * signals, for ever, and without a thread of the supervisor's.
 */
#include <stdint.h>

#include "supervise.h"

/* ---- waiting together ---------------------------------------------------------- */

typedef struct waiters {
    fp_proc *proc;
    _Atomic int next;
    _Atomic int right;
    int64_t step; /* how long each waits at a time; negative: for ever */
} waiters;

static void *wait_for_7(void *arg) {
    waiters *w = arg;
    fp_exit exit;
    int64_t step = atomic_fetch_add(&w->next, 1) % 2 ? w->step : -1;
    int r;
    do
        r = fp_proc_wait(w->proc, FP_STATE_DONE, step, &exit);
    while (r == -ETIMEDOUT);
    if (r == 0 && exit.state == FP_STATE_DONE && exit.reason == FP_REASON_EXITED && exit.code == 7)
        atomic_fetch_add(&w->right, 1);
    return NULL;
}

static void every_waiter_hears_the_same(void) {
    static const int64_t steps[] = {MS, 0, 7 * MS};
    for (int round = 0; round < 6; round++) {
        waiters w = {.step = steps[round % 3]};
        w.proc = start(us.of[round % 2], SHELL("sleep .03; exit 7"));
        in_threads(8, wait_for_7, &w);
        CHECK_EQ(w.right, 8);
        fp_proc_free(w.proc);
    }
}

static _Atomic bool enough;

/* Takes and gives back descriptors, so that a number that is closed becomes another's at once. */
static void *churn(void *arg) {
    (void)arg;
    while (!enough) {
        fp_proc *proc = start(us.of[1], SHELL("exec sleep 100"));
        fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0);
        ended(proc);
    }
    return NULL;
}

static void *ask_often(void *arg) {
    fp_proc *_Atomic *proc = arg;
    while (!enough) {
        fp_proc *now = atomic_exchange(proc, NULL);
        if (!now)
            continue;
        while (fp_proc_wait(now, FP_STATE_DONE, 0, NULL) == -ETIMEDOUT)
            continue;
        fp_proc_free(now);
    }
    return NULL;
}

/* One blocks for ever, the other asks again and again and so takes the exit from under him. */
static void a_waiter_is_not_left_behind_by_one_who_asks(void) {
    fp_proc *_Atomic shared = NULL;
    pthread_t churner, asker;

    enough = false;
    pthread_create(&churner, NULL, churn, NULL);
    pthread_create(&asker, NULL, ask_often, &shared);
    int64_t until = now_ns() + 400 * MS;
    while (now_ns() < until) {
        fp_proc *proc = start(us.of[0], SHELL("exit 7"));
        atomic_store(&shared, fp_proc_ref(proc));
        CHECK_EQ(ended(proc).code, 7);
        while (atomic_load(&shared))
            sched_yield();
    }
    enough = true;
    pthread_join(churner, NULL);
    pthread_join(asker, NULL);
}

static void an_exit_and_a_stop_may_race(void) {
    for (int i = 0; i < 60; i++) {
        fp_proc *proc =
            start(us.of[i % 2], SHELL("exit 3", .containment = i % 3 ? FP_CONTAIN_AUTO : FP_CONTAIN_SESSION));
        nap(i % 20 * 100000);
        int r = fp_proc_stop(proc, FP_REASON_TERMINATED, i % 2 ? -1 : 0, 0);
        CHECK(r == 0 || r == -ESRCH);
        fp_exit exit = ended(proc);
        if (exit.reason == FP_REASON_EXITED)
            CHECK(exit.code == 3 && exit.signal == 0);
        else
            CHECK(exit.reason == FP_REASON_TERMINATED && (exit.code == 3) != (exit.signal != 0));
    }
}

static void *signal_often(void *proc) {
    while (fp_proc_wait(proc, FP_STATE_DONE, 0, NULL) == -ETIMEDOUT) {
        fp_proc_signal(proc, SIGCONT, 0);
        fp_proc_signal(proc, SIGCONT, 1);
        fp_exit exit;
        fp_proc_status(proc, &exit);
        fp_proc_pidfd(proc);
    }
    return NULL;
}

static void everybody_may_ask_everything_at_once(void) {
    for (int i = 0; i < 4; i++) {
        fp_proc *proc = start(us.of[i % 2], SHELL("sleep .05; exit 7", CAPTURED));
        in_threads(6, signal_often, proc);
        CHECK_EQ(ended(proc).code, 7);
    }
}

static void do_nothing(int sig) {
    (void)sig;
}

static void *wait_and_hear_a_signal(void *proc) {
    int64_t r = fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL);
    return (void *)(intptr_t)r;
}

static void *read_and_hear_a_signal(void *proc) {
    uint64_t offset = 0;
    char byte;
    return (void *)(intptr_t)fp_proc_read(proc, 1, &offset, &byte, 1, LONG);
}

static void a_signal_handler_interrupts_a_wait(void) {
    void *(*const calls[])(void *) = {wait_and_hear_a_signal, wait_and_hear_a_signal, read_and_hear_a_signal};
    struct sigaction action = {.sa_handler = do_nothing}, old;
    sigaction(SIGUSR1, &action, &old);
    fp_proc *proc = start(us.of[0], SHELL("exec sleep 100", CAPTURED));
    pthread_t threads[3];
    /* The first to wait polls, the second sleeps on the futex, the third reads. */
    for (int i = 0; i < 3; i++) {
        pthread_create(&threads[i], NULL, calls[i], proc);
        nap(10 * MS);
    }
    for (int i = 0; i < 3; i++) {
        void *r = NULL;
        while (pthread_tryjoin_np(threads[i], &r) != 0) {
            pthread_kill(threads[i], SIGUSR1);
            nap(5 * MS);
        }
        CHECK_EQ((intptr_t)r, -EINTR);
    }
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
    CHECK_EQ(ended(proc).reason, FP_REASON_TERMINATED);
    sigaction(SIGUSR1, &old, NULL);
}

/* ---- the end of time ----------------------------------------------------------- */

static void the_longest_times_do_not_wrap(void) {
    fp_exit exit = ended(
        start(us.of[0], SHELL("sleep 0.3; exit 3", CAPTURED, .timeout_ns = INT64_MAX, .deadline_ns = INT64_MAX,
                              .idle_timeout_ns = INT64_MAX, .grace_ns = INT64_MAX, .kill_timeout_ns = INT64_MAX)));
    CHECK_EQ(exit.reason, FP_REASON_EXITED);
    CHECK_EQ(exit.code, 3);

    fp_proc *proc = start(us.of[0], SHELL("exec sleep 100", .grace_ns = INT64_MAX, .kill_timeout_ns = INT64_MAX));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, 1, NULL), -ETIMEDOUT);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, INT64_MAX, INT64_MAX), 0);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, INT64_MAX, &exit), 0);
    CHECK_EQ(exit.signal, SIGTERM);
    fp_proc_free(proc);
}

static void the_longest_wait_for_news_does_not_wrap(void) {
    fp_mailbox *mailbox;
    fp_news news;
    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    fp_proc *proc = start(us.of[0], SHELL("sleep 0.1", .mailbox = mailbox, .token = 7));
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, INT64_MAX), 1);
    CHECK_EQ(news.token, 7);
    ended(proc);
    fp_mailbox_free(mailbox);
}

/* ---- without a thread ---------------------------------------------------------- */

static void nobody_lends_a_thread_in(void) {
    fp_supervisor *alone;
    fp_exit exit;
    char text[64];
    lifeline life;

    lifeline_begin(&life);
    CHECK_EQ(fp_supervisor_new(NULL, &alone), 0);
    exit = ended(start(alone, JOB("exit 7")));
    CHECK_EQ(exit.code, 7);
    fp_proc *proc =
        start(alone, JOB("head -c 300000 /dev/zero; echo hello; exit 6", CAPTURED, .head_bytes = 3, .tail_bytes = 6));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, &exit), 0);
    CHECK_EQ(exit.code, 6);
    CHECK_EQ(fp_proc_output_copy(proc, 1, text, sizeof text), 9);
    CHECK(memcmp(text + 3, "hello\n", 6) == 0);
    fp_proc_free(proc);
    exit = ended(start(alone, JOB("exec sleep 100", CAPTURED, .timeout_ns = 20 * MS)));
    CHECK_EQ(exit.reason, FP_REASON_TIMEOUT);
    exit = ended(start(alone, JOB("while :; do echo hello; done", CAPTURED, .timeout_ns = 50 * MS)));
    CHECK_EQ(exit.reason, FP_REASON_TIMEOUT);
    proc = start(alone, JOB("exec sleep 100"));
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
    CHECK_EQ(ended(proc).signal, SIGTERM);
    if (can_look()) {
        exit = ended(
            start(alone, JOB("(trap '' TERM; sleep 100) & exit 5", .grace_ns = 20 * MS, .fds = &life.map, .n_fds = 1)));
        CHECK_EQ(exit.code, 5);
        CHECK(lifeline_is_cut(&life, 0));
    }
    /* Reading pumps as well. */
    proc = start(alone, JOB("echo hello; sleep 100", CAPTURED));
    await_output(proc, 6);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
    ended(proc);
    fp_supervisor_free(alone);
    lifeline_end(&life);
}

static void who_waits_can_do_without_a_thread(void) {
    for_each_containment(nobody_lends_a_thread_in);
}

static void a_waiter_without_a_thread_keeps_deadlines(void) {
    fp_supervisor *alone;
    fp_exit exit = {0};
    CHECK_EQ(fp_supervisor_new(NULL, &alone), 0);
    fp_proc *proc = start(alone, SHELL("exec sleep 3", .timeout_ns = 50 * MS));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, &exit), 0);
    CHECK_EQ(exit.reason, FP_REASON_TIMEOUT);
    fp_proc_free(proc);
    proc = start(alone, SHELL("trap '' TERM; sleep 3", .timeout_ns = 50 * MS, .grace_ns = 50 * MS));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, &exit), 0);
    CHECK_EQ(exit.signal, SIGKILL);
    fp_proc_free(proc);
    fp_supervisor_free(alone);
}

static void a_waiter_without_a_thread_feeds(void) {
    fp_supervisor *alone;
    fp_exit exit = {0};
    char text[8] = "";
    CHECK_EQ(fp_supervisor_new(NULL, &alone), 0);
    fp_proc *proc =
        start(alone, SHELL("exec cat", CAPTURED, .stdio[0].kind = FP_STDIO_PIPE, .input = "hello", .input_bytes = 5));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, 3000 * MS, &exit), 0);
    CHECK_EQ(fp_proc_output_copy(proc, 1, text, sizeof text), 5);
    CHECK_TEXT(text, "hello");
    fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0);
    ended(proc);
    /* Who does not read does not raise SIGPIPE in us. */
    char *much = calloc(1, 300000);
    proc = start(alone, SHELL("exec <&-; sleep 0.1; exit 4", CAPTURED, .stdio[0].kind = FP_STDIO_PIPE, .input = much,
                              .input_bytes = 300000));
    free(much);
    CHECK_EQ(ended(proc).code, 4);
    proc = start(alone, SHELL("while :; do echo hello; done", CAPTURED, .max_output_bytes = 100000,
                              .flags = FP_STOP_AT_MAX_OUTPUT));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, 3000 * MS, &exit), 0);
    CHECK_EQ(exit.reason, FP_REASON_OUTPUT_LIMIT);
    fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0);
    ended(proc);
    fp_supervisor_free(alone);
}

/* The leader has gone, its leftovers are kept: who waits for them sleeps until the supervisor says so. */
static void late_waiters_survive_the_end_of_the_thread(void) {
    if (!can_look() && !fp_probe(FP_CAP_PIDFD_GROUP))
        SKIP("a reaped leader's group can be reached by pidfd or /proc only");
    crew c;
    pthread_t thread;
    lifeline life;
    lifeline_begin(&life);
    crew_begin(&c, 1);
    waiters w = {.step = -1};
    w.proc = start(c.of[0], SHELL("sleep 100 & exit 7", .flags = FP_KEEP_LEFTOVERS, .fds = &life.map, .n_fds = 1));
    CHECK_EQ(fp_proc_wait(w.proc, FP_STATE_EXITED, LONG, NULL), 0);
    pthread_create(&thread, NULL, wait_for_7, &w);
    nap(30 * MS);
    CHECK_EQ(fp_supervisor_stop(c.of[0]), 0);
    pthread_join(c.threads[0], NULL);
    c.of[0] = fp_supervisor_free(c.of[0]);
    CHECK_EQ(fp_proc_stop(w.proc, FP_REASON_TERMINATED, 0, 0), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(w.right, 1);
    CHECK(lifeline_is_cut(&life, 0));
    fp_proc_free(w.proc);
    lifeline_end(&life);
}

static void waiters_survive_the_end_of_the_thread(void) {
    static const int64_t steps[] = {-1, 5 * MS};
    for (int captured = 0; captured < 2; captured++) {
        crew c;
        int ends[2];
        CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
        crew_begin(&c, 1);
        fp_fd_map map = {.source = ends[0], .target = 8};
        waiters w = {.step = steps[captured]};
        w.proc = start(c.of[0], SHELL("read x <&8; exit 7", .fds = &map, .n_fds = 1,
                                      .stdio[1].kind = captured ? FP_STDIO_PIPE : FP_STDIO_INHERIT));
        pthread_t threads[4];
        for (int i = 0; i < 4; i++)
            pthread_create(&threads[i], NULL, wait_for_7, &w);
        nap(30 * MS);
        CHECK_EQ(fp_supervisor_stop(c.of[0]), 0);
        pthread_join(c.threads[0], NULL);
        CHECK_EQ(fp_spawn(c.of[0], SHELL(":"), &(fp_proc *){NULL}, NULL), -ESHUTDOWN);
        if (captured)
            c.of[0] = fp_supervisor_free(c.of[0]);
        CHECK_EQ(write(ends[1], "\n", 1), 1);
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        CHECK_EQ(w.right, 4);
        fp_proc_free(w.proc);
        fp_supervisor_free(c.of[0]);
        close(ends[0]);
        close(ends[1]);
    }
}

/* ---- all of it ----------------------------------------------------------------- */

static void all_tests(void) {
    WATCHED(every_waiter_hears_the_same);
    WATCHED(a_waiter_is_not_left_behind_by_one_who_asks);
    WATCHED(an_exit_and_a_stop_may_race);
    WATCHED(everybody_may_ask_everything_at_once);
    WATCHED(a_signal_handler_interrupts_a_wait);
    WATCHED(the_longest_times_do_not_wrap);
    WATCHED(the_longest_wait_for_news_does_not_wrap);
    WATCHED(who_waits_can_do_without_a_thread);
    WATCHED(a_waiter_without_a_thread_keeps_deadlines);
    WATCHED(a_waiter_without_a_thread_feeds);
    WATCHED(waiters_survive_the_end_of_the_thread);
    WATCHED(late_waiters_survive_the_end_of_the_thread);
}

int main(void) {
    return with_our_crew(all_tests);
}
