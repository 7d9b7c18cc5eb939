/*
 * test_supervise.c: real processes under a crew: how they end, who is told,
 * and that nothing is left of them.
 *
 * What is expected depends on what the kernel has: run it with FASTPROC_DISABLE
 * set to see the ways without. Most tests run once for each containment.
 */
#include <sched.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>

#include "crew.h"
#include "internal.h"

static crew us;
static int containment;

static void for_each_containment(void (*test)(void)) {
    for (containment = FP_CONTAIN_SESSION; containment <= FP_CONTAIN_CGROUP; containment++)
        if (containment == FP_CONTAIN_SESSION || fp_probe(FP_CAP_CGROUP))
            test();
}

#define JOB(script, ...) SHELL(script, .containment = containment, __VA_ARGS__)
#define CAPTURED .stdio[1].kind = FP_STDIO_PIPE

/* Can the library tell zombies from the living, and find who left the group? */
static bool can_look(void) {
    return fp_probe(FP_CAP_PROCFS);
}

static char workplace[64];

static void workplace_begin(void) {
    snprintf(workplace, sizeof workplace, "/tmp/fastproc-test-XXXXXX");
    CHECK(mkdtemp(workplace) != NULL);
}

/* ---- ends of their own -------------------------------------------------------- */

static void ends_of_their_own_in(void) {
    fp_exit exit = ended(start(us.of[0], JOB("exit 0")));
    CHECK_EQ(exit.reason, FP_REASON_EXITED);
    CHECK_EQ(exit.code, 0);
    CHECK_EQ(exit.flags, 0);
    exit = ended(start(us.of[1], JOB("exit 255")));
    CHECK_EQ(exit.code, 255);
    CHECK_EQ(exit.signal, 0);
    exit = ended(start(us.of[0], JOB("kill -9 $$")));
    CHECK_EQ(exit.reason, FP_REASON_SIGNALED);
    CHECK_EQ(exit.code, -1);
    CHECK_EQ(exit.signal, SIGKILL);
    exit = ended(start(us.of[0], JOB("exit 137")));
    CHECK_EQ(exit.reason, FP_REASON_EXITED);
    CHECK_EQ(exit.code, 137);
}

static void a_code_and_a_signal_are_told_apart(void) {
    for_each_containment(ends_of_their_own_in);
}

static void a_status_grows_with_time(void) {
    fp_proc *proc = start(us.of[0], SHELL("echo; read x", .stdio = {{FP_STDIO_PIPE}, {FP_STDIO_PIPE}}, .input = "\n",
                                          .input_bytes = 1, .token = 5));
    fp_exit exit;
    fp_stop_report report;
    fp_proc_status(proc, &exit);
    CHECK(exit.state == FP_STATE_RUNNING || exit.state >= FP_STATE_EXITED);
    CHECK(exit.pid > 1 && exit.pid == fp_proc_pid(proc));
    CHECK(exit.started_ns > 0 && exit.started_ns <= now_ns());
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_RUNNING, 0, NULL), 0);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_QUEUED, 0, NULL), -EINVAL);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, &exit), 0);
    CHECK(exit.ended_ns >= exit.started_ns && exit.ended_ns <= now_ns());
    CHECK(exit.usage.max_rss_bytes > 0);
    CHECK_EQ(fp_proc_pidfd(proc), -EBADF);
    CHECK_EQ(fp_proc_signal(proc, SIGTERM, 0), -ESRCH);
    CHECK_EQ(fp_proc_signal(proc, SIGTERM, 1), -ESRCH);
    CHECK_EQ(fp_proc_signal(proc, 65, 0), -EINVAL);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), -ESRCH);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_SIGNALED, 0, 0), -EINVAL);
    CHECK_EQ(fp_proc_failure(proc, &(fp_failure){0}), -ENODATA);
    CHECK_EQ(fp_proc_withdraw(proc), -EALREADY);
    CHECK_EQ(fp_proc_report(proc, &report), 0);
    CHECK_EQ(report.n_survivors, 0);
    CHECK_EQ(fp_proc_wait_stopped(proc, 0, NULL), 0);
    fp_proc_free(proc);
}

static void asking_once_does_not_block(void) {
    fp_proc *proc = start(us.of[0], SHELL("exec sleep 100"));
    fp_exit exit;
    int64_t before = now_ns();
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, 0, &exit), -ETIMEDOUT);
    CHECK_EQ(exit.state, FP_STATE_RUNNING);
    CHECK_EQ(exit.reason, FP_REASON_NONE);
    CHECK(now_ns() - before < 1000 * MS);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, 20 * MS, &exit), -ETIMEDOUT);
    CHECK(now_ns() - before >= 20 * MS);
    CHECK_EQ(fp_proc_signal(proc, SIGKILL, 0), 0);
    while (fp_proc_wait(proc, FP_STATE_EXITED, 0, &exit) == -ETIMEDOUT)
        nap(MS);
    CHECK_EQ(exit.signal, SIGKILL);
    CHECK_EQ(exit.reason, FP_REASON_SIGNALED);
    ended(proc);
}

static void wrong_arguments_are_refused(void) {
    fp_failure failure = {0};
    fp_proc *proc = (fp_proc *)&failure;
    CHECK_EQ(fp_spawn(NULL, SHELL(":"), &proc, NULL), -EINVAL);
    CHECK_EQ(fp_spawn(us.of[0], NULL, &proc, &failure), -EINVAL);
    CHECK_EQ(failure.stage, FP_STAGE_REQUEST);
    CHECK_EQ(fp_spawn(us.of[0], SHELL(":", .containment = FP_CONTAIN_GUARD), &proc, &failure), -ENOTSUP);
    CHECK(proc == (fp_proc *)&failure);
    CHECK(!fp_proc_free(NULL));
    CHECK(!fp_supervisor_free(NULL));
    fp_supervisor_options wrong = {.size = 1};
    fp_supervisor *supervisor;
    CHECK_EQ(fp_supervisor_new(&wrong, &supervisor), -EINVAL);
    CHECK_EQ(fp_supervisor_run(us.of[0]), -EBUSY);
}

