/*
 * solo.c: a process that belongs to its caller alone: no supervisor watches
 * it, no thread, no table. Its start, its identity, its one reap, its signals.
 *
 * fp_solo_reap() is the one place that waits for such a process, as reap.c is
 * for those of a supervisor. Several threads may be in it: one gets the status
 * from the kernel, the others are told ECHILD and have to find out whether it
 * was one of us or a stranger, who was faster.
 *
 * In a forked copy of the caller the process is no child any more: its end is
 * still seen through the pidfd, and its status told by PIDFD_GET_INFO.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "solo.h"
#include "sys.h"

enum { LOST_STATUS_LOOKS = 20 };
#define LOST_NAP (2 * FP_NS_PER_MS)
#define SETTLING_NAP (FP_NS_PER_MS / 20)
#define FIRST_GAP (FP_NS_PER_MS / 2)
#define MOST_GAP (20 * FP_NS_PER_MS)

/* ---- identity ------------------------------------------------------------------ */

static uint64_t inode_of(int fd) {
    struct statx seen;
    /* AT_EMPTY_PATH: the descriptor itself. */
    if (fd < 0 || sys_statx(fd, "", 0x1000, STATX_INO, &seen) < 0)
        return 0;
    return seen.stx_ino;
}

int fp_solo_checked_pidfd(fp_solo *solo) {
    if (solo->pidfd_inode && solo->pidfd >= 0 && inode_of(solo->pidfd) != solo->pidfd_inode)
        solo->pidfd = -1; /* the host has closed it: what has that number now is not ours to close */
    return solo->pidfd;
}

void fp_solo_note_identity(fp_solo *solo) {
    if (!solo->pidfd_inode)
        solo->pidfd_inode = inode_of(solo->pidfd);
}

static bool is_copy(const fp_solo *solo) {
    return solo->owner != fp_own_pid();
}

/* ---- the reap ------------------------------------------------------------------- */

static void enter(fp_solo *solo, const fp_outcome *outcome) {
    solo->code = outcome->signal ? solo->code : outcome->code;
    solo->signal = outcome->signal;
    solo->flags |= outcome->core_dumped ? FP_EXIT_CORE_DUMPED : 0;
}

static void settle(fp_solo *solo) {
    solo->ended_ns = fp_now_ns();
    atomic_store_explicit(&solo->state, FP_STATE_EXITED, memory_order_release);
}

/*
 * Somebody else has reaped it, the host ignores SIGCHLD, or we are a copy.
 * 1: settled, 0: not known yet.
 */
static int ask_for_lost_status(fp_solo *solo) {
    fp_outcome outcome = {.code = -1};
    bool can_ask = fp_solo_checked_pidfd(solo) >= 0 && fp_can(FP_CAP_PIDFD_INFO);
    bool known = can_ask && fp_outcome_ask(solo->pidfd, &outcome);

    if (!known && can_ask && solo->lost_looks++ < LOST_STATUS_LOOKS)
        return 0;
    uint32_t state = FP_STATE_RUNNING;
    if (!atomic_compare_exchange_strong(&solo->state, &state, FP_SOLO_SETTLING) && !is_copy(solo))
        return state == FP_STATE_EXITED;
    solo->flags |= FP_EXIT_FOREIGN;
    enter(solo, &outcome);
    settle(solo);
    return 1;
}

/* A sibling is about to say what it has found, or was told ECHILD as we were: wait until that is decided. */
static void await_siblings(fp_solo *solo) {
    while (!fp_solo_has_ended(solo) && atomic_load(&solo->busy) > 0)
        sys_poll(NULL, 0, SETTLING_NAP);
    while (atomic_load(&solo->state) == FP_SOLO_SETTLING)
        sys_poll(NULL, 0, SETTLING_NAP);
}

/* waitid(2), and what it says. 1, 0, -EINTR, -ECHILD. */
static int ask_kernel(fp_solo *solo, bool block) {
    fp_outcome outcome;

    int r = fp_outcome_collect(fp_solo_checked_pidfd(solo), solo->pid, WEXITED | (block ? 0 : WNOHANG), &outcome);
    if (r <= 0)
        return r == 0 || r == -EINTR ? r : -ECHILD;
    solo->usage = outcome.usage;
    enter(solo, &outcome);
    settle(solo);
    return 1;
}

