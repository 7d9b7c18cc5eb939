/*
 * ladder.c: one process on the stop ladder. The table of stop.c says what to
 * do on which rung; here it is done: signals by contain.c, the next time to
 * look, the news.
 *
 * The rung of a process moves nowhere else. When a time of it is over is seen
 * by fp_proc_turn(), which must run after every step that is taken from
 * outside, so that the timer is set.
 */
#include "internal.h"

#define UNKILLABLE_LOOK FP_NS_PER_S
#define MOST_UNKILLABLE_LOOK (60 * FP_NS_PER_S)

static void look_soon(fp_proc *proc, int64_t now) {
    proc->check_gap_us = FP_FIRST_GAP_US;
    proc->check_ns = now + FP_FIRST_GAP_US * INT64_C(1000);
    proc->swept = false;
    proc->census_ns = 0;
}

/* Carry out what the table of stop.c says. */
static void act(fp_proc *proc, fp_stop_action action, int64_t now) {
    switch (action) {
    case FP_DO_NOTHING:
        break;
    case FP_DO_ASK:
        proc->flags |= FP_EXIT_STOPPED;
        proc->step_ns = fp_after(now, proc->grace_ns);
        look_soon(proc, now);
        fp_contain_ask(proc, proc->stop_signal);
        break;
    case FP_DO_KILL:
        if (proc->flags & FP_EXIT_STOPPED) {
            /* What is said of the child does not change any more once it has ended. */
            proc->flags |= fp_proc_state(proc) == FP_STATE_RUNNING ? FP_EXIT_ESCALATED : FP_EXIT_LEFTOVERS_ESCALATED;
            fp_mailbox_post(proc->mailbox, proc, FP_NEWS_ESCALATED);
        }
        proc->flags |= FP_EXIT_STOPPED;
        proc->hurry = true;
        proc->step_ns = fp_after(now, proc->kill_timeout_ns);
        look_soon(proc, now);
        fp_contain_kill(proc);
        break;
    case FP_DO_REPORT:
        proc->flags |= FP_EXIT_UNKILLABLE;
        proc->kill_timeout_ns = UNKILLABLE_LOOK;
        proc->step_ns = fp_after(now, proc->kill_timeout_ns);
        fp_proc_tell(proc, fp_proc_state(proc), FP_WORD_UNKILLABLE);
        fp_mailbox_post(proc->mailbox, proc, FP_NEWS_UNKILLABLE);
        break;
    case FP_DO_KILL_AGAIN:
        if (proc->kill_timeout_ns < MOST_UNKILLABLE_LOOK)
            proc->kill_timeout_ns *= 2;
        proc->step_ns = fp_after(now, proc->kill_timeout_ns);
        look_soon(proc, now);
        fp_contain_kill(proc);
        break;
    case FP_DO_FINISH:
        proc->step_ns = FP_NEVER;
        break;
    }
}

void fp_proc_climb(fp_proc *proc, fp_stop_event event, int64_t now) {
    fp_rung rung = proc->rung;
    fp_stop_action action = fp_stop_step(&rung, event);
    proc->rung = (uint8_t)rung;
    act(proc, action, now);
}

void fp_proc_ask_to_stop(fp_proc *proc, int reason, int64_t now) {
    if (fp_proc_state(proc) == FP_STATE_RUNNING && proc->rung == FP_RUNG_NONE)
        proc->reason = (uint8_t)reason;
    proc->hurry = true;
    fp_proc_climb(proc, proc->grace_ns < 0 ? FP_STOP_NOW : FP_STOP_ASK, now);
}
