/*
 * test_supervise_stop.c: the stop ladder climbed by real processes, and what
 * becomes of those that they leave behind.
 */
#include "supervise.h"

/* ---- the ladder ---------------------------------------------------------------- */

static void a_deaf_one_in(void) {
    lifeline life;
    lifeline_begin(&life);
    fp_proc *proc = start(
        us.of[0], JOB("trap '' TERM; echo r; sleep 100", CAPTURED, .fds = &life.map, .n_fds = 1, .grace_ns = 30 * MS));
    await_output(proc, 2);
    int64_t before = now_ns();
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
    fp_exit exit;
    CHECK_EQ(fp_proc_wait_stopped(proc, LONG, &exit), 0);
    CHECK(now_ns() - before >= 30 * MS);
    CHECK_EQ(exit.reason, FP_REASON_TERMINATED);
    CHECK_EQ(exit.signal, SIGKILL);
    CHECK_EQ(exit.flags & (FP_EXIT_STOPPED | FP_EXIT_ESCALATED), FP_EXIT_STOPPED | FP_EXIT_ESCALATED);
    ended(proc);
    CHECK(lifeline_is_cut(&life, 0));
    lifeline_end(&life);

    /* Without a grace there is nothing to escalate. */
    proc = start(us.of[0], JOB("exec sleep 100", .grace_ns = -1));
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_CANCELLED, 0, 0), 0);
    exit = ended(proc);
    CHECK_EQ(exit.reason, FP_REASON_CANCELLED);
    CHECK_EQ(exit.signal, SIGKILL);
    CHECK_EQ(exit.flags, FP_EXIT_STOPPED);

    /* A shorter grace shortens. */
    proc = start(us.of[0], JOB("trap '' TERM; echo r; sleep 100", CAPTURED, .grace_ns = LONG));
    await_output(proc, 2);
    before = now_ns();
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_CANCELLED, LONG, 0), 0);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_CANCELLED, MS, 0), 0);
    exit = ended(proc);
    CHECK_EQ(exit.reason, FP_REASON_TERMINATED);
    CHECK(now_ns() - before < LONG / 2);
    proc = start(us.of[0], JOB("trap '' TERM; echo r; sleep 100", CAPTURED, .grace_ns = LONG));
    await_output(proc, 2);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0), 0);
    exit = ended(proc);
    CHECK_EQ(exit.signal, SIGKILL);
}

static void who_is_deaf_is_killed(void) {
    for_each_containment(a_deaf_one_in);
}

static void *stop_it(void *proc) {
    for (int i = 0; i < 5; i++) {
        int r = fp_proc_stop(proc, FP_REASON_TERMINATED, 300 * MS, 0);
        CHECK(r == 0 || r == -ESRCH);
        nap(2 * MS);
    }
    return NULL;
}

static int count(const char *text, int64_t n, char letter) {
    int found = 0;
    for (int64_t i = 0; i < n; i++)
        found += text[i] == letter;
    return found;
}

/* A group member, the leader, and one who has left the group. */
static void one_stop_signal_each_in(void) {
    static const char script[] = "trap 'echo a' TERM; "
                                 "setsid sh -c \"trap 'echo b' TERM; echo r; while :; do sleep .01; done\" & "
                                 "sh -c \"trap 'echo c' TERM; echo r; while :; do sleep .01; done\" & "
                                 "echo r; while :; do sleep .01; done";
    char text[256];
    lifeline life;

    lifeline_begin(&life);
    fp_proc *proc = start(us.of[0], JOB(script, CAPTURED, .fds = &life.map, .n_fds = 1));
    await_output(proc, 6);
    nap(20 * MS);
    in_threads(4, stop_it, proc);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
    int64_t n = fp_proc_output_copy(proc, 1, text, sizeof text);
    CHECK_EQ(count(text, n, 'a'), 1);
    if (can_look())
        CHECK_EQ(count(text, n, 'b'), 1);
    CHECK_EQ(count(text, n, 'c'), 1);
    fp_exit exit = ended(proc);
    CHECK(exit.flags & FP_EXIT_ESCALATED);
    CHECK(!can_look() || lifeline_is_cut(&life, 0));
    lifeline_end(&life);
}

static void everybody_gets_the_stop_signal_once(void) {
    if (!can_look())
        SKIP("who left the group is found by /proc");
    for_each_containment(one_stop_signal_each_in);
}

