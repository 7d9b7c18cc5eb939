/*
 * output.c: captured streams, fed input and the idle clock of one process.
 *
 * Of each stream the head and the tail are kept and all is counted, so a
 * process may print what it likes. Those who follow a stream lose nothing:
 * reading then pauses until the slowest has caught up, and the child waits as
 * at any full pipe.
 *
 * After the exit of the child a drain goes on until end of file, or silence
 * for DRAIN_SILENCE, or DRAIN_MAX: a descendant that holds the pipe holds up
 * nobody.
 *
 * All functions are called with the lock of the supervisor held.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "proc.h"
#include "sys.h"

enum {
    DEFAULT_HEAD = 64 << 10,
    DEFAULT_TAIL = 192 << 10,
    LARGE_STREAM = 1 << 20, /* from here on a bigger pipe pays */
    LARGE_PIPE = 1 << 20,
    LARGE_TAIL = 64 << 10, /* from here on a read of its size pays */
    SCRATCH_BYTES = 256 << 10,
    PAGE_BYTES = 4 << 10,
    ROOM_FOR_FOLLOWER = 64 << 10,
    FEED_AT_ONCE = 256 << 10, /* who reads as fast as we write must not keep us from the others */
};
#define DRAIN_SILENCE (FP_NS_PER_S / 10)
#define DRAIN_MAX (2 * FP_NS_PER_S)

int fp_flow_new(const fp_spec *spec, fp_flow **ret_flow) {
    bool out = spec->stdio[1].kind == FP_STDIO_PIPE, err = spec->stdio[2].kind == FP_STDIO_PIPE;
    bool in = spec->stdio[0].kind == FP_STDIO_PIPE;

    *ret_flow = NULL;
    if (!out && !err && !in)
        return 0;
    fp_flow *flow = calloc(1, sizeof *flow);
    if (!flow)
        return -ENOMEM;
    flow->in_fd = -1;
    for (int i = 0; i < 2; i++)
        flow->streams[i] = (fp_stream){
            .fd = -1,
            .captured = i ? err : out,
            .head_max = spec->head_bytes || spec->tail_bytes ? spec->head_bytes : DEFAULT_HEAD,
            .tail_max = spec->head_bytes || spec->tail_bytes ? spec->tail_bytes : DEFAULT_TAIL,
        };
    for (int i = 0; i < 2; i++) {
        fp_stream *stream = &flow->streams[i];
        stream->followed = stream->awaited =
            stream->captured && spec->flags & (i ? FP_FOLLOW_STDERR : FP_FOLLOW_STDOUT);
        if (stream->followed)
            fp_stream_make_room(stream);
    }
    flow->max_bytes = spec->max_output_bytes;
    flow->idle_timeout_ns = spec->idle_timeout_ns;
    if (in && spec->input_bytes) {
        flow->input = malloc(spec->input_bytes);
        if (!flow->input) {
            free(flow);
            return -ENOMEM;
        }
        memcpy(flow->input, spec->input, spec->input_bytes);
        flow->input_bytes = spec->input_bytes;
    }
    *ret_flow = flow;
    return 0;
}

void fp_flow_attach(fp_flow *flow, const fp_birth *birth) {
    flow->in_fd = birth->pipe_fd[0];
    flow->streams[0].fd = birth->pipe_fd[1];
    flow->streams[1].fd = birth->pipe_fd[2];
    flow->last_byte_ns = birth->started_ns;
    flow->unattended = true;
}

fp_flow *fp_flow_free(fp_flow *flow) {
    if (!flow)
        return NULL;
    for (int i = 0; i < 2; i++) {
        if (flow->streams[i].fd >= 0)
            sys_close(flow->streams[i].fd);
        free(flow->streams[i].head);
        free(flow->streams[i].tail);
    }
    if (flow->in_fd >= 0)
        sys_close(flow->in_fd);
    free(flow->input);
    free(flow);
    return NULL;
}

/* ---- keeping -------------------------------------------------------------- */

static void keep_head(fp_stream *stream, const uint8_t *bytes, size_t n) {
    if (stream->head_bytes + n > stream->head_room) {
        size_t room = stream->head_room ? stream->head_room : 1024;
        while (room < stream->head_bytes + n)
            room *= 2;
        if (room > stream->head_max)
            room = stream->head_max;
        uint8_t *head = realloc(stream->head, room);
        if (!head) {
            /* Out of memory: what cannot be kept is counted as dropped. */
            stream->head_max = stream->head_bytes;
            return;
        }
        stream->head = head;
        stream->head_room = room;
    }
    memcpy(stream->head + stream->head_bytes, bytes, n);
    stream->head_bytes += n;
}

