/*
 * test_output.c: what is kept of a stream, against a model that keeps it all;
 * followers, idle clock and drain against the rules in words.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "internal.h"

enum { MOST = 40000, LONG = 4 << 20 };
#define MS FP_NS_PER_MS

static uint32_t seed = 2024;

static uint32_t random_below(uint32_t n) {
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(seed >> 8) * n >> 24);
}

/* A flow with a pipe of our own behind standard output. */
typedef struct rig {
    fp_flow *flow;
    fp_stream *out;
    int writer;
    int null_fd;
    uint8_t scratch[8192];
} rig;

static void rig_begin(rig *r, uint64_t head, uint64_t tail) {
    fp_spec spec = {.size = sizeof spec, .head_bytes = head, .tail_bytes = tail, .idle_timeout_ns = 50 * MS};
    fp_birth birth = {.pid = 1, .pidfd = -1, .pipe_fd = {-1, -1, -1}, .started_ns = 1000};
    int ends[2];

    spec.stdio[1].kind = FP_STDIO_PIPE;
    CHECK_EQ(fp_flow_new(&spec, &r->flow), 0);
    CHECK_EQ(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
    birth.pipe_fd[1] = ends[0];
    fp_flow_attach(r->flow, &birth);
    r->out = &r->flow->streams[0];
    r->writer = ends[1];
    r->null_fd = -1;
}

static void rig_end(rig *r) {
    if (r->writer >= 0)
        close(r->writer);
    r->flow = fp_flow_free(r->flow);
}

static int64_t pump_at(rig *r, size_t most, int64_t now) {
    const fp_intake intake = {.scratch = r->scratch, .scratch_bytes = most, .null_fd = r->null_fd};
    return fp_stream_pump(r->flow, r->out, &intake, now);
}

static int64_t pump(rig *r, size_t most) {
    return pump_at(r, most, 2000);
}

/* The bytes that are to be kept of `total`: the first `head`, then the last `tail` of the rest. */
static size_t model_kept(const uint8_t *all, size_t total, size_t head, size_t tail, uint8_t *ret_kept) {
    size_t n_head = total < head ? total : head;
    size_t rest = total - n_head;
    size_t n_tail = rest < tail ? rest : tail;
    memcpy(ret_kept, all, n_head);
    memcpy(ret_kept + n_head, all + total - n_tail, n_tail);
    return n_head + n_tail;
}

static void check_copies(rig *r, const uint8_t *all, size_t total, size_t head, size_t tail) {
    static uint8_t expected[LONG], got[LONG];
    size_t kept = model_kept(all, total, head, tail, expected);
    size_t n_head = total < head ? total : head;
    size_t oldest = total - (kept - n_head);
    fp_output output;

    fp_stream_describe(r->out, &output);
    CHECK_EQ(output.total_bytes, total);
    CHECK_EQ(output.kept_bytes, kept);
    CHECK_EQ(output.head_bytes, n_head);
    CHECK_EQ(fp_stream_copy_all(r->out, got, LONG), kept);
    CHECK(memcmp(got, expected, kept) == 0);
    size_t part = random_below((uint32_t)kept + 1);
    CHECK_EQ(fp_stream_copy_all(r->out, got, part), part);
    CHECK(memcmp(got, expected, part) == 0);

    for (int i = 0; i < 4; i++) {
        uint64_t offset = random_below((uint32_t)total + 2), from = UINT64_MAX;
        size_t room = 1 + random_below(3000);
        size_t n = fp_stream_copy(r->out, offset, &from, got, room);
        CHECK(n <= room && from >= offset && from + n <= total + (offset > total));
        CHECK(n == 0 || memcmp(got, all + from, n) == 0);
        /* Only what is gone is jumped over, and something comes as long as there is something. */
        CHECK(from == offset || (offset >= n_head && from == oldest));
        CHECK(n > 0 || offset >= total || (offset >= n_head && oldest == total));
    }
}

static void random_chunks_leave_what_the_model_keeps(void) {
    static const size_t sizes[][2] = {{100, 300}, {1, 1}, {0, 64}, {64, 0}, {4096, 4096}, {7, 1000}, {5000, 3}};
    static uint8_t all[MOST];

    for (int i = 0; i < MOST; i++)
        all[i] = (uint8_t)random_below(256);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (int round = 0; round < 6; round++) {
            size_t total = 0;
            rig r;
            rig_begin(&r, sizes[s][0], sizes[s][1]);
            for (int i = 0; i < 60; i++) {
                size_t n = 1 + random_below(i % 3 ? 40 : 3000);
                if (total + n > MOST - 8)
                    break;
                CHECK_EQ(write(r.writer, all + total, n), n);
                size_t most = 1 + random_below(round % 2 ? 50 : 8192);
                while (pump(&r, most) > 0)
                    ;
                total += n;
                check_copies(&r, all, total, sizes[s][0], sizes[s][1]);
                if (check_failures)
                    return;
            }
            rig_end(&r);
        }
    }
}

