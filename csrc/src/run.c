/*
 * run.c: one program run to its end in the thread of the caller: fed, emptied,
 * stopped when its time is over, reaped. No other thread takes part.
 *
 * advance() is the loop of all three: fp_run(), fp_solo_talk() and
 * fp_solo_stop() differ in what they wait for. A turn looks at the clocks
 * (tick), asks whether the goal is reached, and sleeps in poll(2) until a
 * stream, the exit or the next clock. A signal handler of the host ends it
 * with -EINTR; all there is to know is in the fp_solo, so it can go on.
 *
 * The exit is watched for only where it decides something: most programs close
 * their streams by ending, and are then reaped by a waitid(2) that hardly waits.
 */
#include <errno.h>
#include <string.h>

#include "solo.h"
#include "sys.h"

enum {
    READS_AT_ONCE = 16, /* then the other stream and the clocks have their turn */
    LARGE_INPUT = 64 << 10,
    LARGE_PIPE = 1 << 20,
    MOST_LOOKS = 8,
};
#define DEFAULT_GRACE (5 * FP_NS_PER_S)
#define DEFAULT_KILL_TIMEOUT (5 * FP_NS_PER_S)
#define DRAIN_IDLE (100 * FP_NS_PER_MS)
#define DRAIN_MOST (500 * FP_NS_PER_MS)
#define LEAF_GAP (2 * FP_NS_PER_MS)
#define KIN_GAP (30 * FP_NS_PER_MS)
#define BLIND_GAP (10 * FP_NS_PER_MS)
#define NOT_SOON (100 * FP_NS_PER_MS)
#define SAFE_TO_NAP (60 * FP_NS_PER_S)

/* What advance() is to reach. */
enum goal {
    GOAL_RUN,    /* ended, and so have its streams */
    GOAL_TALK,   /* its streams have ended */
    GOAL_TALK_AND_EXIT, /* and so has it itself */
    GOAL_STOPPED /* nobody is left */
};

/* ---- its streams ------------------------------------------------------------------ */

static bool streams_open(const fp_solo *solo) {
    return solo->piles[0].fd >= 0 || solo->piles[1].fd >= 0 || solo->in_fd >= 0;
}

static bool outputs_open(const fp_solo *solo) {
    return solo->piles[0].fd >= 0 || solo->piles[1].fd >= 0;
}

static void end_input(fp_solo *solo) {
    if (solo->in_fd >= 0 && solo->in_owned)
        sys_close(solo->in_fd);
    solo->in_fd = -1;
    solo->fed = true;
}

/* Write what fits. Over when all is written, or nobody reads any more. */
static void feed(fp_solo *solo) {
    const fp_sigset broken_pipe = UINT64_C(1) << (SIGPIPE - 1);
    fp_sigset old;

    if (solo->input_at == 0 && solo->input_bytes > LARGE_INPUT)
        sys_fcntl(solo->in_fd, F_SETPIPE_SZ, LARGE_PIPE);
    /* The threads of the host do not block SIGPIPE, and must not hear of ours. */
    sys_rt_sigprocmask(SIG_BLOCK, &broken_pipe, &old);
    for (;;) {
        size_t left = solo->input_bytes - solo->input_at;
        ssize_t n = left ? sys_write(solo->in_fd, solo->input + solo->input_at, left) : -EPIPE;
        if (n == -EINTR)
            continue;
        if (n < 0) {
            if (n != -EAGAIN)
                end_input(solo);
            break;
        }
        solo->input_at += (size_t)n;
    }
    if (!(old & broken_pipe))
        sys_rt_sigtimedwait(&broken_pipe);
    sys_rt_sigprocmask(SIG_SETMASK, &old, NULL);
}