/*
 * Room for many bytes begins with a page, as the pages of a pipe do. A copy to
 * an address that lies a few bytes further within its page than the source
 * takes three times as long on some processors (AMD Zen; bench_bulk.py), and
 * malloc(3) places large blocks just so.
 */
static uint8_t *new_room(size_t bytes) {
    void *room = NULL;

    if (bytes < PAGE_BYTES)
        return malloc(bytes);
    return posix_memalign(&room, PAGE_BYTES, bytes) == 0 ? room : NULL;
}

int fp_intake_init(fp_intake *intake, int null_fd) {
    *intake = (fp_intake){.scratch = new_room(SCRATCH_BYTES), .scratch_bytes = SCRATCH_BYTES, .null_fd = null_fd};
    return intake->scratch ? 0 : -ENOMEM;
}

static void make_tail(fp_stream *stream) {
    if (stream->tail || !stream->tail_max)
        return;
    stream->tail = new_room(stream->tail_max);
    /* Nothing can be kept for followers either: they must not be waited for. */
    if (!stream->tail)
        stream->tail_max = 0;
}

/* `n` bytes more are in the ring. */
static void advance_tail(fp_stream *stream, size_t n) {
    stream->tail_at = (stream->tail_at + n) % stream->tail_max;
    stream->tail_bytes += n;
    if (stream->tail_bytes > stream->tail_max)
        stream->tail_bytes = stream->tail_max;
}

static void keep_tail(fp_stream *stream, const uint8_t *bytes, size_t n) {
    make_tail(stream);
    if (n > stream->tail_max) {
        bytes += n - stream->tail_max;
        n = stream->tail_max;
    }
    while (n) {
        size_t space = stream->tail_max - stream->tail_at;
        size_t piece = n < space ? n : space;
        memcpy(stream->tail + stream->tail_at, bytes, piece);
        advance_tail(stream, piece);
        bytes += piece;
        n -= piece;
    }
}

static void keep(fp_stream *stream, const uint8_t *bytes, size_t n) {
    stream->total += n;
    size_t room = stream->head_max - stream->head_bytes;
    size_t piece = n < room ? n : room;
    if (piece && !stream->tail_bytes)
        keep_head(stream, bytes, piece);
    else
        piece = 0;
    if (n > piece)
        keep_tail(stream, bytes + piece, n - piece);
}

bool fp_stream_is_followed(const fp_stream *stream) {
    return (stream->followed || stream->readers) && stream->tail_max;
}

void fp_stream_make_room(fp_stream *stream) {
    if (stream->tail_max == 0)
        stream->tail_max = ROOM_FOR_FOLLOWER;
}

/* Up to where the slowest follower has read. */
static uint64_t all_have_read(const fp_stream *stream) {
    uint64_t least = stream->followed ? stream->read_to : UINT64_MAX;
    for (const fp_reader *reader = stream->readers; reader; reader = reader->next)
        if (reader->read_to < least)
            least = reader->read_to;
    return least;
}

/* How much may come before a byte is lost that a follower has not read. */
static size_t room_for_follower(const fp_stream *stream) {
    uint64_t least = all_have_read(stream);
    uint64_t read = least > stream->head_bytes ? least : stream->head_bytes;
    uint64_t unread = stream->total > read ? stream->total - read : 0;
    uint64_t head_room = stream->tail_bytes ? 0 : stream->head_max - stream->head_bytes;
    uint64_t room = head_room + (stream->tail_max > unread ? stream->tail_max - unread : 0);
    return room > SIZE_MAX ? SIZE_MAX : (size_t)room;
}

/* ---- reading ---------------------------------------------------------------- */

static void wake_readers(fp_flow *flow) {
    atomic_fetch_add_explicit(&flow->sequence, 1, memory_order_release);
    if (flow->readers)
        sys_futex_wake(&flow->sequence, INT32_MAX);
}

void fp_stream_close(fp_flow *flow, fp_stream *stream, bool complete) {
    if (stream->fd < 0)
        return;
    sys_close(stream->fd);
    stream->fd = -1;
    stream->complete = complete;
    wake_readers(flow);
}

/* Whether what comes next is for the ring, and so much fits into it that it can be read there at once. */
static bool reads_into_ring(fp_stream *stream) {
    if (stream->head_bytes < stream->head_max || stream->tail_max < LARGE_TAIL)
        return false;
    make_tail(stream);
    return stream->tail;
}

