/*
 * fault_run.c: runs without a supervisor in which each system call fails in
 * turn. The run ends, with the true status or with an error that names its
 * stage; no child and no descriptor is left.
 */
#include "faults.h"
#include "internal.h"

#define FAULTS(scenario)                                                                                               \
    do {                                                                                                               \
        int faults = for_each_fault(#scenario, scenario);                                                              \
        if (getenv("VERBOSE"))                                                                                         \
            fprintf(stderr, "%-28s %d faults\n", #scenario, faults);                                                   \
    } while (0)

static void run_it(const fp_spec *spec, int code) {
    int before = open_descriptors();
    fp_solo *solo = NULL;
    fp_result result = {0};
    fp_failure failure = {0};
    int r;

    char *room = NULL;
    size_t bytes = 16 << 10;
    faults_on();
    do {
        r = fp_run(spec, &solo, &result, &failure);
        if (r == -ENOBUFS) {
            room = realloc(room, bytes *= 2);
            fp_solo_lend(solo, 1, room, bytes);
        }
    } while (r == -EINTR || r == -ENOBUFS);
    faults_off();
    if (r == 0 && result.exit.state == FP_STATE_EXITED) {
        if (result.exit.reason == FP_REASON_EXITED)
            CHECK_EQ(result.exit.code, code);
    } else if (solo) {
        /* It runs, and the caller says what is to become of it. */
        fp_exit exit = {0};
        CHECK_EQ(fp_solo_stop(solo, -1, LONG, &exit), 0);
    } else {
        CHECK(failure.stage > FP_STAGE_NONE && failure.stage < FP_STAGE_COUNT);
        CHECK_EQ(failure.error, -r);
    }
    solo = fp_solo_free(solo);
    free(room);
    CHECK(has_no_child());
    CHECK_EQ(open_descriptors(), before);
}

static void a_plain_one(void) {
    run_it(SHELL("exit 3", .lead = FP_LEAD_NOTHING), 3);
}

static void one_with_pipes(void) {
    run_it(SHELL("cat; echo err >&2; exit 3", .lead = FP_LEAD_NOTHING,
                 .stdio = {{FP_STDIO_PIPE}, {FP_STDIO_PIPE}, {FP_STDIO_PIPE}}, .input = "hello", .input_bytes = 5),
           3);
}

static void one_with_long_output(void) {
    run_it(SHELL("seq 30000; exit 3", .lead = FP_LEAD_NOTHING, .flags = FP_ASK_FOR_ROOM, .stdio[1] = {FP_STDIO_PIPE}),
           3);
}

static void one_with_a_time_limit(void) {
    run_it(SHELL("exit 3", .lead = FP_LEAD_NOTHING, .timeout_ns = LONG, .stdio[1] = {FP_STDIO_PIPE}), 3);
}

static void one_that_is_stopped(void) {
    run_it(SHELL("sleep 1000 & wait", .lead = FP_LEAD_NOTHING, .timeout_ns = 20 * MS, .grace_ns = -1,
                 .kill_timeout_ns = LONG, .stdio[1] = {FP_STDIO_PIPE}),
           0);
}

static void every_run(void) {
    FAULTS(a_plain_one);
    FAULTS(one_with_pipes);
    FAULTS(one_with_long_output);
    FAULTS(one_with_a_time_limit);
    FAULTS(one_that_is_stopped);
}

int main(void) {
    faults_begin();
    for (int i = 0; i < FP_CAP_COUNT; i++)
        fp_probe(i);
    RUN(every_run);
    return check_result();
}
