/*
 * fork.c: how a forked copy of the host knows that it is one, and what it must
 * not keep.
 *
 * A copy owns nothing, but fork(2) gives it all our descriptors: as long as it
 * holds our end of a pipe, a child that reads its input sees no end, and one
 * that writes to nobody no SIGPIPE. So it closes them before it goes on, by
 * pthread_atfork(3). Closed only: EPOLL_CTL_DEL would take the watch from the
 * original, which has the same epoll.
 *
 * The tables must say what is open at the moment of the fork, so all locks are
 * taken before it, in the order of internal.h. Whose lock is not to be had in
 * time (the thread that forks may itself be interrupted amid a call of ours)
 * is left alone, and the copy keeps what that one has.
 *
 * Not seen here: copies made past libc, by clone(2) itself, and vfork(2), whose
 * child has execve(2) close everything.
 */
#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#include "internal.h"
#include "sys.h"

#define MOST_PATIENCE_S 1

/* ---- is this a copy? ---------------------------------------------------------------- */

/*
 * Our pid, in a page that the kernel empties in a forked copy (MADV_WIPEONFORK,
 * Linux 4.14): so every call can ask whether it is in one, for the price of a
 * look at memory. NULL: the kernel is asked each time.
 */
static pthread_once_t own_pid_once = PTHREAD_ONCE_INIT;
static _Atomic pid_t *own_pid_page;