/*
 * A writer who is ahead of us: what nobody will see goes to the null device
 * where there is one, and all the same is kept.
 */
static void a_long_stream_keeps_its_ends_with(size_t head, size_t tail, int null_fd, bool skips) {
    static uint8_t all[LONG];
    size_t total = 0;
    int64_t most = 0;
    rig r;

    for (size_t i = 0; i < LONG; i += 4)
        memcpy(all + i, &(uint32_t){random_below(UINT32_MAX)}, 4);
    rig_begin(&r, head, tail);
    r.null_fd = null_fd;
    while (total < LONG) {
        /* Up to as much as a large pipe holds, in pieces that fill no page. */
        for (size_t ahead = 0; ahead < 900000 && total < LONG;) {
            size_t n = 1 + random_below(90000);
            if (n > LONG - total)
                n = LONG - total;
            ssize_t written = write(r.writer, all + total, n);
            if (written < 0)
                break;
            ahead += (size_t)written;
            total += (size_t)written;
        }
        for (int64_t n; (n = pump(&r, 8192)) > 0;)
            most = n > most ? n : most;
        check_copies(&r, all, total, head, tail);
        if (check_failures)
            return;
    }
    CHECK(r.out->enlarged);
    CHECK_EQ(most > (int64_t)tail, skips);
    rig_end(&r);
}

static void a_long_stream_keeps_its_ends(void) {
    static const size_t sizes[][2] = {{100, 65536}, {0, 200001}, {65536, 192 << 10}};
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC), unwritable_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        a_long_stream_keeps_its_ends_with(sizes[s][0], sizes[s][1], null_fd, true);
        a_long_stream_keeps_its_ends_with(sizes[s][0], sizes[s][1], unwritable_fd, false);
        a_long_stream_keeps_its_ends_with(sizes[s][0], sizes[s][1], -1, false);
    }
    /* A ring as large as the pipe leaves nothing to skip. */
    a_long_stream_keeps_its_ends_with(10, 2 << 20, null_fd, false);
    close(null_fd);
    close(unwritable_fd);
}

/* See new_room(): a few bytes further than a page begins, and a copy takes three times as long. */
static void room_for_many_bytes_begins_with_a_page(void) {
    fp_intake intake;
    rig r;

    CHECK_EQ(fp_intake_init(&intake, -1), 0);
    CHECK_EQ((uintptr_t)intake.scratch % 4096, 0);
    free(intake.scratch);
    rig_begin(&r, 0, 0);
    for (int i = 0; i < 20; i++)
        CHECK(write(r.writer, r.scratch, 8192) == 8192 && pump(&r, 8192) == 8192);
    CHECK(r.out->tail && (uintptr_t)r.out->tail % 4096 == 0);
    rig_end(&r);
}

static void without_sizes_the_defaults_hold(void) {
    rig r;
    rig_begin(&r, 0, 0);
    CHECK_EQ(r.out->head_max, 64 << 10);
    CHECK_EQ(r.out->tail_max, 192 << 10);
    rig_end(&r);
}

static void a_flow_is_made_only_for_pipes(void) {
    fp_spec spec = {.size = sizeof spec};
    fp_flow *flow = (fp_flow *)&spec;
    CHECK_EQ(fp_flow_new(&spec, &flow), 0);
    CHECK(!flow);
    CHECK(!fp_flow_free(NULL));
}

