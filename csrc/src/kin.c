/*
 * kin.c: the descendants of a process that has no group or session of its
 * own, found in /proc: who has a parent among them, or is a member of a group
 * or session that one of them leads or has led.
 *
 * Who has lost his parents before we looked, and has stayed in a group that
 * is not theirs, is not found: there a cgroup is needed. A process is signalled
 * by pidfd, after a second look at its start time, so no number that has
 * become another's is hit.
 */
#include <errno.h>
#include <stdlib.h>

#include "solo.h"
#include "sys.h"

enum { MOST_MEMBERS = 4096 };

static bool is_known(const fp_kin *kin, const fp_person *person) {
    for (uint32_t i = 0; i < kin->n; i++)
        if (kin->of[i].pid == person->pid && kin->of[i].start == person->start)
            return true;
    return false;
}

static bool has_been_seen(const fp_kin *kin, pid_t pid) {
    for (uint32_t i = 0; i < kin->n; i++)
        if (kin->of[i].pid == pid)
            return true;
    return false;
}

static int add(fp_kin *kin, const fp_person *person) {
    if (kin->n == kin->room) {
        uint32_t room = kin->room ? 2 * kin->room : 16;
        fp_kinsman *of = realloc(kin->of, room * sizeof *of);
        if (!of)
            return -ENOMEM;
        kin->of = of;
        kin->room = room;
    }
    kin->of[kin->n++] = (fp_kinsman){.pid = person->pid, .start = person->start};
    return 0;
}

/* Who we are, and what we must not take for theirs. */
struct onlooker {
    pid_t pid;
    pid_t group;
    pid_t session;
};

static bool belongs(const fp_kin *kin, const fp_census *census, const fp_person *person, const struct onlooker *us,
                    pid_t parent, pid_t leader) {
    if (parent > 0 && person->parent == parent)
        return true;
    if (leader > 0 && (person->group == leader || person->session == leader))
        return true;
    const fp_person *father = fp_census_find(census, person->parent);
    if (father && is_known(kin, father))
        return true;
    /* A group keeps the number of its leader for as long as it has members, so nobody else can have it. */
    if (person->group != us->group && has_been_seen(kin, person->group))
        return true;
    return person->session != us->session && has_been_seen(kin, person->session);
}

int fp_kin_look(fp_kin *kin, pid_t root, bool root_lives, bool root_leads) {
    struct onlooker us = {.pid = sys_getpid(), .group = sys_getpgid(0), .session = sys_getsid(0)};
    pid_t leader = root_leads && root != us.group && root != us.session ? root : 0;
    fp_census census;
    int alive = 0;
    bool grown = true;

    fp_census_init(&census);
    int r = fp_census_step(&census, UINT32_MAX);
    while (r == 0)
        r = fp_census_step(&census, UINT32_MAX);
    /* A child of someone newly found may stand before him in the list: again until nobody is new. */
    while (r > 0 && grown) {
        grown = false;
        alive = 0;
        for (uint32_t i = 0; i < census.count; i++) {
            const fp_person *person = &census.people[i];
            if (person->pid <= 1 || person->pid == us.pid || person->pid == root || !fp_person_is_alive(person))
                continue;
            if (!is_known(kin, person)) {
                if (!belongs(kin, &census, person, &us, root_lives ? root : 0, leader))
                    continue;
                int e = add(kin, person);
                if (e < 0)
                    r = e;
                grown = true;
            }
            alive++;
        }
    }
    fp_census_done(&census);
    return r < 0 ? r : alive;
}

int fp_kin_look_into(fp_kin *kin, fp_leaf *leaf) {
    pid_t *pids = malloc(MOST_MEMBERS * sizeof *pids);
    pid_t self = sys_getpid();
    int alive = 0;
    int n = pids ? fp_leaf_members(leaf, pids, MOST_MEMBERS) : -ENOMEM;

    for (int i = 0; i < n; i++) {
        fp_person person;
        if (pids[i] <= 1 || pids[i] == self || fp_person_read(pids[i], &person) < 0 || !fp_person_is_alive(&person))
            continue;
        alive++;
        if (!is_known(kin, &person))
            add(kin, &person);
    }
    free(pids);
    return n < 0 ? n : alive;
}

static void signal_one(const fp_kinsman *kinsman, int sig) {
    fp_person person;
    int pidfd = fp_can(FP_CAP_PIDFD_SIGNAL) ? sys_aside(sys_pidfd_open(kinsman->pid, 0)) : -1;

    /* The descriptor first, then the proof that it is of whom we saw. */
    if (fp_person_read(kinsman->pid, &person) == 0 && person.start == kinsman->start) {
        if (pidfd >= 0)
            sys_pidfd_send_signal(pidfd, sig, NULL, 0);
        else
            sys_kill(kinsman->pid, sig);
    }
    if (pidfd >= 0)
        sys_close(pidfd);
}

void fp_kin_signal(const fp_kin *kin, int sig) {
    for (uint32_t i = 0; i < kin->n; i++)
        signal_one(&kin->of[i], sig);
}

void fp_kin_free(fp_kin *kin) {
    free(kin->of);
    *kin = (fp_kin){0};
}
