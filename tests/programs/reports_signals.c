/*
 * reports_signals: says "ready <pid>", then "got <signal> from <pid>" for each
 * signal that can be caught, as often as it comes; lives on.
 */
#include "program.h"

int main(void) {
    give_up();
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, SIGALRM);
    sigprocmask(SIG_SETMASK, &all, NULL);
    say("ready %d\n", getpid());
    for (;;) {
        siginfo_t info;
        int sig = sigwaitinfo(&all, &info);
        if (sig > 0)
            say("got %d from %d\n", sig, info.si_pid);
    }
}