static void a_stopped_one_in(void) {
    fp_proc *proc = start(us.of[0], JOB("kill -STOP $$; sleep 100"));
    fp_person person = {0};
    for (int i = 0; i < 5000 && person.state != 'T'; i++) {
        fp_person_read(fp_proc_pid(proc), &person);
        nap(MS);
    }
    int64_t before = now_ns();
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 10000 * MS, 0), 0);
    fp_exit exit = ended(proc);
    CHECK(now_ns() - before < 5000 * MS);
    CHECK_EQ(exit.signal, SIGTERM);
    CHECK(!(exit.flags & FP_EXIT_ESCALATED));
}

static void who_is_stopped_hears_the_stop_signal(void) {
    for_each_containment(a_stopped_one_in);
}

static void many_are_stopped_at_once(void) {
    enum { MANY = 20 };
    fp_proc *procs[MANY];
    for (int i = 0; i < MANY; i++)
        procs[i] = start(us.of[i % 2], SHELL("exec sleep 100"));
    CHECK_EQ(fp_proc_signal(procs[0], SIGKILL, 0), 0);
    CHECK_EQ(fp_proc_wait(procs[0], FP_STATE_DONE, LONG, NULL), 0);
    CHECK_EQ(fp_procs_stop(procs, MANY, FP_REASON_CANCELLED, 0, 0), MANY - 1);
    for (int i = 1; i < MANY; i++)
        CHECK_EQ(ended(procs[i]).reason, FP_REASON_CANCELLED);
    fp_proc_free(procs[0]);
}

static void a_lead_of_nothing_or_of_a_group(void) {
    for (int lead = FP_LEAD_GROUP; lead <= FP_LEAD_NOTHING; lead++) {
        lifeline life;
        lifeline_begin(&life);
        fp_proc *proc = start(us.of[0], SHELL("sleep 100 & echo r; wait", CAPTURED, .lead = lead, .fds = &life.map,
                                              .n_fds = 1, .containment = FP_CONTAIN_SESSION, .grace_ns = 300 * MS));
        await_output(proc, 2);
        pid_t pid = fp_proc_pid(proc);
        CHECK_EQ(getpgid(pid), lead == FP_LEAD_GROUP ? pid : getpgrp());
        CHECK_EQ(fp_proc_signal(proc, 0, 1), lead == FP_LEAD_GROUP ? 0 : -ESRCH);
        CHECK_EQ(fp_proc_signal(proc, 0, 0), 0);
        CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
        ended(proc);
        CHECK(lead == FP_LEAD_NOTHING && !can_look() ? true : lifeline_is_cut(&life, 0));
        lifeline_end(&life);
    }
}

/* ---- leftovers ----------------------------------------------------------------- */

static void leftovers_in(void) {
    lifeline life;
    lifeline_begin(&life);
    fp_exit exit = ended(start(us.of[0], JOB("sleep 100 & exit 4", .fds = &life.map, .n_fds = 1)));
    CHECK(lifeline_is_cut(&life, 0));
    CHECK_EQ(exit.reason, FP_REASON_EXITED);
    CHECK_EQ(exit.code, 4);
    CHECK_EQ(exit.flags, FP_EXIT_LEFTOVERS | FP_EXIT_STOPPED);
    lifeline_end(&life);

    lifeline_begin(&life);
    fp_proc *proc = start(us.of[0], JOB("(trap '' TERM; echo r; sleep 100) & read x; exit 4", .fds = &life.map,
                                        .n_fds = 1, .grace_ns = 30 * MS, .stdio = {{FP_STDIO_PIPE}, {FP_STDIO_PIPE}},
                                        .input = "\n", .input_bytes = 1));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, LONG, &exit), 0);
    CHECK_EQ(exit.code, 4);
    exit = ended(proc);
    CHECK(lifeline_is_cut(&life, 0));
    CHECK_EQ(exit.reason, FP_REASON_EXITED);
    CHECK(exit.flags & FP_EXIT_LEFTOVERS);
    lifeline_end(&life);
}

static void what_outlives_its_leader_is_ended(void) {
    if (!can_look() && !fp_probe(FP_CAP_PIDFD_GROUP))
        SKIP("a reaped leader's group can be reached by pidfd or /proc only");
    for_each_containment(leftovers_in);
}

