/*
 * test_run.c: programs without a supervisor: run to their end in one call,
 * talked with through the caller's own pipes, waited for by many threads,
 * stopped with their descendants. In each way that kernels differ.
 */
#include <sys/resource.h>
#include <sys/stat.h>

#include "crew.h"
#include "internal.h"

#define PIPES .stdio = {{FP_STDIO_PIPE}, {FP_STDIO_PIPE}, {FP_STDIO_PIPE}}
#define OUT .stdio[1] = {FP_STDIO_PIPE}
#define GROUP_OF_OURS .lead = FP_LEAD_NOTHING

static fp_result run_it(const fp_spec *spec, fp_solo **solo) {
    fp_result result = {0};
    fp_failure failure = {0};
    int r;
    do
        r = fp_run(spec, solo, &result, &failure);
    while (r == -EINTR);
    CHECK_EQ(r, 0);
    return result;
}

static int code_of(const fp_spec *spec) {
    fp_solo *solo = NULL;
    fp_result result = run_it(spec, &solo);
    solo = fp_solo_free(solo);
    CHECK(has_no_child());
    return result.exit.signal ? -result.exit.signal : result.exit.code;
}

/* ---- one call -------------------------------------------------------------------- */

static void codes_and_signals(void) {
    int before = open_descriptors();
    CHECK_EQ(code_of(SHELL("exit 0", GROUP_OF_OURS)), 0);
    CHECK_EQ(code_of(SHELL("exit 7", GROUP_OF_OURS)), 7);
    CHECK_EQ(code_of(SHELL("kill -9 $$", GROUP_OF_OURS)), -9);
    CHECK_EQ(code_of(SHELL("exit 7", .timeout_ns = LONG)), 7);
    CHECK_EQ(code_of(SHELL("exit 7", .idle_timeout_ns = LONG, PIPES)), 7);
    CHECK_EQ(open_descriptors(), before);
}

static void what_it_writes_is_kept(void) {
    fp_solo *solo = NULL;
    fp_result result = run_it(SHELL("cat; echo err >&2", PIPES, .input = "hello", .input_bytes = 5), &solo);
    CHECK_EQ(result.said[0].total_bytes, 5);
    CHECK_EQ(result.said[1].total_bytes, 4);
    CHECK_EQ(result.said[0].n_pieces, 1);
    CHECK(result.said[0].complete && result.said[1].complete);
    CHECK(memcmp(result.said[0].first, "hello", 5) == 0);
    CHECK(memcmp(result.said[1].first, "err\n", 4) == 0);
    solo = fp_solo_free(solo);

    /* What nobody could want is given back at once. */
    result = run_it(SHELL("exit 0", PIPES), &solo);
    CHECK(solo == NULL);
    CHECK(result.said[0].captured && result.said[0].complete && result.said[0].n_pieces == 0);
}

static void large_streams(void) {
    enum { BYTES = 5 << 20 };
    char *data = malloc(BYTES);
    for (int i = 0; i < BYTES; i++)
        data[i] = (char)(i * 2654435761u >> 24);
    fp_solo *solo = NULL;
    fp_result result = run_it(SHELL("cat", PIPES, .input = data, .input_bytes = BYTES), &solo);
    size_t at = 0;
    for (uint32_t i = 0; i < result.said[0].n_pieces; i++) {
        const void *bytes;
        int64_t n = fp_solo_piece(solo, 1, i, &bytes);
        CHECK(n > 0 && at + (size_t)n <= BYTES && memcmp(data + at, bytes, (size_t)n) == 0);
        at += (size_t)n;
    }
    const void *bytes;
    CHECK_EQ(at, BYTES);
    CHECK_EQ(fp_solo_piece(solo, 1, result.said[0].n_pieces, &bytes), -ENODATA);
    CHECK_EQ(fp_solo_piece(solo, 3, 0, &bytes), -EINVAL);
    solo = fp_solo_free(solo);
    /* Who does not read it all does no harm, and SIGPIPE is not ours. */
    CHECK_EQ(code_of(SHELL("exit 3", PIPES, .input = data, .input_bytes = BYTES)), 3);
    free(data);
}

/* One that hands memory to who asks for it, grown as realloc(3) does. */
struct lender {
    char *room[2];
    size_t bytes[2];
    int times;
};

