/*
 * fork_bomb n [setsid] [quick]: every process of it goes on forking, one child
 * a millisecond, until n have been born in all (n is bounded by 2000); none
 * ends by itself. Says "ready <pid>" at the start, so that a stop races with
 * the forks, and "full" when n are there.
 *
 *   setsid  every child leads a session of its own
 *   quick   without the pause between two forks
 */
#include <sys/mman.h>

#include "program.h"

int main(int argc, char **argv) {
    give_up();
    int n = (int)number(argc, argv, 1, 100);
    n = n < 2000 ? n : 2000;
    int new_session = has_word(argc, argv, "setsid"), quick = has_word(argc, argv, "quick");
    int *born = mmap(NULL, sizeof *born, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (born == MAP_FAILED)
        return 111;
    *born = 1;
    signal(SIGCHLD, SIG_IGN);
    say("ready %d\n", getpid());
    for (;;) {
        int mine = __atomic_add_fetch(born, 1, __ATOMIC_SEQ_CST);
        if (mine > n)
            sleep_for_ever();
        pid_t child = fork();
        if (child == 0) {
            give_up();
            if (new_session)
                setsid();
            if (mine == n)
                say("full\n");
        } else if (child < 0) {
            __atomic_sub_fetch(born, 1, __ATOMIC_SEQ_CST);
            pause_for(0.01);
        }
        if (!quick)
            pause_for(0.001);
    }
}