static void make_own_pid_page(void) {
    void *page;
    if (sys_mmap(sizeof(pid_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, &page) < 0)
        return;
    if (sys_madvise(page, sizeof(pid_t), MADV_WIPEONFORK) < 0)
        sys_munmap(page, sizeof(pid_t));
    else
        own_pid_page = page;
}

pid_t fp_own_pid(void) {
    pthread_once(&own_pid_once, make_own_pid_page);
    if (!own_pid_page)
        return sys_getpid();
    pid_t pid = atomic_load_explicit(own_pid_page, memory_order_relaxed);
    if (pid == 0) {
        pid = sys_getpid();
        atomic_store_explicit(own_pid_page, pid, memory_order_relaxed);
    }
    return pid;
}

/* An emulator may accept the advice and not follow it, see QEMU: copies that libc makes do not rely on it. */
static void forget_own_pid(void) {
    if (own_pid_page)
        atomic_store_explicit(own_pid_page, 0, memory_order_relaxed);
}

bool fp_supervisor_is_copy(const fp_supervisor *supervisor) {
    return supervisor->owner != fp_own_pid();
}

/* ---- what it closes ------------------------------------------------------------------ */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static fp_supervisor *all; /* through fork_next; borrowed */

static bool lock_in_time(pthread_mutex_t *mutex) {
    struct timespec until;

    if (pthread_mutex_trylock(mutex) == 0)
        return true;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += MOST_PATIENCE_S;
    return pthread_mutex_timedlock(mutex, &until) == 0;
}

static bool lock_supervisor(fp_supervisor *supervisor) {
    /* As in fp_supervisor_lock(): a loop that is never idle gives way. */
    atomic_fetch_add_explicit(&supervisor->waiting, 1, memory_order_relaxed);
    bool had = lock_in_time(&supervisor->lock);
    atomic_fetch_sub_explicit(&supervisor->waiting, 1, memory_order_relaxed);
    if (had)
        atomic_fetch_add_explicit(&supervisor->served, 1, memory_order_relaxed);
    return had;
}

static void lock_crew(fp_crew *crew) {
    if (crew->locked_for_fork)
        return;
    crew->locked_for_fork = lock_in_time(&crew->lock);
    if (!crew->locked_for_fork)
        return;
    for (fp_birth_watch *birth = crew->births; birth; birth = birth->next)
        birth->pipes.locked_for_fork = lock_in_time(&birth->pipes.lock);
}

static void unlock_crew(fp_crew *crew) {
    if (!crew->locked_for_fork)
        return;
    crew->locked_for_fork = false;
    for (fp_birth_watch *birth = crew->births; birth; birth = birth->next)
        if (birth->pipes.locked_for_fork)
            pthread_mutex_unlock(&birth->pipes.lock);
    pthread_mutex_unlock(&crew->lock);
}

/* Births without a supervisor, through `next`. */
static pthread_mutex_t alone_lock = PTHREAD_MUTEX_INITIALIZER;
static fp_pipes *alone;
static bool alone_locked_for_fork;

static void lock_alone(void) {
    alone_locked_for_fork = lock_in_time(&alone_lock);
    for (fp_pipes *pipes = alone_locked_for_fork ? alone : NULL; pipes; pipes = pipes->next)
        pipes->locked_for_fork = lock_in_time(&pipes->lock);
}

static void unlock_alone(void) {
    if (!alone_locked_for_fork)
        return;
    alone_locked_for_fork = false;
    for (fp_pipes *pipes = alone; pipes; pipes = pipes->next)
        if (pipes->locked_for_fork)
            pthread_mutex_unlock(&pipes->lock);
    pthread_mutex_unlock(&alone_lock);
}

static void before_fork(void) {
    pthread_mutex_lock(&lock);
    for (fp_supervisor *supervisor = all; supervisor; supervisor = supervisor->fork_next)
        supervisor->locked_for_fork = lock_supervisor(supervisor);
    for (fp_supervisor *supervisor = all; supervisor; supervisor = supervisor->fork_next)
        lock_crew(supervisor->crew);
    lock_alone();
}

static void unlock_all(void) {
    unlock_alone();
    for (fp_supervisor *supervisor = all; supervisor; supervisor = supervisor->fork_next)
        unlock_crew(supervisor->crew);
    for (fp_supervisor *supervisor = all; supervisor; supervisor = supervisor->fork_next) {
        if (supervisor->locked_for_fork)
            pthread_mutex_unlock(&supervisor->lock);
        supervisor->locked_for_fork = false;
    }
}

static void after_in_original(void) {
    unlock_all();
    pthread_mutex_unlock(&lock);
}

static void close_fd(int *fd) {
    if (*fd >= 0)
        sys_close(*fd);
    *fd = -1;
}

static void close_pipes(fp_pipes *pipes) {
    for (int i = 0; i < 3 && pipes->locked_for_fork; i++) {
        close_fd(&pipes->ours[i]);
        close_fd(&pipes->theirs[i]);
    }
}

static void close_births(fp_crew *crew) {
    for (fp_birth_watch *birth = crew->locked_for_fork ? crew->births : NULL; birth; birth = birth->next)
        close_pipes(&birth->pipes);
}

static void close_proc(fp_proc *proc) {
    close_fd(&proc->pidfd);
    for (uint32_t i = 0; i < proc->n_tracked; i++)
        close_fd(&proc->tracked[i].pidfd);
    if (!proc->flow)
        return;
    close_fd(&proc->flow->in_fd);
    for (int i = 0; i < 2; i++)
        close_fd(&proc->flow->streams[i].fd);
}

static void close_supervisor(fp_supervisor *supervisor) {
    close_fd(&supervisor->epoll_fd);
    close_fd(&supervisor->event_fd);
    close_fd(&supervisor->late_fd);
    if (supervisor->slots)
        fp_slots_close(supervisor->slots);
    for (fp_unborn *unborn = supervisor->nursery.first; unborn; unborn = unborn->next)
        fp_cradle_close(unborn->cradle);
    for (uint32_t i = 0; i < supervisor->n_places; i++)
        if (supervisor->places[i].proc)
            close_proc(supervisor->places[i].proc);
}

static void after_in_copy(void) {
    forget_own_pid();
    for (fp_supervisor *supervisor = all; supervisor; supervisor = supervisor->fork_next) {
        close_births(supervisor->crew);
        if (supervisor->locked_for_fork)
            close_supervisor(supervisor);
    }
    for (fp_pipes *pipes = alone_locked_for_fork ? alone : NULL; pipes; pipes = pipes->next)
        close_pipes(pipes);
    unlock_all();
    /* A copy of the copy finds nothing of ours. */
    all = NULL;
    alone = NULL;
    pthread_mutex_unlock(&lock);
}

static void begin(void) {
    /* -ENOMEM: a copy then keeps what it was given; it is inert all the same. */
    pthread_atfork(before_fork, after_in_original, after_in_copy);
}

void fp_fork_enlist(fp_supervisor *supervisor) {
    pthread_once(&once, begin);
    pthread_mutex_lock(&lock);
    supervisor->fork_next = all;
    all = supervisor;
    pthread_mutex_unlock(&lock);
}

void fp_fork_delist(fp_supervisor *supervisor) {
    pthread_mutex_lock(&lock);
    for (fp_supervisor **at = &all; *at; at = &(*at)->fork_next) {
        if (*at == supervisor) {
            *at = supervisor->fork_next;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
}

void fp_fork_note_pipes(fp_pipes *pipes) {
    pthread_once(&once, begin);
    pthread_mutex_lock(&alone_lock);
    pipes->next = alone;
    alone = pipes;
    pthread_mutex_unlock(&alone_lock);
}

void fp_fork_forget_pipes(fp_pipes *pipes) {
    pthread_mutex_lock(&alone_lock);
    for (fp_pipes **at = &alone; *at; at = &(*at)->next) {
        if (*at == pipes) {
            *at = pipes->next;
            break;
        }
    }
    pthread_mutex_unlock(&alone_lock);
}
