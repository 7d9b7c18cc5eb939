/*
 * test_review.c: corners that an enemy would try: lengths of time at the end
 * of the scale, readers that are slow, numbers that have become another's,
 * descriptors that the host closes under our hands, locks that a fork has
 * caught, and supervisors without a thread.
 */
#include <time.h>

#include "crew.h"
#include "internal.h"

static crew us;

#define CAPTURED .stdio[1].kind = FP_STDIO_PIPE

static int64_t cpu_ns(void) {
    struct timespec spent;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
    return spent.tv_sec * INT64_C(1000000000) + spent.tv_nsec;
}

/* ---- the end of time ------------------------------------------------------------ */

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

/* ---- slow readers ------------------------------------------------------------------ */

/* What the child has left in the pipe at its end waits for a follower, however slow he is. */
static void a_slow_follower_loses_nothing(void) {
    enum { SIZE = 50000 };
    char buffer[4096];
    uint64_t offset = 0, heard = 0;
    int64_t r;

    fp_proc *proc = start(
        us.of[0], SHELL("sleep 0.1; head -c 50000 /dev/zero; exit 7", CAPTURED, .head_bytes = 0, .tail_bytes = 1000));
    CHECK_EQ(fp_proc_follow(proc, 1, 1), 0);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, LONG, NULL), 0);
    nap(400 * MS);
    while ((r = fp_proc_read(proc, 1, &offset, buffer, sizeof buffer, LONG)) > 0) {
        heard += (uint64_t)r;
        if (heard < 4000)
            nap(200 * MS);
    }
    CHECK_EQ(r, 0);
    CHECK_EQ(heard, SIZE);
    fp_output output;
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
    CHECK_EQ(fp_proc_output(proc, 1, &output), 0);
    CHECK_EQ(output.complete, 1);
    CHECK_EQ(ended(proc).code, 7);
}

/* But not when somebody wants an end. */
static void a_deadline_does_not_wait_for_a_follower(void) {
    fp_proc *proc = start(us.of[0], SHELL("head -c 50000 /dev/zero; sleep 100", CAPTURED, .head_bytes = 0,
                                          .tail_bytes = 1000, .timeout_ns = 100 * MS));
    CHECK_EQ(fp_proc_follow(proc, 1, 1), 0);
    fp_exit exit = {0};
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, 5000 * MS, &exit), 0);
    CHECK_EQ(exit.reason, FP_REASON_TIMEOUT);
    fp_proc_free(proc);
}

/* ---- much input --------------------------------------------------------------------- */

/* What this program does when it is given "devour": it reads faster than anybody can write. */
static int devour(void) {
    int null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    while (splice(0, NULL, null_fd, NULL, 1 << 20, 0) > 0)
        continue;
    return 5;
}

/* How late the deadlines of others are kept, at worst, while a fast reader is fed. */
static int64_t lateness_beside_a_glutton(const char *input, size_t input_bytes) {
    const fp_spec glutton = {.size = sizeof glutton,
                             .argv = (const char *const[]){"/proc/self/exe", "devour", NULL},
                             .stdio[0].kind = FP_STDIO_PIPE,
                             .input = input,
                             .input_bytes = input_bytes};
    int64_t worst = 0;
    fp_proc *eater = start(us.of[0], &glutton);
    for (int i = 0; i < 3; i++) {
        fp_exit exit = ended(start(us.of[0], SHELL("exec sleep 100", .timeout_ns = 20 * MS, .grace_ns = -1)));
        int64_t late = exit.ended_ns - exit.started_ns - 20 * MS;
        if (worst < late)
            worst = late;
    }
    CHECK_EQ(ended(eater).code, 5);
    return worst;
}

/* Not by the time that all the input takes. The machine may be busy with others, so one good round is enough. */
static void much_input_does_not_hold_up_deadlines(void) {
    enum { BYTES = 300 << 20 };
    char *input = malloc(BYTES);
    int64_t best = INT64_MAX;
    CHECK(input != NULL);
    memset(input, 'x', BYTES);
    for (int round = 0; round < 3 && best > 50 * MS; round++) {
        int64_t late = lateness_beside_a_glutton(input, BYTES);
        if (best > late)
            best = late;
    }
    free(input);
    CHECK(best < 80 * MS);
}

/* ---- without a thread ----------------------------------------------------------------- */

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

/* ---- numbers that have become another's -------------------------------------------------- */

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

/* ---- a host that closes what is not his ---------------------------------------------------- */

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

/* ---- forked copies --------------------------------------------------------------------------- */

