/*
 * holds_the_pipe [setsid] [chatter]: a child of it keeps standard output and
 * error open for ever, while the leader says "leader done <child's pid>" and exits 0.
 *
 *   setsid   the child leads a session of its own
 *   chatter  the child writes a line every 5 ms
 */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    int there[2];
    if (pipe2(there, O_CLOEXEC) < 0)
        return 111;
    pid_t child = fork_or_die();
    if (child == 0) {
        signal(SIGPIPE, SIG_IGN);
        if (has_word(argc, argv, "setsid"))
            setsid();
        close(there[0]);
        close(there[1]);
        if (!has_word(argc, argv, "chatter"))
            sleep_for_ever();
        for (;;) {
            say("still here\n");
            pause_for(0.005);
        }
    }
    close(there[1]);
    char byte;
    while (read(there[0], &byte, 1) < 0 && errno == EINTR)
        ;
    say("leader done %d\n", child);
    return 0;
}