static void lend(struct lender *lender, fp_solo *solo, const fp_result *result) {
    CHECK(result->said[0].wants_room || result->said[1].wants_room);
    for (int i = 0; i < 2; i++) {
        if (!result->said[i].wants_room)
            continue;
        lender->times++;
        lender->bytes[i] = lender->bytes[i] ? 3 * lender->bytes[i] : 16 << 10;
        lender->room[i] = realloc(lender->room[i], lender->bytes[i]);
        CHECK_EQ(fp_solo_lend(solo, i + 1, lender->room[i], lender->bytes[i]), 0);
    }
}

static void long_output_goes_into_lent_memory(void) {
    const char *script = "seq -w 100000; seq 200000 >&2; exit 3";
    struct lender lender = {0};
    fp_solo *solo = NULL;
    fp_result result;
    fp_failure failure;
    int r;
    while ((r = fp_run(SHELL(script, PIPES, .flags = FP_ASK_FOR_ROOM), &solo, &result, &failure)) == -ENOBUFS)
        lend(&lender, solo, &result);
    CHECK_EQ(r, 0);
    CHECK_EQ(result.exit.code, 3);
    CHECK(lender.times >= 6);
    CHECK_EQ(result.said[0].total_bytes, 700000);
    for (int i = 0; i < 2; i++) {
        const fp_said *said = &result.said[i];
        CHECK(said->first == lender.room[i] && said->n_pieces == 1 && said->first_bytes == said->total_bytes);
        CHECK(said->complete && !said->wants_room);
    }
    char line[16];
    for (int i = 1; i <= 100000; i++) {
        snprintf(line, sizeof line, "%06d\n", i);
        CHECK(memcmp(lender.room[0] + 7 * (i - 1), line, 7) == 0);
    }
    CHECK(memcmp(lender.room[1], "1\n2\n3\n", 6) == 0);
    CHECK_EQ(fp_solo_lend(solo, 1, lender.room[0], 100), -EINVAL);
    CHECK_EQ(fp_solo_lend(solo, 3, lender.room[0], 100), -EINVAL);
    CHECK_EQ(fp_solo_lend(NULL, 1, lender.room[0], 100), -EINVAL);
    CHECK_EQ(fp_solo_lend(solo, 1, NULL, 0), 0);
    solo = fp_solo_free(solo);
    free(lender.room[0]);
    free(lender.room[1]);

    /* Nobody has to give what is asked for: it can be stopped instead. Short output is no reason to ask. */
    do
        r = fp_run(SHELL("exec yes", OUT, .flags = FP_ASK_FOR_ROOM), &solo, &result, &failure);
    while (r == -EINTR);
    CHECK_EQ(r, -ENOBUFS);
    CHECK_EQ(fp_solo_stop(solo, -1, LONG, &result.exit), 0);
    CHECK_EQ(result.exit.signal, SIGKILL);
    solo = fp_solo_free(solo);
    result = run_it(SHELL("echo short", OUT, .flags = FP_ASK_FOR_ROOM), &solo);
    CHECK_EQ(result.said[0].first_bytes, 6);
    solo = fp_solo_free(solo);
    CHECK(has_no_child());
}

static void failures_are_told(void) {
    int before = open_descriptors();
    fp_solo *solo = NULL;
    fp_result result;
    fp_failure failure = {0};
    fp_spec spec = {.size = sizeof spec, .argv = (const char *const[]){"/no/such/program", NULL}, PIPES};
    CHECK_EQ(fp_run(&spec, &solo, &result, &failure), -ENOENT);
    CHECK(solo == NULL);
    CHECK_EQ(failure.stage, FP_STAGE_EXEC);
    spec.cwd = "/no/such/directory";
    CHECK_EQ(fp_run(&spec, &solo, &result, &failure), -ENOENT);
    CHECK_EQ(failure.stage, FP_STAGE_CWD);
    spec.size = 1;
    CHECK_EQ(fp_run(&spec, &solo, &result, &failure), -EINVAL);
    CHECK_EQ(fp_run(NULL, &solo, &result, &failure), -EINVAL);
    CHECK_EQ(fp_solo_start(NULL, &solo, &failure), -EINVAL);
    CHECK_EQ(open_descriptors(), before);
    CHECK(has_no_child());
}

/* ---- when its time is over --------------------------------------------------------- */

