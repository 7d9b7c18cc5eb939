/*
 * cleans_up [seconds [code]]: says "ready <pid>"; at SIGTERM says "cleaning", works on for so
 * long, exits with the code.
 */
#include "program.h"

static volatile sig_atomic_t asked;

static void ask(int sig) {
    asked = sig;
}

int main(int argc, char **argv) {
    give_up();
    sigset_t term, old;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, &old);
    signal(SIGTERM, ask);
    say("ready %d\n", getpid());
    sigdelset(&old, SIGTERM);
    while (!asked)
        sigsuspend(&old);
    say("cleaning\n");
    pause_for(number(argc, argv, 1, 0));
    say("clean\n");
    return (int)number(argc, argv, 2, 0);
}
