/*
 * test_supervise_streams.c: what real processes are fed and what they say:
 * followers, limits, the end of a stream.
 */
#include "supervise.h"

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

/* Followed from birth: nothing is lost to who comes late, and the end is told though somebody holds the pipe. */
static void who_is_followed_from_birth_waits_for_us(void) {
    enum { SIZE = 600000 };
    fp_mailbox *mailbox;
    uint64_t offset = 0, heard = 0;
    char buffer[5000];
    bool told = false;
    if (!can_look() && !fp_probe(FP_CAP_PIDFD_GROUP))
        SKIP("a reaped leader's group can be reached by pidfd or /proc only");
    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    const fp_spec *spec =
        SHELL("head -c 600000 /dev/zero | tr '\\0' x; sleep 100 & exit 0", CAPTURED, .mailbox = mailbox, .token = 77,
              .head_bytes = 1000, .tail_bytes = 3000, .flags = FP_FOLLOW_STDOUT | FP_FOLLOW_STDERR | FP_KEEP_LEFTOVERS);
    fp_proc *proc;
    CHECK_EQ(fp_spawn_many(us.of, 2, &spec, 1, 0, &proc), 0);
    CHECK_EQ(fp_procs_wait_started(&proc, 1, LONG), 0);
    nap(50 * MS); /* for as much as it can write unread */
    int64_t r;
    while ((r = fp_proc_read(proc, 1, &offset, buffer, sizeof buffer, LONG)) > 0) {
        heard += (uint64_t)r;
        for (int64_t i = 0; i < r; i++)
            CHECK_EQ(buffer[i], 'x');
    }
    CHECK_EQ(r, 0);
    CHECK_EQ(heard, SIZE);
    CHECK_EQ(offset, SIZE);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, LONG, NULL), 0);
    /* The reader was told of the end before this: by a news that came with it or after the exit. */
    for (int64_t until = now_ns() + LONG; !told && now_ns() < until;) {
        fp_news news;
        fp_output output;
        if (fp_mailbox_take(mailbox, &news, 1, LONG) != 1)
            continue;
        CHECK_EQ(news.token, 77);
        CHECK_EQ(fp_proc_output(proc, 1, &output), 0);
        told = news.what & FP_NEWS_OUTPUT && output.ended && !output.complete;
    }
    CHECK(told);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0), 0);
    ended(proc);
    mailbox = fp_mailbox_free(mailbox);
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

/* How it stands becomes DONE without anybody waiting for it. */
static void done_by_itself(fp_proc *proc) {
    for (int64_t until = now_ns() + LONG; fp_proc_state(proc) != FP_STATE_DONE && now_ns() < until;)
        nap(2 * MS);
    CHECK_EQ(fp_proc_state(proc), FP_STATE_DONE);
}

static uint64_t said(fp_proc *proc, int stream) {
    fp_output output = {0};
    CHECK_EQ(fp_proc_output(proc, stream, &output), 0);
    CHECK(output.ended && output.complete);
    return output.total_bytes;
}

/* Its supervisor, which holds still meanwhile, need not be asked. */
static void who_waits_takes_what_was_said(void) {
    char buffer[8] = {0};
    int before = open_descriptors();
    fp_proc *proc =
        start(us.of[0], SHELL("echo out; echo err >&2; exit 7", .stdio = {{0}, {FP_STDIO_PIPE}, {FP_STDIO_PIPE}}));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, LONG, NULL), 0);
    CHECK_EQ(fp_proc_output_copy(proc, 1, buffer, sizeof buffer), 4);
    CHECK(memcmp(buffer, "out\n", 4) == 0);
    CHECK_EQ(fp_proc_output_copy(proc, 2, buffer, sizeof buffer), 4);
    CHECK(memcmp(buffer, "err\n", 4) == 0);
    CHECK_EQ(said(proc, 1), 4);
    CHECK_EQ(ended(proc).code, 7);
    CHECK_EQ(open_descriptors(), before);
}