static void stops(const char *script, int64_t grace_ns, int reason, int signal) {
    int before = open_descriptors();
    lifeline l;
    fp_solo *solo = NULL;
    lifeline_begin(&l);
    int64_t begun = now_ns();
    fp_spec spec = {.size = sizeof spec,
                    .argv = (const char *const[]){"/bin/sh", "-c", script, NULL},
                    OUT,
                    GROUP_OF_OURS,
                    .fds = &l.map,
                    .n_fds = 1,
                    .grace_ns = grace_ns,
                    .kill_timeout_ns = LONG};
    if (reason == FP_REASON_TIMEOUT)
        spec.timeout_ns = 100 * MS;
    else
        spec.idle_timeout_ns = 100 * MS;
    fp_result result = run_it(&spec, &solo);
    CHECK(now_ns() - begun >= 100 * MS);
    CHECK(now_ns() - begun < LONG / 2);
    CHECK_EQ(result.exit.reason, reason);
    CHECK_EQ(result.exit.signal, signal);
    solo = fp_solo_free(solo);
    CHECK(lifeline_is_cut(&l, 5000));
    lifeline_end(&l);
    CHECK_EQ(open_descriptors(), before);
    CHECK(has_no_child());
}

static void a_timeout_stops_all_of_it(void) {
    stops("sleep 1000", -1, FP_REASON_TIMEOUT, SIGKILL);
    stops("sleep 1000 & wait", -1, FP_REASON_TIMEOUT, SIGKILL);
    stops("sleep 1000 & wait", LONG, FP_REASON_TIMEOUT, SIGTERM);
    stops("setsid sleep 1000 & wait", -1, FP_REASON_TIMEOUT, SIGKILL);
    stops("trap '' TERM; sleep 1000 & while :; do sleep 1000; done", 200 * MS, FP_REASON_TIMEOUT, SIGKILL);
    stops("sh -c 'sh -c \"sleep 1000 & wait\" & wait' & wait", -1, FP_REASON_TIMEOUT, SIGKILL);
}

static void silence_stops_it(void) {
    stops("echo x; sleep 1000 & wait", -1, FP_REASON_IDLE_TIMEOUT, SIGKILL);
}

/* With a cgroup also who has lost his parents; without, he is left and the pipe is given up. */
static void an_orphan_that_holds_the_pipe(void) {
    int before = open_descriptors();
    fp_solo *solo = NULL;
    int64_t begun = now_ns();
    fp_result result =
        run_it(SHELL("sleep 3 & exit 3", OUT, GROUP_OF_OURS, .timeout_ns = 200 * MS, .grace_ns = -1), &solo);
    CHECK(now_ns() - begun < 2500 * MS);
    CHECK_EQ(result.exit.code, 3);
    CHECK_EQ(result.exit.reason, FP_REASON_TIMEOUT);
    solo = fp_solo_free(solo);
    CHECK_EQ(open_descriptors(), before);
}

/* The directory of a cgroup v2 that /proc/self/cgroup has told of, seen from where we make ours. */
static bool read_directory(const char *told, size_t bytes, char *ret_path, size_t size) {
    char text[1024], name[256] = "";
    snprintf(text, sizeof text, "%.*s", (int)bytes, told);
    const char *line = strstr(text, "0::"), *at = line ? strstr(line, "/fastproc-") : NULL;
    if (!at || sscanf(at, "/%255[^\n]", name) != 1)
        return false;
    snprintf(ret_path, size, "%s/%s", fp_cgroup_dir(), name);
    return true;
}

/* One directory for each, which goes with it; unless somebody lives on in it. */
static void a_time_out_takes_one_cgroup(void) {
    char path[600] = "";
    fp_solo *solo = NULL;
    struct stat is;
    int sleeper = 0;

    if (!fp_probe(FP_CAP_CGROUP))
        SKIP("no cgroup can be made here");
    fp_result result = run_it(SHELL("cat /proc/self/cgroup", OUT, .timeout_ns = LONG), &solo);
    CHECK(read_directory(result.said[0].first, result.said[0].first_bytes, path, sizeof path));
    CHECK(strchr(strstr(path, "/fastproc-") + 1, '/') == NULL);
    CHECK(stat(path, &is) == 0);
    solo = fp_solo_free(solo);
    CHECK(stat(path, &is) < 0 && errno == ENOENT);

    result =
        run_it(SHELL("cat /proc/self/cgroup; sleep 100 >&- 2>&- & echo sleeper=$!", OUT, .timeout_ns = LONG), &solo);
    CHECK(read_directory(result.said[0].first, result.said[0].first_bytes, path, sizeof path));
    const char *told = memmem(result.said[0].first, result.said[0].first_bytes, "sleeper=", 8);
    CHECK(told && sscanf(told, "sleeper=%d", &sleeper) == 1);
    solo = fp_solo_free(solo);
    CHECK_EQ(kill(sleeper, 0), 0);
    CHECK(stat(path, &is) == 0);
    kill(sleeper, SIGKILL);
    for (int64_t begin = now_ns(); now_ns() - begin < LONG && rmdir(path) < 0;)
        nap(MS);
    CHECK(stat(path, &is) < 0);
}