/* 0, -ENOMEM, or -ENOBUFS. */
static int empty(fp_solo *solo, fp_pile *pile) {
    /* What is the caller's may block: once, for what poll(2) has announced. */
    for (int i = 0; i < (pile->owned ? READS_AT_ONCE : 1); i++) {
        int64_t n = fp_pile_read(pile);
        if (n == -EAGAIN)
            return 0;
        if (n == -EINTR)
            continue;
        if (n == -ENOMEM || n == -ENOBUFS)
            return (int)n;
        if (n <= 0) {
            fp_pile_close(pile, n == 0);
            return 0;
        }
        solo->last_byte_ns = 0; /* just now: the clock is read once a turn */
    }
    return 0;
}

static void abandon_streams(fp_solo *solo) {
    for (int i = 0; i < 2; i++)
        if (solo->piles[i].fd >= 0)
            fp_pile_close(&solo->piles[i], false);
    if (solo->in_fd >= 0)
        end_input(solo);
}

/* ---- its end ----------------------------------------------------------------------- */

/* How many are left beside it, as far as they can be found. */
static int look_for_kin(fp_solo *solo) {
    if (solo->leaf) {
        int r = fp_leaf_populated(solo->leaf);
        if (r >= 0)
            return r;
    }
    return fp_can(FP_CAP_PROCFS) ? fp_kin_look(&solo->kin, solo->pid, !fp_solo_has_ended(solo), solo->leads) : 0;
}

static void signal_all(fp_solo *solo, int sig) {
    fp_solo_signal(solo, sig);
    fp_solo_signal_group(solo, sig);
    fp_kin_signal(&solo->kin, sig);
}

static void ask_all(fp_solo *solo, int64_t now) {
    if (solo->leaf)
        fp_kin_look_into(&solo->kin, solo->leaf);
    else
        look_for_kin(solo);
    signal_all(solo, solo->stop_signal);
    /* What is stopped hears nothing until it goes on. */
    signal_all(solo, SIGCONT);
    solo->rung = FP_RUNG_ASKED;
    solo->step_ns = fp_after(now, solo->grace_ns);
    solo->look_ns = fp_after(now, LEAF_GAP);
}

static void kill_all(fp_solo *solo, int64_t now) {
    if (!fp_solo_has_ended(solo) && solo->rung == FP_RUNG_ASKED)
        solo->flags |= FP_EXIT_ESCALATED;
    if (solo->leaf) {
        fp_leaf_kill(solo->leaf);
    } else {
        /* Stopped first, so that nobody forks away from under us: until nobody new is found. */
        uint32_t known;
        int looks = 0;
        do {
            known = solo->kin.n;
            signal_all(solo, SIGSTOP);
            look_for_kin(solo);
        } while (solo->kin.n != known && ++looks < MOST_LOOKS);
    }
    signal_all(solo, SIGKILL);
    solo->killed = true;
    solo->rung = FP_RUNG_KILLED;
    solo->step_ns = fp_after(now, solo->kill_timeout_ns);
    solo->look_ns = fp_after(now, LEAF_GAP);
}

static void begin_stop(fp_solo *solo, int reason, int64_t now) {
    solo->reason = (uint8_t)reason;
    solo->flags |= FP_EXIT_STOPPED;
    solo->deadline_ns = FP_NEVER;
    solo->idle_ns = 0;
    if (solo->grace_ns > 0)
        ask_all(solo, now);
    else
        kill_all(solo, now);
}

/* Has everybody gone who was asked to, or killed? */
static void look_after_ladder(fp_solo *solo, int64_t now) {
    if (now < solo->look_ns)
        return;
    int alive = look_for_kin(solo);
    solo->look_ns = fp_after(now, solo->leaf ? LEAF_GAP : KIN_GAP);
    if (alive == 0 && fp_solo_reap(solo, false) > 0) {
        solo->rung = FP_RUNG_EMPTY;
        solo->step_ns = FP_NEVER;
    } else if (alive > 0 && solo->rung == FP_RUNG_KILLED) {
        if (solo->leaf)
            fp_leaf_kill(solo->leaf);
        else
            fp_kin_signal(&solo->kin, SIGKILL);
    }
}

