/*
 * joins_the_group_of pid: tries to leave its group for that of `pid`; says "ready joined" or
 * "ready <errno>", then sleeps.
 */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    pid_t group = getpgid((pid_t)number(argc, argv, 1, 1));
    if (group >= 0 && setpgid(0, group) == 0)
        say("ready joined\n");
    else
        say("ready %d\n", errno);
    sleep_for_ever();
}
