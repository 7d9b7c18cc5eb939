/*
 * fault_supervise.c: a crew at work, with each system call failing in turn.
 * Whatever fails: nothing hangs, no child, zombie, descendant or descriptor is
 * left, each error has a stage, no status is invented, and the crew goes on
 * working for the next.
 */
#include <sys/prctl.h>
#include <sys/resource.h>

#include "faults.h"
#include "internal.h"

static int containment;
static crew us;
static fp_mailbox *mailbox;
static lifeline life;

#define JOB(script, ...)                                                                                               \
    SHELL(script, .containment = containment, .fds = &life.map, .n_fds = 1, .grace_ns = 3 * MS,                        \
          .kill_timeout_ns = 60 * MS, __VA_ARGS__)
#define CAPTURED .stdio[1].kind = FP_STDIO_PIPE

static void *faulty_thread(void *supervisor) {
    fp_supervisor_run(supervisor);
    return NULL;
}

/* Two supervisors, made under faults. False: they could not be made, and all has been given back. */
static bool open_up(void) {
    us.n = 0;
    faults_on();
    int r = fp_mailbox_new(&mailbox);
    if (r < 0) {
        mailbox = NULL;
        return false;
    }
    for (int i = 0; i < 2; i++) {
        fp_supervisor_options options = {.size = sizeof options, .sibling = i ? us.of[0] : NULL};
        if (fp_supervisor_new(&options, &us.of[i]) < 0)
            return false;
        fault_pauses++;
        pthread_create(&us.threads[i], NULL, faulty_thread, us.of[i]);
        fault_pauses--;
        us.n++;
    }
    return true;
}

static int open_before;

/* Without faults again: is the crew as good as new, and is nothing left? */
static void close_down(void) {
    faults_off();
    if (us.n == 2)
        CHECK_EQ(ended(start(us.of[fault_n % 2], SHELL("exit 7"))).code, 7);
    crew_end(&us);
    mailbox = fp_mailbox_free(mailbox);
    CHECK(lifeline_is_cut(&life, 5000));
    lifeline_end(&life);
    CHECK(has_no_child());
    CHECK_EQ(open_descriptors(), open_before);
}

static void prepare(void) {
    open_before = open_descriptors();
    lifeline_begin(&life);
}

/* A start that may fail, but then says where. */
static fp_proc *try_start(const fp_spec *spec) {
    fp_failure failure = {0};
    fp_proc *proc = NULL;
    int r = fp_spawn(us.of[0], spec, &proc, &failure);
    if (r < 0) {
        CHECK(failure.stage > FP_STAGE_NONE && failure.stage < FP_STAGE_COUNT);
        CHECK_EQ(failure.error, -r);
        CHECK(!proc);
    }
    return proc;
}

/* It ends, whatever happens meanwhile. */
static fp_exit outlast(fp_proc *proc) {
    fp_exit exit = {0};
    int r;
    do
        r = fp_proc_wait(proc, FP_STATE_DONE, 20000 * MS, &exit);
    while (r == -EINTR);
    CHECK_EQ(r, 0);
    /* What it has used is known, or said to be lost. */
    bool lost = exit.flags & FP_EXIT_USAGE_LOST;
    CHECK_EQ(exit.usage.max_rss_bytes == 0, lost || (exit.flags & FP_EXIT_FOREIGN));
    fp_proc_free(proc);
    return exit;
}

static void check_code(const fp_exit *exit, int code) {
    CHECK_EQ(exit->reason, FP_REASON_EXITED);
    CHECK_EQ(exit->code, code);
}

/* ---- scenarios ------------------------------------------------------------------------ */

static void a_plain_job(void) {
    prepare();
    if (open_up()) {
        fp_proc *proc = try_start(JOB("exit 3"));
        if (proc) {
            fp_exit exit = outlast(proc);
            check_code(&exit, 3);
        }
    }
    close_down();
}

static void a_job_asked_after_again_and_again(void) {
    prepare();
    if (open_up()) {
        fp_proc *proc = try_start(JOB("exit 3", CAPTURED));
        if (proc) {
            fp_exit exit = {0};
            fp_stop_report report;
            while (fp_proc_wait(proc, FP_STATE_EXITED, 0, &exit) < 0) {
                fp_proc_signal(proc, SIGCONT, 1);
                fp_proc_signal(proc, SIGCONT, 0);
                fault_pauses++;
                nap(MS);
                fault_pauses--;
            }
            fp_proc_report(proc, &report);
            exit = outlast(proc);
            check_code(&exit, 3);
        }
    }
    close_down();
}

