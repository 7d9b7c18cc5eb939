/*
 * test_supervise_batch.c: queued starts: all are made, within their bound, and
 * may be taken back or stopped meanwhile.
 */
#include "supervise.h"

enum { BATCH = 40 };

static void a_batch_does_all(void) {
    static const uint32_t bounds[] = {0, 1, 3, 100};
    for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++) {
        fp_spec specs[BATCH];
        const fp_spec *list[BATCH];
        fp_proc *procs[BATCH] = {NULL};
        for (int i = 0; i < BATCH; i++)
            specs[i] = STORED("exit 7", .program = i % 10 == 9 ? "/nonexistent" : NULL);
        list_specs(specs, list, BATCH);
        CHECK_EQ(fp_spawn_many(members(&us), 2, list, BATCH, bounds[b], procs), 0);
        CHECK_EQ(fp_procs_wait_started(procs, BATCH, LONG), 0);
        for (int i = 0; i < BATCH; i++) {
            fp_failure failure = {0};
            fp_exit exit = {0};
            int r = fp_proc_wait(procs[i], FP_STATE_DONE, LONG, &exit);
            if (i % 10 == 9) {
                CHECK_EQ(r, -ECHILD);
                CHECK_EQ(fp_proc_failure(procs[i], &failure), 0);
                CHECK_EQ(failure.stage, FP_STAGE_EXEC);
                CHECK_EQ(failure.error, ENOENT);
                CHECK_EQ(fp_proc_pid(procs[i]), 0);
                CHECK_EQ(fp_proc_stop(procs[i], FP_REASON_TERMINATED, 0, 0), -ESRCH);
            } else {
                CHECK_EQ(r, 0);
                CHECK_EQ(exit.code, 7);
            }
            fp_proc_free(procs[i]);
        }
    }
}

/* Each job says how many it sees at work; the highest is returned. */
static int most_at_work(fp_proc *const *procs, int n) {
    int most = 0;
    for (int i = 0; i < n; i++) {
        char text[32] = "";
        CHECK_EQ(fp_proc_wait(procs[i], FP_STATE_DONE, LONG, NULL), 0);
        fp_proc_output_copy(procs[i], 1, text, sizeof text - 1);
        int seen = atoi(text);
        CHECK(seen > 0);
        most = seen > most ? seen : most;
        fp_proc_free(procs[i]);
    }
    return most;
}

#define AT_WORK(length) ": > $$; set -- *; echo $#; sleep " length "; rm $$"

static void a_bound_is_kept(void) {
    static const uint32_t bounds[] = {1, 2, 3, 5};
    workplace_begin();
    for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++) {
        enum { JOBS = 14 };
        fp_spec specs[JOBS];
        const fp_spec *list[JOBS];
        fp_proc *procs[JOBS];
        for (int i = 0; i < JOBS; i++)
            specs[i] = i % 3 ? STORED(AT_WORK(".02"), CAPTURED, .cwd = workplace)
                             : STORED(AT_WORK(".001"), CAPTURED, .cwd = workplace);
        list_specs(specs, list, JOBS);
        CHECK_EQ(fp_spawn_many(members(&us), 2, list, JOBS, bounds[b], procs), 0);
        int most = most_at_work(procs, JOBS);
        CHECK(most <= (int)bounds[b]);
        CHECK(most > 1 || bounds[b] == 1);
    }
    rmdir(workplace);
}