/* Nobody's child here, but its end can be seen. */
static int look_as_copy(fp_solo *solo, bool block) {
    struct pollfd wait = {.fd = fp_solo_checked_pidfd(solo), .events = POLLIN};

    if (wait.fd < 0) {
        solo->lost_looks = LOST_STATUS_LOOKS;
        return ask_for_lost_status(solo);
    }
    int r = sys_poll(&wait, 1, block ? -1 : 0);
    return r <= 0 ? r : ask_for_lost_status(solo);
}

int fp_solo_reap(fp_solo *solo, bool block) {
    for (;;) {
        if (fp_solo_has_ended(solo))
            return 1;
        int r = is_copy(solo) ? look_as_copy(solo, block) : -ECHILD;
        if (!is_copy(solo) && atomic_load(&solo->state) == FP_STATE_RUNNING) {
            atomic_fetch_add(&solo->busy, 1);
            r = ask_kernel(solo, block);
            atomic_fetch_sub(&solo->busy, 1);
        }
        if (r == -ECHILD) {
            await_siblings(solo);
            r = fp_solo_has_ended(solo) ? 1 : ask_for_lost_status(solo);
        }
        if (r != 0 || !block)
            return r;
        sys_poll(NULL, 0, LOST_NAP);
    }
}

/* Without a pidfd: look now and then. */
static int await_by_looking(fp_solo *solo, int64_t until) {
    for (int64_t gap = FIRST_GAP;; gap = 2 * gap < MOST_GAP ? 2 * gap : MOST_GAP) {
        int r = fp_solo_reap(solo, false);
        if (r != 0)
            return r;
        int64_t left = until - fp_now_ns();
        if (left <= 0)
            return -ETIMEDOUT;
        r = sys_poll(NULL, 0, gap < left ? gap : left);
        if (r == -EINTR)
            return r;
    }
}

/* The end is looked for first: most that are waited for have yet to end, and are reaped at the first try then. */
static int await_until(fp_solo *solo, int64_t until) {
    for (;;) {
        struct pollfd wait = {.fd = fp_solo_checked_pidfd(solo), .events = POLLIN};
        if (wait.fd < 0)
            return await_by_looking(solo, until);
        int64_t left = until - fp_now_ns();
        int r = sys_poll(&wait, 1, left > 0 ? left : 0);
        if (r == -EINTR)
            return r;
        if (r < 0)
            return await_by_looking(solo, until);
        if (r == 0 && left <= 0)
            return -ETIMEDOUT;
        if (r == 0)
            continue;
        r = fp_solo_reap(solo, false);
        if (r != 0)
            return r;
        if (left <= 0)
            return -ETIMEDOUT;
        sys_poll(NULL, 0, LOST_NAP); /* its status is on the way */
    }
}

int fp_solo_await(fp_solo *solo, int64_t until) {
    int64_t now = fp_now_ns();
    int64_t look = fp_nap_end(now);

    if (until == FP_NEVER && look == FP_NEVER)
        return fp_solo_reap(solo, true);
    int r = await_until(solo, fp_earliest(until, look));
    return r == -ETIMEDOUT && look < until ? fp_nap_over(fp_now_ns()) : r;
}

int fp_solo_wait(fp_solo *solo, int64_t timeout_ns, fp_exit *ret_exit) {
    int r = fp_solo_has_ended(solo) ? 1 : 0;
    if (r == 0 && timeout_ns != 0) {
        r = fp_solo_await(solo, timeout_ns < 0 ? FP_NEVER : fp_after(fp_now_ns(), timeout_ns));
    } else if (r == 0) {
        r = fp_solo_reap(solo, false);
        r = r == 0 ? -ETIMEDOUT : r;
    }
    if (ret_exit && r != -EINTR)
        fp_solo_describe(solo, ret_exit);
    return r > 0 ? 0 : r;
}

void fp_solo_describe(const fp_solo *solo, fp_exit *ret_exit) {
    bool ended = fp_solo_has_ended(solo);
    bool known = ended && (solo->code >= 0 || solo->signal > 0);

    *ret_exit = (fp_exit){
        .state = ended ? FP_STATE_EXITED : FP_STATE_RUNNING,
        .reason = FP_REASON_NONE,
        .code = ended && solo->signal == 0 ? solo->code : -1,
        .signal = ended ? solo->signal : 0,
        .flags = solo->flags,
        .pid = solo->pid,
        .started_ns = solo->started_ns,
        .ended_ns = ended ? solo->ended_ns : 0,
    };
    if (!ended)
        return;
    ret_exit->usage = solo->usage;
    ret_exit->reason = !known ? FP_REASON_UNKNOWN : solo->signal ? FP_REASON_SIGNALED : FP_REASON_EXITED;
    if (known && solo->signal == SIGKILL && !solo->killed && solo->leaf && fp_leaf_oom_kills(solo->leaf))
        ret_exit->reason = FP_REASON_OOM;
    if (solo->reason)
        ret_exit->reason = solo->reason;
}

