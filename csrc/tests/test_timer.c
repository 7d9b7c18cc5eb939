/*
 * test_timer.c: the heap of timers against a plain array that is searched.
 */
#include <stdlib.h>

#include "check.h"
#include "internal.h"

enum { PEOPLE = 200, STEPS = 200000 };

static uint32_t seed = 12345;

static uint32_t random_below(uint32_t n) {
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(seed >> 8) * n >> 24);
}

/* A process as far as timers look at it. */
static void set_up(fp_proc *procs, int n) {
    memset(procs, 0, (size_t)n * sizeof *procs);
    for (int i = 0; i < n; i++)
        procs[i].heap_index = FP_NO_INDEX;
}

static int64_t earliest_of(const int64_t *times, int n) {
    int64_t earliest = FP_NEVER;
    for (int i = 0; i < n; i++)
        if (times[i] < earliest)
            earliest = times[i];
    return earliest;
}

static void check_heap(const fp_timers *timers, const fp_proc *procs, const int64_t *times, int n) {
    uint32_t count = 0;
    for (int i = 0; i < n; i++) {
        CHECK_EQ(fp_timers_when(timers, &procs[i]), times[i]);
        CHECK_EQ(procs[i].heap_index != FP_NO_INDEX, times[i] != FP_NEVER);
        if (times[i] == FP_NEVER)
            continue;
        count++;
        CHECK(timers->heap[procs[i].heap_index].proc == &procs[i]);
    }
    CHECK_EQ(timers->count, count);
    for (uint32_t i = 1; i < timers->count; i++)
        CHECK(timers->heap[(i - 1) / 2].when_ns <= timers->heap[i].when_ns);
}

static void an_empty_heap_has_no_first(void) {
    fp_timers timers = {0};
    CHECK(!fp_timers_first(&timers).proc);
    CHECK_EQ(fp_timers_reserve(&timers, 1), 0);
    CHECK(!fp_timers_first(&timers).proc);
    CHECK_EQ(fp_timers_first(&timers).when_ns, FP_NEVER);
    fp_timers_done(&timers);
    CHECK_EQ(timers.capacity, 0);
}

static void the_first_is_the_earliest_whatever_happens(void) {
    static fp_proc procs[PEOPLE];
    int64_t times[PEOPLE];
    fp_timers timers = {0};

    set_up(procs, PEOPLE);
    for (int i = 0; i < PEOPLE; i++)
        times[i] = FP_NEVER;
    CHECK_EQ(fp_timers_reserve(&timers, PEOPLE), 0);
    for (int step = 0; step < STEPS; step++) {
        int who = (int)random_below(PEOPLE);
        /* Few different times, so that many are equal; phases in which more go than come. */
        bool leave = random_below(8) < (step / 5000 % 2 ? 6 : 1);
        int64_t when = leave ? FP_NEVER : (int64_t)random_below(64) - 4;
        times[who] = when;
        fp_timers_set(&timers, &procs[who], when);
        CHECK_EQ(fp_timers_first(&timers).when_ns, earliest_of(times, PEOPLE));
        if (step % 500 == 0)
            check_heap(&timers, procs, times, PEOPLE);
        if (check_failures)
            break;
    }
    fp_timers_done(&timers);
}

static void they_come_out_in_order(void) {
    static fp_proc procs[PEOPLE];
    fp_timers timers = {0};

    set_up(procs, PEOPLE);
    CHECK_EQ(fp_timers_reserve(&timers, PEOPLE), 0);
    for (int i = 0; i < PEOPLE; i++)
        fp_timers_set(&timers, &procs[i], random_below(1000));
    int64_t before = -1;
    for (int i = 0; i < PEOPLE; i++) {
        fp_timer first = fp_timers_first(&timers);
        CHECK(first.when_ns >= before);
        before = first.when_ns;
        fp_timers_set(&timers, first.proc, FP_NEVER);
    }
    CHECK(!fp_timers_first(&timers).proc);
    fp_timers_done(&timers);
}

static void room_grows_and_keeps_what_is_there(void) {
    enum { MANY = 5000 };
    fp_proc *procs = malloc(MANY * sizeof *procs);
    fp_timers timers = {0};

    set_up(procs, MANY);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(fp_timers_reserve(&timers, (uint32_t)i + 1), 0);
        CHECK(timers.capacity >= (uint32_t)i + 1);
        fp_timers_set(&timers, &procs[i], MANY - i);
        CHECK(fp_timers_first(&timers).proc == &procs[i]);
    }
    CHECK_EQ(timers.count, MANY);
    fp_timers_done(&timers);
    free(procs);
}

static void setting_the_same_time_again_changes_nothing(void) {
    fp_proc procs[2];
    fp_timers timers = {0};

    set_up(procs, 2);
    CHECK_EQ(fp_timers_reserve(&timers, 2), 0);
    fp_timers_set(&timers, &procs[0], FP_NEVER);
    CHECK_EQ(timers.count, 0);
    fp_timers_set(&timers, &procs[0], 5);
    fp_timers_set(&timers, &procs[0], 5);
    fp_timers_set(&timers, &procs[1], 5);
    CHECK_EQ(timers.count, 2);
    fp_timers_set(&timers, &procs[0], FP_NEVER);
    fp_timers_set(&timers, &procs[0], FP_NEVER);
    CHECK_EQ(timers.count, 1);
    CHECK(fp_timers_first(&timers).proc == &procs[1]);
    fp_timers_done(&timers);
}

int main(void) {
    RUN(an_empty_heap_has_no_first);
    RUN(the_first_is_the_earliest_whatever_happens);
    RUN(they_come_out_in_order);
    RUN(room_grows_and_keeps_what_is_there);
    RUN(setting_the_same_time_again_changes_nothing);
    return check_result();
}
