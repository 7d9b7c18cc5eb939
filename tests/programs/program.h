/*
 * program.h: what the tiny test programs share.
 *
 * Each of them misbehaves in one way and says a line when it is ready to, so
 * that no test has to sleep. Each gives up by itself after GIVE_UP_SECONDS,
 * whatever becomes of the test: alarm(2) survives execve(2) but not fork(2),
 * hence give_up() again in every child.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GIVE_UP_SECONDS 120

static inline void give_up(void) {
    sigset_t set;
    signal(SIGALRM, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    alarm(GIVE_UP_SECONDS);
}

/* One line in one write(2), so that lines of several processes do not mix. */
__attribute__((format(printf, 1, 2))) static inline void say(const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (length > 0 && write(STDOUT_FILENO, line, (size_t)length) < 0)
        return; /* nobody listens: not our subject */
}

static inline void pause_for(double seconds) {
    struct timespec left = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

static inline void sleep_for_ever(void) {
    for (;;)
        pause();
}

static inline double number(int argc, char **argv, int index, double otherwise) {
    return index < argc ? strtod(argv[index], NULL) : otherwise;
}

static inline int has_word(int argc, char **argv, const char *word) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], word) == 0)
            return 1;
    return 0;
}

static inline pid_t fork_or_die(void) {
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        _exit(111);
    }
    if (pid == 0)
        give_up();
    return pid;
}

#endif
