/*
 * ignores_everything_and_forks [n]: ignores every signal that can be ignored,
 * and so do its n children, each in a process group of its own. Each says
 * "pid <pid>", in the end the leader says "ready <pid>".
 */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    int n = (int)number(argc, argv, 1, 4), there[2];
    for (int sig = 1; sig <= SIGRTMAX; sig++)
        if (sig != SIGALRM)
            signal(sig, SIG_IGN);
    if (pipe2(there, O_CLOEXEC) < 0)
        return 111;
    for (int i = 0; i < n; i++)
        if (fork_or_die() == 0) {
            setpgid(0, 0);
            say("pid %d\n", getpid());
            if (write(there[1], "", 1) != 1)
                return 111;
            sleep_for_ever();
        }
    char byte;
    for (int i = 0; i < n; i++)
        if (read(there[0], &byte, 1) != 1)
            return 111;
    say("pid %d\n", getpid());
    say("ready %d\n", getpid());
    sleep_for_ever();
}