static void the_end_of_file_is_told_from_an_end_of_ours(void) {
    fp_output output;
    rig r;
    rig_begin(&r, 10, 10);
    CHECK_EQ(pump(&r, 100), -EAGAIN);
    CHECK(fp_flow_open(r.flow));
    CHECK_EQ(write(r.writer, "abc", 3), 3);
    close(r.writer);
    r.writer = -1;
    CHECK_EQ(pump(&r, 100), 3);
    CHECK_EQ(pump(&r, 100), 0);
    fp_stream_close(r.flow, r.out, true);
    fp_stream_describe(r.out, &output);
    CHECK(output.ended && output.complete);
    CHECK(!fp_flow_open(r.flow));
    CHECK_EQ(pump(&r, 100), 0);
    fp_stream_close(r.flow, r.out, false);
    CHECK(r.out->complete);
    rig_end(&r);

    rig_begin(&r, 10, 10);
    fp_flow_end(r.flow);
    fp_stream_describe(r.out, &output);
    CHECK(output.ended && !output.complete);
    rig_end(&r);
}

/* A follower of random speed hears every byte, and the writer is held up for him. */
static void a_follower_loses_nothing(void) {
    static const size_t sizes[][3] = {
        {100, 300, 20000}, {0, 64, 20000}, {1, 1, 20000}, {4096, 16, 20000}, {5, 65536, 200000}};
    uint8_t buffer[512];

    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        uint32_t total = (uint32_t)sizes[s][2], written = 0, heard = 0;
        uint64_t offset = 0;
        int held_up = 0;
        rig r;
        rig_begin(&r, sizes[s][0], sizes[s][1]);
        r.out->followed = true;
        for (int idle = 0; heard < total && idle < 100000; idle++) {
            uint8_t chunk[700];
            uint32_t n = 1 + random_below(sizeof chunk);
            if (n > total - written)
                n = total - written;
            for (uint32_t i = 0; i < n; i++)
                chunk[i] = (uint8_t)((written + i) * 7 >> 3);
            ssize_t w = n ? write(r.writer, chunk, n) : 0;
            written += w > 0 ? (uint32_t)w : 0;
            pump(&r, 1 + random_below(8192));
            held_up += r.out->paused;
            if (random_below(3))
                continue;
            uint64_t from;
            size_t got = fp_stream_copy(r.out, offset, &from, buffer, 1 + random_below(sizeof buffer));
            CHECK(got == 0 || from == offset);
            for (size_t i = 0; i < got; i++)
                CHECK_EQ(buffer[i], (uint8_t)((heard + i) * 7 >> 3));
            heard += (uint32_t)got;
            offset = r.out->read_to = got ? from + got : offset;
            if (check_failures)
                return;
        }
        CHECK_EQ(heard, total);
        CHECK(held_up > 0);
        rig_end(&r);
    }
}

static void silence_is_counted_from_the_last_byte(void) {
    rig r;
    rig_begin(&r, 4, 4);
    CHECK_EQ(fp_flow_idle_at(r.flow, 5000), 1000 + 50 * MS);
    CHECK_EQ(write(r.writer, "0123456789", 10), 10);
    CHECK_EQ(pump(&r, 5), 5);
    CHECK_EQ(fp_flow_idle_at(r.flow, 5000), 2000 + 50 * MS);
    /* Held up by a follower it cannot speak. */
    r.out->followed = true;
    r.out->read_to = 0;
    CHECK(pump(&r, 5) > 0);
    CHECK_EQ(pump(&r, 5), -EAGAIN);
    CHECK(r.out->paused);
    CHECK_EQ(fp_flow_idle_at(r.flow, 5000), 5000 + 50 * MS);
    rig_end(&r);
}

static void a_drain_ends_by_silence_or_in_the_end(void) {
    const int64_t exit_at = 10000 * MS;
    rig r;
    rig_begin(&r, 100, 100);
    fp_flow_begin_drain(r.flow, exit_at);
    int64_t silence = fp_flow_drain_until(r.flow, exit_at, false) - exit_at;
    CHECK(silence > 0 && silence <= 200 * MS);
    /* Each byte prolongs it, but not for ever. */
    for (int64_t at = exit_at; at < exit_at + 5000 * MS; at += 50 * MS) {
        CHECK_EQ(write(r.writer, "x", 1), 1);
        CHECK_EQ(pump_at(&r, 1, at), 1);
        int64_t until = fp_flow_drain_until(r.flow, at, false);
        CHECK(until <= at + silence && until <= exit_at + 2000 * MS);
        CHECK(until == at + silence || until == exit_at + 2000 * MS);
    }
    rig_end(&r);

    /* A follower who lags is waited for, unless somebody is in a hurry. */
    rig_begin(&r, 2, 2);
    fp_flow_begin_drain(r.flow, exit_at);
    r.out->followed = true;
    CHECK_EQ(write(r.writer, "abcdef", 6), 6);
    CHECK_EQ(pump(&r, 100), 4);
    CHECK_EQ(pump(&r, 100), -EAGAIN);
    CHECK(fp_flow_drain_until(r.flow, exit_at + 5000 * MS, false) > exit_at + 5000 * MS);
    CHECK(fp_flow_drain_until(r.flow, exit_at + 5000 * MS, true) <= exit_at + 5000 * MS);
    fp_flow_end(r.flow);
    CHECK_EQ(fp_flow_drain_until(r.flow, 77, false), 77);
    rig_end(&r);
}