/* ---- between two calls --------------------------------------------------------------- */

static fp_solo *begin(const fp_spec *spec) {
    fp_solo *solo = NULL;
    fp_failure failure;
    CHECK_EQ(fp_solo_start(spec, &solo, &failure), 0);
    return solo;
}

static void waiting_and_signals(void) {
    fp_exit exit;
    fp_solo *solo = begin(SHELL("exec sleep 1000", GROUP_OF_OURS));
    CHECK(fp_solo_pid(solo) > 0);
    CHECK_EQ(getpgid(fp_solo_pid(solo)), getpgid(0));
    CHECK_EQ(fp_solo_wait(solo, 0, &exit), -ETIMEDOUT);
    CHECK_EQ(exit.state, FP_STATE_RUNNING);
    CHECK_EQ(fp_solo_wait(solo, 10 * MS, &exit), -ETIMEDOUT);
    CHECK_EQ(fp_solo_signal(solo, 0), 0);
    CHECK_EQ(fp_solo_signal(solo, 65), -EINVAL);
    CHECK_EQ(fp_solo_signal(solo, SIGKILL), 0);
    CHECK_EQ(fp_solo_wait(solo, LONG, &exit), 0);
    CHECK_EQ(exit.signal, SIGKILL);
    CHECK_EQ(exit.reason, FP_REASON_SIGNALED);
    CHECK_EQ(fp_solo_signal(solo, 0), -ESRCH);
    CHECK_EQ(fp_solo_wait(solo, -1, &exit), 0);
    CHECK_EQ(exit.signal, SIGKILL);
    solo = fp_solo_free(solo);
    CHECK(has_no_child());
}

static fp_solo *waited_for;
static _Atomic int right_answers;

static void *wait_for_it(void *arg) {
    fp_exit exit;
    (void)arg;
    if (fp_solo_wait(waited_for, LONG, &exit) == 0 && exit.code == 9 && exit.reason == FP_REASON_EXITED)
        right_answers++;
    return NULL;
}

static void *wait_for_ever(void *arg) {
    fp_exit exit;
    (void)arg;
    if (fp_solo_wait(waited_for, -1, &exit) == 0 && exit.code == 9)
        right_answers++;
    return NULL;
}

static void every_waiter_hears_the_same(void) {
    for (int i = 0; i < 20; i++) {
        waited_for = begin(SHELL("sleep 0.01; exit 9", GROUP_OF_OURS));
        right_answers = 0;
        in_threads(6, i % 2 ? wait_for_it : wait_for_ever, NULL);
        CHECK_EQ(right_answers, 6);
        waited_for = fp_solo_free(waited_for);
    }
}

static void a_status_that_was_taken(void) {
    fp_exit exit;
    int status;
    fp_solo *solo = begin(SHELL("exit 7", GROUP_OF_OURS));
    CHECK_EQ(waitpid(fp_solo_pid(solo), &status, 0), fp_solo_pid(solo));
    CHECK_EQ(fp_solo_wait(solo, -1, &exit), 0);
    CHECK(exit.flags & FP_EXIT_FOREIGN);
    if (fp_probe(FP_CAP_PIDFD_INFO) && fp_solo_pidfd(solo) >= 0) {
        CHECK_EQ(exit.code, 7);
    } else {
        CHECK_EQ(exit.code, -1);
        CHECK_EQ(exit.reason, FP_REASON_UNKNOWN);
    }
    solo = fp_solo_free(solo);
}

static void a_host_that_closes_our_descriptor(void) {
    fp_exit exit;
    fp_solo *solo = begin(SHELL("exit 7", GROUP_OF_OURS));
    int fd = fp_solo_pidfd(solo);
    if (fd >= 0) {
        close(fd);
        CHECK_EQ(open("/dev/null", O_RDONLY | O_CLOEXEC), fd);
    }
    CHECK_EQ(fp_solo_wait(solo, -1, &exit), 0);
    CHECK_EQ(exit.code, 7);
    solo = fp_solo_free(solo);
    if (fd >= 0) {
        CHECK(fcntl(fd, F_GETFD) >= 0);
        close(fd);
    }
}

