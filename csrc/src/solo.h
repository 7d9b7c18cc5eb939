/*
 * solo.h: a process without a supervisor, as its files see it.
 *
 *     run.c     runs one to its end: clocks, streams, exit, in the caller's thread
 *     solo.c    start, identity, the one reap of such a process, signals
 *     kin.c     the descendants of a process, found in /proc
 *     pile.c    what a captured stream has brought, in pieces or in room of the caller's
 *
 * Nothing here has a thread, a lock or a descriptor that outlives the call or
 * the handle: a host that closes all its descriptors, or forks, finds nothing
 * of ours in its way.
 */
#ifndef FASTPROC_SOLO_H
#define FASTPROC_SOLO_H

#include "proc.h"

#pragma GCC visibility push(hidden)

/* ---- pile.c ---------------------------------------------------------------- */

typedef struct fp_piece {
    struct fp_piece *next;
    size_t used;
    size_t room;
    uint8_t bytes[];
} fp_piece;

typedef struct fp_pile {
    int fd;        /* -1: not captured, or ended */
    bool owned;    /* `fd` is ours to close */
    bool captured;
    bool complete; /* it ended by end of file */
    bool enlarged; /* the pipe has been made larger */
    bool asks;     /* what does not fit into the first piece needs room of the caller's */
    bool full;     /* it needs that now */
    uint64_t total;
    uint32_t n_pieces;
    fp_piece *first;
    fp_piece *last;
    uint8_t *lent; /* room of the caller's, in place of pieces */
    size_t lent_bytes;
    size_t lent_used;
    uintptr_t touched; /* up to there it is memory already */
} fp_pile;

/*
 * Read what there is, until it would block or a piece is full. Bytes read, 0
 * at the end of file, -EAGAIN, -ENOMEM or another -errno; -ENOBUFS: it needs
 * room of the caller's.
 */
int64_t fp_pile_read(fp_pile *pile);
/* Go on in that room, which then begins with all that has come. NULL: forget that. -EINVAL: it is too small. */
int fp_pile_lend(fp_pile *pile, void *room, size_t bytes);
void fp_pile_close(fp_pile *pile, bool complete);
void fp_pile_free(fp_pile *pile);
/* The piece of that index, or NULL. */
const fp_piece *fp_pile_piece(const fp_pile *pile, uint32_t index);

/* ---- kin.c ------------------------------------------------------------------ */

typedef struct fp_kinsman {
    pid_t pid;
    uint64_t start;
} fp_kinsman;

/* Descendants of a process that have been seen, by identity. */
typedef struct fp_kin {
    fp_kinsman *of;
    uint32_t n;
    uint32_t room;
} fp_kin;

/*
 * Look for the living descendants of `root`, add who is new, and return how
 * many of all those known are alive; -errno. `root` counts as a parent while
 * `root_lives`, and as a group and session while `root_leads`. Children of
 * those seen before are found when their parent is alive; members of a group
 * or session that one of them has led, also when it is not.
 */
int fp_kin_look(fp_kin *kin, pid_t root, bool root_lives, bool root_leads);
/* Add the members of a cgroup, and return how many are alive. */
int fp_kin_look_into(fp_kin *kin, fp_leaf *leaf);
/* One signal to each that is still who was seen. */
void fp_kin_signal(const fp_kin *kin, int sig);
void fp_kin_free(fp_kin *kin);

/* ---- solo.c ------------------------------------------------------------------ */

enum { FP_SOLO_SETTLING = 7 }; /* beside FP_STATE_RUNNING and FP_STATE_EXITED: its status is being written */

struct fp_solo {
    /* Identity. The number is used only while it has not been reaped. */
    pid_t owner;
    pid_t pid;
    _Atomic int pidfd;
    uint64_t pidfd_inode; /* tells whether the host has closed it, and opened something else under its number;
                             0: it has had no time to, in a run of one call */
    bool leads;           /* its pid is the number of a group of its own */
    _Atomic bool killed;  /* SIGKILL was sent through us: it ends, and who holds its pipes is not waited for */

    /* How it ended; complete once `state` is EXITED. */
    _Atomic uint32_t state;
    _Atomic uint32_t busy; /* threads in waitid(2) */
    int16_t code;
    int16_t signal;
    uint32_t flags; /* fp_exit_flag */
    uint8_t reason; /* why we stop it, FP_REASON_NONE: we do not */
    uint8_t lost_looks;
    fp_usage usage;
    int64_t started_ns;
    int64_t ended_ns;

    /* Its streams. */
    int in_fd;
    bool in_owned;
    bool fed; /* the input is over */
    bool was_given_a_moment; /* see run.c */
    bool may_have_ended;     /* its birth has seen so */
    bool interrupted;        /* a handler of the host has run during its birth */
    const uint8_t *input; /* borrowed */
    size_t input_bytes;
    size_t input_at;
    fp_pile piles[2];
    int64_t last_byte_ns;

    /* Its end. */
    int64_t deadline_ns;
    int64_t idle_ns;
    int64_t talk_idle_ns;
    int64_t grace_ns;
    int64_t kill_timeout_ns;
    int64_t step_ns;
    int64_t drain_ns; /* when the drain began */
    int64_t look_ns;  /* when to look for the kin again */
    uint8_t rung;     /* fp_rung */
    int stop_signal;
    fp_kin kin;
    fp_leaves *leaves; /* NULL: it is in no cgroup of ours */
    fp_leaf *leaf;
    fp_solo *next; /* among those that were left */
};

/* Make it, in a leaf if `wants_leaf` and there is one. `stay`, with the
 * fp_solo that it will be: see fp_birthplace. */
int fp_solo_bear(const fp_spec *spec, bool wants_leaf, bool (*stay)(void *, int, const int *), fp_solo **ret_solo,
                 fp_failure *reterr_failure);
/* From now on the host may do something between two calls. */
void fp_solo_note_identity(fp_solo *solo);
/*
 * Collect the exit if there is one. 1: the status is known, as far as it ever
 * will be; 0: not yet; -EINTR. `block`: wait for it, where the kernel can.
 */
int fp_solo_reap(fp_solo *solo, bool block);
/* Wait for it. 1, -ETIMEDOUT at `until`, -EINTR. */
int fp_solo_await(fp_solo *solo, int64_t until);

/* Signal the group that it leads, where that is all that is known of its descendants: without /proc. */
void fp_solo_signal_group(const fp_solo *solo, int sig);
/* The pidfd, if it still is what we were given; else -1. */
int fp_solo_checked_pidfd(fp_solo *solo);
void fp_solo_describe(const fp_solo *solo, fp_exit *ret_exit);
static inline bool fp_solo_has_ended(const fp_solo *solo) {
    return atomic_load_explicit(&solo->state, memory_order_acquire) == FP_STATE_EXITED;
}

#pragma GCC visibility pop
#endif
