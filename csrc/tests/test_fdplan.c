/*
 * test_fdplan.c: plans of descriptor moves, carried out by a simulator and
 * compared with what was wished for.
 */
#include <fcntl.h>
#include <stdlib.h>

#include "check.h"
#include "fdplan.h"

enum { NUMBERS = 64, MOST_MOVES = 16, CLOSED = -1 };

/* A table of descriptors: what each number refers to. */
struct table {
    int file[NUMBERS];
    int cloexec[NUMBERS];
};

static struct table fresh_table(void) {
    struct table table;

    for (int fd = 0; fd < NUMBERS; fd++) {
        table.file[fd] = fd < 16 ? 100 + fd : CLOSED;
        table.cloexec[fd] = 1;
    }
    return table;
}

/* As the child does it; 0 if the kernel would have refused. */
static int carry_out(struct table *table, const fp_fd_op *op) {
    if (op->from < 0 || op->from >= NUMBERS || op->to < 0 || op->to >= NUMBERS || table->file[op->from] == CLOSED)
        return 0;
    if (op->from != op->to)
        table->file[op->to] = table->file[op->from];
    table->cloexec[op->to] = op->from != op->to && op->flags & O_CLOEXEC;
    return 1;
}

/* Plan, simulate, compare; 1 if all is as wished. */
static int plan_works(const fp_fd_move *wishes, size_t n) {
    fp_fd_move moves[MOST_MOVES];
    fp_fd_op ops[2 * MOST_MOVES];
    struct table before = fresh_table();
    struct table after = before;
    int spare;

    memcpy(moves, wishes, n * sizeof *wishes);
    size_t count = fp_fdplan(moves, n, ops, &spare);
    if (count > 2 * n)
        return 0;
    for (size_t i = 0; i < count; i++)
        if (!carry_out(&after, &ops[i]))
            return 0;
    for (size_t i = 0; i < n; i++)
        if (after.file[wishes[i].target] != before.file[wishes[i].source] || after.cloexec[wishes[i].target])
            return 0;
    /* Nothing else has changed, but for the spare number, which is close-on-exec. */
    for (int fd = 0; fd < NUMBERS; fd++) {
        int is_target = 0;
        for (size_t i = 0; i < n; i++)
            is_target |= wishes[i].target == fd;
        if (fd == spare && (is_target || fd < 3 || !after.cloexec[fd]))
            return 0;
        if (!is_target && fd != spare && after.file[fd] != before.file[fd])
            return 0;
    }
    return 1;
}

static void every_map_of_up_to_four_descriptors_comes_out_right(void) {
    /* Sources from 0..5, targets from 0..5 and different from one another. */
    enum { RANGE = 6 };
    long tried = 0;

    for (size_t n = 0; n <= 4; n++) {
        long maps = 1;
        for (size_t i = 0; i < n; i++)
            maps *= RANGE * RANGE;
        for (long map = 0; map < maps; map++) {
            fp_fd_move wishes[4];
            int distinct = 1;
            long rest = map;
            for (size_t i = 0; i < n; i++) {
                wishes[i] = (fp_fd_move){.source = (int)(rest % RANGE), .target = (int)(rest / RANGE % RANGE)};
                rest /= RANGE * RANGE;
                for (size_t j = 0; j < i; j++)
                    distinct &= wishes[i].target != wishes[j].target;
            }
            if (!distinct)
                continue;
            tried++;
            if (!plan_works(wishes, n)) {
                CHECK(!"a plan is wrong");
                for (size_t i = 0; i < n; i++)
                    fprintf(stderr, "    %d -> %d\n", wishes[i].source, wishes[i].target);
                return;
            }
        }
    }
    CHECK(tried > 400000);
}

static void random_maps_of_many_descriptors_come_out_right(void) {
    srand(7);
    for (int round = 0; round < 200000; round++) {
        fp_fd_move wishes[MOST_MOVES];
        int targets[16];
        size_t n = (size_t)(rand() % (MOST_MOVES + 1));

        for (int i = 0; i < 16; i++)
            targets[i] = i;
        for (int i = 15; i > 0; i--) {
            int j = rand() % (i + 1);
            int kept = targets[i];
            targets[i] = targets[j];
            targets[j] = kept;
        }
        for (size_t i = 0; i < n; i++)
            wishes[i] = (fp_fd_move){.source = rand() % 16, .target = targets[i]};
        if (!plan_works(wishes, n)) {
            CHECK(!"a plan is wrong");
            return;
        }
    }
}

static void a_chain_needs_no_spare_number(void) {
    fp_fd_move moves[] = {{.source = 3, .target = 4}, {.source = 4, .target = 5}, {.source = 5, .target = 6}};
    fp_fd_op ops[6];
    int spare;

    CHECK_EQ(fp_fdplan(moves, 3, ops, &spare), 3);
    CHECK_EQ(spare, -1);
    CHECK_EQ(ops[0].to, 6);
    CHECK_EQ(ops[2].to, 4);
}

static void two_rings_share_one_spare_number(void) {
    fp_fd_move moves[] = {
        {.source = 0, .target = 1}, {.source = 1, .target = 0}, {.source = 3, .target = 4}, {.source = 4, .target = 3}};
    fp_fd_op ops[8];
    int spare;

    CHECK_EQ(fp_fdplan(moves, 4, ops, &spare), 6);
    CHECK_EQ(spare, 5);
}

static void what_stays_only_loses_close_on_exec(void) {
    fp_fd_move moves[] = {{.source = 7, .target = 7}, {.source = 7, .target = 1}};
    fp_fd_op ops[4];
    int spare;

    CHECK_EQ(fp_fdplan(moves, 2, ops, &spare), 2);
    CHECK_EQ(ops[0].from, 7);
    CHECK_EQ(ops[0].to, 7);
    CHECK_EQ(ops[1].to, 1);
}

int main(void) {
    RUN(every_map_of_up_to_four_descriptors_comes_out_right);
    RUN(random_maps_of_many_descriptors_come_out_right);
    RUN(a_chain_needs_no_spare_number);
    RUN(two_rings_share_one_spare_number);
    RUN(what_stays_only_loses_close_on_exec);
    return check_result();
}
