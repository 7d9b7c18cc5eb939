/*
 * test_supervise_states.c: a process has different things at different times of
 * its life, and they share one place. So whatever may be asked of it is asked
 * in every state, and what it says stays true when the state moves on. And a
 * process that just runs is small.
 */
#include "supervise.h"

/* All that returns at once. The state does not move by it, and nothing of an earlier or a later time is told. */
static void ask_everything(fp_proc *proc, int state) {
    fp_exit exit = {0};
    fp_failure failure = {0};
    fp_stop_report report;
    char byte;
    bool lives = state >= FP_STATE_RUNNING, over = state >= FP_STATE_EXITED;

    for (int again = 0; again < 2; again++) {
        fp_proc_status(proc, &exit);
        CHECK_EQ(exit.state, state);
        CHECK_EQ(exit.pid > 0, lives);
        CHECK_EQ(exit.started_ns > 0, lives);
        CHECK_EQ(exit.ended_ns > 0, over);
        CHECK_EQ(exit.ended_ns >= exit.started_ns, over || !lives);
        CHECK_EQ(exit.usage.max_rss_bytes > 0, over);
        CHECK_EQ(exit.code, over ? 7 : -1);
        CHECK_EQ(fp_proc_failure(proc, &failure), state == FP_STATE_FAILED ? 0 : -ENODATA);
        CHECK_EQ(fp_proc_pid(proc) > 0, lives);
        fp_proc_pidfd(proc);
        fp_proc_containment(proc);
        CHECK_EQ(fp_proc_signal(proc, 0, 0), state == FP_STATE_RUNNING ? 0 : -ESRCH);
        fp_proc_signal(proc, 0, 1);
        CHECK_EQ(fp_proc_report(proc, &report), 0);
        CHECK_EQ(fp_proc_output_copy(proc, 1, &byte, 1), -EINVAL);
        if (state != FP_STATE_QUEUED)
            CHECK_EQ(fp_proc_withdraw(proc), -EALREADY);
        CHECK_EQ(fp_proc_wait(proc, FP_STATE_RUNNING, 0, &exit), lives                      ? 0
                                                                 : state == FP_STATE_FAILED ? -ECHILD
                                                                                            : -ETIMEDOUT);
        if (state == FP_STATE_FAILED || state == FP_STATE_DONE)
            CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), -ESRCH);
    }
}

static void everything_may_be_asked_at_any_time(void) {
    static const char child[] = "read go; sleep 100 & exit 7";
    fp_exit exit = {0}, later = {0};
    int go[2];

    /* That nobody is left any more cannot be proved then. */
    if (!can_look())
        SKIP("no procfs");
    CHECK_EQ(pipe2(go, O_CLOEXEC), 0);
    fp_proc *proc = start(us.of[0], JOB(child, .stdio = {{.kind = FP_STDIO_FD, .fd = go[0]}},
                                        .flags = FP_KEEP_LEFTOVERS, .timeout_ns = 1000 * LONG));
    ask_everything(proc, FP_STATE_RUNNING);
    CHECK_EQ(write(go[1], "\n", 1), 1);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, LONG, &exit), 0);
    ask_everything(proc, FP_STATE_EXITED);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0), 0);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, &later), 0);
    ask_everything(proc, FP_STATE_DONE);
    CHECK_EQ(later.ended_ns, exit.ended_ns);
    CHECK(memcmp(&later.usage, &exit.usage, sizeof exit.usage) == 0);
    fp_proc_free(proc);
    close(go[0]);
    close(go[1]);
}

static void a_queued_one_as_well(void) {
    fp_spec specs[] = {
        STORED("read go; exit 7"),
        STORED("exit 7"),
        STORED("exit 7", .timeout_ns = 1000 * LONG),
        STORED("exit 7", .program = "/nonexistent"),
    };
    const fp_spec *list[4];
    fp_proc *procs[4];
    fp_failure failure;
    int go[2];

    CHECK_EQ(pipe2(go, O_CLOEXEC), 0);
    specs[0].stdio[0] = (fp_stdio){.kind = FP_STDIO_FD, .fd = go[0]};
    list_specs(specs, list, 4);
    CHECK_EQ(fp_spawn_many(members(&us), 1, list, 4, 1, procs), 0);
    CHECK_EQ(fp_procs_wait_started(procs, 1, LONG), 0);
    for (int i = 1; i < 4; i++)
        ask_everything(procs[i], FP_STATE_QUEUED);
    CHECK_EQ(fp_proc_withdraw(procs[1]), 0);
    ask_everything(procs[1], FP_STATE_FAILED);
    CHECK_EQ(write(go[1], "\n", 1), 1);
    CHECK_EQ(fp_proc_wait(procs[2], FP_STATE_DONE, LONG, NULL), 0);
    ask_everything(procs[2], FP_STATE_DONE);
    CHECK_EQ(fp_proc_wait(procs[3], FP_STATE_DONE, LONG, NULL), -ECHILD);
    ask_everything(procs[3], FP_STATE_FAILED);
    CHECK_EQ(fp_proc_failure(procs[3], &failure), 0);
    CHECK_EQ(failure.error, ENOENT);
    CHECK_EQ(failure.stage, FP_STAGE_EXEC);
    CHECK_EQ(fp_proc_failure(procs[1], &failure), 0);
    CHECK_EQ(failure.error, ECANCELED);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(fp_proc_wait(procs[i], FP_STATE_DONE, LONG, NULL), i % 2 ? -ECHILD : 0);
    for (int i = 0; i < 4; i++)
        fp_proc_free(procs[i]);
    close(go[0]);
    close(go[1]);
}

/* Whose handle goes while it waits in the queue, or whose supervisor goes while it runs. */
static void handles_may_outlive_their_supervisor(void) {
    fp_supervisor *alone;
    fp_exit exit;

    CHECK_EQ(fp_supervisor_new(NULL, &alone), 0);
    fp_proc *proc = start(alone, JOB("exit 7", .timeout_ns = 1000 * LONG));
    const fp_spec *spec = JOB("exit 7");
    fp_proc *queued;
    CHECK_EQ(fp_spawn_many(&alone, 1, &spec, 1, 0, &queued), 0);
    fp_supervisor_free(alone);
    ask_everything(queued, FP_STATE_FAILED);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, LONG, &exit), 0);
    CHECK_EQ(exit.code, 7);
    CHECK(exit.usage.max_rss_bytes > 0);
    fp_proc_free(proc);
    fp_proc_free(queued);
}

/*
 * malloc(3) puts 8 bytes before it and rounds to 16, the place in the table takes 16 more, and a leaf 32: 256 for a child
 * that lives, see benchmarks/bench_memory.py. What only few need, or all only after the end, does not belong here.
 */
static void one_that_just_runs_is_small(void) {
    CHECK(sizeof(struct fp_proc) <= 200);
    CHECK_EQ(sizeof(fp_place), 16);
}

static void all_tests(void) {
    for_each_containment(everything_may_be_asked_at_any_time);
    RUN(a_queued_one_as_well);
    for_each_containment(handles_may_outlive_their_supervisor);
    RUN(one_that_just_runs_is_small);
}

int main(void) {
    return with_our_crew(all_tests);
}