static ssize_t read_into_ring(fp_stream *stream, size_t most) {
    size_t want = most < stream->tail_max ? most : stream->tail_max;
    size_t space = stream->tail_max - stream->tail_at, first = want < space ? want : space;
    const struct iovec parts[] = {{stream->tail + stream->tail_at, first}, {stream->tail, want - first}};

    ssize_t n = sys_readv(stream->fd, parts, want > first ? 2 : 1);
    if (n > 0) {
        stream->total += (uint64_t)n;
        advance_tail(stream, (size_t)n);
    }
    return n;
}

static ssize_t read_and_keep(fp_stream *stream, const fp_intake *intake, size_t most) {
    ssize_t n = sys_read(stream->fd, intake->scratch, most < intake->scratch_bytes ? most : intake->scratch_bytes);
    if (n > 0)
        keep(stream, intake->scratch, (size_t)n);
    return n;
}

/*
 * Of all that waits in the pipe only the end will be kept. What comes before
 * it goes to the null device, whole pages that nobody copies, see splice(2).
 * The ring is worth nothing then until it is read full, which is the next thing
 * to do. Returns how many bytes are gone.
 */
static int64_t skip_surplus(fp_stream *stream, int null_fd) {
    int waiting = 0;

    if (!stream->enlarged || stream->unskippable || null_fd < 0)
        return 0;
    if (sys_ioctl(stream->fd, FIONREAD, &waiting) < 0 || (size_t)waiting < stream->tail_max + LARGE_TAIL)
        return 0;
    ssize_t n = sys_splice(stream->fd, null_fd, (size_t)waiting - stream->tail_max, SPLICE_F_NONBLOCK);
    if (n <= 0) {
        stream->unskippable = n != -EINTR;
        return 0;
    }
    stream->total += (uint64_t)n;
    stream->tail_bytes = 0;
    return n;
}

int64_t fp_stream_pump(fp_flow *flow, fp_stream *stream, const fp_intake *intake, int64_t now) {
    bool is_followed = fp_stream_is_followed(stream);
    size_t room = SIZE_MAX;

    stream->paused = false;
    if (stream->fd < 0)
        return 0;
    if (is_followed) {
        room = room_for_follower(stream);
        if (room == 0) {
            stream->paused = true;
            return -EAGAIN;
        }
    }
    bool into_ring = reads_into_ring(stream);
    int64_t skipped = into_ring && !is_followed ? skip_surplus(stream, intake->null_fd) : 0;
    int64_t n = into_ring ? read_into_ring(stream, room) : read_and_keep(stream, intake, room);
    /* Should nothing more come after what was skipped, the next read tells why. */
    if (n <= 0 && !skipped)
        return n == -EINTR ? -EAGAIN : n;
    flow->last_byte_ns = now;
    if (stream->total > LARGE_STREAM && !stream->enlarged) {
        /* Refused beyond pipe-max-size or the user's share of pages, see pipe(7): then it stays as it is. */
        stream->enlarged = true;
        sys_fcntl(stream->fd, F_SETPIPE_SZ, LARGE_PIPE);
    }
    wake_readers(flow);
    return skipped + (n > 0 ? n : 0);
}

bool fp_flow_over_limit(const fp_flow *flow) {
    return flow->max_bytes && flow->streams[0].total + flow->streams[1].total > flow->max_bytes;
}

/* ---- feeding ----------------------------------------------------------------- */

bool fp_flow_feed(fp_flow *flow) {
    size_t end = flow->input_bytes - flow->input_at > FEED_AT_ONCE ? flow->input_at + FEED_AT_ONCE : flow->input_bytes;

    while (flow->in_fd >= 0) {
        size_t left = end - flow->input_at;
        if (!left && end < flow->input_bytes)
            return false;
        ssize_t n = left ? sys_write(flow->in_fd, flow->input + flow->input_at, left) : -EPIPE;
        if (n == -EAGAIN)
            return false;
        if (n == -EINTR)
            continue;
        if (n < 0)
            return true; /* all written, or nobody reads any more */
        flow->input_at += (size_t)n;
    }
    return true;
}

void fp_flow_close_input(fp_flow *flow) {
    if (flow->in_fd >= 0)
        sys_close(flow->in_fd);
    flow->in_fd = -1;
    free(flow->input);
    flow->input = NULL;
}

/* ---- the ends ------------------------------------------------------------------ */

bool fp_flow_open(const fp_flow *flow) {
    return flow->streams[0].fd >= 0 || flow->streams[1].fd >= 0;
}

static bool somebody_lags(const fp_flow *flow) {
    for (int i = 0; i < 2; i++)
        if (flow->streams[i].fd >= 0 && fp_stream_is_followed(&flow->streams[i]) &&
            room_for_follower(&flow->streams[i]) == 0)
            return true;
    return false;
}