static void pipes_and_input(void) {
    static char input[100000];
    prepare();
    if (open_up()) {
        fp_proc *proc =
            try_start(JOB("cat; echo hello >&2; exit 3", .stdio = {{FP_STDIO_PIPE}, {FP_STDIO_PIPE}, {FP_STDIO_PIPE}},
                          .input = input, .input_bytes = sizeof input));
        if (proc) {
            fp_output output;
            fp_exit exit = outlast(fp_proc_ref(proc));
            /* The shell may have died of a pipe that failed us. */
            CHECK(exit.code == 3 || fault->fired);
            CHECK_EQ(fp_proc_output(proc, 1, &output), 0);
            CHECK(output.ended && output.total_bytes <= sizeof input);
            CHECK(output.total_bytes == sizeof input || fault->fired);
            fp_proc_free(proc);
        }
    }
    close_down();
}

/* So much that a part of it is skipped, should the writer be ahead. */
static void a_long_stream(void) {
    prepare();
    if (open_up()) {
        fp_proc *proc = try_start(JOB("head -c 3000000 /dev/zero; exit 3", CAPTURED));
        if (proc) {
            fp_output output;
            fp_exit exit = outlast(fp_proc_ref(proc));
            CHECK(exit.code == 3 || fault->fired);
            CHECK_EQ(fp_proc_output(proc, 1, &output), 0);
            CHECK(output.ended && output.total_bytes <= 3000000);
            CHECK(output.total_bytes == 3000000 || fault->fired);
            fp_proc_free(proc);
        }
    }
    close_down();
}

static void a_stream_that_is_followed(void) {
    prepare();
    if (open_up()) {
        fp_proc *proc =
            try_start(JOB("head -c 50000 /dev/zero; exit 3", CAPTURED, .head_bytes = 100, .tail_bytes = 5000));
        if (proc) {
            char buffer[700];
            uint64_t offset = 0;
            int64_t r;
            fp_proc_follow(proc, 1, 1);
            while ((r = fp_proc_read(proc, 1, &offset, buffer, sizeof buffer, 20000 * MS)) > 0 || r == -EINTR)
                continue;
            CHECK_EQ(r, 0);
            CHECK(offset == 50000 || fault->fired);
            outlast(proc);
        }
    }
    close_down();
}

/* Deaf, and with a child that has left the group. */
static void the_ladder(void) {
    int ready[2];
    char byte;
    prepare();
    CHECK_EQ(pipe2(ready, O_CLOEXEC), 0);
    const fp_fd_map maps[] = {life.map, {.source = ready[1], .target = 8}};
    if (open_up()) {
        fp_spec spec = *JOB("trap '' TERM; setsid sh -c 'echo >&8; exec sleep 100' & sleep 100");
        spec.fds = maps;
        spec.n_fds = 2;
        fp_proc *proc = try_start(&spec);
        if (proc) {
            CHECK_EQ(read(ready[0], &byte, 1), 1);
            CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
            fp_exit exit = outlast(proc);
            CHECK_EQ(exit.reason, FP_REASON_TERMINATED);
        }
    }
    close(ready[0]);
    close(ready[1]);
    close_down();
}

/* Nobody but the clock. */
static void a_deadline(void) {
    prepare();
    if (open_up()) {
        fp_proc *proc = try_start(JOB("sleep 100", .timeout_ns = 5 * MS));
        if (proc) {
            fp_exit exit = outlast(proc);
            CHECK_EQ(exit.reason, FP_REASON_TIMEOUT);
        }
    }
    close_down();
}

static void a_stop_on_request(void) {
    prepare();
    if (open_up()) {
        fp_proc *proc = try_start(JOB("sleep 100"));
        if (proc) {
            int r = fp_proc_stop(proc, FP_REASON_CANCELLED, 0, 0);
            CHECK_EQ(r, 0);
            fp_exit exit = {0};
            while ((r = fp_proc_wait_stopped(proc, 20000 * MS, &exit)) == -EINTR)
                continue;
            CHECK_EQ(r, 0);
            CHECK(exit.state == FP_STATE_DONE || (exit.flags & FP_EXIT_UNKILLABLE));
            exit = outlast(proc);
            CHECK_EQ(exit.reason, FP_REASON_CANCELLED);
        }
    }
    close_down();
}