static bool is_climbing(const fp_solo *solo) {
    return solo->rung == FP_RUNG_ASKED || solo->rung == FP_RUNG_KILLED;
}

static int64_t idle_at(const fp_solo *solo) {
    return solo->idle_ns > 0 && outputs_open(solo) ? fp_after(solo->last_byte_ns, solo->idle_ns) : FP_NEVER;
}

/*
 * When its streams are given up: it has ended because somebody killed it, and
 * who holds them now is not waited for any longer than the last bytes take.
 */
static int64_t drain_until(const fp_solo *solo) {
    if (!solo->drain_ns)
        return FP_NEVER;
    int64_t silent = solo->last_byte_ns > solo->drain_ns ? solo->last_byte_ns : solo->drain_ns;
    return fp_earliest(fp_after(silent, DRAIN_IDLE), fp_after(solo->drain_ns, DRAIN_MOST));
}

static void tick(fp_solo *solo, int64_t now, bool to_the_end) {
    if (solo->last_byte_ns == 0)
        solo->last_byte_ns = now;
    if (solo->rung == FP_RUNG_NONE && now >= solo->deadline_ns)
        begin_stop(solo, FP_REASON_TIMEOUT, now);
    else if (solo->rung == FP_RUNG_NONE && now >= idle_at(solo))
        begin_stop(solo, FP_REASON_IDLE_TIMEOUT, now);
    if (is_climbing(solo))
        look_after_ladder(solo, now);
    if (is_climbing(solo) && now >= solo->step_ns) {
        if (solo->rung == FP_RUNG_ASKED) {
            kill_all(solo, now);
        } else {
            solo->rung = FP_RUNG_GIVEN_UP;
            solo->step_ns = FP_NEVER;
            solo->flags |= fp_solo_has_ended(solo) ? 0 : FP_EXIT_UNKILLABLE;
        }
    }
    bool over = solo->rung == FP_RUNG_GIVEN_UP || (fp_solo_has_ended(solo) && solo->killed && !is_climbing(solo));
    if (over && !to_the_end && !solo->drain_ns)
        solo->drain_ns = now;
    if (solo->drain_ns && now >= drain_until(solo))
        abandon_streams(solo);
}

/* ---- the loop ---------------------------------------------------------------------- */

static bool is_reached(const fp_solo *solo, enum goal goal) {
    switch (goal) {
    case GOAL_TALK:
        return !streams_open(solo);
    case GOAL_TALK_AND_EXIT:
        return !streams_open(solo) && fp_solo_has_ended(solo);
    case GOAL_STOPPED:
        return solo->rung == FP_RUNG_EMPTY || solo->rung == FP_RUNG_GIVEN_UP;
    default:
        return !streams_open(solo) && !is_climbing(solo) && (fp_solo_has_ended(solo) || solo->rung == FP_RUNG_GIVEN_UP);
    }
}

/* In a talk anybody may kill it at any time; in a run only we do. */
static bool exit_matters(const fp_solo *solo, enum goal goal) {
    return !fp_solo_has_ended(solo) &&
           (goal == GOAL_TALK || goal == GOAL_TALK_AND_EXIT || solo->rung != FP_RUNG_NONE || !streams_open(solo));
}

static bool is_timed(const fp_solo *solo) {
    return solo->deadline_ns != FP_NEVER || solo->rung != FP_RUNG_NONE || solo->idle_ns > 0;
}

struct watch {
    struct pollfd fds[4];
    unsigned n;
    int out[2];
    int in;
    int exit;
};

static int watch_fd(struct watch *watch, int fd, short events) {
    if (fd < 0)
        return -1;
    watch->fds[watch->n] = (struct pollfd){.fd = fd, .events = events};
    return (int)watch->n++;
}

static bool is_ready(const struct watch *watch, int index) {
    return index >= 0 && watch->fds[index].revents != 0;
}

