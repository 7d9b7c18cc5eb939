/*
 * follow.c: those who read what a process says while it says it.
 *
 * The streams themselves are in output.c. Who follows one loses nothing behind
 * the place up to which he has read: a stream that has no more room for that
 * is paused, and every step of a follower, his going away included, is where
 * it may go on.
 */
#include <errno.h>
#include <stdlib.h>

#include "internal.h"
#include "sys.h"

static fp_stream *stream_of(const fp_proc *proc, int stream) {
    if (!proc->flow || stream < 1 || stream > 2 || !proc->flow->streams[stream - 1].captured)
        return NULL;
    return &proc->flow->streams[stream - 1];
}

/* Who asks what it says does not wait until somebody would attend to that by himself. */
static fp_supervisor *lock_and_attend(fp_proc *proc) {
    fp_supervisor *supervisor = fp_proc_lock(proc);
    if (supervisor && !fp_proc_is_copy(proc, supervisor))
        fp_proc_attend(supervisor, proc);
    return supervisor;
}

int fp_proc_output(fp_proc *proc, int stream, fp_output *ret_output) {
    fp_stream *s = stream_of(proc, stream);
    if (!s)
        return -EINVAL;
    fp_supervisor *supervisor = lock_and_attend(proc);
    fp_stream_describe(s, ret_output);
    if (fp_proc_state(proc) < FP_STATE_RUNNING)
        ret_output->ended = fp_proc_state(proc) == FP_STATE_FAILED;
    fp_proc_unlock(proc, supervisor);
    return 0;
}

int64_t fp_proc_output_copy(fp_proc *proc, int stream, void *buffer, size_t buffer_bytes) {
    fp_stream *s = stream_of(proc, stream);
    if (!s)
        return -EINVAL;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    size_t n = fp_stream_copy_all(s, buffer, buffer_bytes);
    fp_proc_unlock(proc, supervisor);
    return (int64_t)n;
}

/* A follower has read on or gone: is the pause over? */
static void resume(fp_supervisor *supervisor, fp_proc *proc, int stream) {
    fp_stream *s = &proc->flow->streams[stream - 1];
    if (!supervisor || !s->paused || s->fd < 0)
        return;
    fp_stream_resume(proc->flow, s, fp_now_ns());
    fp_proc_watch_stream(supervisor, proc, stream - 1);
}

int fp_proc_follow(fp_proc *proc, int stream, int on) {
    fp_stream *s = stream_of(proc, stream);
    if (!s)
        return -EINVAL;
    int r = 0;
    fp_supervisor *supervisor = lock_and_attend(proc);
    if (fp_proc_is_copy(proc, supervisor)) {
        r = -EOWNERDEAD;
        goto out;
    }
    s->followed = on;
    s->awaited = false;
    if (on) {
        s->read_to = s->total - s->tail_bytes;
        fp_stream_make_room(s);
    } else {
        resume(supervisor, proc, stream);
    }
out:
    fp_proc_unlock(proc, supervisor);
    return r;
}

int fp_reader_new(fp_proc *proc, int stream, fp_reader **ret_reader) {
    fp_stream *s = stream_of(proc, stream);
    if (!s)
        return -EINVAL;
    fp_reader *reader = calloc(1, sizeof *reader);
    if (!reader)
        return -ENOMEM;
    fp_supervisor *supervisor = lock_and_attend(proc);
    if (fp_proc_is_copy(proc, supervisor)) {
        fp_proc_unlock(proc, supervisor);
        free(reader);
        return -EOWNERDEAD;
    }
    fp_stream_make_room(s);
    /* What is kept of the beginning stays in any case. */
    *reader = (fp_reader){
        .next = s->readers, .proc = fp_proc_ref(proc), .stream = stream, .read_to = s->total - s->tail_bytes};
    s->readers = reader;
    /* He is the one who was waited for. */
    if (s->awaited)
        s->followed = s->awaited = false;
    fp_proc_unlock(proc, supervisor);
    *ret_reader = reader;
    return 0;
}

fp_reader *fp_reader_free(fp_reader *reader) {
    if (!reader)
        return NULL;
    fp_proc *proc = reader->proc;
    fp_supervisor *supervisor = fp_proc_lock(proc);
    if (!fp_proc_is_copy(proc, supervisor)) {
        for (fp_reader **at = &stream_of(proc, reader->stream)->readers; *at; at = &(*at)->next) {
            if (*at == reader) {
                *at = reader->next;
                break;
            }
        }
        resume(supervisor, proc, reader->stream);
    }
    fp_proc_unlock(proc, supervisor);
    free(reader);
    fp_proc_unref(proc);
    return NULL;
}

/* Read at `*offset`, and move both that and `*read_to`, up to where this follower has read, on. */
static int64_t read_from(fp_proc *proc, int stream, uint64_t *offset, uint64_t *read_to, void *buffer,
                         size_t buffer_bytes, int64_t timeout_ns) {
    fp_sleep sleep = fp_sleep_begin(timeout_ns);
    fp_stream *s = stream_of(proc, stream);
    int64_t r;

    if (!buffer_bytes)
        return -EINVAL;
    fp_supervisor *supervisor = lock_and_attend(proc);
    for (;;) {
        if (fp_proc_is_copy(proc, supervisor)) {
            r = -EOWNERDEAD;
            break;
        }
        uint64_t from;
        size_t n = fp_stream_copy(s, *offset, &from, buffer, buffer_bytes);
        if (n) {
            *offset = from + n;
            r = (int64_t)n;
            if (*read_to < *offset)
                *read_to = *offset;
            resume(supervisor, proc, stream);
            break;
        }
        int state = fp_proc_state(proc);
        if ((s->fd < 0 && state >= FP_STATE_RUNNING) || state == FP_STATE_FAILED) {
            r = 0;
            break;
        }
        int64_t now = fp_now_ns(), wake;
        r = fp_sleep_next(&sleep, now, &wake);
        if (r < 0)
            break;
        bool driven = supervisor && supervisor->has_thread;
        if (!driven && state >= FP_STATE_RUNNING) {
            uint64_t total = s->total;
            fp_proc_drive(supervisor, proc);
            if (s->total != total || s->fd < 0)
                continue;
        }
        uint32_t sequence = atomic_load_explicit(&proc->flow->sequence, memory_order_acquire);
        proc->flow->readers++;
        fp_proc_unlock(proc, supervisor);
        int64_t drive = driven ? FP_NEVER : now + FP_UNDRIVEN_NAP;
        r = sys_futex_wait(&proc->flow->sequence, sequence, fp_earliest(wake, drive));
        supervisor = fp_proc_lock(proc);
        proc->flow->readers--;
        if (r == -EINTR)
            break;
    }
    fp_proc_unlock(proc, supervisor);
    return r;
}

int64_t fp_proc_read(fp_proc *proc, int stream, uint64_t *offset, void *buffer, size_t buffer_bytes,
                     int64_t timeout_ns) {
    fp_stream *s = stream_of(proc, stream);
    return s ? read_from(proc, stream, offset, &s->read_to, buffer, buffer_bytes, timeout_ns) : -EINVAL;
}

int64_t fp_reader_read(fp_reader *reader, void *buffer, size_t buffer_bytes, int64_t timeout_ns) {
    return read_from(reader->proc, reader->stream, &reader->offset, &reader->read_to, buffer, buffer_bytes, timeout_ns);
}
