/* dies_by signal: kills itself by that signal, even if it was born with the signal blocked or ignored. */
#include <sys/resource.h>

#include "program.h"

int main(int argc, char **argv) {
    give_up();
    int sig = (int)number(argc, argv, 1, SIGKILL);
    struct rlimit none = {0, 0};
    if (!has_word(argc, argv, "core"))
        setrlimit(RLIMIT_CORE, &none);
    signal(sig, SIG_DFL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, sig);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    kill(getpid(), sig);
    sleep_for_ever(); /* SIGCHLD, SIGURG, SIGWINCH, SIGCONT: no death comes of these */
}
