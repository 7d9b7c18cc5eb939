/*
 * contain.c: the set that the descendants of a process are kept in: how it is
 * signalled, and how it is known to be empty.
 *
 * Processes that have been born are signalled here and, where a kernel lacks
 * cgroup.kill, in cgroup.c; births that hang in births.c, failed ones in
 * spawn.c. A process is named by its pidfd, a group by the pidfd of its leader
 * (PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9), which cannot hit a recycled number.
 * Without these, numbers serve as long as the leader is kept unreaped. Never by
 * getpgid(2): a leader may have moved into the group of its parent.
 *
 *   cgroup    nobody leaves it; cgroup.kill ends it; "populated 0" is the proof.
 *   session   the group, and what is found of those who left it: descendants,
 *             followed by pidfd, and members of the session in /proc. They are
 *             held by SIGSTOP while they are looked for, so that none is born,
 *             or loses his parents, meanwhile. Who had called setsid(2) and lost
 *             his parents before is not found.
 *
 * All functions are called with the lock of the supervisor held.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "sys.h"

enum { MOST_DESCENDANTS = 4096, MOST_LISTED = 1024, MOST_PASSES = 16 };
#define FIRST_CENSUS (5 * FP_NS_PER_MS)
#define NEXT_CENSUS (100 * FP_NS_PER_MS)

/* ---- the one place that signals ---------------------------------------------- */

/* By number, for kernels without pidfds. Numbers from 1 down mean "everybody" to kill(2), or init. */
static int signal_number(pid_t pid, int sig) {
    if (pid <= 1 || pid == sys_getpid())
        return -EPERM;
    return sys_kill(pid, sig);
}

static int signal_group_number(pid_t group, int sig) {
    if (group <= 1 || group == sys_getpgid(0))
        return -EPERM;
    return sys_kill(-group, sig);
}

static int signal_leader(fp_proc *proc, int sig) {
    if (proc->pidfd >= 0 && fp_can(FP_CAP_PIDFD_SIGNAL))
        return sys_pidfd_send_signal(proc->pidfd, sig, NULL, 0);
    return proc->reaped ? -ESRCH : signal_number(proc->pid, sig);
}

static bool group_by_pidfd(const fp_proc *proc) {
    return proc->pidfd >= 0 && fp_can(FP_CAP_PIDFD_GROUP);
}

static int signal_group(fp_proc *proc, int sig) {
    if (proc->lead == FP_LEAD_NOTHING)
        return -ESRCH;
    if (group_by_pidfd(proc))
        return sys_pidfd_send_signal(proc->pidfd, sig, NULL, FP_PIDFD_SIGNAL_PROCESS_GROUP);
    /* Once the leader is reaped its number may be another's. Signal 0 can do no harm. */
    return proc->reaped && sig != 0 ? -ESRCH : signal_group_number(proc->pid, sig);
}

static int signal_tracked(const fp_tracked *tracked, int sig) {
    fp_person person;
    if (tracked->pidfd >= 0 && fp_can(FP_CAP_PIDFD_SIGNAL))
        return sys_pidfd_send_signal(tracked->pidfd, sig, NULL, 0);
    if (fp_person_read(tracked->pid, &person) < 0 || person.start != tracked->start)
        return -ESRCH;
    return signal_number(tracked->pid, sig);
}

int fp_contain_signal(fp_proc *proc, int sig, bool to_group) {
    return to_group ? signal_group(proc, sig) : signal_leader(proc, sig);
}

/* ---- following those who left the group ---------------------------------------- */

static bool is_tracked(const fp_proc *proc, const fp_person *person) {
    for (uint32_t i = 0; i < proc->n_tracked; i++)
        if (proc->tracked[i].pid == person->pid && proc->tracked[i].start == person->start)
            return true;
    return false;
}

/* Follow this one by identity: the descriptor first, then the proof that it still is who we saw. */
static fp_tracked *track(fp_proc *proc, const fp_person *person) {
    fp_person again;
    int pidfd = fp_can(FP_CAP_PIDFD) ? sys_aside(sys_pidfd_open(person->pid, 0)) : -1;

    if (fp_person_read(person->pid, &again) < 0 || again.start != person->start || !fp_person_is_alive(&again))
        goto stranger;
    /* Room for powers of two, from 4. */
    if (proc->n_tracked == 0 || (proc->n_tracked >= 4 && (proc->n_tracked & (proc->n_tracked - 1)) == 0)) {
        uint32_t room = proc->n_tracked ? 2 * proc->n_tracked : 4;
        fp_tracked *tracked = realloc(proc->tracked, room * sizeof *tracked);
        if (!tracked)
            goto stranger;
        proc->tracked = tracked;
    }
    proc->tracked[proc->n_tracked] = (fp_tracked){.pid = person->pid, .pidfd = pidfd, .start = person->start};
    return &proc->tracked[proc->n_tracked++];
stranger:
    if (pidfd >= 0)
        sys_close(pidfd);
    return NULL;
}