static int serve(fp_solo *solo, const struct watch *watch) {
    for (int i = 0; i < 2; i++) {
        int r = is_ready(watch, watch->out[i]) ? empty(solo, &solo->piles[i]) : 0;
        if (r < 0)
            return r;
    }
    if (is_ready(watch, watch->in))
        feed(solo);
    return 0;
}

/* When a talk has been silent for too long; nobody is stopped for that. */
static int64_t talk_idle_at(const fp_solo *solo) {
    return solo->talk_idle_ns > 0 && outputs_open(solo) ? fp_after(solo->last_byte_ns, solo->talk_idle_ns) : FP_NEVER;
}

/* It has ended, or is about to: its status, and what its streams still hold. */
static int take_quick_end(fp_solo *solo) {
    int r = fp_solo_reap(solo, false);
    for (int i = 0; r > 0 && i < 2; i++) {
        if (solo->piles[i].fd < 0 || !solo->piles[i].owned)
            continue;
        int e = empty(solo, &solo->piles[i]);
        r = e < 0 ? e : r;
    }
    return r < 0 ? r : 0;
}

/* Of one that is run or talked with: its status and what it has said are taken then. 0, or what reading says. */
static int give_a_moment(fp_solo *solo, int64_t until) {
    if (solo->may_have_ended) {
        solo->may_have_ended = false;
        return take_quick_end(solo);
    }
    int pidfd = fp_solo_checked_pidfd(solo);
    if (solo->was_given_a_moment || pidfd < 0 || solo->in_fd >= 0 || fp_solo_has_ended(solo))
        return 0;
    int64_t clock = fp_earliest(fp_earliest(until, solo->deadline_ns), idle_at(solo));
    int64_t longest = clock == FP_NEVER ? FP_NEVER : clock - fp_now_ns();
    if (longest <= 0)
        return 0;
    solo->was_given_a_moment = true;
    int r = fp_await_quick_end(pidfd, (int[]){solo->piles[0].fd, solo->piles[1].fd}, longest);
    return r > 0 ? take_quick_end(solo) : r;
}

int fp_solo_wait_a_moment(fp_solo *solo, int fd, fp_exit *ret_exit) {
    int pidfd = fp_solo_checked_pidfd(solo);
    int r = pidfd < 0 ? 0 : fp_await_quick_end(pidfd, (int[]){fd, -1}, FP_MOMENT);
    return r < 0 ? r : fp_solo_wait(solo, 0, ret_exit);
}

/*
 * When the host is to look for signals. It needs its lock for that, which may
 * be held by another thread for seconds, and nobody but us keeps the clocks of
 * the process meanwhile: not when one of them may strike.
 */
static int64_t nap_end(const fp_solo *solo, int64_t now) {
    int64_t clock = fp_earliest(solo->deadline_ns, idle_at(solo));
    return clock == FP_NEVER || clock - now > SAFE_TO_NAP ? fp_nap_end(now) : FP_NEVER;
}

/* Not while it is being stopped, and not where a call is to end after a time of silence, which would begin anew. */
static bool may_nap(const fp_solo *solo, enum goal goal) {
    return goal != GOAL_STOPPED && solo->rung == FP_RUNG_NONE && !solo->drain_ns && solo->talk_idle_ns == 0;
}

