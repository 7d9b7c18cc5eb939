/*
 * timer.c: a binary heap of processes, ordered by the time at which each next
 * needs a look. A process is in it at most once, and knows its place, so that
 * moving it needs no search.
 *
 * Room is made when a process is adopted; setting a timer cannot fail.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proc.h"

int fp_timers_reserve(fp_timers *timers, uint32_t count) {
    if (count <= timers->capacity)
        return 0;
    uint32_t capacity = timers->capacity ? timers->capacity : 64;
    while (capacity < count)
        capacity *= 2;
    /* Not realloc(3): most of the room is never used, and what is copied becomes resident. */
    fp_timer *heap = malloc(capacity * sizeof *heap);
    if (!heap)
        return -ENOMEM;
    if (timers->count)
        memcpy(heap, timers->heap, timers->count * sizeof *heap);
    free(timers->heap);
    timers->heap = heap;
    timers->capacity = capacity;
    return 0;
}

void fp_timers_done(fp_timers *timers) {
    free(timers->heap);
    *timers = (fp_timers){0};
}

static void put(fp_timers *timers, uint32_t place, fp_timer timer) {
    timers->heap[place] = timer;
    timer.proc->heap_index = place;
}

static void rise(fp_timers *timers, uint32_t place, fp_timer timer) {
    while (place > 0) {
        uint32_t parent = (place - 1) / 2;
        if (timers->heap[parent].when_ns <= timer.when_ns)
            break;
        put(timers, place, timers->heap[parent]);
        place = parent;
    }
    put(timers, place, timer);
}

static void sink(fp_timers *timers, uint32_t place, fp_timer timer) {
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= timers->count)
            break;
        if (child + 1 < timers->count && timers->heap[child + 1].when_ns < timers->heap[child].when_ns)
            child++;
        if (timer.when_ns <= timers->heap[child].when_ns)
            break;
        put(timers, place, timers->heap[child]);
        place = child;
    }
    put(timers, place, timer);
}

static void settle(fp_timers *timers, uint32_t place, fp_timer timer) {
    rise(timers, place, timer);
    sink(timers, timer.proc->heap_index, timer);
}

int64_t fp_timers_when(const fp_timers *timers, const fp_proc *proc) {
    return proc->heap_index == FP_NO_INDEX ? FP_NEVER : timers->heap[proc->heap_index].when_ns;
}

void fp_timers_set(fp_timers *timers, fp_proc *proc, int64_t when_ns) {
    uint32_t place = proc->heap_index;

    if (fp_timers_when(timers, proc) == when_ns)
        return;
    if (when_ns != FP_NEVER) {
        settle(timers, place != FP_NO_INDEX ? place : timers->count++, (fp_timer){when_ns, proc});
    } else {
        fp_timer last = timers->heap[--timers->count];
        proc->heap_index = FP_NO_INDEX;
        if (last.proc != proc)
            settle(timers, place, last);
    }
}

fp_timer fp_timers_first(const fp_timers *timers) {
    return timers->count ? timers->heap[0] : (fp_timer){FP_NEVER, NULL};
}
