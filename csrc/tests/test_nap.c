/*
 * test_nap.c: the main thread of a host comes back from a sleep to look for
 * signals; other threads, and hosts that do not ask for it, sleep on.
 */
#include "supervise.h"

#define LOST_AFTER (3 * FP_NS_PER_S) /* longer than two of the longest naps */

/* How long each of three calls slept that were interrupted by nobody; 0: one of them ended otherwise. */
typedef struct naps {
    int64_t lengths[3];
} naps;

static naps three_of(int64_t (*call)(void *), void *of) {
    naps seen = {0};
    usleep(30 * 1000); /* what is slept now does not go on with what was slept before */
    for (int i = 0; i < 3; i++) {
        int64_t began = now_ns();
        if (call(of) != -EINTR)
            return (naps){0};
        seen.lengths[i] = now_ns() - began;
    }
    return seen;
}

#define CHECK_NAPS(call, of)                                                                                           \
    do {                                                                                                               \
        naps seen = three_of(call, of);                                                                                \
        CHECK(seen.lengths[0] >= 20 * MS && seen.lengths[0] < LOST_AFTER);                                             \
        CHECK(seen.lengths[1] >= 40 * MS && seen.lengths[1] < LOST_AFTER);                                             \
        CHECK(seen.lengths[2] >= 80 * MS && seen.lengths[2] < LOST_AFTER);                                             \
    } while (0)

static int64_t wait_for_exit(void *proc) {
    return fp_proc_wait(proc, FP_STATE_DONE, -1, NULL);
}

static int64_t wait_for_exit_for_long(void *proc) {
    return fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL);
}

static int64_t wait_for_stop(void *proc) {
    return fp_proc_wait_stopped(proc, -1, NULL);
}

static int64_t read_some(void *reader) {
    char byte;
    return fp_reader_read(reader, &byte, 1, -1);
}

static int64_t take_some(void *mailbox) {
    fp_news news;
    return fp_mailbox_take(mailbox, &news, 1, -1);
}

static void calls_of_a_supervised_process(void) {
    fp_mailbox *mailbox = NULL;
    fp_reader *reader = NULL;
    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    fp_proc *proc = start(us.of[0], SHELL("exec sleep 100", CAPTURED, .mailbox = mailbox));
    CHECK_EQ(fp_reader_new(proc, 1, &reader), 0);

    CHECK_NAPS(wait_for_exit, proc);
    CHECK_NAPS(wait_for_exit_for_long, proc);
    CHECK_NAPS(wait_for_stop, proc);
    CHECK_NAPS(read_some, reader);
    CHECK_NAPS(take_some, mailbox);

    fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0);
    fp_reader_free(reader);
    ended(proc);
    fp_mailbox_free(mailbox);
}

typedef struct running {
    const fp_spec *spec;
    fp_solo *solo;
} running;

static int64_t run_on(void *of) {
    running *run = of;
    fp_failure failure;
    return fp_run(run->spec, &run->solo, NULL, &failure);
}

static int64_t wait_for_solo(void *of) {
    return fp_solo_wait(((running *)of)->solo, -1, NULL);
}

static int64_t wait_for_solo_for_long(void *of) {
    return fp_solo_wait(((running *)of)->solo, LONG, NULL);
}

static int64_t talk_on(void *of) {
    fp_talk talk = {.size = sizeof talk, .fds = {-1, -1, -1}, .flags = FP_TALK_AND_WAIT, .timeout_ns = -1};
    fp_result result;
    return fp_solo_talk(((running *)of)->solo, &talk, &result);
}

static void calls_of_a_process_of_the_callers(void) {
    running plain = {.spec = SHELL("exec sleep 100")};
    CHECK_NAPS(run_on, &plain);
    CHECK_NAPS(wait_for_solo, &plain);
    CHECK_NAPS(wait_for_solo_for_long, &plain);
    CHECK_NAPS(talk_on, &plain);
    CHECK_EQ(fp_solo_stop(plain.solo, -1, 0, NULL), 0);
    fp_solo_free(plain.solo);

    running captured = {.spec = SHELL("exec sleep 100", CAPTURED)};
    CHECK_NAPS(run_on, &captured);
    CHECK_EQ(fp_solo_stop(captured.solo, -1, 0, NULL), 0);
    fp_solo_free(captured.solo);

    running far = {.spec = SHELL("exec sleep 100", CAPTURED, .timeout_ns = 3600 * FP_NS_PER_S)};
    CHECK_NAPS(run_on, &far);
    CHECK_EQ(fp_solo_stop(far.solo, -1, 0, NULL), 0);
    fp_solo_free(far.solo);
}

/* The host may be kept from its lock for seconds, and nobody else keeps this clock. */
static void a_clock_that_may_strike_is_not_left_alone(void) {
    running timed = {.spec = SHELL("exec sleep 100", .timeout_ns = 200 * MS)};
    fp_result result;
    fp_failure failure;
    CHECK_EQ(fp_run(timed.spec, &timed.solo, &result, &failure), 0);
    CHECK_EQ(result.exit.reason, FP_REASON_TIMEOUT);

    running silent = {.spec = SHELL("exec sleep 100", CAPTURED, .idle_timeout_ns = 200 * MS)};
    CHECK_EQ(fp_run(silent.spec, &silent.solo, &result, &failure), 0);
    CHECK_EQ(result.exit.reason, FP_REASON_IDLE_TIMEOUT);
}

static void *sleep_on(void *arg) {
    fp_exit exit;
    CHECK_EQ(fp_proc_wait(arg, FP_STATE_DONE, -1, &exit), 0);
    CHECK_EQ(exit.code, 7);
    return NULL;
}

static void other_threads_sleep_on(void) {
    fp_proc *proc = start(us.of[0], SHELL("sleep .3; exit 7"));
    in_threads(4, sleep_on, proc);
    fp_proc_free(proc);
}

static void who_has_not_asked_sleeps_on(void) {
    fp_proc *proc = start(us.of[0], SHELL("sleep .3; exit 7"));
    sleep_on(proc);
    fp_proc_free(proc);
    fp_solo *solo = NULL;
    fp_result result;
    CHECK_EQ(fp_run(SHELL("sleep .3; exit 7", CAPTURED), &solo, &result, NULL), 0);
    CHECK_EQ(result.exit.code, 7);
}

static void all_tests(void) {
    RUN(who_has_not_asked_sleeps_on);
    fp_main_thread_naps(true);
    RUN(calls_of_a_supervised_process);
    RUN(calls_of_a_process_of_the_callers);
    RUN(a_clock_that_may_strike_is_not_left_alone);
    RUN(other_threads_sleep_on);
    fp_main_thread_naps(false);
    RUN(who_has_not_asked_sleeps_on);
}

int main(void) {
    return with_our_crew(all_tests);
}
