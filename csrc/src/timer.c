/*
 * timer.c: a binary heap of processes, ordered by the time at which each next
 * needs a look. A process is in it at most once: it knows its own earliest
 * time and its place, so that moving it needs no search.
 *
 * Room is made when a process is adopted; setting a timer cannot fail.
 */
#include <errno.h>
#include <stdlib.h>

#include "internal.h"

int fp_timers_reserve(fp_timers *timers, uint32_t count) {
    if (count <= timers->capacity)
        return 0;
    uint32_t capacity = timers->capacity ? timers->capacity : 64;
    while (capacity < count)
        capacity *= 2;
    fp_proc **heap = realloc(timers->heap, capacity * sizeof *heap);
    if (!heap)
        return -ENOMEM;
    timers->heap = heap;
    timers->capacity = capacity;
    return 0;
}

void fp_timers_done(fp_timers *timers) {
    free(timers->heap);
    *timers = (fp_timers){0};
}

static void put(fp_timers *timers, uint32_t place, fp_proc *proc) {
    timers->heap[place] = proc;
    proc->heap_index = place;
}

static void rise(fp_timers *timers, uint32_t place, fp_proc *proc) {
    while (place > 0) {
        uint32_t parent = (place - 1) / 2;
        if (timers->heap[parent]->when_ns <= proc->when_ns)
            break;
        put(timers, place, timers->heap[parent]);
        place = parent;
    }
    put(timers, place, proc);
}

static void sink(fp_timers *timers, uint32_t place, fp_proc *proc) {
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= timers->count)
            break;
        if (child + 1 < timers->count && timers->heap[child + 1]->when_ns < timers->heap[child]->when_ns)
            child++;
        if (proc->when_ns <= timers->heap[child]->when_ns)
            break;
        put(timers, place, timers->heap[child]);
        place = child;
    }
    put(timers, place, proc);
}

static void settle(fp_timers *timers, uint32_t place, fp_proc *proc) {
    rise(timers, place, proc);
    sink(timers, proc->heap_index, proc);
}

void fp_timers_set(fp_timers *timers, fp_proc *proc, int64_t when_ns) {
    bool inside = proc->heap_index != FP_NO_INDEX;

    if (proc->when_ns == when_ns && inside == (when_ns != FP_NEVER))
        return;
    proc->when_ns = when_ns;
    if (when_ns != FP_NEVER) {
        settle(timers, inside ? proc->heap_index : timers->count++, proc);
    } else if (inside) {
        uint32_t place = proc->heap_index;
        fp_proc *last = timers->heap[--timers->count];
        proc->heap_index = FP_NO_INDEX;
        if (last != proc)
            settle(timers, place, last);
    }
}

fp_proc *fp_timers_first(const fp_timers *timers) {
    return timers->count ? timers->heap[0] : NULL;
}
