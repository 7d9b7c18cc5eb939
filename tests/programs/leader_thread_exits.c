/*
 * leader_thread_exits [seconds [code]]: its first thread ends, so that /proc
 * shows a zombie, while another works on for so long and then exits with the code.
 */
#include <pthread.h>

#include "program.h"

static double seconds;
static int code;

static void *work(void *unused) {
    (void)unused;
    say("ready %d\n", getpid());
    pause_for(seconds);
    exit(code);
}

int main(int argc, char **argv) {
    give_up();
    seconds = number(argc, argv, 1, 100);
    code = (int)number(argc, argv, 2, 0);
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, NULL) != 0)
        return 111;
    pthread_exit(NULL);
}