static void a_forked_copy_only_looks(void) {
    int go[2];
    CHECK_EQ(pipe2(go, O_CLOEXEC), 0);
    fp_fd_map map = {go[0], 9};
    fp_solo *solo = begin(SHELL("read x <&9; exit 7", GROUP_OF_OURS, .fds = &map, .n_fds = 1));
    pid_t copy = fork();
    if (copy == 0) {
        fp_exit exit;
        int r = fp_solo_wait(solo, 0, &exit);
        int s = fp_solo_wait(solo, -1, &exit);
        int known = fp_probe(FP_CAP_PIDFD_INFO) && fp_solo_pidfd(solo) >= 0;
        bool early = fp_solo_pidfd(solo) >= 0 ? r == -ETIMEDOUT : r == 0;
        _exit(early && s == 0 && (exit.code == 7 || !known) ? 0 : 1);
    }
    nap(20 * MS);
    CHECK_EQ(write(go[1], "\n", 1), 1);
    close(go[0]);
    close(go[1]);
    fp_exit exit;
    CHECK_EQ(fp_solo_wait(solo, -1, &exit), 0);
    CHECK_EQ(exit.code, 7);
    solo = fp_solo_free(solo);
    int status = -1;
    CHECK_EQ(waitpid(copy, &status, 0), copy);
    CHECK_EQ(status, 0);
}

static void one_that_others_have_started(void) {
    fp_exit exit;
    fp_solo *solo = NULL;
    pid_t pid = fork();
    if (pid == 0) {
        pause();
        _exit(0);
    }
    CHECK_EQ(fp_solo_adopt(1, 0, &solo), -EINVAL);
    CHECK_EQ(fp_solo_adopt(pid, 0, &solo), 0);
    CHECK_EQ(fp_solo_stop(solo, LONG, LONG, &exit), 0);
    CHECK_EQ(exit.signal, SIGTERM);
    CHECK_EQ(exit.reason, FP_REASON_TERMINATED);
    CHECK_EQ(fp_solo_stop(solo, -1, LONG, &exit), 0);
    solo = fp_solo_free(solo);
    CHECK(has_no_child());
}

static void end(fp_solo *solo) {
    CHECK_EQ(fp_solo_wait(solo, LONG, NULL), 0);
    fp_solo_free(solo);
}

/* Nobody has them any more: each is reaped by the first start after its end, and no sooner. */
static void who_is_left_is_reaped_one_day(void) {
    int before = open_descriptors();
    fp_solo *left[2];
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        left[i] = begin(SHELL("exec sleep 100"));
        pids[i] = fp_solo_pid(left[i]);
        CHECK(fp_solo_leave(left[i]) == NULL);
    }
    fp_solo_leave(begin(SHELL(":"))); /* by now it may have ended, or not */
    CHECK_EQ(kill(pids[0], 0), 0);
    for (int i = 0; i < 2; i++) {
        siginfo_t info = {0};
        CHECK_EQ(kill(pids[i], SIGKILL), 0);
        CHECK_EQ(waitid(P_PID, (id_t)pids[i], &info, WEXITED | WNOWAIT), 0);
        end(begin(SHELL(":")));
        CHECK_EQ(kill(pids[i], 0), -1);
    }
    nap(20 * MS);
    end(begin(SHELL(":")));
    CHECK(has_no_child());
    CHECK_EQ(open_descriptors(), before);
    CHECK(fp_solo_leave(NULL) == NULL);
}

/* ---- talking ----------------------------------------------------------------------------- */

static void a_talk_in_parts(void) {
    static char input[3000000];
    int in[2], out[2];
    fp_result result;
    memset(input, 'x', sizeof input);
    CHECK_EQ(pipe2(in, O_CLOEXEC), 0);
    CHECK_EQ(pipe2(out, O_CLOEXEC), 0);
    fp_solo *solo = begin(
        SHELL("sleep 0.2; cat", GROUP_OF_OURS, .stdio = {{FP_STDIO_FD, in[0], NULL}, {FP_STDIO_FD, out[1], NULL}}));
    close(in[0]);
    close(out[1]);
    fp_talk talk = {.size = sizeof talk,
                    .fds = {in[1], out[0], -1},
                    .flags = FP_TALK_AND_WAIT,
                    .input = input,
                    .input_bytes = sizeof input,
                    .timeout_ns = 20 * MS};
    CHECK_EQ(fp_solo_talk(solo, &talk, &result), -ETIMEDOUT);
    CHECK_EQ(result.said[0].total_bytes, 0);
    CHECK_EQ(fcntl(in[1], F_GETFL) & O_NONBLOCK, 0);
    talk.idle_timeout_ns = 10 * MS;
    talk.timeout_ns = -1;
    CHECK_EQ(fp_solo_talk(solo, &talk, &result), -ETIME);
    talk.idle_timeout_ns = 0;
    CHECK_EQ(fp_solo_talk(solo, &talk, &result), 1);
    close(in[1]);
    talk.fds[0] = -1;
    CHECK_EQ(fp_solo_talk(solo, &talk, &result), 0);
    CHECK_EQ(result.said[0].total_bytes, sizeof input);
    CHECK_EQ(result.exit.state, FP_STATE_EXITED);
    CHECK_EQ(fp_solo_talk(solo, &talk, &result), 0);
    talk.size = 1;
    CHECK_EQ(fp_solo_talk(solo, &talk, &result), -EINVAL);
    close(out[0]);
    solo = fp_solo_free(solo);
    CHECK(has_no_child());
}

