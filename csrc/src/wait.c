/*
 * wait.c: threads that wait for one process.
 *
 * While somebody has claimed the exit he watches the pidfd by himself, and the
 * supervisor leaves it alone; all others sleep on the word of the process, a
 * futex. Who has claimed an exit and gives up puts it under watch again, so
 * there is always somebody who will see it. Where the supervisor has no thread
 * each waiter drives the process himself.
 */
#include <errno.h>
#include <poll.h>

#include "internal.h"
#include "sys.h"

#define UNDRIVEN_LOOK (100 * FP_NS_PER_MS)

static bool reached(uint32_t word, int wanted, bool or_unkillable) {
    int state = (int)(word & FP_WORD_STATE);
    if (state == FP_STATE_FAILED || (or_unkillable && (word & FP_WORD_UNKILLABLE)))
        return true;
    return state >= wanted && state != FP_STATE_QUEUED;
}

/* Is its exit the only thing that can happen to it? If not, a waiter without a supervisor's thread has to drive. */
static bool exit_is_all(fp_proc *proc) {
    return !proc->flow && fp_proc_running(proc)->deadline_ns == FP_NEVER && proc->step_ns == FP_NEVER;
}

/* Do children of a supervisor's thread end while somebody waits for this one? Then not each of them is to wake him. */
static bool is_one_of_many(const fp_proc *proc) {
    return proc->batch;
}

/*
 * Watch the pidfd in the calling thread: the supervisor is told to leave the
 * exit to us, so one thread is woken instead of two. If nobody attends to its
 * streams yet, and it says little and ends soon, what it says is taken with its
 * exit. Returns what poll said.
 */
static int wait_by_pidfd(fp_supervisor *supervisor, fp_proc *proc, int64_t left) {
    struct pollfd wait = {.fd = proc->pidfd, .events = POLLIN};
    bool unattended = proc->flow && proc->flow->unattended;
    int fds[2] = {-1, -1};

    for (int i = 0; unattended && i < 2; i++)
        fds[i] = proc->flow->streams[i].fd;

    proc->claimed = true;
    fp_proc_running(proc)->watch_ns = FP_NEVER;
    fp_proc_unwatch_exit(supervisor, proc);
    pthread_mutex_unlock(&supervisor->lock);
    uint64_t mask;
    bool held_back = is_one_of_many(proc) && fp_sigchld_hold_back(&mask);
    int r = unattended ? fp_await_quick_end(proc->pidfd, fds, left < 0 ? FP_NEVER : left) : sys_poll(&wait, 1, left);
    if (held_back)
        fp_sigchld_let_in(&mask);
    fp_supervisor_lock(supervisor);
    proc->claimed = false;
    if (r <= 0)
        fp_proc_attend(supervisor, proc);
    if (fp_proc_state(proc) == FP_STATE_DONE)
        fp_proc_close_pidfd(proc);
    if (fp_proc_state(proc) != FP_STATE_RUNNING)
        return r;
    if (r > 0) {
        int64_t now = fp_now_ns();
        if (!fp_proc_try_exit(supervisor, proc, now)) {
            fp_proc_look_again(proc, now);
            fp_proc_attend(supervisor, proc);
        }
        fp_proc_turn(proc, now);
    } else {
        fp_proc_watch_exit(supervisor, proc, fp_now_ns());
    }
    return r;
}

/* Where nobody else drives it. With the lock, before and after. */
static int drive(fp_supervisor *supervisor, fp_proc *proc, int wanted, bool or_unkillable, int64_t left) {
    fp_proc_drive(supervisor, proc);
    if (reached(atomic_load(&proc->word), wanted, or_unkillable))
        return 0;
    pthread_mutex_unlock(&supervisor->lock);
    int r = sys_poll(NULL, 0, fp_earliest(FP_UNDRIVEN_NAP, left));
    fp_supervisor_lock(supervisor);
    return r;
}

/* Until somebody has something to tell. With the lock, which may be another's afterwards. */
static int sleep_on_word(fp_supervisor **supervisor, fp_proc *proc, int64_t wake) {
    uint32_t word = atomic_fetch_or_explicit(&proc->word, FP_WORD_WAITERS, memory_order_acq_rel) | FP_WORD_WAITERS;
    uint64_t mask;

    fp_proc_unlock(proc, *supervisor);
    bool held_back = is_one_of_many(proc) && fp_sigchld_hold_back(&mask);
    int r = sys_futex_wait(&proc->word, word, wake);
    if (held_back)
        fp_sigchld_let_in(&mask);
    *supervisor = fp_proc_lock(proc);
    return r;
}