int64_t fp_flow_idle_at(const fp_flow *flow, int64_t now) {
    if (!flow->idle_timeout_ns)
        return FP_NEVER;
    /* Silence of our making does not count. */
    int64_t from = somebody_lags(flow) ? now : flow->last_byte_ns;
    return flow->idle_timeout_ns >= FP_NEVER - from ? FP_NEVER : from + flow->idle_timeout_ns;
}

void fp_stream_resume(fp_flow *flow, fp_stream *stream, int64_t now) {
    stream->paused = false;
    flow->last_byte_ns = now;
}

void fp_flow_begin_drain(fp_flow *flow, int64_t now) {
    flow->drain_from_ns = now;
    for (int i = 0; i < 2; i++) {
        fp_stream *stream = &flow->streams[i];
        int waiting = 0;
        if (stream->fd >= 0 && fp_stream_is_followed(stream))
            sys_ioctl(stream->fd, FIONREAD, &waiting);
        stream->owed_to = stream->total + (uint64_t)waiting;
    }
}

/* Is there something in a pipe that the child itself has written, and that its follower has not got? */
static bool somebody_is_owed(const fp_flow *flow) {
    for (int i = 0; i < 2; i++)
        if (flow->streams[i].fd >= 0 && fp_stream_is_followed(&flow->streams[i]) &&
            flow->streams[i].total < flow->streams[i].owed_to)
            return true;
    return false;
}

int64_t fp_flow_drain_until(const fp_flow *flow, int64_t now, bool hurry) {
    int64_t last = flow->last_byte_ns > flow->drain_from_ns ? flow->last_byte_ns : flow->drain_from_ns;
    if (!fp_flow_open(flow))
        return now;
    if (!hurry && (somebody_lags(flow) || somebody_is_owed(flow)))
        return now + DRAIN_SILENCE;
    int64_t silence = last + DRAIN_SILENCE, most = flow->drain_from_ns + DRAIN_MAX;
    return silence < most ? silence : most;
}

void fp_flow_end(fp_flow *flow) {
    for (int i = 0; i < 2; i++)
        fp_stream_close(flow, &flow->streams[i], false);
    fp_flow_close_input(flow);
}

/* ---- what was kept --------------------------------------------------------------- */

void fp_stream_describe(const fp_stream *stream, fp_output *ret_output) {
    *ret_output = (fp_output){
        .total_bytes = stream->total,
        .kept_bytes = stream->head_bytes + stream->tail_bytes,
        .head_bytes = stream->head_bytes,
        .ended = stream->fd < 0,
        .complete = stream->complete,
    };
}

/* Copy `n` bytes of the tail, from its `from`-th on. */
static void copy_tail(const fp_stream *stream, size_t from, uint8_t *to, size_t n) {
    size_t start = (stream->tail_at + stream->tail_max - stream->tail_bytes + from) % stream->tail_max;
    size_t first = stream->tail_max - start;
    if (first > n)
        first = n;
    memcpy(to, stream->tail + start, first);
    memcpy(to + first, stream->tail, n - first);
}

size_t fp_stream_copy(const fp_stream *stream, uint64_t offset, uint64_t *ret_from, uint8_t *buffer, size_t n) {
    size_t copied = 0;

    if (offset < stream->head_bytes) {
        size_t piece = stream->head_bytes - offset;
        copied = piece < n ? piece : n;
        memcpy(buffer, stream->head + offset, copied);
        *ret_from = offset;
        if (copied < n && stream->total == stream->head_bytes + stream->tail_bytes && stream->tail_bytes) {
            piece = stream->tail_bytes < n - copied ? stream->tail_bytes : n - copied;
            copy_tail(stream, 0, buffer + copied, piece);
            copied += piece;
        }
        return copied;
    }
    uint64_t oldest = stream->total - stream->tail_bytes;
    if (offset < oldest)
        offset = oldest;
    *ret_from = offset;
    if (offset < stream->total) {
        size_t piece = stream->total - offset;
        copied = piece < n ? piece : n;
        copy_tail(stream, offset - oldest, buffer, copied);
    }
    return copied;
}

size_t fp_stream_copy_all(const fp_stream *stream, uint8_t *buffer, size_t n) {
    size_t head = stream->head_bytes < n ? stream->head_bytes : n;
    size_t tail = stream->tail_bytes < n - head ? stream->tail_bytes : n - head;
    if (head)
        memcpy(buffer, stream->head, head);
    if (tail)
        copy_tail(stream, 0, buffer + head, tail);
    return head + tail;
}