/* ---- the clock ------------------------------------------------------------------ */

static void deadlines_in(void) {
    int64_t before = now_ns();
    fp_exit exit = ended(start(us.of[0], JOB("exec sleep 100", .timeout_ns = 50 * MS)));
    int64_t took = now_ns() - before;
    CHECK_EQ(exit.reason, FP_REASON_TIMEOUT);
    CHECK_EQ(exit.signal, SIGTERM);
    CHECK_EQ(exit.flags, FP_EXIT_STOPPED);
    CHECK(took >= 50 * MS && took < 5000 * MS);

    exit = ended(start(us.of[0], JOB("exec sleep 100", .timeout_ns = LONG, .deadline_ns = now_ns() + 20 * MS,
                                     .deadline_reason = FP_REASON_CANCELLED, .stop_signal = SIGINT)));
    CHECK_EQ(exit.reason, FP_REASON_CANCELLED);
    CHECK_EQ(exit.signal, SIGINT);
    /* One that has passed already counts at once. */
    exit = ended(start(us.of[1], JOB("exec sleep 100", .deadline_ns = 1)));
    CHECK_EQ(exit.reason, FP_REASON_TIMEOUT);
    /* Who comes back in time is not touched, and who says 3 to it said 3. */
    exit = ended(start(us.of[1], JOB("exit 3", .timeout_ns = LONG)));
    CHECK_EQ(exit.reason, FP_REASON_EXITED);
    exit = ended(start(us.of[1], JOB("trap 'exit 3' TERM; while :; do sleep .01; done", .timeout_ns = 50 * MS)));
    CHECK_EQ(exit.reason, FP_REASON_TIMEOUT);
    CHECK_EQ(exit.signal == 0, exit.code == 3);
}

static void a_deadline_is_kept(void) {
    for_each_containment(deadlines_in);
}

static void silence_is_ended_and_talk_is_not(void) {
    fp_exit exit = ended(start(us.of[0], SHELL("echo; exec sleep 100", CAPTURED, .idle_timeout_ns = 50 * MS)));
    CHECK_EQ(exit.reason, FP_REASON_IDLE_TIMEOUT);
    exit = ended(start(us.of[0], SHELL("for i in 1 2 3 4 5 6 7 8 9; do echo >&2; sleep .02; done", CAPTURED,
                                       .stdio[2].kind = FP_STDIO_PIPE, .idle_timeout_ns = 2000 * MS)));
    CHECK_EQ(exit.reason, FP_REASON_EXITED);
}

/* ---- the ladder ------------------------------------------------------------------- */

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

/* ---- leftovers --------------------------------------------------------------------- */

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

/* ---- waiting together ----------------------------------------------------------------- */

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

/* ---- mailboxes -------------------------------------------------------------------------- */

static void news_tell_the_whole_story(void) {
    enum { MANY = 60 };
    static const char *const scripts[] = {"exit 0", "exit 1", "exit 2", "kill -9 $$"};
    fp_proc *procs[MANY];
    uint32_t heard[MANY] = {0};
    fp_mailbox *mailbox;
    int left = MANY;

    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    for (int i = 0; i < MANY; i++)
        procs[i] = start(us.of[i % 2], SHELL(scripts[i % 4], .token = (uint64_t)i, .mailbox = mailbox));
    while (left > 0) {
        fp_news news[16];
        int n = fp_mailbox_take(mailbox, news, 16, LONG);
        CHECK(n > 0);
        if (n <= 0)
            break;
        for (int i = 0; i < n; i++) {
            CHECK(!(heard[news[i].token] & news[i].what));
            heard[news[i].token] |= news[i].what;
            if (!(news[i].what & FP_NEWS_DONE))
                continue;
            left--;
            CHECK_EQ(news[i].exit.state, FP_STATE_DONE);
            CHECK_EQ(news[i].exit.code, news[i].token % 4 == 3 ? -1 : (int)news[i].token % 4);
        }
    }
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(heard[i], FP_NEWS_EXITED | FP_NEWS_DONE);
        fp_proc_free(procs[i]);
    }
    fp_mailbox_free(mailbox);
}

static void an_escalation_is_news(void) {
    fp_mailbox *mailbox;
    fp_news news;
    uint32_t heard = 0;
    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    fp_proc *proc = start(
        us.of[0], SHELL("trap '' TERM; sleep 100", .timeout_ns = 200 * MS, .grace_ns = 10 * MS, .mailbox = mailbox));
    while (!(heard & FP_NEWS_DONE) && fp_mailbox_take(mailbox, &news, 1, LONG) == 1)
        heard |= news.what;
    CHECK_EQ(heard, FP_NEWS_ESCALATED | FP_NEWS_EXITED | FP_NEWS_DONE);
    ended(proc);
    fp_mailbox_free(mailbox);
}

/* ---- streams ------------------------------------------------------------------------------ */

