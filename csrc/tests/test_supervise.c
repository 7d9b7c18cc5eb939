/*
 * test_supervise.c: real processes under a crew: how they end by themselves or
 * by the clock, within which limits, and what is told of it.
 */
#include "supervise.h"

/* ---- ends of their own --------------------------------------------------------- */

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

/* ---- the clock ----------------------------------------------------------------- */

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

/* ---- limits -------------------------------------------------------------------- */

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

/* ---- ends that nobody waits for ------------------------------------------------ */

static bool is_done_within(fp_proc *proc, int64_t ns) {
    fp_exit exit = {0};
    for (int64_t until = now_ns() + ns; exit.state != FP_STATE_DONE && now_ns() < until; nap(MS))
        fp_proc_status(proc, &exit);
    return exit.state == FP_STATE_DONE;
}

static bool is_done_in_time(fp_proc *proc) {
    return is_done_within(proc, LONG);
}

/* The last start is looked at when its time has come, the one before it when the next begins. */
static void an_end_that_nobody_waits_for_is_seen(void) {
    for (int round = 0; round < 3; round++) {
        fp_proc *brief = start(us.of[0], SHELL("exit 0"));
        fp_proc *first = start(us.of[0], SHELL("sleep .05"));
        fp_proc *second = start(us.of[0], SHELL("sleep .05"));
        CHECK(is_done_in_time(brief));
        CHECK(is_done_in_time(first));
        CHECK(is_done_in_time(second));
        ended(brief);
        ended(first);
        ended(second);
        /* By then the supervisor sleeps, for as long as nobody wakes it. */
        nap(20 * MS);
    }
}

/* However soon the one follows the other; a supervisor that is not woken looks after 5 s. */
static void ends_of_two_in_succession_are_seen_soon(void) {
    for (int gap = 0; gap < 8; gap++) {
        fp_proc *earlier = start(us.of[0], SHELL("exit 0"));
        nap(gap * MS);
        fp_proc *later = start(us.of[0], SHELL("sleep .03"));
        CHECK(is_done_within(later, 3000 * MS));
        ended(earlier);
        ended(later);
    }
}

/* Who gives up before its time has come puts it under watch. */
static void a_short_wait_leaves_nobody_unseen(void) {
    fp_exit exit;
    fp_proc *proc = start(us.of[0], SHELL("sleep .05"));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, MS / 10, &exit), -ETIMEDOUT);
    CHECK(is_done_in_time(proc));
    ended(proc);
}

/* ---- mailboxes ----------------------------------------------------------------- */

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

/* ---- all of it ----------------------------------------------------------------- */

static void all_tests(void) {
    WATCHED(a_code_and_a_signal_are_told_apart);
    WATCHED(a_status_grows_with_time);
    WATCHED(asking_once_does_not_block);
    WATCHED(wrong_arguments_are_refused);
    WATCHED(a_deadline_is_kept);
    WATCHED(silence_is_ended_and_talk_is_not);
    WATCHED(an_end_that_nobody_waits_for_is_seen);
    WATCHED(ends_of_two_in_succession_are_seen_soon);
    WATCHED(a_short_wait_leaves_nobody_unseen);
    WATCHED(news_tell_the_whole_story);
    WATCHED(an_escalation_is_news);
    WATCHED(the_end_of_cpu_time_is_called_so);
    WATCHED(a_core_dump_is_told);
    WATCHED(limits_of_a_cgroup_are_set_or_refused);
}

int main(void) {
    return with_our_crew(all_tests);
}