/* Calls that name the same mailbox are one queue with one bound, that of the latest. */
static void a_bound_holds_over_calls(void) {
    enum { CALLS = 9, JOBS = 2 };
    fp_proc *procs[CALLS * JOBS];
    fp_mailbox *mailbox;

    workplace_begin();
    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    for (int call = 0; call < CALLS; call++) {
        const fp_spec *specs[JOBS] = {
            SHELL(AT_WORK(".001"), CAPTURED, .cwd = workplace, .mailbox = mailbox),
            SHELL(AT_WORK(".06"), CAPTURED, .cwd = workplace, .mailbox = mailbox),
        };
        CHECK_EQ(fp_spawn_many(members(&us), 2, specs, JOBS, 2, &procs[call * JOBS]), 0);
        nap(call % 3 * 15 * MS);
    }
    CHECK(most_at_work(procs, CALLS * JOBS) <= 2);

    /* From four to one, in the middle. */
    const fp_spec *spec = SHELL(AT_WORK(".03"), CAPTURED, .cwd = workplace, .mailbox = mailbox);
    const fp_spec *specs[8] = {spec, spec, spec, spec, spec, spec, spec, spec};
    CHECK_EQ(fp_spawn_many(members(&us), 2, specs, 4, 4, procs), 0);
    CHECK_EQ(fp_procs_wait_started(procs, 4, LONG), 0);
    CHECK_EQ(fp_spawn_many(members(&us), 2, specs, 8, 1, procs + 4), 0);
    most_at_work(procs, 4);
    fp_proc_free(procs[4 + 7]);
    for (int i = 0; i < 3; i++)
        fp_proc_wait(procs[4 + i], FP_STATE_DONE, LONG, NULL), fp_proc_free(procs[4 + i]);
    CHECK_EQ(most_at_work(procs + 4 + 3, 4), 1);
    fp_news news;
    while (fp_mailbox_take(mailbox, &news, 1, 200 * MS) > 0)
        continue;
    fp_mailbox_free(mailbox);
    rmdir(workplace);
}

static void a_batch_is_checked_before_it_is_queued(void) {
    const fp_spec *specs[3] = {SHELL("exit 0"), SHELL("exit 0", .containment = 77), SHELL("exit 0")};
    const fp_spec *missing[2] = {SHELL("exit 0"), NULL};
    fp_proc *procs[3] = {NULL};
    fp_supervisor *const *both = members(&us);
    CHECK_EQ(fp_spawn_many(both, 2, specs, 3, 0, procs), -EINVAL);
    CHECK_EQ(fp_spawn_many(both, 2, missing, 2, 0, procs), -EINVAL);
    CHECK_EQ(fp_spawn_many(both, 0, specs, 1, 0, procs), -EINVAL);
    CHECK_EQ(fp_spawn_many(both, 2, NULL, 1, 0, procs), -EINVAL);
    CHECK_EQ(fp_spawn_many(both, 2, NULL, 0, 0, NULL), 0);
    CHECK(!procs[0] && !procs[1] && !procs[2]);
    CHECK_EQ(fp_supervisor_active(us.of[0]) + fp_supervisor_active(us.of[1]), 0);
}

/* Jobs of one batch may tell different mailboxes; a quiet start comes with the news of the end. */
static void a_batch_may_have_two_mailboxes(void) {
    fp_spec specs[BATCH];
    const fp_spec *list[BATCH];
    fp_proc *procs[BATCH];
    fp_mailbox *mailboxes[2];

    for (int i = 0; i < 2; i++)
        CHECK_EQ(fp_mailbox_new(&mailboxes[i]), 0);
    for (int i = 0; i < BATCH; i++)
        specs[i] = STORED("exit 7", .token = (uint64_t)i, .mailbox = mailboxes[i % 2],
                          .flags = i % 4 < 2 ? FP_QUIET_START : 0);
    list_specs(specs, list, BATCH);
    CHECK_EQ(fp_spawn_many(members(&us), 2, list, BATCH, 0, procs), 0);
    for (int i = 0; i < 2; i++) {
        uint32_t heard[BATCH] = {0};
        for (int left = BATCH / 2; left > 0;) {
            fp_news news;
            int r = fp_mailbox_take(mailboxes[i], &news, 1, LONG);
            CHECK_EQ(r, 1);
            if (r != 1)
                break;
            CHECK_EQ((int)news.token % 2, i);
            CHECK(!(heard[news.token] & news.what));
            heard[news.token] |= news.what;
            left -= (news.what & FP_NEWS_DONE) != 0;
        }
        for (int j = i; j < BATCH; j += 2)
            CHECK_EQ(heard[j], FP_NEWS_STARTED | FP_NEWS_EXITED | FP_NEWS_DONE);
    }
    for (int i = 0; i < BATCH; i++)
        CHECK_EQ(ended(procs[i]).code, 7);
    for (int i = 0; i < 2; i++)
        fp_mailbox_free(mailboxes[i]);
}