static void a_talk_into_lent_memory(void) {
    struct lender lender = {0};
    fp_result result;
    int in[2], out[2], r;
    CHECK_EQ(pipe2(in, O_CLOEXEC), 0);
    CHECK_EQ(pipe2(out, O_CLOEXEC), 0);
    fp_solo *solo = begin(SHELL("seq -w 50000; read go; seq -w 50000", GROUP_OF_OURS,
                                .stdio = {{FP_STDIO_FD, in[0], NULL}, {FP_STDIO_FD, out[1], NULL}}));
    close(in[0]);
    close(out[1]);
    fp_talk talk = {.size = sizeof talk,
                    .fds = {-1, out[0], -1},
                    .flags = FP_TALK_AND_WAIT | FP_TALK_ASK_FOR_ROOM,
                    .timeout_ns = -1,
                    .idle_timeout_ns = 100 * MS};
    do {
        r = fp_solo_talk(solo, &talk, &result);
        if (r == -ENOBUFS)
            lend(&lender, solo, &result);
        else
            CHECK_EQ(r, -ETIME);
    } while (result.said[0].total_bytes < 300000);
    CHECK_EQ(result.said[0].first_bytes, 300000);
    CHECK(memcmp(lender.room[0] + 299994, "50000\n", 6) == 0);
    /* Taken: what comes then begins anew. */
    CHECK_EQ(fp_solo_lend(solo, 1, NULL, 0), 0);
    free(lender.room[0]);
    lender = (struct lender){0};
    talk.idle_timeout_ns = 0;
    CHECK_EQ(write(in[1], "\n", 1), 1);
    while ((r = fp_solo_talk(solo, &talk, &result)) == -ENOBUFS)
        lend(&lender, solo, &result);
    CHECK_EQ(r, 0);
    CHECK_EQ(result.said[0].first_bytes, 300000);
    CHECK_EQ(result.said[0].total_bytes, 600000);
    CHECK(memcmp(lender.room[0], "00001\n", 6) == 0);
    free(lender.room[0]);
    close(in[1]);
    close(out[0]);
    solo = fp_solo_free(solo);
    CHECK(has_no_child());
}

static void *kill_it_soon(void *arg) {
    nap(100 * MS);
    fp_solo_signal(arg, SIGKILL);
    return NULL;
}

/* Killed meanwhile by another thread, and a grandchild holds the pipe. */
static void a_talk_after_a_kill_is_short(void) {
    int out[2];
    fp_result result;
    lifeline l;
    pthread_t thread;
    lifeline_begin(&l);
    CHECK_EQ(pipe2(out, O_CLOEXEC), 0);
    fp_solo *solo = begin(SHELL("echo hello; sleep 2 & wait", GROUP_OF_OURS, .fds = &l.map, .n_fds = 1,
                                .stdio[1] = {FP_STDIO_FD, out[1], NULL}));
    close(out[1]);
    fp_talk talk = {.size = sizeof talk, .fds = {-1, out[0], -1}, .timeout_ns = -1};
    int64_t begun = now_ns();
    pthread_create(&thread, NULL, kill_it_soon, solo);
    CHECK_EQ(fp_solo_talk(solo, &talk, &result), 0);
    pthread_join(thread, NULL);
    CHECK(now_ns() - begun < 1900 * MS);
    CHECK_EQ(result.said[0].total_bytes, 6);
    CHECK_EQ(result.said[0].complete, 0);
    CHECK_EQ(result.exit.signal, SIGKILL);
    /* Unless that is asked for. */
    talk.flags = FP_TALK_TO_THE_END;
    CHECK_EQ(fp_solo_talk(solo, &talk, &result), 0);
    CHECK_EQ(result.said[0].complete, 1);
    CHECK(lifeline_is_cut(&l, 5000));
    lifeline_end(&l);
    close(out[0]);
    solo = fp_solo_free(solo);
}