static void input_goes_through(void) {
    enum { SIZE = 500000 };
    uint8_t *input = malloc(SIZE), *output = malloc(SIZE);
    for (int i = 0; i < SIZE; i++)
        input[i] = (uint8_t)(i * 31 >> 4);
    fp_proc *proc = start(us.of[0], SHELL("exec cat", .stdio = {{FP_STDIO_PIPE}, {FP_STDIO_PIPE}}, .input = input,
                                          .input_bytes = SIZE, .head_bytes = SIZE, .tail_bytes = 1));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
    CHECK_EQ(fp_proc_output_copy(proc, 1, output, SIZE), SIZE);
    CHECK(memcmp(input, output, SIZE) == 0);
    fp_output what;
    CHECK_EQ(fp_proc_output(proc, 1, &what), 0);
    CHECK(what.ended && what.complete);
    CHECK_EQ(fp_proc_output(proc, 2, &what), -EINVAL);
    CHECK_EQ(fp_proc_output(proc, 0, &what), -EINVAL);
    CHECK_EQ(fp_proc_output_copy(proc, 2, output, SIZE), -EINVAL);
    fp_proc_free(proc);
    /* Nobody reads it. */
    proc =
        start(us.of[0], SHELL("exec <&-; exit 5", .stdio[0].kind = FP_STDIO_PIPE, .input = input, .input_bytes = SIZE));
    CHECK_EQ(ended(proc).code, 5);
    free(input);
    free(output);
}

/* A reader who follows hears each byte, whatever is kept. */
static void a_follower_hears_all_with(uint64_t head, uint64_t tail) {
    enum { SIZE = 600000 };
    uint64_t offset = 0, sum = 0, heard = 0;
    char buffer[5000];
    int gate[2];
    CHECK_EQ(pipe2(gate, O_CLOEXEC), 0);
    fp_fd_map map = {.source = gate[0], .target = 8};
    fp_proc *proc =
        start(us.of[0], SHELL("read x <&8; for i in 0 1 2 3 4 5; do head -c 100000 /dev/zero | tr '\\0' $i; done",
                              CAPTURED, .head_bytes = head, .tail_bytes = tail, .fds = &map, .n_fds = 1));
    CHECK_EQ(fp_proc_follow(proc, 1, 1), 0);
    CHECK_EQ(write(gate[1], "\n", 1), 1);
    close(gate[0]);
    close(gate[1]);
    CHECK_EQ(fp_proc_follow(proc, 2, 1), -EINVAL);
    CHECK_EQ(fp_proc_read(proc, 2, &offset, buffer, 1, 0), -EINVAL);
    int64_t r;
    while ((r = fp_proc_read(proc, 1, &offset, buffer, sizeof buffer, LONG)) > 0) {
        heard += (uint64_t)r;
        for (int64_t i = 0; i < r; i++)
            sum += (uint64_t)(buffer[i] - '0');
        CHECK_EQ(offset, heard);
    }
    CHECK_EQ(r, 0);
    CHECK_EQ(heard, SIZE);
    CHECK_EQ(sum, 15 * 100000);
    ended(proc);
}

static void a_follower_hears_all(void) {
    a_follower_hears_all_with(0, 0);
    a_follower_hears_all_with(1000, 3000);
    a_follower_hears_all_with(0, 100);
    a_follower_hears_all_with(20000, 0);
}

/* Who stops following lets go on what waited for him. */
static void a_follower_may_lose_interest(void) {
    fp_output output = {0};
    fp_proc *proc =
        start(us.of[0], SHELL("head -c 600000 /dev/zero; exit 7", CAPTURED, .head_bytes = 100, .tail_bytes = 1000));
    CHECK_EQ(fp_proc_follow(proc, 1, 1), 0);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, 50 * MS, NULL), -ETIMEDOUT);
    CHECK_EQ(fp_proc_follow(proc, 1, 0), 0);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
    CHECK_EQ(fp_proc_output(proc, 1, &output), 0);
    CHECK_EQ(output.total_bytes, 600000);
    CHECK_EQ(ended(proc).code, 7);
}

static void reading_has_an_end_in_time(void) {
    char buffer[8];
    uint64_t offset = 0;
    fp_proc *proc = start(us.of[0], SHELL("exec sleep 100", CAPTURED));
    CHECK_EQ(fp_proc_read(proc, 1, &offset, buffer, sizeof buffer, 0), -ETIMEDOUT);
    CHECK_EQ(fp_proc_read(proc, 1, &offset, buffer, sizeof buffer, 10 * MS), -ETIMEDOUT);
    CHECK_EQ(fp_proc_read(proc, 1, &offset, buffer, 0, 0), -EINVAL);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
    CHECK_EQ(fp_proc_read(proc, 1, &offset, buffer, sizeof buffer, LONG), 0);
    ended(proc);
}

static void who_says_too_much_is_stopped(void) {
    fp_exit exit = ended(start(us.of[0], SHELL("while :; do echo hello; done", CAPTURED, .max_output_bytes = 100000,
                                               .flags = FP_STOP_AT_MAX_OUTPUT)));
    CHECK_EQ(exit.reason, FP_REASON_OUTPUT_LIMIT);
    /* Without the flag it is only not kept. */
    exit = ended(start(us.of[0], SHELL("head -c 300000 /dev/zero", CAPTURED, .max_output_bytes = 1000)));
    CHECK_EQ(exit.reason, FP_REASON_EXITED);
    CHECK_EQ(exit.code, 0);
}

static void much_output_is_counted(void) {
    fp_output output;
    fp_proc *proc = start(us.of[0], SHELL("head -c 20000000 /dev/zero", CAPTURED));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
    CHECK_EQ(fp_proc_output(proc, 1, &output), 0);
    CHECK_EQ(output.total_bytes, 20000000);
    CHECK_EQ(output.kept_bytes, 256 << 10);
    fp_proc_free(proc);
}

/* ---- limits --------------------------------------------------------------------------------- */

