/*
 * Tests of fork.c: a copy of the host keeps nothing open that a child, or we,
 * wait for the end of, holds up nobody, and may begin anew.
 */
#include <stdint.h>
#include <sys/prctl.h>

#include "crew.h"

static crew us;
static int pipes_before;

/* A copy of this program that lives until end_copy(). */
static pid_t begin_copy(void) {
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    CHECK(pid > 0);
    return pid;
}

static void end_copy(pid_t pid) {
    kill(pid, SIGKILL);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
}

static int open_pipes(void) {
    char path[64], target[64];
    int n = 0;
    for (int fd = 3; fd < 1024; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(path, target, sizeof target - 1);
        n += length > 5 && memcmp(target, "pipe:", 5) == 0;
    }
    return n;
}

/* More than a pipe holds, so that we still hold its end when the copy is made. */
static void a_child_sees_the_end_of_its_input(void) {
    enum { SIZE = 1 << 20 };
    char *input = calloc(1, SIZE);
    fp_proc *proc = start(us.of[0], SHELL("kill -STOP $$; test $(wc -c) = 1048576", .input = input, .input_bytes = SIZE,
                                          .stdio = {[0] = {.kind = FP_STDIO_PIPE}}));
    pid_t copy = begin_copy();
    while (fp_proc_signal(proc, SIGCONT, 0) == 0 && fp_proc_wait(proc, FP_STATE_EXITED, 20 * MS, NULL) == -ETIMEDOUT)
        continue;
    CHECK_EQ(ended(proc).code, 0);
    end_copy(copy);
    free(input);
}

/* A child whose output nobody reads any more has to hear of it. */
static void nobody_reads_for_us(void) {
    if (!fp_probe(FP_CAP_PROCFS) && !fp_probe(FP_CAP_PIDFD_GROUP))
        SKIP("a reaped leader's group can be reached by pidfd or /proc only");
    fp_proc *proc = start(us.of[0], SHELL("(sleep 1000 & exec sleep 1000) & exit 0", .flags = FP_KEEP_LEFTOVERS,
                                          .stdio = {[1] = {.kind = FP_STDIO_PIPE}}));
    pid_t copy = fork();
    if (copy == 0)
        _exit(open_pipes() - pipes_before);
    int status = -1;
    CHECK_EQ(waitpid(copy, &status, 0), copy);
    CHECK_EQ(status, 0);
    fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0);
    ended(proc);
}

static bool enough;

static void *feed_and_capture(void *supervisor) {
    while (!__atomic_load_n(&enough, __ATOMIC_RELAXED)) {
        fp_output output = {0};
        fp_proc *proc = start(
            supervisor, SHELL("cat; cat >&2", .input = "some", .input_bytes = 4,
                              .stdio = {{.kind = FP_STDIO_PIPE}, {.kind = FP_STDIO_PIPE}, {.kind = FP_STDIO_PIPE}}));
        CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
        for (int stream = 1; stream <= 2; stream++) {
            CHECK_EQ(fp_proc_output(proc, stream, &output), 0);
            /* By its end, not because we stopped listening. */
            CHECK(output.complete);
        }
        fp_proc_free(proc);
    }
    return NULL;
}

/* At any moment of a birth the pipes are either noted or not there. */
static void copies_made_amid_births_keep_no_pipe(void) {
    enum { COPIES = 60 };
    pthread_t starters[2];
    pid_t copies[COPIES];
    const char *wish = getenv("FORKS");

    enough = false;
    for (int i = 0; i < 2; i++)
        pthread_create(&starters[i], NULL, feed_and_capture, us.of[i]);
    for (int round = 0; round < (wish ? atoi(wish) : 1); round++) {
        for (int i = 0; i < COPIES; i++) {
            copies[i] = begin_copy();
            nap(i % 7 * MS / 4);
        }
        for (int i = 0; i < COPIES; i++)
            end_copy(copies[i]);
    }
    __atomic_store_n(&enough, true, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++)
        pthread_join(starters[i], NULL);
}

/* Closed, and not taken out of the epoll: the original hears as before. */
static void the_original_goes_on_hearing(void) {
    fp_mailbox *mailbox;
    fp_news news = {0};
    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    fp_mailbox_fd(mailbox);
    fp_proc *proc = start(us.of[1], SHELL("read x; echo heard", .mailbox = mailbox, .input = "\n", .input_bytes = 1,
                                          .stdio = {{.kind = FP_STDIO_PIPE}, {.kind = FP_STDIO_PIPE}}));
    fp_proc *sleeper = start(us.of[1], SHELL("exec sleep 1000", .timeout_ns = 50 * MS, .mailbox = mailbox));
    for (int i = 0; i < 5; i++)
        end_copy(begin_copy());
    for (uint32_t heard = 0; heard < 2;) {
        int n = fp_mailbox_take(mailbox, &news, 1, LONG);
        CHECK(n >= 0);
        if (n < 0)
            break;
        heard += n == 1 && (news.what & FP_NEWS_DONE);
    }
    char text[8] = "";
    CHECK_EQ(fp_proc_output_copy(proc, 1, text, sizeof text), 6);
    CHECK_EQ(ended(proc).code, 0);
    CHECK_EQ(ended(sleeper).reason, FP_REASON_TIMEOUT);
    fp_mailbox_free(mailbox);
}

