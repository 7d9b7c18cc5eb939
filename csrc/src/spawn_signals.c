/*
 * spawn_signals.c: signals during a birth, and what the child makes of them.
 *
 * All signals are blocked meanwhile, those included that libc uses for itself:
 * a handler must not run in a child that shares our memory, and the child must
 * not die of what was meant for us. SIGKILL and SIGSTOP remain.
 */
#include <signal.h>

#include "birth.h"

static fp_sigset ignored_now(const fp_birthplace *place) {
    int fd = place->slots ? place->slots->dispositions_fd : -1;
    if (place->ignored)
        return fp_dispositions_ignored_since(place->ignored, fd, place->asked_ns);
    return fp_dispositions_ignored(fd);
}

void fp_birth_plan_signals(struct birth *birth, bool cleared) {
    fp_child_plan *plan = &birth->plan;
    bool keep_ignored = birth->spec->flags & FP_KEEP_SIGNALS;

    plan->sigdefault = birth->spec->sigdefault & FP_SIGNALS_CHANGEABLE & ~plan->sigignore;
    plan->caught_to_default = keep_ignored && !cleared;
    if (!keep_ignored) {
        plan->sigdefault = cleared ? ignored_now(birth->place) : ~UINT64_C(0);
        plan->sigdefault &= FP_SIGNALS_CHANGEABLE & ~plan->sigignore;
    }
}

void fp_birth_block_signals(struct birth *birth, fp_sigset *ret_mask) {
    static const fp_sigset all = ~UINT64_C(0);

    sys_rt_sigprocmask(SIG_SETMASK, &all, ret_mask);
    if (birth->spec->flags & FP_KEEP_MASK)
        birth->plan.sigmask = *ret_mask | birth->spec->sigmask;
    birth->started_ns = fp_now_ns();
}

void fp_birth_allow_signals(const fp_sigset *mask) {
    sys_rt_sigprocmask(SIG_SETMASK, mask, NULL);
}