static void the_end_of_cpu_time_is_called_so(void) {
    /* With one limit for both the kernel kills; with two it first says SIGXCPU. */
    fp_proc *killed = start(
        us.of[0], SHELL("while :; do :; done", .rlimit_set = 1u << FP_RLIMIT_CPU, .rlimits[FP_RLIMIT_CPU] = {1, 1}));
    fp_proc *told = start(
        us.of[1], SHELL("while :; do :; done", .rlimit_set = 1u << FP_RLIMIT_CPU, .rlimits[FP_RLIMIT_CPU] = {1, 5}));
    fp_exit exit = ended(killed);
    CHECK_EQ(exit.signal, SIGKILL);
    CHECK_EQ(exit.reason, FP_REASON_CPU_LIMIT);
    CHECK(exit.usage.user_us + exit.usage.system_us >= 500000);
    exit = ended(told);
    CHECK_EQ(exit.signal, SIGXCPU);
    CHECK_EQ(exit.reason, FP_REASON_CPU_LIMIT);
    /* Killed by somebody else, long before. */
    exit = ended(
        start(us.of[0], SHELL("kill -9 $$", .rlimit_set = 1u << FP_RLIMIT_CPU, .rlimits[FP_RLIMIT_CPU] = {1, 1})));
    CHECK_EQ(exit.reason, FP_REASON_SIGNALED);
}

/* Whether a core is written is the host's business; if it is, that is told. */
static void a_core_dump_is_told(void) {
    char core[80];
    workplace_begin();
    fp_exit exit = ended(start(us.of[0], SHELL("ulimit -c unlimited; kill -ABRT $$", .cwd = workplace)));
    CHECK_EQ(exit.reason, FP_REASON_SIGNALED);
    CHECK_EQ(exit.signal, SIGABRT);
    snprintf(core, sizeof core, "%s/core", workplace);
    if (access(core, F_OK) == 0)
        CHECK_EQ(exit.flags, FP_EXIT_CORE_DUMPED);
    unlink(core);
    rmdir(workplace);
}

static void limits_of_a_cgroup_are_set_or_refused(void) {
    fp_failure failure = {0};
    fp_proc *proc;
    const fp_spec *spec = SHELL("x=a; while :; do x=$x$x; done", .memory_max_bytes = 20 << 20);
    int r = fp_spawn(us.of[0], spec, &proc, &failure);
    if (r == 0) {
        CHECK_EQ(fp_proc_containment(proc), FP_CONTAIN_CGROUP);
        fp_exit exit = ended(proc);
        CHECK_EQ(exit.reason, FP_REASON_OOM);
    } else {
        CHECK_EQ(failure.stage, FP_STAGE_CGROUP);
        CHECK_EQ(failure.error, -r);
        CHECK_EQ(failure.detail, fp_probe(FP_CAP_CGROUP) ? 0 : -1);
    }
    r = fp_spawn(us.of[0], SHELL(":", .pids_max = 10, .cpu_max_millis = 500), &proc, &failure);
    if (r == 0)
        CHECK_EQ(ended(proc).code, 0);
    else
        CHECK_EQ(failure.stage, FP_STAGE_CGROUP);
    r = fp_spawn(us.of[0], SHELL(":", .containment = FP_CONTAIN_CGROUP), &proc, &failure);
    CHECK_EQ(r == 0, fp_probe(FP_CAP_CGROUP));
    if (r == 0)
        CHECK_EQ(ended(proc).code, 0);
}

/* ---- batches ---------------------------------------------------------------------------------- */

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

/* ---- supervisors come and go -------------------------------------------------------------------- */

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

/* All orders of giving back, with the process alive or dead. */
static void anything_may_be_freed_first_in(void) {
    static const char orders[6][4] = {"pms", "psm", "mps", "msp", "spm", "smp"};
    for (int i = 0; i < 12; i++) {
        bool alive = i % 2;
        crew c;
        fp_mailbox *mailbox;
        int before = open_descriptors();
        CHECK_EQ(fp_mailbox_new(&mailbox), 0);
        crew_begin(&c, 1);
        fp_proc *proc = start(c.of[0], JOB(alive ? "exec sleep 100" : "exit 0", CAPTURED, .mailbox = mailbox));
        pid_t pid = fp_proc_pid(proc);
        if (!alive)
            CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
        for (const char *order = orders[i / 2]; *order; order++) {
            if (*order == 'p')
                proc = fp_proc_free(proc);
            else if (*order == 'm')
                mailbox = fp_mailbox_free(mailbox);
            else
                crew_end(&c);
        }
        /* Left running, as promised; now it is the host's. */
        if (alive) {
            CHECK_EQ(kill(pid, SIGKILL), 0);
            CHECK_EQ(waitpid(pid, NULL, 0), pid);
        }
        CHECK_EQ(open_descriptors(), before);
    }
}

static void anything_may_be_freed_first(void) {
    for_each_containment(anything_may_be_freed_first_in);
}

/* The handle outlives its supervisor, and is as good as before. */
static void a_handle_outlives_its_supervisor_in(void) {
    for (int kind = 0; kind < 4; kind++) {
        int before = open_descriptors();
        lifeline life;
        crew c;
        fp_exit exit;

        lifeline_begin(&life);
        crew_begin(&c, 1);
        fp_proc *proc =
            start(c.of[0], JOB("echo r; sleep .05; echo s; sleep 100", CAPTURED, .fds = &life.map, .n_fds = 1));
        await_output(proc, 2);
        crew_end(&c);
        await_output(proc, 4);
        CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, 10 * MS, &exit), -ETIMEDOUT);
        if (kind == 0) {
            CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
            exit = ended(proc);
            CHECK_EQ(exit.reason, FP_REASON_TERMINATED);
        } else if (kind == 1) {
            CHECK_EQ(fp_proc_signal(proc, SIGKILL, 1), 0);
            exit = ended(proc);
            CHECK_EQ(exit.reason, FP_REASON_SIGNALED);
        } else if (kind == 2) {
            CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0), 0);
            CHECK_EQ(fp_proc_wait_stopped(proc, LONG, NULL), 0);
            fp_proc_free(proc);
        } else {
            pid_t pid = fp_proc_pid(proc);
            CHECK_EQ(fp_proc_signal(proc, SIGKILL, 1), 0);
            fp_proc_free(proc);
            CHECK_EQ(waitpid(pid, NULL, 0), pid);
        }
        CHECK(lifeline_is_cut(&life, 1000));
        lifeline_end(&life);
        CHECK_EQ(open_descriptors(), before);
    }
}