/* It may give back what it was given, and have a crew of its own; so may a copy of it. */
static void a_copy_of_a_copy_begins_anew(void) {
    if (no_threads_in_copies())
        SKIP("TSan lets no copy start a thread, and a start makes the watcher");
    fp_proc *proc = start(us.of[0], SHELL("exec sleep 1000", .stdio = {[1] = {.kind = FP_STDIO_PIPE}}));
    pid_t pid = fork();
    if (pid == 0) {
        enum { SIZE = 1 << 20 };
        static char input[SIZE];
        fp_supervisor *alone;
        signal(SIGALRM, SIG_DFL);
        alarm(20);
        check_failures = 0;
        fp_proc_free(proc);
        for (int i = 0; i < us.n; i++)
            fp_supervisor_free(us.of[i]);
        CHECK_EQ(fp_supervisor_new(NULL, &alone), 0);
        fp_proc *own = start(alone, SHELL("kill -STOP $$; test $(wc -c) = 1048576", .input = input, .input_bytes = SIZE,
                                          .stdio = {[0] = {.kind = FP_STDIO_PIPE}}));
        pid_t second = begin_copy();
        while (fp_proc_signal(own, SIGCONT, 0) == 0 && fp_proc_wait(own, FP_STATE_EXITED, 20 * MS, NULL) == -ETIMEDOUT)
            continue;
        CHECK_EQ(ended(own).code, 0);
        end_copy(second);
        fp_supervisor_free(alone);
        _exit(check_failures ? 1 : 0);
    }
    int status = -1;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0);
    ended(proc);
}

static void a_copy_does_not_follow(void) {
    char buffer[16];
    uint64_t offset = 0;
    fp_proc *proc = start(us.of[0], SHELL("echo hello; exec sleep 100", .stdio[1].kind = FP_STDIO_PIPE));
    CHECK_EQ(fp_proc_read(proc, 1, &offset, buffer, sizeof buffer, LONG), 6);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(10);
        offset = 0;
        int wrong = fp_proc_follow(proc, 1, 1) != -EOWNERDEAD;
        wrong += fp_proc_read(proc, 1, &offset, buffer, sizeof buffer, 0) != -EOWNERDEAD;
        wrong += fp_proc_read(proc, 1, &offset, buffer, sizeof buffer, -1) != -EOWNERDEAD;
        _exit(wrong);
    }
    int status = -1;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0);
    ended(proc);
}

static void *start_as_somebody(void *arg) {
    while (!__atomic_load_n(&enough, __ATOMIC_RELAXED))
        ended(start(us.of[1], SHELL(":", .flags = FP_SET_GID, .gid = getgid())));
    return arg;
}

/* A copy may have a supervisor of its own, whatever the other threads were about at the fork. */
static void a_copy_begins_anew(void) {
    pthread_t busy;
    if (no_threads_in_copies())
        SKIP("TSan lets no copy start a thread, and a start makes the watcher");
    enough = false;
    pthread_create(&busy, NULL, start_as_somebody, NULL);
    const char *wish = getenv("FORKS");
    for (int i = 0; i < (wish ? atoi(wish) : 50) && !check_failures; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            fp_supervisor *alone;
            fp_proc *proc = NULL;
            signal(SIGALRM, SIG_DFL);
            alarm(5);
            if (fp_supervisor_new(NULL, &alone) < 0 ||
                fp_spawn(alone, SHELL("exit 3", .flags = FP_SET_GID, .gid = getgid()), &proc, NULL) < 0)
                _exit(1);
            fp_exit exit = {0};
            fp_proc_wait(proc, FP_STATE_DONE, -1, &exit);
            fp_proc_free(proc);
            fp_supervisor_free(alone);
            _exit(exit.code == 3 ? 0 : 2);
        }
        int status = -1;
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK_EQ(status, 0);
    }
    __atomic_store_n(&enough, true, __ATOMIC_RELAXED);
    pthread_join(busy, NULL);
}

/* Let the host fork copies that live for a while. */
static void *fork_sleepers(void *arg) {
    while (!__atomic_load_n(&enough, __ATOMIC_RELAXED)) {
        pid_t pid = fork();
        if (pid == 0) {
            nap(800 * MS);
            _exit(0);
        }
        nap(2 * MS);
    }
    while (waitpid(-1, NULL, 0) > 0)
        continue;
    return arg;
}

/* What this program does when it is given "by-fork": a copy that holds the pipe of a start does not hold up the start. */
static int start_by_fork(void) {
    pthread_t forker;
    crew_begin(&us, 1);
    pthread_create(&forker, NULL, fork_sleepers, NULL);
    for (int i = 0; i < 60; i++) {
        int64_t before = now_ns();
        fp_proc *proc = start(us.of[0], SHELL(":"));
        CHECK(now_ns() - before < 600 * MS);
        ended(proc);
    }
    __atomic_store_n(&enough, true, __ATOMIC_RELAXED);
    pthread_join(forker, NULL);
    crew_end(&us);
    return check_result();
}

static void a_copy_does_not_hold_up_a_start(void) {
    pid_t pid = fork();
    if (pid == 0) {
        setenv("FASTPROC_DISABLE", "clone3,clone", 1);
        execl("/proc/self/exe", "test_fork", "by-fork", NULL);
        _exit(126);
    }
    int status = -1;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "by-fork") == 0)
        return start_by_fork();
    for (int i = 0; i < FP_CAP_COUNT; i++)
        fp_probe(i);
    int before = open_descriptors();
    pipes_before = open_pipes();
    crew_begin(&us, 2);
    WATCHED(a_child_sees_the_end_of_its_input);
    WATCHED(nobody_reads_for_us);
    WATCHED(copies_made_amid_births_keep_no_pipe);
    WATCHED(the_original_goes_on_hearing);
    WATCHED(a_copy_of_a_copy_begins_anew);
    WATCHED(a_copy_does_not_follow);
    WATCHED(a_copy_begins_anew);
    WATCHED(a_copy_does_not_hold_up_a_start);
    crew_end(&us);
    CHECK(has_no_child());
    CHECK_EQ(open_descriptors(), before);
    return check_result();
}