static void a_queued_start_can_be_taken_back(void) {
    enum { JOBS = 6 };
    fp_spec specs[JOBS];
    const fp_spec *list[JOBS];
    fp_proc *procs[JOBS];
    fp_failure failure;
    fp_exit exit;
    fp_mailbox *mailbox;
    fp_news news;

    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    for (int i = 0; i < JOBS; i++)
        specs[i] = STORED("exec sleep 100", CAPTURED, .token = (uint64_t)i, .mailbox = i ? mailbox : NULL);
    list_specs(specs, list, JOBS);
    CHECK_EQ(fp_spawn_many(members(&us), 2, list, JOBS, 1, procs), 0);
    CHECK_EQ(fp_procs_wait_started(procs, 1, LONG), 0);
    CHECK_EQ(fp_procs_wait_started(procs, 2, 10 * MS), -ETIMEDOUT);
    fp_proc_status(procs[1], &exit);
    CHECK_EQ(exit.state, FP_STATE_QUEUED);
    CHECK_EQ(fp_proc_wait(procs[1], FP_STATE_DONE, 5 * MS, &exit), -ETIMEDOUT);
    CHECK_EQ(fp_proc_wait(procs[1], FP_STATE_DONE, 0, &exit), -ETIMEDOUT);
    CHECK_EQ(fp_proc_signal(procs[1], SIGTERM, 0), -ESRCH);
    CHECK_EQ(fp_proc_containment(procs[1]), FP_CONTAIN_AUTO);
    uint64_t offset = 0;
    CHECK_EQ(fp_proc_read(procs[1], 1, &offset, &failure, 1, 15 * MS), -ETIMEDOUT);
    fp_output output;
    CHECK_EQ(fp_proc_output(procs[1], 1, &output), 0);
    CHECK(!output.ended);
    /* The middle, the last, the first; by withdrawing and by stopping. */
    CHECK_EQ(fp_proc_withdraw(procs[3]), 0);
    CHECK_EQ(fp_proc_withdraw(procs[3]), -EALREADY);
    CHECK_EQ(fp_proc_withdraw(procs[5]), 0);
    CHECK_EQ(fp_proc_stop(procs[1], FP_REASON_CANCELLED, 0, 0), 0);
    CHECK_EQ(fp_proc_withdraw(procs[0]), -EALREADY);
    for (int i = 1; i < JOBS; i += 2) {
        CHECK_EQ(fp_proc_wait(procs[i], FP_STATE_DONE, LONG, NULL), -ECHILD);
        CHECK_EQ(fp_proc_failure(procs[i], &failure), 0);
        CHECK_EQ(failure.error, ECANCELED);
        CHECK_EQ(fp_proc_read(procs[i], 1, &offset, &failure, 1, LONG), 0);
        CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, LONG), 1);
        CHECK_EQ(news.what, FP_NEWS_FAILED);
    }
    /* The others go on, one after the other. */
    for (int i = 0; i < JOBS; i += 2) {
        CHECK_EQ(fp_procs_wait_started(&procs[i], 1, LONG), 0);
        CHECK_EQ(fp_proc_stop(procs[i], FP_REASON_CANCELLED, 0, 0), 0);
        CHECK_EQ(fp_proc_wait(procs[i], FP_STATE_DONE, LONG, &exit), 0);
        CHECK_EQ(exit.reason, FP_REASON_CANCELLED);
    }
    for (int i = 0; i < JOBS; i++)
        fp_proc_free(procs[i]);
    fp_mailbox_free(mailbox);
}

static void *stop_all(void *procs) {
    fp_procs_stop(procs, BATCH, FP_REASON_CANCELLED, -1, 0);
    return NULL;
}