/* ---- signals --------------------------------------------------------------------- */

int fp_solo_signal(fp_solo *solo, int sig) {
    int r = -ESRCH;

    if (sig < 0 || sig > 64)
        return -EINVAL;
    /* Unreaped, it cannot have become another process: neither its number nor its descriptor. */
    if (fp_solo_reap(solo, false) > 0)
        return -ESRCH;
    /* Before it is so: who sees the exit must know why. */
    bool was_killed = solo->killed;
    if (sig == SIGKILL)
        solo->killed = true;
    if (fp_can(FP_CAP_PIDFD_SIGNAL) && fp_solo_checked_pidfd(solo) >= 0)
        r = sys_pidfd_send_signal(solo->pidfd, sig, NULL, 0);
    else if (!is_copy(solo) && solo->pid > 1)
        r = sys_kill(solo->pid, sig);
    if (r < 0)
        solo->killed = was_killed;
    return r;
}

void fp_solo_signal_group(const fp_solo *solo, int sig) {
    if (!solo->leads || fp_can(FP_CAP_PROCFS) || solo->pid == sys_getpgid(0))
        return;
    if (solo->pidfd >= 0 && fp_can(FP_CAP_PIDFD_GROUP))
        sys_pidfd_send_signal(solo->pidfd, sig, NULL, FP_PIDFD_SIGNAL_PROCESS_GROUP);
    else if (!fp_solo_has_ended(solo) && !is_copy(solo) && solo->pid > 1)
        sys_kill(-solo->pid, sig); /* unreaped, it keeps the number */
}

/* ---- birth and death of the handle -------------------------------------------------- */

static fp_solo *new_solo(void) {
    fp_solo *solo = calloc(1, sizeof *solo);
    if (!solo)
        return NULL;
    solo->owner = fp_own_pid();
    solo->pidfd = solo->in_fd = solo->piles[0].fd = solo->piles[1].fd = -1;
    solo->code = -1;
    solo->deadline_ns = solo->step_ns = FP_NEVER;
    atomic_init(&solo->state, FP_STATE_RUNNING);
    return solo;
}

static int take_leaf(fp_solo *solo, const fp_spec *spec, bool must, fp_failure *reterr_failure) {
    int which = -1;

    solo->leaves = malloc(sizeof *solo->leaves);
    if (!solo->leaves)
        return must ? -ENOMEM : 0;
    fp_leaves_init(solo->leaves, NULL);
    int r = fp_spec_needs_controllers(spec) ? fp_leaf_take(solo->leaves, spec, &solo->leaf, &which)
                                            : fp_leaf_take_alone(solo->leaves, &solo->leaf);
    if (r >= 0 || !must)
        return 0;
    if (reterr_failure)
        *reterr_failure = (fp_failure){.error = -r, .stage = FP_STAGE_CGROUP, .detail = which};
    return r;
}

static void give_leaf(fp_solo *solo) {
    if (solo->leaf && fp_leaf_populated(solo->leaf) == 0)
        fp_leaf_give(solo->leaves, solo->leaf, true);
    else
        fp_leaf_drop(solo->leaf); /* somebody lives on in it, or it is not to be known */
    solo->leaf = NULL;
    if (solo->leaves)
        fp_leaves_done(solo->leaves);
    free(solo->leaves);
    solo->leaves = NULL;
}

static void adopt(fp_solo *solo, const fp_spec *spec, const fp_birth *birth) {
    solo->pid = birth->pid;
    solo->pidfd = birth->pidfd;
    solo->started_ns = birth->started_ns;
    solo->last_byte_ns = birth->stayed ? 0 : birth->started_ns;
    solo->interrupted = birth->interrupted;
    solo->was_given_a_moment = birth->stayed;
    solo->may_have_ended = birth->ended;
    solo->leads = spec->lead != FP_LEAD_NOTHING || (spec->flags & FP_JOIN_GROUP && spec->process_group == 0);
    solo->stop_signal = spec->stop_signal ? spec->stop_signal : SIGTERM;
    solo->in_fd = birth->pipe_fd[0];
    solo->in_owned = solo->in_fd >= 0;
    for (int i = 0; i < 2; i++) {
        solo->piles[i].fd = birth->pipe_fd[i + 1];
        solo->piles[i].owned = solo->piles[i].captured = solo->piles[i].fd >= 0;
    }
}