static void leftovers(void) {
    prepare();
    if (open_up()) {
        fp_proc *proc = try_start(JOB("sleep 100 & exit 3"));
        if (proc) {
            fp_exit exit = outlast(proc);
            check_code(&exit, 3);
        }
    }
    close_down();
}

static void silence(void) {
    prepare();
    if (open_up()) {
        fp_proc *proc = try_start(JOB("exec sleep 100", CAPTURED, .idle_timeout_ns = 10 * MS));
        if (proc) {
            fp_exit exit = outlast(proc);
            CHECK(exit.reason == FP_REASON_IDLE_TIMEOUT || fault->fired);
        }
    }
    close_down();
}

static void a_batch_with_news(void) {
    enum { JOBS = 4 };
    prepare();
    if (open_up()) {
        fp_spec specs[JOBS];
        const fp_spec *list[JOBS];
        fp_proc *procs[JOBS] = {NULL};
        int left = JOBS;
        for (int i = 0; i < JOBS; i++) {
            specs[i] = *JOB("exit 3");
            specs[i].argv = NULL;
            specs[i].args = "/bin/sh\0-c\0exit 3";
            specs[i].args_bytes = sizeof "/bin/sh\0-c\0exit 3";
            specs[i].program = i == 2 ? "/nonexistent" : NULL;
            specs[i].mailbox = mailbox;
        }
        list_specs(specs, list, JOBS);
        int r = fp_spawn_many(members(&us), 2, list, JOBS, 2, procs);
        if (r < 0) {
            CHECK_EQ(r, -ENOMEM);
            CHECK(!procs[0]);
            left = 0;
        }
        while (left > 0) {
            fp_news news[4];
            int n = fp_mailbox_take(mailbox, news, 4, 20000 * MS);
            CHECK(n > 0 || n == -EINTR || n == -ENOMEM);
            if (n == -ETIMEDOUT)
                break;
            for (int i = 0; i < n; i++) {
                left -= (news[i].what & (FP_NEWS_DONE | FP_NEWS_FAILED)) != 0;
                CHECK(!(news[i].what & FP_NEWS_FAILED) || news[i].failure.stage > FP_STAGE_NONE);
            }
        }
        for (int i = 0; i < JOBS; i++) {
            if (r == 0 && fp_proc_failure(procs[i], &(fp_failure){0}) < 0) {
                fp_exit exit;
                CHECK_EQ(fp_proc_wait(procs[i], FP_STATE_DONE, 0, &exit), 0);
                check_code(&exit, 3);
            }
            fp_proc_free(procs[i]);
        }
    }
    close_down();
}

static void a_host_that_ignores_sigchld(void) {
    prepare();
    signal(SIGCHLD, SIG_IGN);
    if (open_up()) {
        fp_proc *proc = try_start(JOB("exit 3"));
        if (proc) {
            fp_exit exit = outlast(proc);
            CHECK(exit.reason == FP_REASON_UNKNOWN ? exit.code == -1 : exit.code == 3);
            CHECK(exit.flags & FP_EXIT_FOREIGN);
        }
    }
    faults_off();
    signal(SIGCHLD, SIG_DFL);
    close_down();
}

static void nobody_lends_a_thread(void) {
    prepare();
    us.n = 0;
    faults_on();
    fp_supervisor *alone = NULL;
    if (fp_supervisor_new(NULL, &alone) == 0) {
        us.of[0] = alone;
        fp_proc *proc = try_start(JOB("echo hello; sleep 100 & exit 3", CAPTURED));
        if (proc) {
            fp_exit exit = outlast(proc);
            /* A stream that we could not read is closed: then the shell dies of it. */
            CHECK(exit.code == 3 || (fault->fired && exit.signal == SIGPIPE));
        }
        fp_supervisor_free(alone);
    }
    close_down();
}

static void limits_by_a_cgroup(void) {
    prepare();
    if (open_up()) {
        fp_proc *proc = try_start(JOB("exit 3", .memory_max_bytes = 64 << 20, .pids_max = 20, .cpu_max_millis = 1000));
        if (proc) {
            fp_exit exit = outlast(proc);
            check_code(&exit, 3);
        }
    }
    close_down();
}

