/*
 * fdplan.h: the order in which descriptors are moved to where the child wants them.
 */
#ifndef FASTPROC_FDPLAN_H
#define FASTPROC_FDPLAN_H

#include <stddef.h>

#pragma GCC visibility push(hidden)

/* Wish: the child's `target` is what `source` is now. All wishes count at the same moment. */
typedef struct fp_fd_move {
    int source;
    int target;
    int uses; /* of the planner: how many still read from `target`; -1 once planned */
} fp_fd_move;

/* Step: dup3(from, to, flags), or where both are the same: take FD_CLOEXEC off. */
typedef struct fp_fd_op {
    int from;
    int to;
    int flags;
    int target; /* whose wish it serves */
} fp_fd_op;

/*
 * Turn `n` wishes into steps that, taken one after the other, overwrite nothing
 * that a later one reads. Targets differ from one another. `ret_ops` has room
 * for 2 * n; `moves` is used up.
 *
 * Returns the number of steps. A ring of wishes (1 to 2, 2 to 1) needs a spare
 * number: the lowest from 3 on that is in no wish. It is left open behind,
 * close-on-exec, and told in `*ret_spare_fd`, which else is -1.
 */
size_t fp_fdplan(fp_fd_move *moves, size_t n, fp_fd_op *ret_ops, int *ret_spare_fd);

#pragma GCC visibility pop
#endif
