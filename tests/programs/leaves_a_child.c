/*
 * leaves_a_child code [group | session] [ignore]: forks a child that sleeps with
 * no stream in its hands, says "child <pid>", exits with the code.
 *
 *   group, session  the child leads one of its own
 *   ignore          the child ignores SIGTERM
 */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    int there[2];
    if (pipe2(there, O_CLOEXEC) < 0)
        return 111;
    pid_t child = fork_or_die();
    if (child == 0) {
        if (has_word(argc, argv, "group"))
            setpgid(0, 0);
        if (has_word(argc, argv, "session"))
            setsid();
        if (has_word(argc, argv, "ignore"))
            signal(SIGTERM, SIG_IGN);
        for (int fd = 0; fd <= 2; fd++)
            close(fd);
        close(there[0]);
        close(there[1]);
        sleep_for_ever();
    }
    close(there[1]);
    char byte;
    while (read(there[0], &byte, 1) < 0 && errno == EINTR)
        ;
    say("child %d\n", child);
    return (int)number(argc, argv, 1, 0);
}