static void adopted_orphans(void) {
    prepare();
    if (open_up()) {
        if (fp_supervisor_adopt_orphans(us.of[0], mailbox) == 0) {
            fp_proc *proc = try_start(JOB("(exit 5) & exit 3", .flags = FP_KEEP_LEFTOVERS));
            if (proc)
                outlast(proc);
            fp_orphans_reap(us.of[0]);
        }
        faults_off();
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
        /* A fault may have hidden it from the last look before its leader was forgotten: it is the host's then. */
        while (fault->fired && waitpid(-1, NULL, 0) > 0)
            continue;
    }
    close_down();
}

static void adoption_from_the_start(void) {
    prepare();
    us.n = 0;
    faults_on();
    fp_supervisor_options options = {.size = sizeof options, .adopt_orphans = 1};
    fp_supervisor *alone;
    int r = fp_supervisor_new(&options, &alone);
    faults_off();
    if (r == 0)
        fp_supervisor_free(alone);
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
    close_down();
}

/* ---- births that hang ---------------------------------------------------------------------- */

static void *start_one(void *ret_proc) {
    *(fp_proc **)ret_proc = try_start(JOB("exit 3"));
    return NULL;
}

/* Somebody stops the child before it is a program, and with it the thread that makes it: a sibling sees to that. */
static void a_child_stopped_before_exec(void) {
    fp_proc *proc = NULL;
    pthread_t thread;

    prepare();
    fault_n = 1 << 30;
    CHECK(open_up());
    fault->before_exec = SIGSTOP;
    int64_t before = now_ns();
    pthread_create(&thread, NULL, start_one, &proc);
    pthread_join(thread, NULL);
    int64_t took = now_ns() - before;
    CHECK(took > 100 * MS && took < 10000 * MS);
    CHECK(proc != NULL);
    if (proc) {
        fp_exit exit = outlast(proc);
        check_code(&exit, 3);
    }
    close_down();
}

/* The same in the supervisors' own threads, one of them at a time. */
static void a_queued_child_stopped_before_exec(void) {
    prepare();
    fault_n = 1 << 30;
    CHECK(open_up());
    fault->before_exec = SIGSTOP;
    const fp_spec *spec = JOB("exit 3");
    fp_proc *proc;
    CHECK_EQ(fp_spawn_many(members(&us), 1, &spec, 1, 0, &proc), 0);
    CHECK_EQ(fp_procs_wait_started(&proc, 1, 10000 * MS), 0);
    fp_exit exit = outlast(proc);
    check_code(&exit, 3);
    close_down();
}

static void a_child_killed_before_exec(void) {
    fp_failure failure = {0};
    fp_proc *proc;
    prepare();
    fault_n = 1 << 30;
    CHECK(open_up());
    fault->before_exec = SIGKILL;
    CHECK_EQ(fp_spawn(us.of[0], JOB("exit 3"), &proc, &failure), -ESRCH);
    CHECK_EQ(failure.stage, FP_STAGE_PRE_EXEC);
    CHECK_EQ(failure.detail, SIGKILL);
    close_down();
}

/* The same of one that is left alone; one that dumps core may not clear the word that tells that it is gone. */
static void a_queued_child_killed_before_exec(void) {
    static const int signals[] = {SIGKILL, SIGSEGV, SIGABRT};

    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        fp_failure failure = {0};
        const fp_spec *spec = JOB("exit 3");
        fp_proc *proc;
        prepare();
        fault_n = 1 << 30;
        CHECK(open_up());
        fault->before_exec = signals[i];
        CHECK_EQ(fp_spawn_many(members(&us), 1, &spec, 1, 0, &proc), 0);
        CHECK_EQ(fp_procs_wait_started(&proc, 1, 10000 * MS), 0);
        CHECK_EQ(fp_proc_failure(proc, &failure), 0);
        CHECK_EQ(failure.error, ESRCH);
        CHECK_EQ(failure.stage, FP_STAGE_PRE_EXEC);
        CHECK_EQ(failure.detail, signals[i]);
        fp_proc_free(proc);
        close_down();
    }
}

/* ---- famine ----------------------------------------------------------------------------------- */

