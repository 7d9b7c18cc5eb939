/*
 * births.c: births that hang, and the watcher who sees to them.
 *
 * A thread that makes a child may stand still until execve(2), and always does
 * for a caller of fp_spawn(). A child that was stopped before that, or born into a cgroup that somebody has frozen, holds
 * it in a sleep that no signal ends. All supervisors of a crew may be held so
 * at the same moment, and those who call fp_spawn() as well: so who watches
 * must never give birth. That is one small thread a crew, the only one that
 * this library starts, see docs/adr/0022.
 *
 * It is made at the first birth and ends with the last supervisor. While no
 * births are about it sleeps, without a time; the first one wakes it.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>

#include "internal.h"
#include "sys.h"

enum { WATCHER_STACK_BYTES = 128 << 10 };
#define BIRTH_IS_LATE (200 * FP_NS_PER_MS)
#define BIRTHS_ARE_OVER FP_NS_PER_S

/*
 * All signals are blocked in the child but SIGSTOP. It is not reaped before
 * the birth is over, so its number is good. One that has passed execve(2) may
 * have stopped itself, and only our thread is late. A frozen leaf is thawed,
 * as it is ours; and where there was one, others that wait for jobs may be
 * frozen too.
 */
static void see_to(fp_crew *crew, fp_birth_watch *birth) {
    fp_person person;
    pid_t pid = atomic_load(&birth->pid);

    if (birth->leaf_fd >= 0 && fp_leaf_thaw(birth->leaf_fd))
        atomic_fetch_add_explicit(&crew->freezes, 1, memory_order_release);
    if (pid > 1 && fp_person_read(pid, &person) == 0 && person.state == 'T' && !person.executed &&
        person.parent == sys_getpid())
        sys_kill(pid, SIGCONT);
}

static void *watch(void *arg) {
    fp_crew *crew = arg;

    sys_prctl(PR_SET_NAME, (unsigned long)"fp-births", 0, 0, 0);
    pthread_mutex_lock(&crew->lock);
    for (;;) {
        int64_t now = fp_now_ns();
        for (fp_birth_watch *birth = crew->births; birth; birth = birth->next)
            if (now - birth->since_ns > BIRTH_IS_LATE)
                see_to(crew, birth);
        if (crew->ended && !crew->births)
            break;
        crew->watching = crew->births || now - crew->last_birth_ns < BIRTHS_ARE_OVER;
        int64_t until = crew->watching ? now + BIRTH_IS_LATE : FP_NEVER;
        uint32_t calls = atomic_load_explicit(&crew->watcher_calls, memory_order_relaxed);
        pthread_mutex_unlock(&crew->lock);
        int r = sys_futex_wait(&crew->watcher_calls, calls, until);
        if (r < 0 && r != -ETIMEDOUT && r != -EAGAIN && r != -EINTR)
            sys_poll(NULL, 0, BIRTH_IS_LATE);
        pthread_mutex_lock(&crew->lock);
    }
    pthread_mutex_unlock(&crew->lock);
    return NULL;
}

/* Signals belong to the host's own threads. Without a small stack it gets one as the host's threads have. */
static int make_watcher(fp_crew *crew) {
    fp_sigset all = fp_signals_of_the_host(), old;
    pthread_attr_t attr;

    if (pthread_attr_init(&attr) != 0)
        return -ENOMEM;
    pthread_attr_setstacksize(&attr, WATCHER_STACK_BYTES);
    sys_rt_sigprocmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&crew->watcher, &attr, watch, crew);
    if (r == EINVAL)
        r = pthread_create(&crew->watcher, NULL, watch, crew);
    sys_rt_sigprocmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return -r;
}

static void call_watcher(fp_crew *crew) {
    atomic_fetch_add_explicit(&crew->watcher_calls, 1, memory_order_relaxed);
    sys_futex_wake(&crew->watcher_calls, 1);
}

void fp_birth_begins(fp_crew *crew, fp_birth_watch *birth) {
    birth->since_ns = fp_now_ns();
    birth->prev = NULL;
    pthread_mutex_lock(&crew->lock);
    birth->next = crew->births;
    if (crew->births)
        crew->births->prev = birth;
    crew->births = birth;
    crew->last_birth_ns = birth->since_ns;
    bool asleep = !crew->watching, missing = !crew->has_watcher;
    crew->watching = crew->has_watcher = true;
    pthread_mutex_unlock(&crew->lock);

    if (missing && make_watcher(crew) < 0) {
        /* There is no thread to be had: this birth is on its own, and the next one tries again. */
        pthread_mutex_lock(&crew->lock);
        crew->watching = crew->has_watcher = false;
        pthread_mutex_unlock(&crew->lock);
    } else if (asleep && !missing) {
        call_watcher(crew);
    }
}

void fp_birth_ends(fp_crew *crew, fp_birth_watch *birth) {
    pthread_mutex_lock(&crew->lock);
    if (birth->prev)
        birth->prev->next = birth->next;
    else
        crew->births = birth->next;
    if (birth->next)
        birth->next->prev = birth->prev;
    pthread_mutex_unlock(&crew->lock);
}

void fp_births_end(fp_crew *crew) {
    pthread_mutex_lock(&crew->lock);
    bool has_watcher = crew->has_watcher;
    crew->ended = true;
    pthread_mutex_unlock(&crew->lock);
    if (!has_watcher)
        return;
    call_watcher(crew);
    pthread_join(crew->watcher, NULL);
}
