/*
 * spawn.c: the parent's half of a birth, from the spec to a child that runs.
 *
 * The child is made by the first of these that the kernel has:
 *   clone3(2)  in our memory, see spawn_shared.c;
 *   clone(2)   the same for kernels and filters without clone3(2);
 *   fork       as a copy of our memory, see spawn_fork.c, for machines on which
 *              memory is not shared as promised (emulators).
 */
#include <errno.h>
#include <stdlib.h>

#include "birth.h"

enum {
    BUSY_RETRIES = 3,      /* execve(2) of a file that somebody has open for writing */
    BUSY_WAIT_MS = 10,
};

/* ---- descriptors ------------------------------------------------------------ */

int fp_birth_check_sources(const fp_spec *spec, fp_failure *reterr_failure) {
    int r;

    for (int target = 0; target < 3; target++) {
        const fp_stdio *stream = &spec->stdio[target];
        int source = -1;
        if (stream->kind == FP_STDIO_FD)
            source = stream->fd;
        else if (stream->kind == FP_STDIO_STDOUT && spec->stdio[1].kind == FP_STDIO_INHERIT)
            source = 1;
        if (source < 0)
            continue;
        r = sys_fcntl(source, F_GETFD, 0);
        if (r < 0)
            return fp_birth_fail(reterr_failure, r, FP_STAGE_FDS, target);
    }
    for (size_t i = 0; i < spec->n_fds; i++) {
        r = sys_fcntl(spec->fds[i].source, F_GETFD, 0);
        if (r < 0)
            return fp_birth_fail(reterr_failure, r, FP_STAGE_FDS, spec->fds[i].target);
    }
    return 0;
}

/* Put a copy of every descriptor that the child needs and that lies high into a slot. */
static int bring_low(struct birth *birth) {
    fp_child_plan *plan = &birth->plan;
    fp_slots *slots = birth->place->slots;
    int low = fp_slots_low(slots);
    int highest = 2;

    for (size_t i = 0; i < plan->n_moves; i++) {
        int source = plan->moves[i].source;
        if (source >= low) {
            if (birth->n_borrowed == FP_SLOT_COUNT)
                return -ENOSPC;
            int slot_fd = fp_slots_borrow(slots, source);
            if (slot_fd < 0)
                return slot_fd;
            birth->borrowed[birth->n_borrowed++] = slot_fd;
            for (size_t j = i; j < plan->n_moves; j++)
                if (plan->moves[j].source == source)
                    plan->moves[j].source = slot_fd;
            source = slot_fd;
        }
        if (highest < source)
            highest = source;
    }
    return highest + 1;
}

/* The bound of what the child needs, where that lies low already. */
static int bound_of_the_low(const fp_child_plan *plan) {
    int highest = 2;

    for (size_t i = 0; i < plan->n_moves; i++)
        if (highest < plan->moves[i].source)
            highest = plan->moves[i].source;
    return highest < FP_LOW_FDS ? highest + 1 : -1;
}

static void return_slots(struct birth *birth) {
    while (birth->n_borrowed > 0)
        fp_slots_return(birth->place->slots, birth->borrowed[--birth->n_borrowed]);
}

/* One birth, by the best way there is. A way that is refused as such leads to the next. */
static int bear(struct birth *birth, fp_failure *reterr_failure) {
    int r = -ENOSYS;

    if (fp_can(FP_CAP_CLONE3))
        r = fp_bear_shared(birth, FP_BY_CLONE3, reterr_failure);
    if ((r == -ENOSYS || r == -EPERM) && birth->pid == 0 && fp_can(FP_CAP_CLONE))
        r = fp_bear_shared(birth, FP_BY_CLONE, reterr_failure);
    if ((r == -ENOSYS || r == -EPERM) && birth->pid == 0)
        r = fp_bear_by_fork(birth, reterr_failure);
    return r;
}

/* Between fork(2) and execve(2) a stranger may hold the program open for writing, for a moment only. */
int fp_bear_patiently(struct birth *birth, fp_failure *reterr_failure) {
    for (int retries = 0;; retries++) {
        birth->pid = 0;
        birth->pidfd = -1;
        birth->stayed = birth->ended = false;
        int r = bear(birth, reterr_failure);
        if (r != -ETXTBSY || retries == BUSY_RETRIES)
            return r;
        sys_poll(NULL, 0, BUSY_WAIT_MS * FP_NS_PER_MS);
    }
}

