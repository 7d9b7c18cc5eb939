/*
 * pile.c: what a captured stream has brought, all of it, in pieces.
 *
 * A short output fits into one small piece. Once a stream turns out to be
 * long its pipe is made larger (1 MiB: a third of the time for the same bytes,
 * as the two sides wake each other less often), and the pieces are as large.
 * Pieces are never moved: to grow one buffer means to touch its memory twice.
 */
#include <errno.h>
#include <stdlib.h>

#include "solo.h"
#include "sys.h"

enum {
    FIRST_BYTES = 8 << 10,
    SECOND_BYTES = 64 << 10,
    LARGE_BYTES = 1 << 20,
    LEAST_READ = 4 << 10, /* a piece with less room is full */
};

static int add_piece(fp_pile *pile) {
    static const size_t rooms[] = {FIRST_BYTES, SECOND_BYTES, LARGE_BYTES};
    size_t room = rooms[pile->n_pieces < 2 ? pile->n_pieces : 2];

    fp_piece *piece = malloc(sizeof *piece + room);
    if (!piece)
        return -ENOMEM;
    *piece = (fp_piece){.room = room};
    if (pile->last)
        pile->last->next = piece;
    else
        pile->first = piece;
    pile->last = piece;
    pile->n_pieces++;
    return 0;
}

/* It may be refused to those who have many large ones, see pipe(7), pipe-user-pages-soft: no matter. */
static void enlarge(fp_pile *pile) {
    if (pile->enlarged || pile->total < FIRST_BYTES + SECOND_BYTES)
        return;
    pile->enlarged = true;
    sys_fcntl(pile->fd, F_SETPIPE_SZ, LARGE_BYTES);
}

int64_t fp_pile_read(fp_pile *pile) {
    if (!pile->last || pile->last->room - pile->last->used < LEAST_READ) {
        int r = add_piece(pile);
        if (r < 0)
            return r;
    }
    fp_piece *piece = pile->last;
    ssize_t n = sys_read(pile->fd, piece->bytes + piece->used, piece->room - piece->used);
    if (n > 0) {
        piece->used += (size_t)n;
        pile->total += (uint64_t)n;
        enlarge(pile);
    }
    return n;
}

void fp_pile_close(fp_pile *pile, bool complete) {
    if (pile->fd >= 0 && pile->owned)
        sys_close(pile->fd);
    pile->fd = -1;
    pile->complete = complete;
}

void fp_pile_free(fp_pile *pile) {
    fp_pile_close(pile, pile->complete);
    while (pile->first) {
        fp_piece *next = pile->first->next;
        free(pile->first);
        pile->first = next;
    }
    pile->last = NULL;
}

const fp_piece *fp_pile_piece(const fp_pile *pile, uint32_t index) {
    const fp_piece *piece = pile->first;

    while (piece && index-- > 0)
        piece = piece->next;
    return piece;
}