/* 0 when the goal is reached, -ETIMEDOUT at `until`, -EINTR, -ENOMEM, -ENOBUFS. With `pause` also 0 when the input is over. */
static int advance(fp_solo *solo, enum goal goal, int64_t until, bool to_the_end, bool pause) {
    int quick = goal != GOAL_STOPPED && (streams_open(solo) || solo->may_have_ended) ? give_a_moment(solo, until) : 0;
    int64_t look = 0; /* when the nap ends, once there is one */

    if (quick < 0)
        return quick;
    for (;;) {
        if (is_reached(solo, goal) || (pause && solo->fed))
            return 0;
        bool looks_out = exit_matters(solo, goal);
        bool blind = looks_out && fp_solo_checked_pidfd(solo) < 0;
        bool clocks = is_timed(solo) || solo->talk_idle_ns > 0 || until != FP_NEVER || solo->killed || blind;
        int64_t now = clocks || solo->last_byte_ns == 0 ? fp_now_ns() : 0;
        tick(solo, now, to_the_end);
        if (is_reached(solo, goal))
            return 0;
        if (now >= until)
            return -ETIMEDOUT;
        if (goal != GOAL_RUN && now >= talk_idle_at(solo))
            return -ETIME;
        if (goal != GOAL_TALK && !streams_open(solo) && !is_timed(solo) && until == FP_NEVER) {
            int r = fp_solo_await(solo, FP_NEVER);
            if (r < 0)
                return r;
            continue;
        }
        if (may_nap(solo, goal)) {
            now = now ? now : fp_now_ns();
            look = look ? look : nap_end(solo, now);
            if (now >= look)
                return fp_nap_over(now);
        }

        struct watch watch = {0};
        watch.out[0] = watch_fd(&watch, solo->piles[0].fd, POLLIN);
        watch.out[1] = watch_fd(&watch, solo->piles[1].fd, POLLIN);
        watch.in = watch_fd(&watch, solo->in_fd, POLLOUT);
        /* A turn of the clocks may have changed that. */
        looks_out = exit_matters(solo, goal);
        watch.exit = looks_out ? watch_fd(&watch, solo->pidfd, POLLIN) : -1;
        int64_t next = fp_earliest(fp_earliest(until, solo->deadline_ns), fp_earliest(idle_at(solo), solo->step_ns));
        next = fp_earliest(next, look ? look : FP_NEVER);
        if (is_climbing(solo))
            next = fp_earliest(next, solo->look_ns);
        next = fp_earliest(next, drain_until(solo));
        if (goal != GOAL_RUN)
            next = fp_earliest(next, talk_idle_at(solo));
        if (looks_out && watch.exit < 0)
            next = fp_earliest(next, fp_after(now, BLIND_GAP));
        int64_t left = next == FP_NEVER ? -1 : next > now ? next - now : 0;
        int r = sys_poll(watch.fds, watch.n, left);
        if (r == -EINTR || r == -EINVAL)
            return r;
        if (r > 0) {
            r = serve(solo, &watch);
            if (r < 0)
                return r;
        }
        if (looks_out && (watch.exit < 0 || is_ready(&watch, watch.exit))) {
            r = fp_solo_reap(solo, false);
            if (r < 0)
                return r;
            if (r == 0 && watch.exit >= 0) /* its status is on the way, see solo.c */
                sys_poll(NULL, 0, FP_NS_PER_MS);
        }
    }
}

/* ---- the interface ------------------------------------------------------------------- */

static void describe(const fp_solo *solo, fp_result *ret_result) {
    if (!ret_result)
        return;
    fp_solo_describe(solo, &ret_result->exit);
    for (int i = 0; i < 2; i++) {
        const fp_pile *pile = &solo->piles[i];
        ret_result->said[i] = (fp_said){
            .total_bytes = pile->total,
            .first = pile->lent    ? pile->lent
                     : pile->first ? pile->first->bytes
                                   : NULL,
            .first_bytes = pile->lent    ? pile->lent_used
                           : pile->first ? pile->first->used
                                         : 0,
            .n_pieces = pile->lent    ? 1
                        : pile->total ? pile->n_pieces
                                      : 0,
            .captured = pile->captured,
            .complete = pile->complete,
            .wants_room = pile->full,
        };
    }
}

static void set_clocks(fp_solo *solo, const fp_spec *spec) {
    int64_t by_timeout = spec->timeout_ns > 0 ? fp_after(solo->started_ns, spec->timeout_ns) : FP_NEVER;
    int64_t by_deadline = spec->deadline_ns > 0 ? spec->deadline_ns : FP_NEVER;

    solo->deadline_ns = fp_earliest(by_timeout, by_deadline);
    solo->idle_ns = spec->idle_timeout_ns;
    solo->grace_ns = spec->grace_ns ? spec->grace_ns : DEFAULT_GRACE;
    solo->kill_timeout_ns = spec->kill_timeout_ns > 0 ? spec->kill_timeout_ns : DEFAULT_KILL_TIMEOUT;
}

