/*
 * orphans.c: adopted orphans.
 *
 * A subreaper (PR_SET_CHILD_SUBREAPER, see prctl(2)) becomes the parent of
 * what its children leave behind. These have to be reaped, but among the
 * children of this process are those that other code of the host has started:
 * theirs are never touched. Only whom the kernel shows to descend from a
 * process of ours is reaped: by its cgroup, or by its session. Who has left
 * both is left alone.
 *
 * Each is waited for by its own pid. Never by waitid(P_ALL): that would take
 * anybody's child.
 */
#include <stdlib.h>

#include "internal.h"
#include "sys.h"

enum { MOST_CHILDREN = 65536 };

typedef struct leaders {
    pid_t *pids; /* of our own processes, which lead sessions of that number */
    uint32_t count;
    uint32_t room;
    bool failed; /* not all are known */
} leaders;

static int by_number(const void *a, const void *b) {
    pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;
    return (x > y) - (x < y);
}

static void add_leader(leaders *all, pid_t pid) {
    if (all->count == all->room) {
        uint32_t room = all->room ? 2 * all->room : 256;
        pid_t *pids = realloc(all->pids, room * sizeof *pids);
        if (!pids) {
            all->failed = true;
            return;
        }
        all->pids = pids;
        all->room = room;
    }
    all->pids[all->count++] = pid;
}

static void add_leaders(leaders *all, fp_supervisor *supervisor) {
    pthread_mutex_lock(&supervisor->lock);
    for (uint32_t i = 0; i < supervisor->n_places; i++) {
        const fp_proc *proc = supervisor->places[i].proc;
        if (proc && proc->pid > 0)
            add_leader(all, proc->pid);
    }
    pthread_mutex_unlock(&supervisor->lock);
}

/* Births under way: children of ours that are in no table yet. */
static void add_births(leaders *all, fp_crew *crew) {
    pthread_mutex_lock(&crew->lock);
    for (fp_birth_watch *birth = crew->births; birth; birth = birth->next) {
        pid_t pid = atomic_load(&birth->pid);
        if (pid > 0)
            add_leader(all, pid);
        else
            all->failed = true; /* its number is not known yet: another time */
    }
    pthread_mutex_unlock(&crew->lock);
}

static bool holds(const leaders *all, pid_t pid) {
    return all->count && bsearch(&pid, all->pids, all->count, sizeof *all->pids, by_number);
}

/* All that one member of the crew needs to know about the others, without holding two locks. */
static uint32_t members_of(fp_crew *crew, fp_supervisor **ret_members, uint32_t n) {
    uint32_t count = 0;
    pthread_mutex_lock(&crew->lock);
    for (fp_supervisor *member = crew->members; member && count < n; member = member->crew_next)
        ret_members[count++] = fp_supervisor_ref(member);
    pthread_mutex_unlock(&crew->lock);
    return count;
}

bool fp_adopts_orphans(const fp_supervisor *supervisor) {
    return atomic_load_explicit(&supervisor->crew->adopts_orphans, memory_order_relaxed);
}

/* Does it descend from a process of this member? Then *ret_mailbox is where that tells its news, referenced, or NULL. */
static bool is_of(fp_supervisor *member, const fp_person *person, bool by_session, fp_mailbox **ret_mailbox) {
    uint64_t name = 0;
    bool in_leaf = fp_leaves_hold(&member->leaves, person->pid, &name);
    fp_mailbox *mailbox = in_leaf ? fp_leaves_past(&member->leaves, name) : NULL;
    bool found = in_leaf;

    for (uint32_t i = 0; i < member->n_places && !mailbox; i++) {
        const fp_proc *proc = member->places[i].proc;
        if (!proc || proc->pid <= 0)
            continue;
        if (proc->leaf ? in_leaf && fp_leaf_name(proc->leaf) == name : by_session && proc->pid == person->session) {
            found = true;
            mailbox = proc->mailbox;
        }
    }
    *ret_mailbox = fp_mailbox_ref(mailbox);
    return found;
}

/* Reap it, and tell whom it concerns: it descends from a process that tells its news to `mailbox`. */
static void collect(fp_crew *crew, pid_t pid, fp_mailbox *mailbox) {
    fp_exit exit;
    if (!fp_orphan_collect(pid, &exit))
        return;
    if (fp_mailbox_post_orphan(fp_mailbox_of_orphans(mailbox), &exit))
        return;
    pthread_mutex_lock(&crew->lock);
    fp_mailbox_post_orphan(crew->orphan_mailbox, &exit);
    pthread_mutex_unlock(&crew->lock);
}

void fp_orphan_found(fp_proc *proc, const fp_person *person) {
    fp_supervisor *supervisor = atomic_load(&proc->supervisor);
    fp_person now;
    if (!fp_adopts_orphans(supervisor) || person->state != 'Z' || person->parent != fp_own_pid() ||
        person->session == person->pid)
        return;
    if (fp_person_read(person->pid, &now) == 0 && now.start == person->start)
        collect(supervisor->crew, person->pid, proc->mailbox);
}

void fp_orphans_reap(fp_supervisor *supervisor) {
    fp_supervisor *members[256];
    leaders ours = {0};
    pid_t *children = malloc(MOST_CHILDREN * sizeof *children);
    int n = children ? fp_children_read(sys_getpid(), children, MOST_CHILDREN) : 0;
    uint32_t n_members = members_of(supervisor->crew, members, 256);

    /* Births first: who is in none of them has been in a table since before we look there. */
    add_births(&ours, supervisor->crew);
    for (uint32_t i = 0; i < n_members; i++)
        add_leaders(&ours, members[i]);
    if (ours.count)
        qsort(ours.pids, ours.count, sizeof *ours.pids, by_number);
    for (int i = 0; i < n && !ours.failed; i++) {
        fp_person person;
        if (holds(&ours, children[i]) || fp_person_read(children[i], &person) < 0 || person.state != 'Z')
            continue;
        /* Who leads a session is a direct child of somebody, or has left the sessions we know. */
        bool by_session = person.session != person.pid && holds(&ours, person.session);
        bool found = false;
        fp_mailbox *mailbox = NULL;
        for (uint32_t at = 0; at < n_members && !found; at++) {
            pthread_mutex_lock(&members[at]->lock);
            found = is_of(members[at], &person, by_session, &mailbox);
            pthread_mutex_unlock(&members[at]->lock);
        }
        if (by_session || found)
            collect(supervisor->crew, children[i], mailbox);
        fp_mailbox_unref(mailbox);
    }
    for (uint32_t i = 0; i < n_members; i++)
        fp_supervisor_unref(members[i]);
    free(ours.pids);
    free(children);
}
