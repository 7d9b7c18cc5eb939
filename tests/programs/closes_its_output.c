/*
 * closes_its_output [seconds [code]]: says "ready <pid>", closes standard output and error, lives
 * on for so long (for ever).
 */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    say("ready %d\n", getpid());
    close(STDOUT_FILENO);
    close(STDERR_FILENO);
    if (argc < 2)
        sleep_for_ever();
    pause_for(number(argc, argv, 1, 0));
    return (int)number(argc, argv, 2, 0);
}