/* ---- what only these starts ask for ---------------------------------------------------- */

static void descriptors_are_inherited_on_request(void) {
    int fd = open("/dev/null", O_RDONLY);
    int hidden = open("/dev/null", O_RDONLY | O_CLOEXEC);
    char script[200];
    snprintf(script, sizeof script, "[ -e /proc/self/fd/%d ] && [ ! -e /proc/self/fd/%d ]", fd, hidden);
    fp_spec spec = {.size = sizeof spec, .argv = (const char *const[]){"/bin/sh", "-c", script, NULL}};
    CHECK_EQ(code_of(&spec), 1);
    spec.flags = FP_INHERIT_FDS;
    CHECK_EQ(code_of(&spec), 0);
    /* A ring of moves needs a spare number: not that of what is inherited. */
    spec.stdio[0] = (fp_stdio){FP_STDIO_FD, 1, NULL};
    spec.stdio[1] = (fp_stdio){FP_STDIO_FD, 0, NULL};
    CHECK_EQ(code_of(&spec), 0);
    close(fd);
    close(hidden);
}

static void groups_can_be_joined(void) {
    CHECK_EQ(code_of(SHELL("[ $(ps -o pgid= -p $$) -eq $$ ]", GROUP_OF_OURS, .flags = FP_JOIN_GROUP)), 0);
    fp_solo *leader = begin(SHELL("exec sleep 1000", GROUP_OF_OURS, .flags = FP_JOIN_GROUP));
    fp_solo *member =
        begin(SHELL("exec sleep 1000", GROUP_OF_OURS, .flags = FP_JOIN_GROUP, .process_group = fp_solo_pid(leader)));
    CHECK_EQ(getpgid(fp_solo_pid(member)), fp_solo_pid(leader));
    fp_exit exit;
    CHECK_EQ(fp_solo_stop(leader, -1, LONG, &exit), 0);
    CHECK_EQ(fp_solo_wait(member, LONG, &exit), 0); /* it was of the leader's group */
    leader = fp_solo_free(leader);
    member = fp_solo_free(member);

    fp_failure failure;
    fp_solo *none = NULL;
    CHECK_EQ(fp_solo_start(SHELL("exit 0", .lead = FP_LEAD_NOTHING, .flags = FP_JOIN_GROUP, .process_group = 1 << 22),
                           &none, &failure),
             -EPERM);
    CHECK_EQ(failure.stage, FP_STAGE_SESSION);
    CHECK_EQ(fp_solo_start(SHELL("exit 0", .flags = FP_JOIN_GROUP, .process_group = -3), &none, &failure), -EINVAL);
}

