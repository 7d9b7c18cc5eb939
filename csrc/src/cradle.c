/*
 * cradle.c: births for which nobody stands still: the child lives on memory that
 * stays until it has passed execve(2), or has failed.
 */
#include <errno.h>
#include <stdlib.h>

#include "birth.h"

struct fp_cradle {
    struct birth birth;
    fp_birthplace place;
    fp_child_report report;
    _Atomic uint32_t in_our_memory; /* cleared by the kernel */
    _Alignas(16) char space[FP_PLAN_BYTES];
    _Alignas(16) char stack[FP_CHILD_STACK_BYTES];
};

fp_cradle *fp_cradle_new(void) {
    return malloc(sizeof(fp_cradle));
}

/* The memory must be shared as promised, its end be seen by the pidfd, and all that can fail be told by the report. */
static bool may_be_left(const fp_spec *spec, const fp_birthplace *place) {
    return fp_can(FP_CAP_CLONE3) && fp_can(FP_CAP_PIDFD) && !fp_changes_ids(spec) &&
           (place->cgroup_fd < 0 || fp_can(FP_CAP_INTO_CGROUP));
}

bool fp_birth_begin(const fp_spec *spec, const fp_birthplace *place, fp_cradle *cradle) {
    struct birth *birth = &cradle->birth;
    fp_sigset mask;
    long r;

    if (!may_be_left(spec, place) || fp_birth_check_sources(spec, NULL) < 0)
        return false;
    cradle->place = *place;
    cradle->report = (fp_child_report){0};
    atomic_store_explicit(&cradle->in_our_memory, 1, memory_order_relaxed);
    r = fp_birth_prepare(birth, spec, &cradle->place, NULL, cradle->space, NULL);
    /* Others under way have all the slots: to wait for these is better than to copy a table that may be large. */
    if (r == 0 && birth->lowest_bound < 0 && fp_birth_is_to_be_flat(birth))
        r = -ENOSPC;
    if (r == 0) {
        uint64_t flags = fp_birth_plan_shared(birth, FP_BY_CLONE3, &cradle->report);
        fp_birth_block_signals(birth, &mask);
        r = fp_birth_clone3(birth, flags | CLONE_CHILD_CLEARTID, cradle->stack, &cradle->in_our_memory);
        fp_birth_allow_signals(&mask);
    }
    if (r < 0)
        fp_birth_conclude(birth, NULL, cradle->space, true);
    else
        birth->pid = (pid_t)r;
    return r >= 0;
}

bool fp_cradle_is_left(const fp_cradle *cradle) {
    return !atomic_load_explicit(&cradle->in_our_memory, memory_order_acquire);
}

void fp_cradle_watch(fp_cradle *cradle, int64_t until_ns) {
    sys_futex_wait_for_kernel(&cradle->in_our_memory, 1, until_ns);
}

int fp_cradle_pidfd(const fp_cradle *cradle) {
    return cradle->birth.pidfd;
}

void fp_cradle_close(fp_cradle *cradle) {
    fp_close_fd(&cradle->birth.pidfd);
}

int fp_birth_end(fp_cradle *cradle, fp_birth *ret_birth, fp_failure *reterr_failure) {
    struct birth *birth = &cradle->birth;

    fp_birth_await_leave(birth->pid, &cradle->in_our_memory);
    int r = fp_birth_read_report(birth, &cradle->report, reterr_failure);
    /* As in fp_bear_patiently(); this has been the first attempt. */
    if (r == -ETXTBSY)
        r = fp_bear_patiently(birth, reterr_failure);
    if (r >= 0)
        fp_birth_describe(birth, ret_birth);
    fp_birth_conclude(birth, NULL, cradle->space, r < 0);
    return r;
}
