/*
 * test_supervise_hosts.c: hosts with habits: they ignore SIGCHLD, take statuses
 * that are not theirs, close our descriptors, fork, or have a tracer; numbers
 * that have become another's; and what nobody can kill.
 */
#include <sys/ptrace.h>

#include "supervise.h"

static _Atomic bool enough;

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

/* ---- numbers that have become another's ---------------------------------------- */

/* A child with the number `pid`, if it is free, and a child of its own. */
static pid_t fork_as(pid_t pid) {
    for (int attempt = 0; attempt < 100; attempt++) {
        FILE *last = fopen("/proc/sys/kernel/ns_last_pid", "we");
        if (!last)
            return -1;
        fprintf(last, "%d", (int)pid - 1);
        if (fclose(last) != 0)
            return -1;
        pid_t child = fork();
        if (child == 0) {
            if (getpid() != pid)
                _exit(0);
            (void)!fork();
            alarm(20);
            for (;;)
                pause();
        }
        if (child == pid)
            return child;
        waitpid(child, NULL, 0);
    }
    return -1;
}

/* A descendant that was followed ends, and its number goes to a stranger: his children are strangers, too. */
static void the_children_of_strangers_are_left_alone(void) {
    char text[32] = "";
    pid_t child = 0;
    uint64_t offset = 0;

    fp_proc *proc = start(us.of[0], SHELL("trap '' TERM; setsid sh -c 'trap - TERM; echo $$; exec sleep 100' & "
                                          "while :; do sleep 0.05; done",
                                          CAPTURED, .containment = FP_CONTAIN_SESSION, .grace_ns = 1500 * MS));
    CHECK(fp_proc_read(proc, 1, &offset, text, sizeof text - 1, LONG) > 0);
    pid_t followed = atoi(text);
    nap(50 * MS);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
    kill(followed, SIGKILL);
    for (int i = 0; i < 100 && kill(followed, 0) == 0; i++)
        nap(10 * MS);
    pid_t stranger = kill(followed, 0) < 0 ? fork_as(followed) : -1;
    for (int i = 0; stranger > 0 && i < 100 && fp_children_read(stranger, &child, 1) != 1; i++)
        nap(10 * MS);
    ended(proc);
    if (stranger < 0)
        SKIP("a number cannot be chosen here");
    nap(50 * MS);
    fp_person person = {0};
    CHECK(child > 0);
    CHECK_EQ(fp_person_read(child, &person), 0);
    CHECK(person.state == 'S');
    kill(child, SIGKILL);
    kill(stranger, SIGKILL);
    waitpid(stranger, NULL, 0);
}

/* ---- a host that closes what is not his ---------------------------------------- */

static void close_all_of_the_library(void) {
    crew c;
    fp_exit exit = {0};
    crew_begin(&c, 1);
    fp_proc *proc = start(c.of[0], SHELL("exec sleep 0.3"));
    nap(50 * MS);
    for (int fd = 3; fd < 64; fd++)
        close(fd);
    int64_t before = cpu_ns();
    nap(400 * MS);
    CHECK(cpu_ns() - before < 100 * MS);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, 3000 * MS, &exit), 0);
    CHECK_EQ(exit.code, 0);
    fp_proc_free(proc);
    CHECK_EQ(fp_supervisor_stop(c.of[0]), 0);
    pthread_join(c.threads[0], NULL);
}

static void a_host_that_closes_everything_does_not_make_us_spin(void) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        check_failures = 0;
        alarm(30);
        close_all_of_the_library();
        fflush(NULL);
        _exit(check_failures ? 1 : 0);
    }
    int status = -1;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
}

/* ---- all of it ----------------------------------------------------------------- */

static void all_tests(void) {
    WATCHED(a_host_may_ignore_sigchld);
    WATCHED(a_thief_does_not_make_us_lie);
    WATCHED(a_forked_copy_is_inert);
    WATCHED(a_tracer_may_hold_back_an_exit);
    WATCHED(what_cannot_be_killed_is_reported_and_watched);
    WATCHED(the_children_of_strangers_are_left_alone);
}

int main(void) {
    /* In a copy that has a crew of its own, so before we have threads. */
    WATCHED(a_host_that_closes_everything_does_not_make_us_spin);
    return with_our_crew(all_tests);
}
