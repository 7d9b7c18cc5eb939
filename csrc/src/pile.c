/*
 * pile.c: what a captured stream has brought, all of it, in pieces, or in one
 * room that the caller has lent and can make larger.
 *
 * A short output fits into one small piece. Once a stream turns out to be
 * long its pipe is made larger (1 MiB: a third of the time for the same bytes,
 * as the two sides wake each other less often), and the pieces are as large.
 * They are never moved. Who wants one object in the end lends the memory of
 * that object: to touch fresh memory costs as much as to copy, so joining
 * pieces would double the time, and the memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "solo.h"
#include "sys.h"

enum {
    FIRST_BYTES = 8 << 10,
    SECOND_BYTES = 64 << 10,
    LARGE_BYTES = 1 << 20,
    PAGE_BYTES = 4 << 10,
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

/*
 * Fresh memory comes page by page, each at the price of an exception, unless
 * it is asked for by one call (Linux 5.14): for what the next read may bring.
 */
static void touch_ahead(fp_pile *pile) {
    uintptr_t at = (uintptr_t)pile->lent + pile->lent_used;
    uintptr_t end = (uintptr_t)pile->lent + pile->lent_bytes;

    if (pile->total < LARGE_BYTES || pile->touched > at + LARGE_BYTES / 2)
        return;
    if (end > at + LARGE_BYTES)
        end = at + LARGE_BYTES;
    if (at < pile->touched)
        at = pile->touched;
    at = (at + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1);
    end &= ~(uintptr_t)(PAGE_BYTES - 1);
    if (at < end && sys_madvise((void *)at, end - at, MADV_POPULATE_WRITE) >= 0)
        pile->touched = end;
}

static int64_t read_into(fp_pile *pile, uint8_t *room, size_t bytes, size_t *used) {
    ssize_t n = sys_read(pile->fd, room + *used, bytes - *used);
    if (n > 0) {
        *used += (size_t)n;
        pile->total += (uint64_t)n;
        enlarge(pile);
    }
    return n;
}

int64_t fp_pile_read(fp_pile *pile) {
    bool is_full = pile->lent ? pile->lent_used == pile->lent_bytes
                              : !pile->last || pile->last->room - pile->last->used < LEAST_READ;

    if (is_full && pile->asks && (pile->lent || pile->last)) {
        pile->full = true;
        return -ENOBUFS;
    }
    if (pile->lent)
        touch_ahead(pile);
    if (pile->lent)
        return read_into(pile, pile->lent, pile->lent_bytes, &pile->lent_used);
    int r = is_full ? add_piece(pile) : 0;
    if (r < 0)
        return r;
    fp_piece *piece = pile->last;
    return read_into(pile, piece->bytes, piece->room, &piece->used);
}

static void free_pieces(fp_pile *pile) {
    while (pile->first) {
        fp_piece *next = pile->first->next;
        free(pile->first);
        pile->first = next;
    }
    pile->last = NULL;
    pile->n_pieces = 0;
}

int fp_pile_lend(fp_pile *pile, void *room, size_t bytes) {
    size_t held = pile->lent_used;
    for (const fp_piece *piece = pile->first; piece; piece = piece->next)
        held += piece->used;
    if (room && bytes < held)
        return -EINVAL;

    uint8_t *end = room;
    for (const fp_piece *piece = pile->first; room && piece; piece = piece->next)
        end = mempcpy(end, piece->bytes, piece->used);
    free_pieces(pile);
    pile->touched = pile->lent ? pile->touched - (uintptr_t)pile->lent + (uintptr_t)room : 0;
    pile->lent = room;
    pile->lent_bytes = room ? bytes : 0;
    pile->lent_used = room ? held : 0;
    pile->full = false;
    return 0;
}

void fp_pile_close(fp_pile *pile, bool complete) {
    if (pile->fd >= 0 && pile->owned)
        sys_close(pile->fd);
    pile->fd = -1;
    pile->complete = complete;
}

void fp_pile_free(fp_pile *pile) {
    fp_pile_close(pile, pile->complete);
    free_pieces(pile);
}

const fp_piece *fp_pile_piece(const fp_pile *pile, uint32_t index) {
    const fp_piece *piece = pile->first;

    while (piece && index-- > 0)
        piece = piece->next;
    return piece;
}
