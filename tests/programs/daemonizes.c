/*
 * daemonizes [keep] [stay]: the classic double fork with setsid(2) between. The
 * daemon says "daemon <pid>", lets go of the standard streams and lives on.
 *
 *   keep  the daemon holds on to standard output
 *   stay  the first process sleeps instead of exiting 0
 */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    int there[2];
    if (pipe2(there, O_CLOEXEC) < 0)
        return 111;
    if (fork_or_die() == 0) {
        setsid();
        if (fork_or_die() != 0)
            _exit(0);
        if (chdir("/") < 0)
            _exit(111);
        say("daemon %d\n", getpid());
        int null = open("/dev/null", O_RDWR);
        dup2(null, STDIN_FILENO);
        if (!has_word(argc, argv, "keep")) {
            dup2(null, STDOUT_FILENO);
            dup2(null, STDERR_FILENO);
        }
        if (null > STDERR_FILENO)
            close(null);
        close(there[0]);
        close(there[1]);
        sleep_for_ever();
    }
    close(there[1]);
    char byte;
    while (read(there[0], &byte, 1) < 0 && errno == EINTR)
        ;
    wait(NULL); /* the one in the middle */
    if (has_word(argc, argv, "stay"))
        sleep_for_ever();
    return 0;
}
