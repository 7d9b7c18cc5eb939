/*
 * fdplan.c: orders dup3(2) calls so that none overwrites a descriptor still
 * needed. Pure: numbers in, numbers out.
 *
 * A wish can be granted once nobody reads from its target any more. Granting
 * it frees its own source, which may be the target of another, and so on along
 * the chain. What is left when no chain can begin are rings; one spare copy
 * opens a ring and makes it a chain.
 */
#include <fcntl.h>
#include <stdbool.h>

#include "fdplan.h"

enum { PLANNED = -1, FIRST_SPARE = 3 };

static fp_fd_move *move_to(fp_fd_move *moves, size_t n, int target) {
    for (size_t i = 0; i < n; i++)
        if (moves[i].target == target)
            return &moves[i];
    return NULL;
}

static bool is_in_use(const fp_fd_move *moves, size_t n, int fd) {
    for (size_t i = 0; i < n; i++)
        if (moves[i].source == fd || moves[i].target == fd)
            return true;
    return false;
}

/* Grant `move`, and all that become possible by it. */
static size_t plan_chain(fp_fd_move *moves, size_t n, fp_fd_move *move, fp_fd_op *ops) {
    size_t count = 0;

    while (move && move->uses == 0) {
        ops[count++] = (fp_fd_op){.from = move->source, .to = move->target, .target = move->target};
        move->uses = PLANNED;
        if (move->source == move->target)
            break;
        move = move_to(moves, n, move->source);
        if (move && move->uses > 0)
            move->uses--;
    }
    return count;
}

size_t fp_fdplan(fp_fd_move *moves, size_t n, fp_fd_op *ret_ops, int *ret_spare_fd) {
    size_t count = 0;
    int spare = -1;

    for (size_t i = 0; i < n; i++)
        moves[i].uses = 0;
    for (size_t i = 0; i < n; i++) {
        fp_fd_move *read_from = move_to(moves, n, moves[i].source);
        /* What stays where it is is never overwritten, so it has no readers to wait for. */
        if (read_from && read_from->source != read_from->target)
            read_from->uses++;
    }
    for (size_t i = 0; i < n; i++)
        count += plan_chain(moves, n, &moves[i], ret_ops + count);

    for (size_t i = 0; i < n; i++) {
        if (moves[i].uses == PLANNED)
            continue;
        if (spare < 0) {
            spare = FIRST_SPARE;
            while (is_in_use(moves, n, spare))
                spare++;
        }
        ret_ops[count++] =
            (fp_fd_op){.from = moves[i].target, .to = spare, .flags = O_CLOEXEC, .target = moves[i].target};
        for (size_t j = 0; j < n; j++)
            if (moves[j].uses != PLANNED && moves[j].source == moves[i].target)
                moves[j].source = spare;
        moves[i].uses = 0;
        count += plan_chain(moves, n, &moves[i], ret_ops + count);
    }
    *ret_spare_fd = spare;
    return count;
}
