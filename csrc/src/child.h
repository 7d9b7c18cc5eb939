/*
 * child.h: the plan that a child carries out between its birth and execve(2),
 * and what it reports when it cannot. Made by plan.c and spawn.c, carried out
 * by child.c.
 */
#ifndef FASTPROC_CHILD_H
#define FASTPROC_CHILD_H

#include "fdplan.h"
#include "host.h"
#include "sys.h"

#pragma GCC visibility push(hidden)

/* SIGKILL and SIGSTOP are what they are. */
#define FP_SIGNALS_CHANGEABLE (~(UINT64_C(1) << (SIGKILL - 1) | UINT64_C(1) << (SIGSTOP - 1)))

/* Shared with the parent: by CLONE_VM, or as a shared page after a fork. */
typedef struct fp_child_report {
    int32_t reached_exec; /* 1: all is done but execve(2) */
    int32_t error;        /* errno, or 0 */
    int32_t stage;
    int32_t detail;
} fp_child_report;

/* A stream that the child opens by itself. */
typedef struct fp_child_open {
    const char *path;
    int flags;
    int target;
} fp_child_open;

/* Descriptors from `first` to `last`, both included. */
typedef struct fp_fd_range {
    unsigned first;
    unsigned last;
} fp_fd_range;

typedef struct fp_child_rlimit {
    int resource;
    int index; /* enum fp_rlimit_index */
    uint64_t limit[2];
} fp_child_rlimit;

typedef struct fp_child_plan {
    /* How it was born. */
    fp_child_report *report;
    _Atomic pid_t *born_pid; /* store our pid there first; NULL: the kernel has */
    pid_t parent_pid;        /* with FP_DIE_WITH_PARENT */
    int keep_below; /* the table is the parent's: take a copy of what is below; -1: it is our own */

    int lead;      /* enum fp_lead */
    int32_t process_group; /* with FP_JOIN_GROUP */
    int cgroup_fd; /* directory of the cgroup to move into; -1: we are in it */

    /* Descriptors: moved, then opened, then all in `gaps` closed. */
    fp_fd_move *moves; /* the wishes; for the parent, as are `spare_fd` and `kept` */
    size_t n_moves;
    int spare_fd;
    int *kept;
    fp_fd_op *ops;
    size_t n_ops;
    fp_child_open opens[3];
    size_t n_opens;
    bool error_follows_output; /* 2 becomes a copy of 1, which we have opened */
    bool has_close_range;
    bool has_proc;
    bool bare_above_2; /* with a table cut at 3 there is nothing in the gaps */
    fp_fd_range *gaps;
    size_t n_gaps;

    fp_child_rlimit rlimits[FP_RLIMIT_COUNT];
    size_t n_rlimits;
    const uint64_t *affinity;
    size_t affinity_bytes;
    const char *cwd;
    bool cwd_first; /* it may be named by a descriptor that we close: /proc/self/fd/3 */
    uint32_t flags; /* enum fp_spec_flag */
    uint32_t umask;
    int32_t nice;

    uint32_t uid;
    uint32_t gid;
    size_t n_groups;
    const uint32_t *groups; /* ascending */
    uint32_t *groups_seen;  /* room for n_groups + 1 */

    fp_sigset sigdefault;   /* to be put to default */
    bool caught_to_default; /* and so all that has a handler */
    fp_sigset sigignore;    /* to be ignored */
    fp_sigset sigmask;

    const char *const *paths; /* tried in turn */
    size_t n_paths;
    bool searching; /* `paths` come from a search: the next is tried when one is missing */
    bool searching_on; /* or cannot be executed for any reason */
    const char *const *argv;
    const char *const *envp;
} fp_child_plan;

/* [child zone] Carry out a plan; `plan` is an fp_child_plan. Does not return. */
int fp_child_main(void *plan);

/* What a trial child finds out for probe.c. */
typedef struct fp_child_trial {
    int32_t born;     /* set by the child: its memory is ours */
    int32_t unshared; /* what close_range(2) with CLOSE_RANGE_UNSHARE answered */
    int fd;           /* closed by the child in its copy of the table; -1: not tried */
} fp_child_trial;

/* [child zone] `trial` is an fp_child_trial. */
int fp_child_try(void *trial);

/* ---- plan.c -------------------------------------------------------------- */

/* How much memory the plan for `spec` needs. */
size_t fp_plan_space(const fp_spec *spec);

/*
 * Make the plan for `spec`, except for its descriptors and the way of birth.
 * `space` has fp_plan_space() bytes, is aligned as by malloc(3), and must live
 * as long as the plan; so must `spec`. `pipe_fd` are the child's ends of our
 * pipes, `null_fd` is the null device, or -1: then the child opens it.
 * The wishes for fp_plan_fds() are left in `plan->moves`.
 */
void fp_plan_make(fp_child_plan *plan, void *space, const fp_spec *spec, const int pipe_fd[3], int null_fd);

/* Order the moves. Their sources may have been changed since fp_plan_make(). */
void fp_plan_fds(fp_child_plan *plan);

/* Find what is to be closed: all but 0 to 2, the targets, and `report_fd` (-1: none); nothing with FP_INHERIT_FDS. */
void fp_plan_gaps(fp_child_plan *plan, int report_fd);

#pragma GCC visibility pop
#endif