static bool may_strike_soon(const fp_spec *spec) {
    return (spec->timeout_ns > 0 && spec->timeout_ns < NOT_SOON) ||
           (spec->idle_timeout_ns > 0 && spec->idle_timeout_ns < NOT_SOON) ||
           (spec->deadline_ns > 0 && spec->deadline_ns - fp_now_ns() < NOT_SOON);
}

/*
 * While it is being born: wait for its end, and read what it says meanwhile.
 * Its streams do not close then, as we hold the other ends. All signals are
 * blocked, so not for long.
 */
static bool stay(void *arg, int pidfd, const int *pipe_fds) {
    fp_solo *solo = arg;
    struct pollfd wait[] = {
        {.fd = pidfd, .events = POLLIN}, {.fd = pipe_fds[1], .events = POLLIN}, {.fd = pipe_fds[2], .events = POLLIN}};
    unsigned n_fds = pipe_fds[1] < 0 && pipe_fds[2] < 0 ? 1 : 3;
    int64_t until = 0;

    for (;;) {
        int64_t now = fp_now_ns();
        until = until ? until : now + FP_MOMENT;
        if (now >= until || sys_poll(wait, n_fds, until - now) <= 0)
            return false;
        /* Another thread may have closed it. */
        if (wait[0].revents)
            return wait[0].revents & POLLIN;
        for (int i = 0; i < 2; i++) {
            fp_pile *pile = &solo->piles[i];
            int64_t n = 0;
            pile->fd = pipe_fds[i + 1];
            for (int reads = 0; wait[i + 1].revents && reads < READS_AT_ONCE && n >= 0; reads++)
                n = fp_pile_read(pile);
            pile->fd = -1;
            /* Room is to be asked for, or what it is will be seen again. */
            if (n < 0 && n != -EAGAIN && n != -EINTR)
                return false;
        }
    }
}

int fp_run(const fp_spec *spec, fp_solo **solo, fp_result *ret_result, fp_failure *reterr_failure) {
    if (!spec || !solo)
        return -EINVAL;
    if (!*solo) {
        bool timed = spec->timeout_ns > 0 || spec->deadline_ns > 0 || spec->idle_timeout_ns > 0;
        /* One that reads its input may wait for that. */
        bool stays = spec->stdio[0].kind != FP_STDIO_PIPE && !may_strike_soon(spec);
        int r = fp_solo_bear(spec, timed, stays ? stay : NULL, solo, reterr_failure);
        if (r < 0)
            return r;
        set_clocks(*solo, spec);
        (*solo)->input = spec->input;
        (*solo)->input_bytes = spec->input_bytes;
        if ((*solo)->in_fd >= 0)
            feed(*solo);
        /* Its handler has run where no call of ours could be interrupted by it: the host wants to know. */
        if ((*solo)->interrupted) {
            fp_solo_note_identity(*solo);
            return -EINTR;
        }
    }
    int r = advance(*solo, GOAL_RUN, FP_NEVER, false, false);
    if (r < 0)
        fp_solo_note_identity(*solo);
    describe(*solo, ret_result);
    if (r < 0)
        return r;
    /* Nothing that anybody could want of it. */
    if (fp_solo_has_ended(*solo) && (*solo)->piles[0].total == 0 && (*solo)->piles[1].total == 0)
        *solo = fp_solo_free(*solo);
    return 0;
}

static bool make_nonblocking(int fd) {
    int flags = fd >= 0 ? sys_fcntl(fd, F_GETFL, 0) : -1;
    return flags >= 0 && !(flags & O_NONBLOCK) && sys_fcntl(fd, F_SETFL, flags | O_NONBLOCK) >= 0;
}