/* Stops hit each state that a start goes through. */
static void a_batch_may_be_stopped_while_it_starts(void) {
    for (int round = 0; round < 4; round++) {
        const fp_spec spec = STORED("exec sleep 100");
        const fp_spec *specs[BATCH];
        fp_proc *procs[BATCH];
        int never = 0;
        for (int i = 0; i < BATCH; i++)
            specs[i] = &spec;
        CHECK_EQ(fp_spawn_many(members(&us), 2, specs, BATCH, round % 2 ? 4 : 0, procs), 0);
        nap(round * 2 * MS);
        in_threads(2, stop_all, procs);
        for (int i = 0; i < BATCH; i++) {
            fp_exit exit = {0};
            int r = fp_proc_wait_stopped(procs[i], LONG, &exit);
            CHECK(r == -ECHILD || (r == 0 && exit.reason == FP_REASON_CANCELLED && exit.signal == SIGKILL));
            never += r == -ECHILD;
            fp_proc_free(procs[i]);
        }
        CHECK(never > 0 || round > 0);
    }
}

static void handles_may_go_before_their_batch(void) {
    lifeline life;
    lifeline_begin(&life);
    const fp_spec *spec = SHELL("exit 0", .fds = &life.map, .n_fds = 1);
    const fp_spec *specs[BATCH];
    fp_proc *procs[BATCH];
    for (int i = 0; i < BATCH; i++)
        specs[i] = spec;
    CHECK_EQ(fp_spawn_many(members(&us), 2, specs, BATCH, 3, procs), 0);
    for (int i = 0; i < BATCH; i++)
        fp_proc_free(procs[i]);
    for (int i = 0; i < 5000 && fp_supervisor_active(us.of[0]) + fp_supervisor_active(us.of[1]); i++)
        nap(MS);
    nap(50 * MS);
    while (fp_supervisor_active(us.of[0]) + fp_supervisor_active(us.of[1]))
        nap(MS);
    CHECK(lifeline_is_cut(&life, 5000));
    lifeline_end(&life);
}

static int running_of(fp_proc *const *procs, int n) {
    int running = 0;
    for (int i = 0; i < n; i++)
        running += fp_proc_state(procs[i]) == FP_STATE_RUNNING;
    return running;
}

/* What the call itself brings is one start; those of the earlier call may run now as well. */
static void a_raised_bound_counts_for_what_is_queued_from(uint32_t low) {
    enum { FIRST = 10, HIGH = 8 };
    fp_spec spec = STORED("exec sleep 100");
    const fp_spec *specs[FIRST];
    fp_proc *procs[FIRST + 1];

    CHECK_EQ(fp_mailbox_new(&spec.mailbox), 0);
    for (int i = 0; i < FIRST; i++)
        specs[i] = &spec;
    CHECK_EQ(fp_spawn_many(members(&us), 2, specs, FIRST, low, procs), 0);
    CHECK_EQ(fp_proc_wait(procs[low - 1], FP_STATE_RUNNING, LONG, NULL), 0);
    CHECK_EQ(fp_spawn_many(members(&us), 2, specs, 1, HIGH, procs + FIRST), 0);
    for (int64_t until = now_ns() + LONG; running_of(procs, FIRST + 1) < HIGH && now_ns() < until;)
        nap(MS);
    CHECK_EQ(running_of(procs, FIRST + 1), HIGH);
    for (int i = 0; i <= FIRST; i++)
        fp_proc_withdraw(procs[i]);
    for (int i = 0; i <= FIRST; i++) {
        fp_proc_stop(procs[i], FP_REASON_TERMINATED, -1, 0);
        fp_proc_wait(procs[i], FP_STATE_DONE, LONG, NULL);
        fp_proc_free(procs[i]);
    }
    fp_mailbox_free(spec.mailbox);
}

static void a_raised_bound_counts_for_what_is_queued(void) {
    a_raised_bound_counts_for_what_is_queued_from(2);
    a_raised_bound_counts_for_what_is_queued_from(1);
}

static void all_tests(void) {
    WATCHED(a_batch_does_all);
    WATCHED(a_bound_is_kept);
    WATCHED(a_bound_holds_over_calls);
    WATCHED(a_raised_bound_counts_for_what_is_queued);
    WATCHED(a_batch_is_checked_before_it_is_queued);
    WATCHED(a_batch_may_have_two_mailboxes);
    WATCHED(a_queued_start_can_be_taken_back);
    WATCHED(a_batch_may_be_stopped_while_it_starts);
    WATCHED(handles_may_go_before_their_batch);
}

int main(void) {
    return with_our_crew(all_tests);
}