static int wait_for(fp_proc *proc, int wanted, bool or_unkillable, int64_t timeout_ns, fp_exit *ret_exit) {
    fp_sleep sleep = fp_sleep_begin(timeout_ns);
    bool looked = false, may_poll = true;
    int r = 0;

    fp_supervisor *supervisor = fp_proc_lock(proc);
    while (r != -EINTR) {
        uint32_t word = atomic_load_explicit(&proc->word, memory_order_acquire);
        if (reached(word, wanted, or_unkillable)) {
            r = (word & FP_WORD_STATE) == FP_STATE_FAILED ? -ECHILD : 0;
            break;
        }
        if (fp_proc_is_copy(proc, supervisor)) {
            r = -EOWNERDEAD;
            break;
        }
        int state = (int)(word & FP_WORD_STATE);
        int64_t now = fp_now_ns(), wake;
        if (timeout_ns == 0 && state == FP_STATE_RUNNING && !looked) {
            /* Asked once: look for ourselves, nobody need have told us yet. */
            looked = true;
            if (fp_proc_try_exit(supervisor, proc, now))
                fp_proc_turn(proc, now);
            continue;
        }
        r = fp_sleep_next(&sleep, now, &wake);
        if (r < 0)
            break;
        bool driven = supervisor && supervisor->has_thread;
        /* Of the verdict that it cannot be killed no pidfd tells. */
        if (state == FP_STATE_RUNNING && !proc->claimed && !proc->by_polling && proc->pidfd >= 0 && may_poll &&
            !or_unkillable && (driven || exit_is_all(proc))) {
            int64_t left = wake == FP_NEVER ? -1 : wake - now;
            /* Who stops it meanwhile cannot tell us. */
            if (!driven && (left < 0 || left > UNDRIVEN_LOOK))
                left = UNDRIVEN_LOOK;
            r = wait_by_pidfd(supervisor, proc, left);
            /* With RLIMIT_NOFILE at 0 there is no polling at all, see poll(2). */
            may_poll = r >= 0;
        } else if (supervisor && !driven && state >= FP_STATE_RUNNING) {
            r = drive(supervisor, proc, wanted, or_unkillable, wake - now);
        } else {
            r = sleep_on_word(&supervisor, proc, wake);
        }
    }
    if (ret_exit && (r == 0 || r == -ETIMEDOUT))
        fp_proc_describe(proc, ret_exit);
    fp_proc_unlock(proc, supervisor);
    return r < 0 ? r : 0;
}

int fp_proc_wait(fp_proc *proc, int state, int64_t timeout_ns, fp_exit *ret_exit) {
    if (state != FP_STATE_RUNNING && state != FP_STATE_EXITED && state != FP_STATE_DONE)
        return -EINVAL;
    return wait_for(proc, state, false, timeout_ns, ret_exit);
}

int fp_proc_wait_stopped(fp_proc *proc, int64_t timeout_ns, fp_exit *ret_exit) {
    return wait_for(proc, FP_STATE_DONE, true, timeout_ns, ret_exit);
}

int fp_procs_wait_started(fp_proc *const *procs, size_t n, int64_t timeout_ns) {
    int64_t until = timeout_ns < 0 ? FP_NEVER : fp_after(fp_now_ns(), timeout_ns);

    /* From the end: they are started in order, so mostly this waits but once. */
    for (size_t i = n; i-- > 0;) {
        if (fp_proc_state(procs[i]) != FP_STATE_QUEUED)
            continue;
        int64_t left = until == FP_NEVER ? -1 : until - fp_now_ns();
        int r = wait_for(procs[i], FP_STATE_RUNNING, false, until == FP_NEVER ? -1 : left > 0 ? left : 0, NULL);
        if (r < 0 && r != -ECHILD)
            return r;
    }
    return 0;
}

void fp_proc_rouse(fp_proc *proc) {
    /* The word changes, so that nobody goes to sleep on what he saw before. */
    atomic_fetch_and_explicit(&proc->word, ~(uint32_t)FP_WORD_WAITERS, memory_order_acq_rel);
    sys_futex_wake(&proc->word, INT32_MAX);
    if (proc->flow) {
        atomic_fetch_add_explicit(&proc->flow->sequence, 1, memory_order_release);
        sys_futex_wake(&proc->flow->sequence, INT32_MAX);
    }
}