static void a_handle_outlives_its_supervisor(void) {
    for_each_containment(a_handle_outlives_its_supervisor_in);
}

static void a_stopped_crew_fails_what_is_queued(void) {
    for (int n = 1; n <= 2; n++) {
        enum { JOBS = 5 };
        const fp_spec spec = STORED("exec sleep 100");
        const fp_spec *specs[JOBS] = {&spec, &spec, &spec, &spec, &spec};
        fp_proc *procs[JOBS];
        fp_failure failure = {0};
        crew c;

        crew_begin(&c, n);
        CHECK_EQ(fp_spawn_many(members(&c), (size_t)n, specs, JOBS, 1, procs), 0);
        CHECK_EQ(fp_procs_wait_started(procs, 1, LONG), 0);
        crew_end(&c);
        for (int i = 1; i < JOBS; i++) {
            CHECK_EQ(fp_proc_wait(procs[i], FP_STATE_DONE, LONG, NULL), -ECHILD);
            CHECK_EQ(fp_proc_failure(procs[i], &failure), 0);
            CHECK_EQ(failure.stage, FP_STAGE_SUPERVISOR);
            CHECK_EQ(failure.error, ESHUTDOWN);
            fp_proc_free(procs[i]);
        }
        CHECK_EQ(fp_proc_stop(procs[0], FP_REASON_CANCELLED, -1, 0), 0);
        CHECK_EQ(ended(procs[0]).signal, SIGKILL);

        /* Handed to one that has stopped already. */
        crew_begin(&c, n);
        for (int i = 0; i < n; i++)
            fp_supervisor_stop(c.of[i]);
        CHECK_EQ(fp_spawn_many(members(&c), (size_t)n, specs, JOBS, 0, procs), 0);
        CHECK_EQ(fp_procs_wait_started(procs, JOBS, LONG), 0);
        crew_end(&c);
        for (int i = 0; i < JOBS; i++) {
            CHECK_EQ(fp_proc_wait(procs[i], FP_STATE_DONE, LONG, NULL), -ECHILD);
            fp_proc_free(procs[i]);
        }
    }
}

static void many_places_are_made(void) {
    enum { MANY = 150 };
    fp_proc *procs[MANY];
    for (int i = 0; i < MANY; i++)
        procs[i] = start(us.of[0], SHELL("exec sleep 100", .containment = FP_CONTAIN_SESSION, .timeout_ns = LONG));
    CHECK_EQ(fp_supervisor_active(us.of[0]), MANY);
    CHECK_EQ(fp_procs_stop(procs, MANY, FP_REASON_TERMINATED, -1, 0), MANY);
    for (int i = 0; i < MANY; i++)
        ended(procs[i]);
    CHECK_EQ(fp_supervisor_active(us.of[0]), 0);
}

/* ---- hosts with habits ----------------------------------------------------------------------------- */

/* Is this a true answer, when somebody else may have taken the status? */
static bool is_true(const fp_exit *exit, int code) {
    if (exit->reason == FP_REASON_EXITED)
        return exit->code == code && exit->signal == 0;
    return exit->reason == FP_REASON_UNKNOWN && exit->code == -1 && exit->signal == 0 &&
           (exit->flags & FP_EXIT_FOREIGN) && !fp_probe(FP_CAP_PIDFD_INFO);
}

static void a_host_may_ignore_sigchld(void) {
    signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < 10; i++) {
        fp_proc *proc = start(us.of[i % 2], SHELL("exit 7", .timeout_ns = LONG));
        fp_exit exit = ended(proc);
        CHECK(is_true(&exit, 7));
        CHECK(exit.flags & FP_EXIT_FOREIGN);
    }
    fp_failure failure = {0};
    fp_proc *proc;
    CHECK_EQ(fp_spawn(us.of[0], SHELL(":", .program = "/nonexistent"), &proc, &failure), -ENOENT);
    CHECK_EQ(failure.stage, FP_STAGE_EXEC);
    signal(SIGCHLD, SIG_DFL);
}

static void *steal(void *arg) {
    (void)arg;
    while (!enough) {
        waitpid(-1, NULL, WNOHANG | __WALL);
        sched_yield();
    }
    return NULL;
}

static void a_thief_does_not_make_us_lie(void) {
    pthread_t thief;
    int stolen = 0;
    enough = false;
    pthread_create(&thief, NULL, steal, NULL);
    for (int i = 0; i < 60; i++) {
        fp_exit exit = ended(start(us.of[i % 2], SHELL("exit 7")));
        CHECK(is_true(&exit, 7));
        stolen += (exit.flags & FP_EXIT_FOREIGN) != 0;
    }
    for (int i = 0; i < 10; i++) {
        fp_proc *proc = start(us.of[0], SHELL("trap '' TERM; sleep 100 & exec sleep 100", .grace_ns = 10 * MS));
        fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0);
        fp_exit exit = ended(proc);
        CHECK(exit.reason == FP_REASON_TERMINATED);
    }
    enough = true;
    pthread_join(thief, NULL);
    CHECK(stolen > 0);
}

