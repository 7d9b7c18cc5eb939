/*
 * stop.c: the stop ladder as a table. (rung, event) gives the next rung and
 * what to do; no clock, no signal, no process. ladder.c carries it out.
 *
 *                ASK            NOW            TIME              CLEARED
 *   NONE         ask, ASKED     kill, KILLED   -                 EMPTY
 *   ASKED        -              kill, KILLED   kill, KILLED      finish, EMPTY
 *   KILLED       -              -              report, GIVEN_UP  finish, EMPTY
 *   GIVEN_UP     -              kill again     kill again        finish, EMPTY
 *   EMPTY        -              -              -                 -
 *
 * So the stop signal is sent once however often somebody asks: many programs
 * take a second SIGTERM to mean "abort now".
 */
#include <assert.h>

#include "proc.h"

typedef struct move {
    fp_rung next;
    fp_stop_action action;
} move;

static const move table[FP_RUNG_COUNT][FP_STOP_EVENT_COUNT] = {
    [FP_RUNG_NONE] =
        {
            [FP_STOP_ASK] = {FP_RUNG_ASKED, FP_DO_ASK},
            [FP_STOP_NOW] = {FP_RUNG_KILLED, FP_DO_KILL},
            [FP_STOP_TIME] = {FP_RUNG_NONE, FP_DO_NOTHING},
            [FP_STOP_CLEARED] = {FP_RUNG_EMPTY, FP_DO_NOTHING},
        },
    [FP_RUNG_ASKED] =
        {
            [FP_STOP_ASK] = {FP_RUNG_ASKED, FP_DO_NOTHING},
            [FP_STOP_NOW] = {FP_RUNG_KILLED, FP_DO_KILL},
            [FP_STOP_TIME] = {FP_RUNG_KILLED, FP_DO_KILL},
            [FP_STOP_CLEARED] = {FP_RUNG_EMPTY, FP_DO_FINISH},
        },
    [FP_RUNG_KILLED] =
        {
            [FP_STOP_ASK] = {FP_RUNG_KILLED, FP_DO_NOTHING},
            [FP_STOP_NOW] = {FP_RUNG_KILLED, FP_DO_NOTHING},
            [FP_STOP_TIME] = {FP_RUNG_GIVEN_UP, FP_DO_REPORT},
            [FP_STOP_CLEARED] = {FP_RUNG_EMPTY, FP_DO_FINISH},
        },
    [FP_RUNG_GIVEN_UP] =
        {
            [FP_STOP_ASK] = {FP_RUNG_GIVEN_UP, FP_DO_NOTHING},
            [FP_STOP_NOW] = {FP_RUNG_GIVEN_UP, FP_DO_KILL_AGAIN},
            [FP_STOP_TIME] = {FP_RUNG_GIVEN_UP, FP_DO_KILL_AGAIN},
            [FP_STOP_CLEARED] = {FP_RUNG_EMPTY, FP_DO_FINISH},
        },
    [FP_RUNG_EMPTY] =
        {
            [FP_STOP_ASK] = {FP_RUNG_EMPTY, FP_DO_NOTHING},
            [FP_STOP_NOW] = {FP_RUNG_EMPTY, FP_DO_NOTHING},
            [FP_STOP_TIME] = {FP_RUNG_EMPTY, FP_DO_NOTHING},
            [FP_STOP_CLEARED] = {FP_RUNG_EMPTY, FP_DO_NOTHING},
        },
};

fp_stop_action fp_stop_step(fp_rung *rung, fp_stop_event event) {
    assert(*rung < FP_RUNG_COUNT && event < FP_STOP_EVENT_COUNT);
    const move *m = &table[*rung][event];
    *rung = m->next;
    return m->action;
}