/* Nobody waits for these, or not for long, and each says more than a pipe holds. */
static void what_nobody_waits_for_is_read(void) {
    fp_proc *proc = start(us.of[0], SHELL("head -c 300000 /dev/zero", CAPTURED));
    done_by_itself(proc);
    CHECK_EQ(said(proc, 1), 300000);
    fp_proc_free(proc);

    proc = start(us.of[0], SHELL("sleep 0.1; head -c 300000 /dev/zero", CAPTURED));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, MS, NULL), -ETIMEDOUT);
    done_by_itself(proc);
    CHECK_EQ(said(proc, 1), 300000);
    fp_proc_free(proc);

    /* Where there is no timer for the one that is looked at later. */
    fp_supervisor_lock(us.of[0]);
    int late_fd = us.of[0]->late_fd;
    us.of[0]->late_fd = -1;
    pthread_mutex_unlock(&us.of[0]->lock);
    proc = start(us.of[0], SHELL("head -c 300000 /dev/zero", CAPTURED));
    done_by_itself(proc);
    CHECK_EQ(said(proc, 1), 300000);
    fp_proc_free(proc);
    fp_supervisor_lock(us.of[0]);
    us.of[0]->late_fd = late_fd;
    pthread_mutex_unlock(&us.of[0]->lock);

    /* Two in close succession: the second is looked at later than the first. */
    fp_proc *two[2];
    for (int i = 0; i < 2; i++)
        two[i] = start(us.of[0], SHELL("head -c 300000 /dev/zero", CAPTURED));
    for (int i = 0; i < 2; i++) {
        done_by_itself(two[i]);
        CHECK_EQ(said(two[i], 1), 300000);
        fp_proc_free(two[i]);
    }
}

static bool is_open(fp_proc *proc) {
    fp_supervisor *supervisor = fp_proc_lock(proc);
    bool open = fp_flow_open(proc->flow);
    fp_proc_unlock(proc, supervisor);
    return open;
}

/* It has ended, and who holds its output is one it has left behind. */
static void a_quick_end_with_the_output_held(void) {
    fp_output output = {0};
    fp_exit exit;
    if (!can_look() && !fp_probe(FP_CAP_PIDFD_GROUP))
        SKIP("a reaped leader's group can be reached by pidfd or /proc only");
    fp_proc *proc = start(us.of[0], SHELL("(sleep 0.05; echo there; exec sleep 100) & echo here; exit 3", CAPTURED,
                                          .flags = FP_KEEP_LEFTOVERS));
    /* As if another start had looked at it while somebody waited for it: nobody else will. */
    fp_supervisor_lock(us.of[0]);
    if (us.of[0]->late)
        fp_proc_unref(us.of[0]->late);
    us.of[0]->late = NULL;
    pthread_mutex_unlock(&us.of[0]->lock);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, LONG, &exit), 0);
    CHECK_EQ(exit.code, 3);
    /* Not asked, or it would be attended to for that. */
    for (int64_t until = now_ns() + LONG; is_open(proc) && now_ns() < until;)
        nap(5 * MS);
    CHECK_EQ(fp_proc_output(proc, 1, &output), 0);
    CHECK(output.ended && !output.complete);
    CHECK_EQ(output.total_bytes, 11);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0), 0);
    ended(proc);
}

/* Who asks hears at once, though it has only just begun and nobody attends to it. */
static void who_asks_is_told_though_it_has_just_begun(void) {
    char buffer[8];
    uint64_t offset = 0;
    fp_reader *reader;
    fp_proc *proc = start(us.of[0], SHELL("echo one; exec sleep 100", CAPTURED));
    CHECK_EQ(fp_proc_read(proc, 1, &offset, buffer, 1, 0) == -ETIMEDOUT || offset == 1, true);
    CHECK(!proc->flow->unattended);
    offset = 0;
    CHECK_EQ(fp_proc_read(proc, 1, &offset, buffer, sizeof buffer, LONG), 4);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0), 0);
    ended(proc);
    proc = start(us.of[0], SHELL("echo one; exec sleep 100", CAPTURED));
    CHECK_EQ(fp_reader_new(proc, 1, &reader), 0);
    CHECK_EQ(fp_reader_read(reader, buffer, sizeof buffer, LONG), 4);
    fp_reader_free(reader);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0), 0);
    ended(proc);
}

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

static void all_tests(void) {
    WATCHED(input_goes_through);
    WATCHED(who_is_followed_from_birth_waits_for_us);
    WATCHED(a_follower_hears_all);
    WATCHED(a_follower_may_lose_interest);
    WATCHED(a_slow_follower_loses_nothing);
    WATCHED(a_deadline_does_not_wait_for_a_follower);
    WATCHED(reading_has_an_end_in_time);
    WATCHED(much_input_does_not_hold_up_deadlines);
    WATCHED(who_says_too_much_is_stopped);
    WATCHED(much_output_is_counted);
    WATCHED(who_waits_takes_what_was_said);
    WATCHED(what_nobody_waits_for_is_read);
    WATCHED(a_quick_end_with_the_output_held);
    WATCHED(who_asks_is_told_though_it_has_just_begun);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "devour") == 0)
        return devour();
    return with_our_crew(all_tests);
}