static void a_copy_does_not_follow(void) {
    char buffer[16];
    uint64_t offset = 0;
    fp_proc *proc = start(us.of[0], SHELL("echo hello; exec sleep 100", CAPTURED));
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

static bool enough;

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
        execl("/proc/self/exe", "test_review", "by-fork", NULL);
        _exit(126);
    }
    int status = -1;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
}

/* ---- a birth that hangs ------------------------------------------------------------------------ */

/* Stop a child of ours that still is on its way to execve(2): it holds up its parent. */
static void *stop_the_unborn(void *arg) {
    pid_t children[64];
    pid_t *ret_stopped = arg;
    int64_t until = now_ns() + 3000 * MS;
    while (!*ret_stopped && now_ns() < until) {
        int n = fp_children_read(getpid(), children, 64);
        for (int i = 0; i < n; i++) {
            char path[64], name[64] = "";
            snprintf(path, sizeof path, "/proc/%d/comm", (int)children[i]);
            FILE *file = fopen(path, "re");
            if (file && fgets(name, sizeof name, file) && strncmp(name, "test_review", 11) == 0 &&
                kill(children[i], SIGSTOP) == 0)
                *ret_stopped = children[i];
            if (file)
                fclose(file);
        }
    }
    return NULL;
}

/* While one supervisor stands still another sees to it, even if that one had nothing to do. */
static void somebody_else_looks_after_a_birth(void) {
    enum { MANY = 30000 };
    static const char dir[] = "/nonexistent:";
    fp_mailbox *mailbox;
    crew c;
    pid_t stopped = 0;
    pthread_t stopper;
    fp_proc *proc;

    char *path = calloc(1, MANY * sizeof dir);
    for (int i = 0; i < MANY; i++)
        memcpy(path + i * (sizeof dir - 1), dir, sizeof dir - 1);
    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    CHECK(fp_mailbox_fd(mailbox) >= 0);
    crew_begin(&c, 2);
    nap(20 * MS);
    /* The second watches over this birth; the first has nothing to look at before its end. */
    fp_proc *sleeper = start(c.of[0], SHELL("exec sleep 100", .mailbox = mailbox));
    const fp_spec far = {
        .size = sizeof far, .argv = (const char *const[]){"no-such-program", NULL}, .search_path = path};
    const fp_spec *spec = &far;
    pthread_create(&stopper, NULL, stop_the_unborn, &stopped);
    nap(20 * MS);
    CHECK_EQ(fp_spawn_many(&c.of[1], 1, &spec, 1, 0, &proc), 0);
    int r = fp_procs_wait_started(&proc, 1, 4000 * MS);
    pthread_join(stopper, NULL);
    CHECK(stopped > 0);
    CHECK_EQ(r, 0);
    if (r < 0 && stopped > 0)
        kill(stopped, SIGCONT);
    CHECK_EQ(fp_procs_wait_started(&proc, 1, LONG), 0);
    fp_proc_free(proc);
    CHECK_EQ(fp_proc_stop(sleeper, FP_REASON_TERMINATED, 0, 0), 0);
    ended(sleeper);
    crew_end(&c);
    fp_mailbox_free(mailbox);
    free(path);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "devour") == 0)
        return devour();
    if (argc > 1 && strcmp(argv[1], "by-fork") == 0)
        return start_by_fork();
    /* What the library learns about the kernel it learns once: not counted. */
    for (int i = 0; i < FP_CAP_COUNT; i++)
        fp_probe(i);
    WATCHED(a_host_that_closes_everything_does_not_make_us_spin);
    int before = open_descriptors();
    crew_begin(&us, 2);
    WATCHED(the_longest_times_do_not_wrap);
    WATCHED(the_longest_wait_for_news_does_not_wrap);
    WATCHED(a_slow_follower_loses_nothing);
    WATCHED(a_deadline_does_not_wait_for_a_follower);
    WATCHED(much_input_does_not_hold_up_deadlines);
    WATCHED(a_waiter_without_a_thread_keeps_deadlines);
    WATCHED(a_waiter_without_a_thread_feeds);
    WATCHED(the_children_of_strangers_are_left_alone);
    WATCHED(a_copy_does_not_follow);
    WATCHED(a_copy_begins_anew);
    WATCHED(a_copy_does_not_hold_up_a_start);
    WATCHED(somebody_else_looks_after_a_birth);
    crew_end(&us);
    CHECK(has_no_child());
    CHECK_EQ(open_descriptors(), before);
    return check_result();
}
