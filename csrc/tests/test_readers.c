/* Readers of captured streams: the slowest of them misses nothing, and one may be waited for from the birth on. */
#include "crew.h"

enum { LINES = 40000 }; /* of 10 bytes, more than the buffer and the pipe hold */
#define TALK "seq 1000000001 1000040000 | cut -c2-"

static crew us;

/* Read to the end; the number of bytes, or -1 if a line is missing. */
static int64_t read_all(fp_reader *reader) {
    char buffer[4096], line[16];
    int64_t total = 0, n;
    int at = 0;

    while ((n = fp_reader_read(reader, buffer, sizeof buffer, LONG)) > 0) {
        for (int64_t i = 0; i < n; i++) {
            line[at++] = buffer[i];
            if (buffer[i] != '\n')
                continue;
            if (at != 10 || atoi(line) != (total + i) / 10 + 1)
                return -1;
            at = 0;
        }
        total += n;
    }
    return n < 0 ? n : total;
}

static void *read_in_thread(void *reader) {
    return (void *)(intptr_t)read_all(reader);
}

static void the_slowest_misses_nothing(void) {
    fp_reader *fast, *slow;
    pthread_t thread;
    void *count;
    char buffer[10];
    fp_proc *proc = start(us.of[0], SHELL("kill -STOP $$;" TALK, .stdio = {[1] = {.kind = FP_STDIO_PIPE}}));

    CHECK_EQ(fp_reader_new(proc, 1, &fast), 0);
    CHECK_EQ(fp_reader_new(proc, 1, &slow), 0);
    while (fp_proc_signal(proc, SIGCONT, 0) == 0 && fp_reader_read(slow, buffer, 10, 20 * MS) == -ETIMEDOUT)
        continue;
    slow = fp_reader_free(slow);
    /* One that comes later is waited for as well. */
    CHECK_EQ(fp_reader_new(proc, 1, &slow), 0);
    pthread_create(&thread, NULL, read_in_thread, fast);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, 200 * MS, NULL), -ETIMEDOUT);
    CHECK_EQ(read_all(slow), 10 * LINES);
    pthread_join(thread, &count);
    CHECK_EQ((intptr_t)count, 10 * LINES);
    fp_reader_free(fast);
    fp_reader_free(slow);
    CHECK_EQ(ended(proc).code, 0);
}

static void who_goes_is_not_waited_for(void) {
    fp_reader *fast, *slow;
    fp_proc *proc = start(us.of[0], SHELL(TALK, .flags = FP_FOLLOW_STDOUT, .stdio = {[1] = {.kind = FP_STDIO_PIPE}}));

    CHECK_EQ(fp_reader_new(proc, 1, &fast), 0);
    CHECK_EQ(fp_reader_new(proc, 1, &slow), 0);
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, 100 * MS, NULL), -ETIMEDOUT);
    fp_reader_free(slow);
    CHECK_EQ(read_all(fast), 10 * LINES);
    fp_reader_free(fast);
    CHECK_EQ(ended(proc).code, 0);
}

static void the_first_is_waited_for_from_the_birth_on(void) {
    static const struct {
        uint64_t head, tail;
    } sizes[] = {{0, 0}, {1, 0}, {0, 1}, {1000, 1000}, {1 << 20, 1 << 20}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fp_reader *reader;
        fp_proc *proc =
            start(us.of[i % 2], SHELL(TALK " >&2", .flags = FP_FOLLOW_STDERR, .head_bytes = sizes[i].head,
                                      .tail_bytes = sizes[i].tail, .stdio = {[2] = {.kind = FP_STDIO_PIPE}}));
        if (i < 4)
            CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, 50 * MS, NULL), -ETIMEDOUT);
        CHECK_EQ(fp_reader_new(proc, 1, &reader), -EINVAL);
        CHECK_EQ(fp_reader_new(proc, 2, &reader), 0);
        CHECK_EQ(read_all(reader), 10 * LINES);
        CHECK_EQ(fp_reader_read(reader, &(char){0}, 1, -1), 0);
        fp_reader_free(reader);
        CHECK_EQ(ended(proc).code, 0);
    }
}

/* Its handle may go first. */
static void a_reader_keeps_what_it_reads(void) {
    fp_reader *reader;
    fp_proc *proc = start(us.of[0], SHELL(TALK, .flags = FP_FOLLOW_STDOUT, .stdio = {[1] = {.kind = FP_STDIO_PIPE}}));
    CHECK_EQ(fp_reader_new(proc, 1, &reader), 0);
    fp_proc_free(proc);
    CHECK_EQ(read_all(reader), 10 * LINES);
    CHECK(!fp_reader_free(reader));
    CHECK(!fp_reader_free(NULL));
}

static void nobody_waits_for_a_reader_that_never_comes(void) {
    fp_proc *proc = start(us.of[0], SHELL(TALK, .flags = FP_FOLLOW_STDOUT, .timeout_ns = 100 * MS,
                                          .stdio = {[1] = {.kind = FP_STDIO_PIPE}}));
    CHECK_EQ(ended(proc).reason, FP_REASON_TIMEOUT);
}

static void a_copy_has_no_readers(void) {
    fp_reader *reader, *other;
    char byte;
    fp_proc *proc = start(us.of[0], SHELL("exec sleep 1000", .stdio = {[1] = {.kind = FP_STDIO_PIPE}}));
    CHECK_EQ(fp_reader_new(proc, 1, &reader), 0);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGALRM, SIG_DFL);
        alarm(10);
        int wrong = fp_reader_new(proc, 1, &other) != -EOWNERDEAD;
        wrong += fp_reader_read(reader, &byte, 1, -1) != -EOWNERDEAD;
        fp_reader_free(reader);
        _exit(wrong);
    }
    int status = -1;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0);
    fp_reader_free(reader);
    ended(proc);
}

int main(void) {
    for (int i = 0; i < FP_CAP_COUNT; i++)
        fp_probe(i);
    int before = open_descriptors();
    crew_begin(&us, 2);
    WATCHED(the_slowest_misses_nothing);
    WATCHED(who_goes_is_not_waited_for);
    WATCHED(the_first_is_waited_for_from_the_birth_on);
    WATCHED(a_reader_keeps_what_it_reads);
    WATCHED(nobody_waits_for_a_reader_that_never_comes);
    WATCHED(a_copy_has_no_readers);
    crew_end(&us);
    CHECK(has_no_child());
    CHECK_EQ(open_descriptors(), before);
    return check_result();
}