/* What a forked copy of the program may call: all is refused, nothing blocks, nothing is touched. */
static int misuse(fp_supervisor *supervisor, fp_proc *proc, fp_proc *queued, fp_mailbox *mailbox) {
    fp_proc *other = NULL;
    fp_failure failure = {0};
    fp_news news;
    uint64_t offset = 0;
    char byte;
    int wrong = 0;

    wrong += fp_spawn(supervisor, SHELL(":"), &other, &failure) != -EOWNERDEAD;
    wrong += fp_spawn_many(&supervisor, 1, (const fp_spec *const[]){SHELL(":")}, 1, 0, &other) != -EOWNERDEAD;
    wrong += fp_proc_wait(proc, FP_STATE_DONE, -1, NULL) != -EOWNERDEAD;
    wrong += fp_proc_wait(proc, FP_STATE_DONE, 0, NULL) != -EOWNERDEAD;
    wrong += fp_proc_wait_stopped(proc, -1, NULL) != -EOWNERDEAD;
    wrong += fp_proc_signal(proc, SIGKILL, 0) != -EOWNERDEAD;
    wrong += fp_proc_signal(proc, SIGKILL, 1) != -EOWNERDEAD;
    wrong += fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0) != -EOWNERDEAD;
    wrong += fp_proc_withdraw(proc) == 0;
    wrong += fp_proc_read(proc, 1, &offset, &byte, 1, -1) != -EOWNERDEAD;
    wrong += fp_proc_wait(queued, FP_STATE_DONE, -1, NULL) != -EOWNERDEAD;
    wrong += fp_proc_withdraw(queued) != -EOWNERDEAD;
    wrong += fp_proc_stop(queued, FP_REASON_CANCELLED, 0, 0) != -EOWNERDEAD;
    wrong += fp_supervisor_adopt_orphans(supervisor, mailbox) != -EOWNERDEAD;
    wrong += fp_mailbox_fd(mailbox) != -EOWNERDEAD;
    wrong += fp_mailbox_wake(mailbox) != -EOWNERDEAD;
    wrong += fp_mailbox_forget(mailbox, proc) != -EOWNERDEAD;
    wrong += fp_supervisor_stop(supervisor) != -EOWNERDEAD;
    wrong += fp_supervisor_run(supervisor) != -EOWNERDEAD;
    wrong += fp_mailbox_take(mailbox, &news, 1, -1) != -EOWNERDEAD;
    fp_exit exit;
    fp_stop_report report;
    fp_output output;
    fp_proc_status(proc, &exit);
    fp_proc_pidfd(proc);
    fp_proc_report(proc, &report);
    fp_proc_output(proc, 1, &output);
    fp_supervisor_active(supervisor);
    fp_mailbox_free(mailbox);
    fp_proc_free(proc);
    fp_proc_free(queued);
    fp_supervisor_free(supervisor);
    return wrong;
}

static void *keep_busy(void *arg) {
    fp_proc *proc = arg;
    while (!enough) {
        fp_exit exit;
        fp_proc_status(proc, &exit);
        ended(start(us.of[0], SHELL(":", CAPTURED)));
    }
    return NULL;
}

static void a_forked_copy_is_inert_in(void) {
    pthread_t busy;
    fp_mailbox *mailbox;
    fp_exit exit;

    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    const fp_spec *sleeper = JOB("exec sleep 100", CAPTURED);
    const fp_spec *specs[2] = {sleeper, sleeper};
    fp_proc *procs[2];
    CHECK_EQ(fp_spawn_many(&us.of[1], 1, specs, 2, 1, procs), 0);
    fp_proc *proc = start(us.of[0], JOB("exec sleep 100", CAPTURED, .mailbox = mailbox));
    enough = false;
    pthread_create(&busy, NULL, keep_busy, proc);
    for (int i = 0; i < 15; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            signal(SIGALRM, SIG_DFL);
            alarm(10);
            _exit(misuse(us.of[0], proc, procs[1], mailbox));
        }
        int status = -1;
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK_EQ(status, 0);
    }
    enough = true;
    pthread_join(busy, NULL);
    CHECK_EQ(fp_proc_withdraw(procs[1]), 0);
    CHECK_EQ(fp_proc_stop(procs[0], FP_REASON_CANCELLED, 0, 0), 0);
    ended(procs[0]);
    fp_proc_free(procs[1]);
    /* Nothing has happened to it, and we hear of its end as before. */
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, 0, &exit), -ETIMEDOUT);
    CHECK_EQ(fp_proc_signal(proc, SIGINT, 0), 0);
    exit = ended(proc);
    CHECK_EQ(exit.signal, SIGINT);
    CHECK_EQ(exit.reason, FP_REASON_SIGNALED);
    fp_mailbox_free(mailbox);
}

static void a_forked_copy_is_inert(void) {
    for_each_containment(a_forked_copy_is_inert_in);
}

/* A tracer keeps the exit of `pid` to itself until a byte comes on the pipe. */
static pid_t trace(pid_t pid, int *ret_release) {
    int ready[2], release[2];
    char answer = 'n';

    if (pipe2(ready, O_CLOEXEC) < 0 || pipe2(release, O_CLOEXEC) < 0)
        return -1;
    pid_t tracer = fork();
    if (tracer == 0) {
        char byte = ptrace(PTRACE_SEIZE, pid, 0, 0) == 0 ? 'y' : 'n';
        alarm(30);
        close(release[1]);
        if (write(ready[1], &byte, 1) != 1 || read(release[0], &byte, 1) < 0)
            _exit(1);
        _exit(0);
    }
    close(ready[1]);
    close(release[0]);
    if (read(ready[0], &answer, 1) != 1 || answer != 'y') {
        close(release[1]);
        waitpid(tracer, NULL, 0);
        tracer = -1;
    }
    close(ready[0]);
    *ret_release = release[1];
    return tracer;
}