/* A newcomer hears what the others have heard. */
static void catch_up(fp_proc *proc, const fp_tracked *tracked) {
    if (proc->rung == FP_RUNG_ASKED) {
        signal_tracked(tracked, proc->stop_signal);
        signal_tracked(tracked, SIGCONT);
    } else if (proc->rung >= FP_RUNG_KILLED) {
        /* Killed when his children are known, see fp_contain_count(). */
        signal_tracked(tracked, SIGSTOP);
    }
}

/* Walk down from the leader and from whom we follow; those outside the group are followed from now on. */
static void track_descendants(fp_proc *proc) {
    pid_t *queue = malloc(MOST_DESCENDANTS * sizeof *queue);
    int n = 0;

    if (!queue || !fp_can(FP_CAP_PROCFS)) {
        free(queue);
        return;
    }
    if (fp_proc_state(proc) == FP_STATE_RUNNING)
        queue[n++] = proc->pid;
    for (uint32_t i = 0; i < proc->n_tracked && n < MOST_DESCENDANTS; i++) {
        /* Once it is gone its number may be a stranger's, and so would be his children. */
        fp_person person;
        pid_t pid = proc->tracked[i].pid;
        if (fp_person_read(pid, &person) == 0 && person.start == proc->tracked[i].start)
            queue[n++] = pid;
    }
    for (int at = 0; at < n; at++) {
        int found = n < MOST_DESCENDANTS ? fp_children_read(queue[at], queue + n, MOST_DESCENDANTS - n) : 0;
        int first = n;
        for (int i = 0; i < found; i++) {
            fp_person person;
            pid_t pid = queue[first + i];
            if (fp_person_read(pid, &person) < 0 || person.parent != queue[at])
                continue;
            queue[n++] = pid;
            bool in_group = proc->lead != FP_LEAD_NOTHING && person.group == proc->pid;
            if (!in_group && fp_person_is_alive(&person) && !is_tracked(proc, &person))
                track(proc, &person);
        }
    }
    free(queue);
}

/* A mere group may have been left by its leader, for another of the session; and without a group he is all there is. */
static bool leader_is_alone(const fp_proc *proc) {
    return proc->lead == FP_LEAD_NOTHING ||
           (proc->lead == FP_LEAD_GROUP && !proc->reaped && sys_getpgid(proc->pid) != proc->pid);
}

/*
 * Hold all that can be found, and look for more until there is nobody new. To
 * whom SIGSTOP has been sent makes no further child: fork(2) looks for signals
 * under the very lock that they are sent under, and begins anew. So whoever
 * was born before has his parent still, and is found as his child.
 */
static void hold_all(fp_proc *proc) {
    uint32_t known = 0;

    if (leader_is_alone(proc))
        signal_leader(proc, SIGSTOP);
    for (int pass = 0; pass < MOST_PASSES; pass++) {
        signal_group(proc, SIGSTOP);
        for (; known < proc->n_tracked; known++)
            signal_tracked(&proc->tracked[known], SIGSTOP);
        track_descendants(proc);
        if (known == proc->n_tracked)
            return;
    }
}

/* ---- asking and killing ------------------------------------------------------------ */

/* Ask the members of the leaf that no signal has reached so far. True: there were some. */
static bool ask_newcomers(fp_proc *proc, fp_supervisor *supervisor, int sig) {
    pid_t pids[MOST_LISTED];
    int n = fp_leaf_members(proc->leaf, pids, MOST_LISTED);
    bool found = false;

    for (int i = 0; i < n; i++) {
        fp_person person;
        bool ours = pids[i] != proc->pid && fp_person_read(pids[i], &person) == 0 && fp_person_is_alive(&person);
        bool asked = ours && proc->lead != FP_LEAD_NOTHING && person.group == proc->pid &&
                     (group_by_pidfd(proc) || !proc->reaped);
        if (!ours || asked || is_tracked(proc, &person))
            continue;
        fp_tracked *tracked = track(proc, &person);
        if (tracked && fp_leaves_hold(&supervisor->leaves, person.pid, NULL)) {
            signal_tracked(tracked, sig);
            signal_tracked(tracked, SIGCONT);
            found = true;
        }
    }
    return found;
}

