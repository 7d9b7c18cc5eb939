/*
 * supervisor.c: supervisors and their crews, from making them to the last
 * reference. What one does is in loop.c, what it keeps of its processes in
 * places.c.
 *
 * A supervisor shares nothing with its siblings but queued batches, low
 * descriptors, who watches over births, see births.c, and who hears of
 * orphans. It lives until
 * the last handle of a process of its goes, but has no thread, descriptor or
 * process any more once it was freed.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include "internal.h"
#include "sys.h"

/* ---- references ---------------------------------------------------------------- */

fp_supervisor *fp_supervisor_ref(fp_supervisor *supervisor) {
    atomic_fetch_add_explicit(&supervisor->refs, 1, memory_order_relaxed);
    return supervisor;
}

static void crew_unref(fp_crew *crew) {
    if (!crew || atomic_fetch_sub_explicit(&crew->refs, 1, memory_order_acq_rel) != 1)
        return;
    fp_mailbox_unref(crew->orphan_mailbox);
    if (crew->has_slots)
        fp_slots_done(&crew->slots);
    pthread_mutex_destroy(&crew->lock);
    free(crew);
}

void fp_supervisor_unref(fp_supervisor *supervisor) {
    if (atomic_fetch_sub_explicit(&supervisor->refs, 1, memory_order_acq_rel) != 1)
        return;
    fp_census_done(&supervisor->census);
    fp_nursery_done(&supervisor->nursery);
    free(supervisor->intake.scratch);
    free(supervisor->places);
    fp_timers_done(&supervisor->timers);
    crew_unref(supervisor->crew);
    pthread_mutex_destroy(&supervisor->lock);
    free(supervisor);
}

/* ---- crews --------------------------------------------------------------------- */

static int join_crew(fp_supervisor *supervisor, fp_supervisor *sibling) {
    fp_crew *crew;

    if (sibling) {
        crew = sibling->crew;
        atomic_fetch_add_explicit(&crew->refs, 1, memory_order_relaxed);
    } else {
        crew = calloc(1, sizeof *crew);
        if (!crew)
            return -ENOMEM;
        atomic_init(&crew->refs, 1);
        pthread_mutex_init(&crew->lock, NULL);
    }
    supervisor->crew = crew;
    pthread_mutex_lock(&crew->lock);
    if (crew->has_slots)
        fp_slots_add(&crew->slots);
    else
        crew->has_slots = fp_slots_init(&crew->slots) == 0;
    supervisor->slots = crew->has_slots ? &crew->slots : NULL;
    pthread_mutex_unlock(&crew->lock);
    return 0;
}

/* From now on its siblings may turn to it. */
static void become_member(fp_supervisor *supervisor) {
    fp_crew *crew = supervisor->crew;

    pthread_mutex_lock(&crew->lock);
    supervisor->crew_next = crew->members;
    crew->members = supervisor;
    pthread_mutex_unlock(&crew->lock);
}

static void leave_crew(fp_supervisor *supervisor) {
    fp_crew *crew = supervisor->crew;
    if (!crew)
        return;
    pthread_mutex_lock(&crew->lock);
    for (fp_supervisor **at = &crew->members; *at; at = &(*at)->crew_next) {
        if (*at == supervisor) {
            *at = supervisor->crew_next;
            break;
        }
    }
    bool last = !crew->members;
    pthread_mutex_unlock(&crew->lock);
    if (!last)
        return;
    fp_births_end(crew);
    if (crew->has_slots)
        fp_slots_close(&crew->slots);
}

int fp_supervisor_adopt_orphans(fp_supervisor *supervisor, fp_mailbox *mailbox) {
    if (fp_supervisor_is_copy(supervisor))
        return -EOWNERDEAD;
    int r = sys_prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    if (r < 0)
        return r;
    fp_crew *crew = supervisor->crew;
    pthread_mutex_lock(&crew->lock);
    fp_mailbox *before = crew->orphan_mailbox;
    crew->orphan_mailbox = fp_mailbox_ref(mailbox);
    if (mailbox)
        fp_mailbox_tell_orphans(mailbox, mailbox);
    atomic_store_explicit(&crew->adopts_orphans, true, memory_order_relaxed);
    pthread_mutex_unlock(&crew->lock);
    fp_mailbox_unref(before);
    pthread_mutex_lock(&supervisor->lock);
    supervisor->adopts_orphans = true;
    fp_supervisor_kick(supervisor);
    pthread_mutex_unlock(&supervisor->lock);
    return 0;
}

/* ---- making and ending --------------------------------------------------------- */