static int64_t cpu_ns(void) {
    struct timespec spent;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
    return spent.tv_sec * INT64_C(1000000000) + spent.tv_nsec;
}

static void a_tracer_may_hold_back_an_exit(void) {
    int gate[2], release;
    fp_exit exit;
    CHECK_EQ(pipe2(gate, O_CLOEXEC), 0);
    fp_fd_map map = {.source = gate[0], .target = 8};
    fp_proc *proc = start(us.of[0], SHELL("read x <&8; exit 7", .fds = &map, .n_fds = 1));
    pid_t tracer = trace(fp_proc_pid(proc), &release);
    CHECK_EQ(write(gate[1], "\n", 1), 1);
    close(gate[0]);
    close(gate[1]);
    if (tracer < 0) {
        CHECK_EQ(ended(proc).code, 7);
        SKIP("ptrace(2) is not allowed");
    }
    int64_t spent = cpu_ns();
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, 150 * MS, &exit), -ETIMEDOUT);
    CHECK_EQ(exit.state, FP_STATE_RUNNING);
    CHECK(cpu_ns() - spent < 75 * MS);
    close(release);
    CHECK_EQ(waitpid(tracer, NULL, 0), tracer);
    exit = ended(proc);
    CHECK_EQ(exit.code, 7);
    CHECK_EQ(exit.reason, FP_REASON_EXITED);
}

/* To us, who cannot reap it, it looks like one that SIGKILL does not end. */
static void what_cannot_be_killed_is_reported_and_watched(void) {
    fp_mailbox *mailbox;
    fp_stop_report report;
    fp_exit exit;
    int release;

    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    fp_proc *proc =
        start(us.of[0], SHELL("echo r; exec sleep 100", CAPTURED, .mailbox = mailbox, .kill_timeout_ns = 50 * MS,
                              .grace_ns = 20 * MS, .containment = FP_CONTAIN_SESSION));
    await_output(proc, 2);
    nap(20 * MS);
    pid_t tracer = trace(fp_proc_pid(proc), &release);
    if (tracer < 0) {
        fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0);
        ended(proc);
        fp_mailbox_free(mailbox);
        SKIP("ptrace(2) is not allowed");
    }
    int64_t before = now_ns();
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
    CHECK_EQ(fp_proc_wait_stopped(proc, LONG, &exit), 0);
    CHECK(now_ns() - before < 2000 * MS);
    CHECK_EQ(exit.state, FP_STATE_RUNNING);
    CHECK_EQ(exit.flags, FP_EXIT_STOPPED | FP_EXIT_ESCALATED | FP_EXIT_UNKILLABLE);
    CHECK_EQ(fp_proc_report(proc, &report), 0);
    CHECK_EQ(report.proof, FP_PROOF_NONE);
    CHECK_EQ(report.n_survivors, 1);
    CHECK_EQ(report.survivors[0], fp_proc_pid(proc));
    /* Asked again it is killed again. */
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0), 0);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, 30 * MS, NULL), -ETIMEDOUT);
    close(release);
    CHECK_EQ(waitpid(tracer, NULL, 0), tracer);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, &exit), 0);
    CHECK_EQ(exit.reason, FP_REASON_TERMINATED);
    CHECK_EQ(exit.signal, SIGKILL);
    fp_news news;
    uint32_t heard = 0;
    while (fp_mailbox_take(mailbox, &news, 1, 0) == 1)
        heard |= news.what;
    CHECK_EQ(heard, FP_NEWS_ESCALATED | FP_NEWS_UNKILLABLE | FP_NEWS_EXITED | FP_NEWS_DONE);
    fp_proc_free(proc);
    fp_mailbox_free(mailbox);
}

/* ---- the dead ---------------------------------------------------------------------------------------- */

static bool is_there(const char *name) {
    char path[320];
    snprintf(path, sizeof path, "%s/%s", fp_cgroup_dir(), name);
    return access(path, F_OK) == 0;
}

/* Directories of owners who are dead, one with a leaf in it; the first supervisor of the next owner clears them. */
static void what_the_dead_have_left_is_cleared(void) {
    char names[3][64];
    if (!fp_probe(FP_CAP_CGROUP))
        SKIP("no cgroup can be made here");
    /* Beyond the highest pid there can be, see proc(5). */
    int dead = 5000000 + getpid();
    snprintf(names[0], sizeof names[0], "fastproc-probe-%d", dead);
    snprintf(names[1], sizeof names[1], "fastproc-%d-1-0", dead);
    snprintf(names[2], sizeof names[2], "fastproc-%d-1-0/3", dead);
    for (int i = 0; i < 3; i++) {
        char path[320];
        snprintf(path, sizeof path, "%s/%s", fp_cgroup_dir(), names[i]);
        CHECK_EQ(mkdir(path, 0755), 0);
    }
    CHECK_EQ(ended(start(us.of[0], SHELL(":", .containment = FP_CONTAIN_CGROUP))).code, 0);
    for (int i = 0; i < 3; i++)
        CHECK(!is_there(names[i]));
}

/* ---- orphans -------------------------------------------------------------------------------------------- */