static void ask_leaf(fp_proc *proc, fp_supervisor *supervisor, int sig) {
    /* Who is asked may have forked since he was listed; what forks on and on is left to the kill. */
    for (int pass = 0; pass < MOST_PASSES && ask_newcomers(proc, supervisor, sig); pass++)
        ;
    fp_contain_forget(proc);
}

void fp_contain_ask(fp_proc *proc, int sig) {
    fp_supervisor *supervisor = atomic_load(&proc->supervisor);

    if (!proc->leaf)
        track_descendants(proc);
    /* Where some have left the group already, more may be about to. */
    if (proc->n_tracked)
        hold_all(proc);
    signal_group(proc, sig);
    bool alone = leader_is_alone(proc);
    if (alone)
        signal_leader(proc, sig);
    /* What is stopped hears nothing until it goes on. */
    signal_group(proc, SIGCONT);
    if (alone)
        signal_leader(proc, SIGCONT);
    for (uint32_t i = 0; i < proc->n_tracked; i++) {
        signal_tracked(&proc->tracked[i], sig);
        signal_tracked(&proc->tracked[i], SIGCONT);
    }
    if (proc->leaf)
        ask_leaf(proc, supervisor, sig);
}

void fp_contain_kill(fp_proc *proc) {
    if (proc->leaf)
        fp_leaf_kill(proc->leaf);
    else if (fp_can(FP_CAP_PROCFS))
        hold_all(proc);
    signal_group(proc, SIGKILL);
    signal_leader(proc, SIGKILL);
    for (uint32_t i = 0; i < proc->n_tracked; i++)
        signal_tracked(&proc->tracked[i], SIGKILL);
}

/* ---- emptiness ------------------------------------------------------------------------ */

static uint64_t ticks_of(int64_t when_ns) {
    struct timespec boot;
    clock_gettime(CLOCK_BOOTTIME, &boot);
    int64_t ago = fp_now_ns() - when_ns;
    int64_t since_boot = boot.tv_sec * FP_NS_PER_S + boot.tv_nsec - ago;
    return (uint64_t)(since_boot / (FP_NS_PER_S / sysconf(_SC_CLK_TCK)));
}

/* Whom the numbers in a census are believed for: see belongs(). */
typedef struct belief {
    bool group;     /* the group number cannot be another's */
    uint64_t until; /* members of the session that began no later are ours */
} belief;

static belief believe(fp_proc *proc, const fp_census *census) {
    belief b = {.group = false, .until = UINT64_MAX};
    if (proc->lead == FP_LEAD_NOTHING)
        return (belief){.until = 0};
    if (!proc->reaped)
        return (belief){.group = true, .until = UINT64_MAX};
    /* Reaped: the number stays taken only while the group or the session lives. */
    b.group = group_by_pidfd(proc) && signal_group(proc, 0) != -ESRCH;
    const fp_person *recycled = fp_census_find(census, proc->pid);
    /* Not if somebody else has reaped it, and its status is still to come. */
    bool has_ended = fp_proc_state(proc) > FP_STATE_RUNNING;
    if (!b.group)
        b.until = recycled || !has_ended ? 0 : ticks_of(fp_proc_ended(proc)->ended_ns);
    return b;
}

static bool belongs(const fp_proc *proc, const belief *b, const fp_person *person) {
    bool member = person->group == proc->pid || (proc->lead == FP_LEAD_SESSION && person->session == proc->pid);
    return member && (b->group || person->start <= b->until);
}

/* A child of one of ours is ours, wherever it has moved. */
static bool has_known_parent(const fp_proc *proc, const fp_census *census, const belief *b, const fp_person *person) {
    const fp_person *parent = fp_census_find(census, person->parent);
    if (!parent)
        return false;
    if (parent->pid == proc->pid)
        return !proc->reaped;
    return belongs(proc, b, parent) || is_tracked(proc, parent);
}

int fp_contain_count(fp_proc *proc, const fp_census *census) {
    belief b = believe(proc, census);
    int found = 0;
    bool grown = true, newcomers = false;

    /* A child of someone newly followed may stand before him in the list: again until nobody is new. */
    while (grown) {
        grown = false;
        found = 0;
        for (uint32_t i = 0; i < census->count; i++) {
            const fp_person *person = &census->people[i];
            if (person->pid == proc->pid)
                continue;
            if (!fp_person_is_alive(person)) {
                /* Its leader will be forgotten: later nobody could tell whose it was. */
                if (proc->lead == FP_LEAD_SESSION && person->session == proc->pid && belongs(proc, &b, person))
                    fp_orphan_found(proc, person);
                continue;
            }
            bool known = is_tracked(proc, person);
            bool member = belongs(proc, &b, person);
            if (!known && !member && !has_known_parent(proc, census, &b, person))
                continue;
            found++;
            bool heard = known || (b.group && person->group == proc->pid);
            if (heard)
                continue;
            fp_tracked *tracked = track(proc, person);
            if (tracked) {
                catch_up(proc, tracked);
                grown = newcomers = true;
            }
        }
    }
    if (newcomers && proc->rung >= FP_RUNG_KILLED)
        fp_contain_kill(proc);
    return found;
}