static void input_is_fed_as_fast_as_it_is_taken(void) {
    enum { SIZE = 300000 };
    static uint8_t input[SIZE], got[SIZE];
    fp_spec spec = {.size = sizeof spec, .input = input, .input_bytes = SIZE};
    fp_birth birth = {.pid = 1, .pidfd = -1, .pipe_fd = {-1, -1, -1}};
    fp_flow *flow;
    int ends[2];
    size_t n = 0;

    for (int i = 0; i < SIZE; i++)
        input[i] = (uint8_t)random_below(256);
    spec.stdio[0].kind = FP_STDIO_PIPE;
    CHECK_EQ(fp_flow_new(&spec, &flow), 0);
    CHECK_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    birth.pipe_fd[0] = ends[1];
    fp_flow_attach(flow, &birth);
    int turns = 0;
    while (!fp_flow_feed(flow) && turns++ < 1000) {
        ssize_t r = read(ends[0], got + n, 1 + random_below(50000));
        n += r > 0 ? (size_t)r : 0;
    }
    fp_flow_close_input(flow);
    for (ssize_t r; (r = read(ends[0], got + n, SIZE - n)) > 0;)
        n += (size_t)r;
    CHECK_EQ(n, SIZE);
    CHECK(memcmp(got, input, SIZE) == 0);
    CHECK(turns > 3);
    CHECK(fp_flow_feed(flow));
    close(ends[0]);
    fp_flow_free(flow);
}

static void input_that_nobody_reads_is_over(void) {
    fp_spec spec = {.size = sizeof spec, .input = "hello", .input_bytes = 5};
    fp_birth birth = {.pid = 1, .pidfd = -1, .pipe_fd = {-1, -1, -1}};
    fp_flow *flow;
    int ends[2];

    signal(SIGPIPE, SIG_IGN);
    spec.stdio[0].kind = FP_STDIO_PIPE;
    CHECK_EQ(fp_flow_new(&spec, &flow), 0);
    CHECK_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    birth.pipe_fd[0] = ends[1];
    fp_flow_attach(flow, &birth);
    close(ends[0]);
    CHECK(fp_flow_feed(flow));
    fp_flow_free(flow);
}

static void the_limit_counts_both_streams(void) {
    rig r;
    rig_begin(&r, 100, 100);
    CHECK(!fp_flow_over_limit(r.flow));
    r.flow->max_bytes = 10;
    r.flow->streams[1].total = 8;
    CHECK_EQ(write(r.writer, "abc", 3), 3);
    CHECK_EQ(pump(&r, 2), 2);
    CHECK(!fp_flow_over_limit(r.flow));
    CHECK_EQ(pump(&r, 2), 1);
    CHECK(fp_flow_over_limit(r.flow));
    rig_end(&r);
}

int main(void) {
    RUN(random_chunks_leave_what_the_model_keeps);
    RUN(a_long_stream_keeps_its_ends);
    RUN(room_for_many_bytes_begins_with_a_page);
    RUN(without_sizes_the_defaults_hold);
    RUN(a_flow_is_made_only_for_pipes);
    RUN(the_end_of_file_is_told_from_an_end_of_ours);
    RUN(a_follower_loses_nothing);
    RUN(silence_is_counted_from_the_last_byte);
    RUN(a_drain_ends_by_silence_or_in_the_end);
    RUN(input_is_fed_as_fast_as_it_is_taken);
    RUN(input_that_nobody_reads_is_over);
    RUN(the_limit_counts_both_streams);
    return check_result();
}