/* Not without it, but better with it: see watch_later() in start.c. */
static void make_timer(fp_supervisor *supervisor) {
    struct epoll_event late = {.events = EPOLLIN, .data.u64 = FP_KEY_LATE};
    int fd = sys_aside(sys_timerfd(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));

    if (fd >= 0 && sys_epoll_ctl(supervisor->epoll_fd, EPOLL_CTL_ADD, fd, &late) < 0) {
        sys_close(fd);
        fd = -1;
    }
    supervisor->late_fd = fd;
}

int fp_supervisor_new(const fp_supervisor_options *options, fp_supervisor **ret_supervisor) {
    fp_supervisor_options none = FP_SUPERVISOR_OPTIONS_INIT;
    struct epoll_event kick = {.events = EPOLLIN, .data.u64 = FP_KEY_KICK};
    int r;

    if (!options)
        options = &none;
    if (options->size != sizeof *options || !ret_supervisor)
        return -EINVAL;
    fp_supervisor *supervisor = calloc(1, sizeof *supervisor);
    if (!supervisor)
        return -ENOMEM;
    atomic_init(&supervisor->refs, 1);
    supervisor->owner = fp_own_pid();
    supervisor->epoll_fd = supervisor->event_fd = supervisor->late_fd = -1;
    supervisor->first_free = FP_NO_INDEX;
    supervisor->wakes_ns = FP_NEVER;
    pthread_mutex_init(&supervisor->lock, NULL);
    fp_census_init(&supervisor->census);
    fp_leaves_init(&supervisor->leaves, options->cgroup_dir);

    r = join_crew(supervisor, options->sibling);
    if (r >= 0)
        r = supervisor->epoll_fd = sys_aside(sys_epoll_create(EPOLL_CLOEXEC));
    if (r >= 0)
        r = supervisor->event_fd = sys_aside(sys_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (r >= 0)
        r = sys_epoll_ctl(supervisor->epoll_fd, EPOLL_CTL_ADD, supervisor->event_fd, &kick);
    if (r >= 0) {
        make_timer(supervisor);
        r = fp_intake_init(&supervisor->intake, supervisor->slots ? supervisor->slots->placeholder_fd : -1);
    }
    if (r < 0) {
        fp_supervisor_free(supervisor);
        return r;
    }
    become_member(supervisor);
    if (options->adopt_orphans)
        r = fp_supervisor_adopt_orphans(supervisor, options->orphan_mailbox);
    if (r < 0) {
        fp_supervisor_free(supervisor);
        return r;
    }
    fp_fork_enlist(supervisor);
    *ret_supervisor = supervisor;
    return 0;
}

int fp_supervisor_stop(fp_supervisor *supervisor) {
    if (fp_supervisor_is_copy(supervisor))
        return -EOWNERDEAD;
    fp_supervisor_lock(supervisor);
    supervisor->stopping = true;
    fp_supervisor_kick(supervisor);
    pthread_mutex_unlock(&supervisor->lock);
    return 0;
}

fp_supervisor *fp_supervisor_free(fp_supervisor *supervisor) {
    if (!supervisor)
        return NULL;
    bool copy = fp_supervisor_is_copy(supervisor);
    fp_fork_delist(supervisor);
    if (!copy) {
        leave_crew(supervisor);
        pthread_mutex_lock(&supervisor->lock);
        supervisor->stopping = true;
        fp_supervisor_drop_shares(supervisor);
        fp_leaves_done(&supervisor->leaves);
    }
    if (supervisor->epoll_fd >= 0)
        sys_close(supervisor->epoll_fd);
    if (supervisor->event_fd >= 0)
        sys_close(supervisor->event_fd);
    if (supervisor->late_fd >= 0)
        sys_close(supervisor->late_fd);
    supervisor->epoll_fd = supervisor->event_fd = supervisor->late_fd = -1;
    if (!copy) {
        for (uint32_t i = 0; i < supervisor->n_places; i++) {
            fp_proc *proc = supervisor->places[i].proc;
            if (!proc)
                continue;
            proc->in_epoll = false;
            fp_timers_set(&supervisor->timers, proc, FP_NEVER);
            fp_supervisor_dismiss(supervisor, proc);
        }
        pthread_mutex_unlock(&supervisor->lock);
    }
    fp_supervisor_unref(supervisor);
    return NULL;
}

int fp_supervisor_active(fp_supervisor *supervisor) {
    if (fp_supervisor_is_copy(supervisor))
        return 0;
    fp_supervisor_lock(supervisor);
    int active = (int)supervisor->active;
    pthread_mutex_unlock(&supervisor->lock);
    return active;
}