/* Those that nobody has any more, and that had not ended when they were last looked at. */
static _Atomic(fp_solo *) left_ones;

static void reap_the_left(void) {
    fp_solo *solo = atomic_exchange(&left_ones, NULL);

    while (solo) {
        fp_solo *next = solo->next;
        fp_solo_leave(solo);
        solo = next;
    }
}

int fp_solo_bear(const fp_spec *spec, bool wants_leaf, bool (*stay)(void *, int, const int *), fp_solo **ret_solo,
                 fp_failure *reterr_failure) {
    bool must = fp_spec_needs_controllers(spec) || spec->containment == FP_CONTAIN_CGROUP;
    fp_failure failure = {.stage = FP_STAGE_REQUEST, .detail = -1};
    fp_birth birth;
    fp_solo *solo = NULL;

    if (atomic_load_explicit(&left_ones, memory_order_relaxed))
        reap_the_left();
    int r = fp_spec_check(spec, &failure);
    if (r < 0)
        goto out;
    solo = new_solo();
    if (!solo) {
        r = -ENOMEM;
        goto out;
    }
    solo->piles[0].asks = solo->piles[1].asks = spec->flags & FP_ASK_FOR_ROOM;
    if (must || (wants_leaf && spec->containment == FP_CONTAIN_AUTO && fp_can(FP_CAP_CGROUP)))
        r = take_leaf(solo, spec, must, &failure);
    if (r < 0)
        goto out;
    fp_birthplace place = {
        .cgroup_fd = fp_leaf_fd(solo->leaf),
        .pidfd_optional = true,
        .notes_signals = true,
        .stay = stay,
        .stay_arg = solo,
    };
    r = fp_birth_make(spec, &place, &birth, &failure);
    if (r < 0 && failure.stage == FP_STAGE_CGROUP && !must) {
        give_leaf(solo);
        place.cgroup_fd = -1;
        r = fp_birth_make(spec, &place, &birth, &failure);
    }
    if (r >= 0)
        adopt(solo, spec, &birth);
out:
    if (r < 0) {
        if (!failure.error)
            failure.error = -r;
        if (reterr_failure)
            *reterr_failure = failure;
        fp_solo_free(solo);
        return r;
    }
    *ret_solo = solo;
    return 0;
}

int fp_solo_start(const fp_spec *spec, fp_solo **ret_solo, fp_failure *reterr_failure) {
    if (!spec || !ret_solo)
        return -EINVAL;
    int r = fp_solo_bear(spec, spec->timeout_ns > 0, NULL, ret_solo, reterr_failure);
    if (r >= 0)
        fp_solo_note_identity(*ret_solo);
    return r;
}

int fp_solo_adopt(int pid, int leads, fp_solo **ret_solo) {
    if (pid <= 1 || !ret_solo)
        return -EINVAL;
    fp_solo *solo = new_solo();
    if (!solo)
        return -ENOMEM;
    solo->pid = pid;
    solo->leads = leads;
    solo->stop_signal = SIGTERM;
    solo->started_ns = solo->last_byte_ns = fp_now_ns();
    if (fp_can(FP_CAP_PIDFD))
        solo->pidfd = sys_aside(sys_pidfd_open(pid, 0));
    fp_solo_note_identity(solo);
    *ret_solo = solo;
    return 0;
}

int fp_solo_pid(const fp_solo *solo) {
    return solo->pid;
}

int fp_solo_pidfd(fp_solo *solo) {
    int fd = fp_solo_checked_pidfd(solo);
    return fd < 0 ? -EBADF : fd;
}

fp_solo *fp_solo_free(fp_solo *solo) {
    if (!solo)
        return NULL;
    if (solo->in_owned && solo->in_fd >= 0)
        sys_close(solo->in_fd);
    for (int i = 0; i < 2; i++)
        fp_pile_free(&solo->piles[i]);
    if (fp_solo_checked_pidfd(solo) >= 0)
        sys_close(solo->pidfd);
    fp_kin_free(&solo->kin);
    give_leaf(solo);
    free(solo);
    return NULL;
}

fp_solo *fp_solo_leave(fp_solo *solo) {
    if (!solo || is_copy(solo) || fp_solo_reap(solo, false) != 0)
        return fp_solo_free(solo);
    solo->next = atomic_load_explicit(&left_ones, memory_order_relaxed);
    while (!atomic_compare_exchange_weak(&left_ones, &solo->next, solo))
        ;
    return NULL;
}