static void orphans_in(void) {
    fp_supervisor_options options = {.size = sizeof options, .adopt_orphans = 1};
    fp_mailbox *mailbox;
    fp_supervisor *supervisor;
    pthread_t thread;
    fp_news news = {0};

    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    options.orphan_mailbox = mailbox;
    CHECK_EQ(fp_supervisor_new(&options, &supervisor), 0);
    pthread_create(&thread, NULL, crew_thread, supervisor);
    pid_t foreign = fork();
    if (foreign == 0)
        _exit(9);
    fp_proc *proc = start(supervisor, JOB("(sleep .1; exit 3) & exit 0", .flags = FP_KEEP_LEFTOVERS));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, 5000 * MS), 1);
    CHECK_EQ(news.what, FP_NEWS_ORPHAN);
    CHECK_EQ(news.exit.code, 3);
    CHECK_EQ(news.exit.reason, FP_REASON_EXITED);
    fp_proc_free(proc);
    /* Of one whose news have a reader of their own, and who has said where he wants to hear of them, they go there. */
    fp_mailbox *others, *wanted;
    CHECK_EQ(fp_mailbox_new(&others), 0);
    CHECK_EQ(fp_mailbox_new(&wanted), 0);
    CHECK_EQ(fp_mailbox_tell_orphans(others, wanted), 0);
    CHECK_EQ(fp_mailbox_tell_orphans(others, others), 0);
    proc = start(supervisor, JOB("(sleep .1; exit 4) & exit 0", .flags = FP_KEEP_LEFTOVERS, .mailbox = others));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
    fp_mailbox_free(others);
    CHECK_EQ(fp_mailbox_take(wanted, &news, 1, 5000 * MS), 1);
    CHECK_EQ(news.what, FP_NEWS_ORPHAN);
    CHECK_EQ(news.exit.code, 4);
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, 0), -ETIMEDOUT);
    fp_proc_free(proc);
    fp_mailbox_free(wanted);
    /* The host's own child is the host's. */
    int status = -1;
    CHECK_EQ(waitpid(foreign, &status, WNOHANG), foreign);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 9);
    fp_supervisor_stop(supervisor);
    pthread_join(thread, NULL);
    fp_supervisor_free(supervisor);
    fp_mailbox_free(mailbox);
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
    CHECK(has_no_child());
}

static void orphans_are_reaped_and_strangers_are_not(void) {
    if (!can_look())
        SKIP("orphans are found by /proc");
    for_each_containment(orphans_in);
}

int main(void) {
    for (int i = 0; i < FP_CAP_COUNT; i++)
        fp_probe(i);
    int before = open_descriptors();
    crew_begin(&us, 2);
    WATCHED(what_the_dead_have_left_is_cleared); /* the first that starts anything */
    WATCHED(a_code_and_a_signal_are_told_apart);
    WATCHED(a_status_grows_with_time);
    WATCHED(asking_once_does_not_block);
    WATCHED(wrong_arguments_are_refused);
    WATCHED(a_deadline_is_kept);
    WATCHED(silence_is_ended_and_talk_is_not);
    WATCHED(who_is_deaf_is_killed);
    WATCHED(everybody_gets_the_stop_signal_once);
    WATCHED(who_is_stopped_hears_the_stop_signal);
    WATCHED(many_are_stopped_at_once);
    WATCHED(a_lead_of_nothing_or_of_a_group);
    WATCHED(what_outlives_its_leader_is_ended);
    WATCHED(leftovers_are_kept_on_request);
    WATCHED(who_leaves_the_group_is_followed);
    WATCHED(a_held_pipe_holds_up_nobody);
    WATCHED(every_waiter_hears_the_same);
    WATCHED(a_waiter_is_not_left_behind_by_one_who_asks);
    WATCHED(an_exit_and_a_stop_may_race);
    WATCHED(everybody_may_ask_everything_at_once);
    WATCHED(a_signal_handler_interrupts_a_wait);
    WATCHED(news_tell_the_whole_story);
    WATCHED(an_escalation_is_news);
    WATCHED(input_goes_through);
    WATCHED(a_follower_hears_all);
    WATCHED(a_follower_may_lose_interest);
    WATCHED(reading_has_an_end_in_time);
    WATCHED(who_says_too_much_is_stopped);
    WATCHED(much_output_is_counted);
    WATCHED(the_end_of_cpu_time_is_called_so);
    WATCHED(a_core_dump_is_told);
    WATCHED(limits_of_a_cgroup_are_set_or_refused);
    WATCHED(a_batch_does_all);
    WATCHED(a_bound_is_kept);
    WATCHED(a_bound_holds_over_calls);
    WATCHED(a_batch_is_checked_before_it_is_queued);
    WATCHED(a_batch_may_have_two_mailboxes);
    WATCHED(a_queued_start_can_be_taken_back);
    WATCHED(a_batch_may_be_stopped_while_it_starts);
    WATCHED(handles_may_go_before_their_batch);
    WATCHED(who_waits_can_do_without_a_thread);
    WATCHED(waiters_survive_the_end_of_the_thread);
    WATCHED(late_waiters_survive_the_end_of_the_thread);
    WATCHED(anything_may_be_freed_first);
    WATCHED(a_handle_outlives_its_supervisor);
    WATCHED(a_stopped_crew_fails_what_is_queued);
    WATCHED(many_places_are_made);
    WATCHED(a_host_may_ignore_sigchld);
    WATCHED(a_thief_does_not_make_us_lie);
    WATCHED(a_forked_copy_is_inert);
    WATCHED(a_tracer_may_hold_back_an_exit);
    WATCHED(what_cannot_be_killed_is_reported_and_watched);
    WATCHED(orphans_are_reaped_and_strangers_are_not);
    crew_end(&us);
    CHECK(has_no_child());
    CHECK_EQ(open_descriptors(), before);
    return check_result();
}
