/*
 * test_stop.c: the stop ladder, whole table, against a model that says the
 * same in another way: what each event means, instead of what each cell holds.
 */
#include "check.h"
#include "internal.h"

typedef struct model {
    bool asked;    /* the stop signal has been sent */
    bool killed;   /* SIGKILL has been sent */
    bool reported; /* and was of no use */
    bool over;     /* nothing is left */
} model;

static model model_of(fp_rung rung) {
    return (model){
        .asked = rung == FP_RUNG_ASKED || rung == FP_RUNG_KILLED || rung == FP_RUNG_GIVEN_UP,
        .killed = rung == FP_RUNG_KILLED || rung == FP_RUNG_GIVEN_UP,
        .reported = rung == FP_RUNG_GIVEN_UP,
        .over = rung == FP_RUNG_EMPTY,
    };
}

static fp_rung rung_of(const model *m) {
    if (m->over)
        return FP_RUNG_EMPTY;
    if (m->reported)
        return FP_RUNG_GIVEN_UP;
    if (m->killed)
        return FP_RUNG_KILLED;
    return m->asked ? FP_RUNG_ASKED : FP_RUNG_NONE;
}

/* Go on from where the ladder stands: harder each time. */
static fp_stop_action insist(model *m) {
    if (m->reported)
        return FP_DO_KILL_AGAIN;
    if (m->killed) {
        m->reported = true;
        return FP_DO_REPORT;
    }
    m->asked = m->killed = true;
    return FP_DO_KILL;
}

static fp_stop_action model_step(model *m, fp_stop_event event) {
    if (m->over)
        return FP_DO_NOTHING;
    switch (event) {
    case FP_STOP_ASK:
        if (m->asked)
            return FP_DO_NOTHING;
        m->asked = true;
        return FP_DO_ASK;
    case FP_STOP_NOW:
        /* Whoever is in a hurry cannot shorten the time that SIGKILL takes. */
        return m->killed && !m->reported ? FP_DO_NOTHING : insist(m);
    case FP_STOP_TIME:
        return m->asked ? insist(m) : FP_DO_NOTHING;
    default:
        m->over = true;
        return m->asked ? FP_DO_FINISH : FP_DO_NOTHING;
    }
}

static void the_whole_table_is_as_the_model_says(void) {
    for (int from = 0; from < FP_RUNG_COUNT; from++) {
        for (int event = 0; event < FP_STOP_EVENT_COUNT; event++) {
            fp_rung rung = (fp_rung)from;
            model m = model_of(rung);
            fp_stop_action expected = model_step(&m, (fp_stop_event)event);
            CHECK_EQ(fp_stop_step(&rung, (fp_stop_event)event), expected);
            CHECK_EQ(rung, rung_of(&m));
        }
    }
}

/* All sequences of seven events: what holds on every way, not only for every step. */
static void no_way_asks_twice_or_comes_back_to_life(void) {
    enum { LENGTH = 7 };
    long ways = 1;
    for (int i = 0; i < LENGTH; i++)
        ways *= FP_STOP_EVENT_COUNT;
    for (long way = 0; way < ways; way++) {
        int asks = 0, kills = 0, reports = 0, ends = 0;
        bool cleared = false;
        fp_rung rung = FP_RUNG_NONE;
        long rest = way;
        for (int i = 0; i < LENGTH; i++, rest /= FP_STOP_EVENT_COUNT) {
            fp_rung before = rung;
            fp_stop_event event = (fp_stop_event)(rest % FP_STOP_EVENT_COUNT);
            fp_stop_action action = fp_stop_step(&rung, event);
            CHECK(rung >= before);
            CHECK(!cleared || action == FP_DO_NOTHING);
            CHECK(action != FP_DO_KILL_AGAIN || reports == 1);
            asks += action == FP_DO_ASK;
            kills += action == FP_DO_KILL;
            reports += action == FP_DO_REPORT;
            ends += action == FP_DO_FINISH;
            cleared |= event == FP_STOP_CLEARED;
        }
        CHECK(asks <= 1 && kills <= 1 && reports <= kills && ends <= 1);
    }
}

static void time_alone_climbs_to_the_top(void) {
    fp_rung rung = FP_RUNG_NONE;
    CHECK_EQ(fp_stop_step(&rung, FP_STOP_ASK), FP_DO_ASK);
    CHECK_EQ(fp_stop_step(&rung, FP_STOP_TIME), FP_DO_KILL);
    CHECK_EQ(fp_stop_step(&rung, FP_STOP_TIME), FP_DO_REPORT);
    CHECK_EQ(fp_stop_step(&rung, FP_STOP_TIME), FP_DO_KILL_AGAIN);
    CHECK_EQ(fp_stop_step(&rung, FP_STOP_CLEARED), FP_DO_FINISH);
}

int main(void) {
    RUN(the_whole_table_is_as_the_model_says);
    RUN(no_way_asks_twice_or_comes_back_to_life);
    RUN(time_alone_climbs_to_the_top);
    return check_result();
}
