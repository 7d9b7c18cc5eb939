/*
 * burns_cpu [seconds] [ignore]: uses so much CPU time (without end), then exits 0; `ignore`: also
 * when SIGXCPU asks it not to.
 */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    double seconds = argc > 1 && strcmp(argv[1], "ignore") != 0 ? number(argc, argv, 1, 0) : 1e9;
    if (has_word(argc, argv, "ignore"))
        signal(SIGXCPU, SIG_IGN);
    say("ready %d\n", getpid());
    for (struct timespec used;;) {
        for (volatile int i = 0; i < 100000; i++)
            ;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
        if ((double)used.tv_sec + (double)used.tv_nsec / 1e9 >= seconds)
            return 0;
    }
}
