/*
 * stops_itself [code]: says "ready <pid>", sends itself SIGSTOP; when continued says "continued"
 * and exits.
 */
#include "program.h"

int main(int argc, char **argv) {
    give_up(); /* of no use while stopped: Programs.end_all() sees to that */
    say("ready %d\n", getpid());
    kill(getpid(), SIGSTOP);
    say("continued\n");
    return (int)number(argc, argv, 1, 0);
}