static void signals_can_be_kept_and_single_ones_reset(void) {
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, &old);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    const char *blocked[] = {"grep", "-q", "SigBlk:.*[89a-f]..$", "/proc/self/status", NULL};
    const char *ignored[] = {"grep", "-q", "SigIgn:.*[2367abef].[02468ace]$", "/proc/self/status", NULL};
    fp_spec spec = {.size = sizeof spec,
                    .argv = blocked,
                    .flags = FP_KEEP_SIGNALS | FP_KEEP_MASK,
                    .sigdefault = UINT64_C(1) << (SIGHUP - 1)};
    CHECK_EQ(code_of(&spec), 0);
    spec.argv = ignored;
    CHECK_EQ(code_of(&spec), 0);
    spec.flags = 0;
    CHECK_EQ(code_of(&spec), 1);
    spec.argv = blocked;
    CHECK_EQ(code_of(&spec), 1);
    signal(SIGUSR1, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void a_search_may_go_on(void) {
    char dir[] = "/tmp/fastproc-test-XXXXXX";
    char path[200], program[100];
    fp_solo *solo = NULL;
    fp_result result;
    fp_failure failure = {0};
    CHECK(mkdtemp(dir) != NULL);
    snprintf(program, sizeof program, "%s/true", dir);
    snprintf(path, sizeof path, "%s:/bin:/usr/bin", dir);
    FILE *file = fopen(program, "w");
    fputs("neither a script nor a program\n", file);
    fclose(file);
    chmod(program, 0755);
    fp_spec spec = {.size = sizeof spec, .argv = (const char *const[]){"true", NULL}, .search_path = path};
    CHECK_EQ(fp_run(&spec, &solo, &result, &failure), -ENOEXEC);
    spec.flags = FP_SEARCH_ON;
    CHECK_EQ(fp_run(&spec, &solo, &result, &failure), 0);
    spec.search_path = dir;
    CHECK_EQ(fp_run(&spec, &solo, &result, &failure), -ENOEXEC);
    unlink(program);
    CHECK_EQ(fp_run(&spec, &solo, &result, &failure), -ENOENT);
    rmdir(dir);
}

static void an_environment_as_it_is(void) {
    static const char odd[] = "A=1\0A=2\0nothing\0=x\0PATH=/bin";
    fp_env *env = NULL;
    CHECK_EQ(fp_env_new(odd, sizeof odd, &env), -EINVAL);
    CHECK_EQ(fp_env_new_as_is(odd, sizeof odd, &env), 0);
    fp_solo *solo = NULL;
    fp_result result =
        run_it(&(fp_spec){.size = sizeof(fp_spec), .argv = (const char *const[]){"env", NULL}, OUT, .env = env}, &solo);
    CHECK_EQ(result.said[0].total_bytes, sizeof "A=1\nA=2\nnothing\n=x\nPATH=/bin\n" - 1);
    solo = fp_solo_free(solo);
    env = fp_env_free(env);
}

/* Where there is no descriptor left for it, a pidfd is done without. */
static void a_start_in_famine(void) {
    struct rlimit old;
    if (!fp_probe(FP_CAP_CLONE3) && !fp_probe(FP_CAP_CLONE))
        SKIP("a fork needs a pipe");
    getrlimit(RLIMIT_NOFILE, &old);
    int next = dup(0);
    close(next);
    struct rlimit none = {(rlim_t)next, old.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    fp_spec spec = {.size = sizeof spec,
                    .argv = (const char *const[]){"/bin/sh", "-c", "exit 5", NULL},
                    .rlimit_set = 1 << FP_RLIMIT_OPEN_FILES};
    spec.rlimits[FP_RLIMIT_OPEN_FILES] = (fp_rlimit){64, old.rlim_max};
    int code = code_of(&spec);
    setrlimit(RLIMIT_NOFILE, &old);
    CHECK_EQ(code, 5);
}

static void all_tests(void) {
    WATCHED(codes_and_signals);
    WATCHED(what_it_writes_is_kept);
    WATCHED(large_streams);
    WATCHED(long_output_goes_into_lent_memory);
    WATCHED(failures_are_told);
    WATCHED(a_timeout_stops_all_of_it);
    WATCHED(silence_stops_it);
    WATCHED(an_orphan_that_holds_the_pipe);
    WATCHED(a_time_out_takes_one_cgroup);
    WATCHED(waiting_and_signals);
    WATCHED(every_waiter_hears_the_same);
    WATCHED(who_is_left_is_reaped_one_day);
    WATCHED(a_status_that_was_taken);
    WATCHED(a_host_that_closes_our_descriptor);
    WATCHED(a_forked_copy_only_looks);
    WATCHED(one_that_others_have_started);
    WATCHED(a_talk_in_parts);
    WATCHED(a_talk_into_lent_memory);
    WATCHED(a_talk_after_a_kill_is_short);
    WATCHED(descriptors_are_inherited_on_request);
    WATCHED(groups_can_be_joined);
    WATCHED(signals_can_be_kept_and_single_ones_reset);
    WATCHED(a_search_may_go_on);
    WATCHED(an_environment_as_it_is);
    WATCHED(a_start_in_famine);
}

/* What the kernel has is found out once, so each way has a process of its own. */
static void by_way(const char *disable) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (*disable)
            setenv("FASTPROC_DISABLE", disable, 1);
        all_tests();
        exit(check_result());
    }
    int status = -1;
    waitpid(pid, &status, 0);
    if (status != 0)
        fprintf(stderr, "  that was with FASTPROC_DISABLE=%s\n", disable);
    CHECK_EQ(status, 0);
}

static void every_way(void) {
    static const char *const ways[] = {"", "cgroup", "pidfd_info,cgroup_kill", "pidfd", "procfs", "all"};
    if (getenv("FASTPROC_DISABLE")) {
        by_way("");
        return;
    }
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        by_way(ways[i]);
}

int main(void) {
    RUN(every_way);
    return check_result();
}
