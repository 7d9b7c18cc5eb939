/*
 * birth.h: one birth under way, as the files see it that take part in it.
 *
 *     cradle.c         births for which nobody stands still
 *     spawn.c          the parent's half of a birth, in order
 *     spawn_shared.c   the child is made in our memory
 *     spawn_fork.c     the child is made as a copy
 *     spawn_signals.c  signals meanwhile
 *     spawn_pipes.c    its pipes
 *     spawn_report.c   what has become of it
 *     dumpable.c       core dumps of ours, while children change their ids
 *
 * The child's half is child.c.
 */
#ifndef FASTPROC_BIRTH_H
#define FASTPROC_BIRTH_H

#include "child.h"

#pragma GCC visibility push(hidden)

enum {
    FP_CHILD_STACK_BYTES = 24 * 1024,
    FP_PLAN_BYTES = 8 * 1024, /* plans up to this size need no malloc */
};

/* How often to look whether a child has passed execve(2), should nothing tell. */
#define FP_EXEC_LOOK (20 * FP_NS_PER_MS)

/* The ways that share our memory. */
typedef enum fp_way { FP_BY_CLONE3, FP_BY_CLONE } fp_way;

/* One birth under way. */
struct birth {
    const fp_spec *spec;
    const fp_birthplace *place;
    fp_pipes *pipes;
    void *space; /* of the plan */
    fp_child_plan plan;
    int borrowed[FP_SLOT_COUNT];
    int n_borrowed;
    int lowest_bound; /* all that the child needs is below; -1: its table must be a copy */
    bool without_pidfd;
    bool interrupted;
    bool stayed;
    bool ended;
    pid_t pid;
    int pidfd;
    int64_t started_ns;
};

static inline void fp_close_fd(int *ret_fd) {
    int fd = *ret_fd;

    /* In this order: a copy that is forked in between must not close what has the number by then. */
    *ret_fd = -1;
    if (fd >= 0)
        sys_close(fd);
}

static inline bool fp_changes_ids(const fp_spec *spec) {
    return spec->flags & (FP_SET_UID | FP_SET_GID);
}

/* ---- spawn.c -------------------------------------------------------------------- */

/*
 * Are the descriptors open that the child is to get? Asked before we open any
 * of our own, which might take the number of a closed one and be handed over
 * in its place.
 */
int fp_birth_check_sources(const fp_spec *spec, fp_failure *reterr_failure);
/* Pipes, the plan and what it needs. `small_space` has FP_PLAN_BYTES. fp_birth_conclude() must follow, also on failure. */
int fp_birth_prepare(struct birth *birth, const fp_spec *spec, const fp_birthplace *place, fp_pipes *nobody_elses,
                     void *small_space, fp_failure *reterr_failure);
/* Can its descriptor table be cut, and may it? */
bool fp_birth_is_to_be_flat(const struct birth *birth);
/* Make it, by the best way there is; tried again where the program is open for writing. */
int fp_bear_patiently(struct birth *birth, fp_failure *reterr_failure);
void fp_birth_describe(struct birth *birth, fp_birth *ret_birth);
/* It is over, well or badly (`failed`). */
void fp_birth_conclude(struct birth *birth, const fp_pipes *nobody_elses, const void *small_space, bool failed);
/* ---- spawn_shared.c -------------------------------------------------------------- */

int fp_bear_shared(struct birth *birth, fp_way way, fp_failure *reterr_failure);
/* What the child in our memory has to do for itself, as it is born in this way. Returns the flags of clone(2). */
uint64_t fp_birth_plan_shared(struct birth *birth, fp_way way, fp_child_report *report);
/* `stack` has FP_CHILD_STACK_BYTES; the kernel clears `in_our_memory` when the child has left, if `flags` say so. */
long fp_birth_clone3(struct birth *birth, uint64_t flags, char *stack, _Atomic uint32_t *in_our_memory);
/*
 * Wait until the child has left our memory, with what it stands on. The word
 * alone says so, not the pidfd, which other threads may have closed.
 */
void fp_birth_await_leave(pid_t pid, _Atomic uint32_t *in_our_memory);
/* ---- spawn_fork.c ---------------------------------------------------------------- */

int fp_bear_by_fork(struct birth *birth, fp_failure *reterr_failure);

/* ---- spawn_signals.c -------------------------------------------------------------- */

/* What the child has to put to default by itself. `cleared`: the kernel has done so with all handlers. */
void fp_birth_plan_signals(struct birth *birth, bool cleared);
/* Block all signals until fp_birth_allow_signals(). The birth begins now. */
void fp_birth_block_signals(struct birth *birth, fp_sigset *ret_mask);
void fp_birth_allow_signals(const fp_sigset *mask);
/* ---- spawn_report.c --------------------------------------------------------------- */

/* Enter a failure. Returns `error`, a negative errno. */
int fp_birth_fail(fp_failure *reterr_failure, int error, int stage, int detail);
/* Judge by its report whether the child has become a program; if not, collect it. */
int fp_birth_read_report(struct birth *birth, const fp_child_report *report, fp_failure *reterr_failure);
/* Where the kernel has given no pidfd with the child. */
int fp_birth_open_pidfd_late(struct birth *birth, fp_failure *reterr_failure);
/* ---- spawn_pipes.c ---------------------------------------------------------------- */

bool fp_has_pipes(const fp_spec *spec);
/* Under their lock, so that a fork finds each pipe either noted or not made. */
int fp_pipes_make(const fp_spec *spec, fp_pipes *pipes, fp_failure *reterr_failure);
/* The child has got its ends, or has failed, and ours are of no use either. */
void fp_pipes_close(fp_pipes *pipes, bool failed);
/* Where the caller has closed a standard stream, a new descriptor gets its number, and would be taken for it. */
int fp_lift_above_2(int *fd);
/* ---- dumpable.c ------------------------------------------------------------------- */

/* Around a birth that changes ids in our memory. */
void fp_note_dumpable(void);
void fp_restore_dumpable(void);

#pragma GCC visibility pop
#endif
