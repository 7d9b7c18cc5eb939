/* ready_then_sleep [seconds]: says "ready <pid>", then sleeps (for ever), then exits 0. */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    say("ready %d\n", getpid());
    if (argc < 2)
        sleep_for_ever();
    pause_for(number(argc, argv, 1, 0));
    return 0;
}