/* What is known of an end needs no memory, but for what the child has used. */
static void an_end_without_memory(void) {
    int go[2];

    if (!MALLOC_FAILS)
        SKIP("malloc(3) is the sanitizer's");
    CHECK_EQ(pipe2(go, O_CLOEXEC), 0);
    prepare();
    fault_n = 1 << 30;
    CHECK(open_up());
    fp_proc *proc = try_start(JOB("read go; exit 3", .stdio = {{.kind = FP_STDIO_FD, .fd = go[0]}}));
    fault->no_memory = 1;
    CHECK_EQ(write(go[1], "\n", 1), 1);
    fp_exit exit = outlast(proc);
    fault->no_memory = 0;
    check_code(&exit, 3);
    CHECK(exit.flags & FP_EXIT_USAGE_LOST);
    CHECK(exit.ended_ns >= exit.started_ns);
    close_down();
    close(go[0]);
    close(go[1]);
}

/*
 * No descriptor is free while the ladder is climbed: nobody is taken for gone because he could not be looked at.
 * In a session only members of the group can be reached then.
 */
static void a_stop_without_descriptors(void) {
    static const char in_group[] = "sh -c 'trap \"\" TERM; echo r; sleep 100' & sleep 100";
    static const char outside[] = "setsid sh -c 'trap \"\" TERM; echo r; sleep 100' & sleep 100";
    struct rlimit limit, none;
    prepare();
    fault_n = 1 << 30;
    CHECK(open_up());
    fp_proc *proc = try_start(JOB(containment == FP_CONTAIN_SESSION ? in_group : outside, CAPTURED));
    await_output(proc, 2);
    int first_free = dup(0);
    close(first_free);
    getrlimit(RLIMIT_NOFILE, &limit);
    none = (struct rlimit){.rlim_cur = (rlim_t)first_free, .rlim_max = limit.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    CHECK_EQ(fp_spawn(us.of[0], JOB(":", CAPTURED), &(fp_proc *){NULL}, NULL), -EMFILE);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
    /* Either it is over, and then truly so, or it is not. */
    int r = fp_proc_wait(proc, FP_STATE_DONE, 300 * MS, NULL);
    struct pollfd end = {.fd = life.ours, .events = POLLIN};
    close(life.theirs);
    life.theirs = -1;
    bool gone = poll(&end, 1, 0) == 1;
    setrlimit(RLIMIT_NOFILE, &limit);
    CHECK(r == -ETIMEDOUT || gone);
    fp_exit exit = outlast(proc);
    CHECK_EQ(exit.reason, FP_REASON_TERMINATED);
    close_down();
}

/* ---- all of it ---------------------------------------------------------------------------------- */

#define FAULTS(scenario)                                                                                               \
    do {                                                                                                               \
        int64_t before = now_ns();                                                                                     \
        int faults = for_each_fault(#scenario, scenario);                                                              \
        if (getenv("VERBOSE"))                                                                                         \
            fprintf(stderr, "%-36s %d: %4d faults in %4d ms\n", #scenario, containment, faults,                        \
                    (int)((now_ns() - before) / MS));                                                                  \
    } while (0)

static void every_scenario(void) {
    bool can_look = fp_probe(FP_CAP_PROCFS);
    FAULTS(a_plain_job);
    FAULTS(a_job_asked_after_again_and_again);
    FAULTS(pipes_and_input);
    FAULTS(a_long_stream);
    FAULTS(a_stream_that_is_followed);
    FAULTS(a_stop_on_request);
    FAULTS(a_deadline);
    FAULTS(silence);
    FAULTS(a_batch_with_news);
    FAULTS(a_host_that_ignores_sigchld);
    FAULTS(limits_by_a_cgroup);
    if (can_look) {
        FAULTS(the_ladder);
        FAULTS(leftovers);
        FAULTS(nobody_lends_a_thread);
        FAULTS(adopted_orphans);
        FAULTS(adoption_from_the_start);
        WATCHED(an_end_without_memory);
        WATCHED(a_stop_without_descriptors);
        WATCHED(a_child_stopped_before_exec);
        WATCHED(a_queued_child_stopped_before_exec);
    }
    WATCHED(a_child_killed_before_exec);
    WATCHED(a_queued_child_killed_before_exec);
}

static void in_a_session(void) {
    containment = FP_CONTAIN_SESSION;
    every_scenario();
}

static void in_a_cgroup(void) {
    if (!fp_probe(FP_CAP_CGROUP))
        SKIP("no cgroup can be made here");
    containment = FP_CONTAIN_AUTO;
    every_scenario();
}

int main(void) {
    faults_begin();
    for (int i = 0; i < FP_CAP_COUNT; i++)
        fp_probe(i);
    RUN(in_a_session);
    RUN(in_a_cgroup);
    return check_result();
}
