/*
 * forks_a_tree depth width [ignore] [setsid] [leave]: each process of `depth`
 * generations forks `width` children. Each says "pid <pid>"; when all are there
 * the root says "ready <count>". Then all sleep.
 *
 *   ignore  they ignore SIGTERM
 *   setsid  every child leads a session of its own
 *   leave   the root exits 0 once all are there; the others live on
 */
#include "program.h"

static int birth[2]; /* every process writes one byte into it, the root counts them */

int main(int argc, char **argv) {
    give_up();
    int depth = (int)number(argc, argv, 1, 2);
    int width = (int)number(argc, argv, 2, 2);
    int is_root = 1;
    if (has_word(argc, argv, "ignore"))
        signal(SIGTERM, SIG_IGN);
    if (pipe2(birth, O_CLOEXEC) < 0)
        return 111;

    int count = 1;
    for (int level = 1, in_level = 1; level <= depth; level++)
        count += in_level *= width;

    for (int level = 0; level < depth; level++) {
        int is_child = 0;
        for (int i = 0; i < width && !is_child; i++)
            is_child = fork_or_die() == 0;
        if (!is_child)
            break;
        is_root = 0;
        if (has_word(argc, argv, "setsid"))
            setsid();
    }

    say("pid %d\n", getpid());
    if (write(birth[1], "", 1) != 1)
        return 111;
    if (is_root) {
        char byte;
        for (int i = 0; i < count; i++)
            if (read(birth[0], &byte, 1) != 1)
                return 111;
        say("ready %d\n", count);
        if (has_word(argc, argv, "leave"))
            return 0;
    }
    sleep_for_ever();
}