static void make_blocking(int fd) {
    int flags = sys_fcntl(fd, F_GETFL, 0);
    if (flags >= 0)
        sys_fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
}

int fp_solo_talk(fp_solo *solo, const fp_talk *talk, fp_result *ret_result) {
    if (!solo || !talk || talk->size < sizeof *talk)
        return -EINVAL;
    for (int i = 0; i < 2; i++) {
        fp_pile *pile = &solo->piles[i];
        pile->captured = pile->captured || talk->fds[i + 1] >= 0;
        pile->fd = pile->complete ? -1 : talk->fds[i + 1];
        pile->asks = talk->flags & FP_TALK_ASK_FOR_ROOM;
    }
    solo->in_fd = talk->fds[0];
    solo->fed = false;
    solo->input = talk->input;
    solo->input_bytes = talk->input_bytes;
    solo->idle_ns = 0;
    solo->drain_ns = 0;
    solo->talk_idle_ns = talk->idle_timeout_ns;
    solo->last_byte_ns = fp_now_ns();
    bool changed = make_nonblocking(talk->fds[0]);
    int64_t until = talk->timeout_ns < 0 ? FP_NEVER : fp_after(fp_now_ns(), talk->timeout_ns);
    enum goal goal = talk->flags & FP_TALK_AND_WAIT ? GOAL_TALK_AND_EXIT : GOAL_TALK;
    int r = advance(solo, goal, until, talk->flags & FP_TALK_TO_THE_END, true);
    if (changed)
        make_blocking(talk->fds[0]);
    /* They are the caller's, who may close them as soon as we return. */
    bool over = solo->fed && talk->fds[0] >= 0 && r == 0;
    for (int i = 0; i < 2; i++)
        solo->piles[i].fd = -1;
    solo->in_fd = -1;
    describe(solo, ret_result);
    return r < 0 ? r : over;
}

int fp_solo_stop(fp_solo *solo, int64_t grace_ns, int64_t kill_timeout_ns, fp_exit *ret_exit) {
    if (!solo)
        return -EINVAL;
    if (solo->owner != fp_own_pid())
        return -EOWNERDEAD;
    /* Nobody is there to be asked for room: what a run has left is given up. */
    for (int i = 0; i < 2; i++) {
        if (solo->piles[i].asks)
            fp_pile_lend(&solo->piles[i], NULL, 0);
        solo->piles[i].asks = false;
    }
    if (!is_climbing(solo)) {
        solo->rung = FP_RUNG_NONE;
        solo->grace_ns = grace_ns ? grace_ns : DEFAULT_GRACE;
        solo->kill_timeout_ns = kill_timeout_ns > 0 ? kill_timeout_ns : DEFAULT_KILL_TIMEOUT;
        begin_stop(solo, fp_solo_reap(solo, false) > 0 ? FP_REASON_NONE : FP_REASON_TERMINATED, fp_now_ns());
    }
    int r = advance(solo, GOAL_STOPPED, FP_NEVER, true, false);
    if (r < 0)
        return r;
    if (ret_exit)
        fp_solo_describe(solo, ret_exit);
    return solo->rung == FP_RUNG_EMPTY ? 0 : -ETIMEDOUT;
}

int64_t fp_solo_piece(const fp_solo *solo, int stream, uint32_t index, const void **ret_bytes) {
    if (stream < 1 || stream > 2)
        return -EINVAL;
    const fp_piece *piece = fp_pile_piece(&solo->piles[stream - 1], index);
    if (!piece)
        return -ENODATA;
    *ret_bytes = piece->bytes;
    return (int64_t)piece->used;
}

int fp_solo_lend(fp_solo *solo, int stream, void *room, size_t bytes) {
    if (!solo || stream < 1 || stream > 2)
        return -EINVAL;
    return fp_pile_lend(&solo->piles[stream - 1], room, bytes);
}