static void kept_leftovers_in(void) {
    lifeline life;
    fp_exit exit;
    lifeline_begin(&life);
    fp_proc *proc = start(us.of[0], JOB("sleep 100 & exit 4", .flags = FP_KEEP_LEFTOVERS, .fds = &life.map, .n_fds = 1,
                                        .timeout_ns = 100 * MS));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, LONG, &exit), 0);
    CHECK_EQ(exit.code, 4);
    /* The time-out was the child's own. */
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, 200 * MS, &exit), -ETIMEDOUT);
    CHECK_EQ(exit.state, FP_STATE_EXITED);
    CHECK_EQ(exit.flags, FP_EXIT_LEFTOVERS);
    CHECK(!lifeline_is_cut(&life, 0));
    if (fp_probe(FP_CAP_PROCFS) || fp_proc_containment(proc) == FP_CONTAIN_CGROUP) {
        fp_stop_report report;
        CHECK_EQ(fp_proc_report(proc, &report), 0);
        CHECK_EQ(report.n_survivors, 1);
        CHECK(report.survivors[0] > 1 && kill(report.survivors[0], 0) == 0);
    }
    CHECK_EQ(fp_proc_signal(proc, 0, 0), -ESRCH);
    CHECK_EQ(fp_proc_signal(proc, 0, 1), 0);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 1000 * MS), 0);
    exit = ended(proc);
    CHECK_EQ(exit.reason, FP_REASON_EXITED);
    CHECK_EQ(exit.flags, FP_EXIT_LEFTOVERS | FP_EXIT_STOPPED);
    CHECK(lifeline_is_cut(&life, 0));
    lifeline_end(&life);
}

static void leftovers_are_kept_on_request(void) {
    if (!can_look() && !fp_probe(FP_CAP_PIDFD_GROUP))
        SKIP("a reaped leader's group can be reached by pidfd or /proc only");
    for_each_containment(kept_leftovers_in);
}

static void a_fugitive_in(void) {
    static const char *const scripts[] = {
        /* A child in a session of its own; the same with a child of its own; deaf. */
        "setsid sleep 100 & echo r; sleep 100",
        "setsid sh -c 'sleep 100 & echo r; sleep 100' & sleep 100",
        "setsid sh -c 'trap \"\" TERM; echo r; sleep 100' & sleep 100",
        /* Nobody's child any more: only a cgroup holds it. */
        "(setsid sh -c 'trap \"\" TERM; echo r; sleep 100' &) ; sleep 100",
    };
    int n = fp_probe(FP_CAP_CGROUP) && containment == FP_CONTAIN_CGROUP ? 4 : 3;
    for (int i = 0; i < n; i++) {
        lifeline life;
        lifeline_begin(&life);
        fp_proc *proc = start(us.of[0], JOB(scripts[i], CAPTURED, .fds = &life.map, .n_fds = 1, .grace_ns = 50 * MS));
        await_output(proc, 2);
        nap(10 * MS);
        CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
        CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
        CHECK(lifeline_is_cut(&life, 0));
        fp_stop_report report;
        CHECK_EQ(fp_proc_report(proc, &report), 0);
        CHECK_EQ(report.proof, containment == FP_CONTAIN_CGROUP ? FP_PROOF_CGROUP : FP_PROOF_SESSION);
        fp_proc_free(proc);
        lifeline_end(&life);
    }
}

static void who_leaves_the_group_is_followed(void) {
    if (!can_look())
        SKIP("who left the group is found by /proc");
    for_each_containment(a_fugitive_in);
}

static void a_held_pipe_holds_up_nobody(void) {
    if (!can_look() && !fp_probe(FP_CAP_PIDFD_GROUP))
        SKIP("a reaped leader's group can be reached by pidfd or /proc only");
    fp_output output;
    fp_proc *proc = start(us.of[0], SHELL("sleep 100 & echo hello; exit 3", CAPTURED, .flags = FP_KEEP_LEFTOVERS));
    fp_exit exit;
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, 5000 * MS, &exit), 0);
    CHECK_EQ(exit.code, 3);
    for (int i = 0; i < 5000; i++) {
        CHECK_EQ(fp_proc_output(proc, 1, &output), 0);
        if (output.ended)
            break;
        nap(MS);
    }
    CHECK(output.ended && !output.complete);
    CHECK_EQ(output.total_bytes, 6);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0), 0);
    ended(proc);
}

/* ---- all of it ----------------------------------------------------------------- */

static void all_tests(void) {
    WATCHED(who_is_deaf_is_killed);
    WATCHED(everybody_gets_the_stop_signal_once);
    WATCHED(who_is_stopped_hears_the_stop_signal);
    WATCHED(many_are_stopped_at_once);
    WATCHED(a_lead_of_nothing_or_of_a_group);
    WATCHED(what_outlives_its_leader_is_ended);
    WATCHED(leftovers_are_kept_on_request);
    WATCHED(who_leaves_the_group_is_followed);
    WATCHED(a_held_pipe_holds_up_nobody);
}

int main(void) {
    return with_our_crew(all_tests);
}