static bool tracked_are_gone(const fp_proc *proc) {
    for (uint32_t i = 0; i < proc->n_tracked; i++) {
        fp_person person;
        int r = fp_person_read(proc->tracked[i].pid, &person);
        if (r == 0 ? person.start == proc->tracked[i].start && fp_person_is_alive(&person) : r != -ESRCH)
            return false;
    }
    return true;
}

static void want_census(fp_proc *proc, int64_t now, int64_t wait) {
    if (proc->census_ns == 0)
        proc->census_ns = now + wait;
}

/*
 * Has the kernel given up the number of a leader that was reaped? It does so
 * with the last member of its group and of its session, so then both are
 * empty. F_SETOWN looks the number up and nothing else, see fcntl(2): it
 * answers ESRCH exactly if the number is free, for a fraction of what a walk
 * through /proc costs.
 */
static bool number_is_free(const fp_proc *proc) {
    const fp_supervisor *supervisor = atomic_load(&proc->supervisor);

    if (!proc->reaped || proc->lead == FP_LEAD_NOTHING || supervisor->event_fd < 0)
        return false;
    int r = sys_fcntl(supervisor->event_fd, F_SETOWN, proc->pid);
    if (r >= 0)
        sys_fcntl(supervisor->event_fd, F_SETOWN, 0);
    return r == -ESRCH;
}

bool fp_contain_empty(fp_proc *proc, int64_t now) {
    if (proc->leaf) {
        int r = fp_leaf_populated(proc->leaf);
        if (r >= 0) {
            proc->proof = r == 0 ? FP_PROOF_CGROUP : FP_PROOF_NONE;
            return r == 0;
        }
        if (r != -ENODEV && r != -EBADF)
            return false; /* not to be known now */
        /* Somebody has removed it, or closed our descriptor: the group is what is left to ask. */
    }
    if (proc->swept)
        return true;
    if (proc->n_tracked == 0 && number_is_free(proc)) {
        proc->proof = FP_PROOF_SESSION;
        return true;
    }
    bool climbing = proc->rung != FP_RUNG_NONE;
    bool group_gone;
    if (proc->lead == FP_LEAD_NOTHING)
        group_gone = true;
    else if (group_by_pidfd(proc) || proc->reaped)
        group_gone = signal_group(proc, 0) == -ESRCH;
    else
        group_gone = false; /* its own zombie still is in it */
    if (!fp_can(FP_CAP_PROCFS))
        return group_gone || (!proc->reaped && !group_by_pidfd(proc) && !climbing);
    if (group_gone && !climbing && proc->lead != FP_LEAD_SESSION)
        return true;
    if (group_gone && !tracked_are_gone(proc))
        return false;
    /* Signal 0 reaches zombies too, which a lazy init may keep: only a census tells. */
    want_census(proc, now, group_gone ? 0 : proc->check_gap_us > 50000 ? NEXT_CENSUS : FIRST_CENSUS);
    return false;
}

void fp_contain_forget(fp_proc *proc) {
    for (uint32_t i = 0; i < proc->n_tracked; i++)
        if (proc->tracked[i].pidfd >= 0)
            sys_close(proc->tracked[i].pidfd);
    free(proc->tracked);
    proc->tracked = NULL;
    proc->n_tracked = 0;
}

int fp_contain_survivors(fp_proc *proc, const fp_census *census, int32_t *ret_pids, int n) {
    int found = 0;

    if (proc->leaf) {
        pid_t pids[MOST_LISTED];
        int members = fp_leaf_members(proc->leaf, pids, MOST_LISTED);
        for (int i = 0; i < members; i++)
            if (found++ < n)
                ret_pids[found - 1] = pids[i];
        return found;
    }
    if (fp_proc_state(proc) == FP_STATE_RUNNING && found++ < n)
        ret_pids[0] = proc->pid;
    if (!census)
        return found;
    belief b = believe(proc, census);
    for (uint32_t i = 0; i < census->count; i++) {
        const fp_person *person = &census->people[i];
        if (!fp_person_is_alive(person) || person->pid == proc->pid)
            continue;
        if (!belongs(proc, &b, person) && !is_tracked(proc, person))
            continue;
        if (found++ < n)
            ret_pids[found - 1] = person->pid;
    }
    return found;
}