bool fp_birth_is_to_be_flat(const struct birth *birth) {
    return birth->plan.has_close_range && !(birth->spec->flags & FP_INHERIT_FDS);
}

int fp_birth_prepare(struct birth *birth, const fp_spec *spec, const fp_birthplace *place, fp_pipes *nobody_elses,
                     void *small_space, fp_failure *reterr_failure) {
    int null_fd = place->slots ? place->slots->placeholder_fd : -1;

    birth->spec = spec;
    birth->place = place;
    birth->pipes = place->pipes ? place->pipes : nobody_elses;
    birth->space = small_space;
    birth->n_borrowed = 0;
    birth->lowest_bound = -1;
    birth->without_pidfd = birth->interrupted = birth->stayed = birth->ended = false;
    birth->pid = 0;
    birth->pidfd = -1;
    if (fp_has_pipes(spec)) {
        if (birth->pipes == nobody_elses)
            fp_fork_note_pipes(birth->pipes);
        int r = fp_pipes_make(spec, birth->pipes, reterr_failure);
        if (r < 0)
            return r;
    }
    size_t bytes = fp_plan_space(spec);
    if (bytes > FP_PLAN_BYTES)
        birth->space = malloc(bytes);
    if (!birth->space)
        return fp_birth_fail(reterr_failure, -ENOMEM, FP_STAGE_REQUEST, -1);
    fp_plan_make(&birth->plan, birth->space, spec, birth->pipes->theirs, null_fd);
    /* Where no slot is free the whole table is copied: slower, and as right. */
    if (fp_birth_is_to_be_flat(birth))
        birth->lowest_bound = place->slots ? bring_low(birth) : bound_of_the_low(&birth->plan);
    if (birth->lowest_bound < 0)
        birth->lowest_bound = -1;
    fp_plan_fds(&birth->plan);
    fp_plan_gaps(&birth->plan, -1);
    return 0;
}

void fp_birth_conclude(struct birth *birth, const fp_pipes *nobody_elses, const void *small_space, bool failed) {
    if (birth->place->born_pid)
        atomic_store_explicit(birth->place->born_pid, 0, memory_order_release);
    return_slots(birth);
    if (birth->space != small_space)
        free(birth->space);
    if (fp_has_pipes(birth->spec)) {
        fp_pipes_close(birth->pipes, failed);
        if (birth->pipes == nobody_elses)
            fp_fork_forget_pipes(birth->pipes);
    }
}

void fp_birth_describe(struct birth *birth, fp_birth *ret_birth) {
    if (birth->pidfd >= 0)
        fp_lift_above_2(&birth->pidfd);
    *ret_birth = (fp_birth){
        .pid = birth->pid,
        .pidfd = birth->pidfd,
        .pipe_fd = {birth->pipes->ours[0], birth->pipes->ours[1], birth->pipes->ours[2]},
        .started_ns = birth->started_ns,
        .interrupted = birth->interrupted,
        .stayed = birth->stayed,
        .ended = birth->ended,
    };
}

int fp_birth_make(const fp_spec *spec, const fp_birthplace *place, fp_birth *ret_birth, fp_failure *reterr_failure) {
    _Alignas(16) char small_space[FP_PLAN_BYTES];
    fp_pipes nobody_elses = FP_PIPES_NONE;
    struct birth birth;

    int r = fp_birth_check_sources(spec, reterr_failure);
    if (r < 0)
        return r;
    r = fp_birth_prepare(&birth, spec, place, &nobody_elses, small_space, reterr_failure);
    if (r < 0)
        goto out;
    r = fp_bear_patiently(&birth, reterr_failure);
    if ((r == -EMFILE || r == -ENFILE) && place->pidfd_optional && birth.pid == 0) {
        birth.without_pidfd = true;
        r = fp_bear_patiently(&birth, reterr_failure);
    }
    if (r >= 0)
        fp_birth_describe(&birth, ret_birth);
out:
    fp_birth_conclude(&birth, &nobody_elses, small_space, r < 0);
    return r;
}
