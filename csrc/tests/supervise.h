/*
 * supervise.h: what the tests of supervised processes share: our crew, and jobs
 * that run once for each containment.
 *
 * What is expected depends on what the kernel has: run them with
 * FASTPROC_DISABLE set to see the ways without.
 */
#ifndef FASTPROC_SUPERVISE_H
#define FASTPROC_SUPERVISE_H

#include "crew.h"
#include "internal.h"

static crew us;
static int containment;

static inline void for_each_containment(void (*test)(void)) {
    for (containment = FP_CONTAIN_SESSION; containment <= FP_CONTAIN_CGROUP; containment++)
        if (containment == FP_CONTAIN_SESSION || fp_probe(FP_CAP_CGROUP))
            test();
}

#define JOB(script, ...) SHELL(script, .containment = containment, __VA_ARGS__)
#define CAPTURED .stdio[1].kind = FP_STDIO_PIPE

/* Can the library tell zombies from the living, and find who left the group? */
static inline bool can_look(void) {
    return fp_probe(FP_CAP_PROCFS);
}

/* A directory for one test. */
static char workplace[64];

static inline void workplace_begin(void) {
    snprintf(workplace, sizeof workplace, "/tmp/fastproc-test-XXXXXX");
    CHECK(mkdtemp(workplace) != NULL);
}

/* Run `all_tests` with a crew of two, and see that nothing is left of them. */
static inline int with_our_crew(void (*all_tests)(void)) {
    for (int i = 0; i < FP_CAP_COUNT; i++)
        fp_probe(i);
    int before = open_descriptors();
    crew_begin(&us, 2);
    all_tests();
    crew_end(&us);
    CHECK(has_no_child());
    CHECK_EQ(open_descriptors(), before);
    return check_result();
}

#endif
