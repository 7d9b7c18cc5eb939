/*
 * stamps_lines: copies standard input to standard output, each line with the
 * time of its arrival in front, in nanoseconds of CLOCK_MONOTONIC; at the end
 * of file, when the last who could write is gone, the line "<time> end".
 */
#include "program.h"

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(void) {
    give_up();
    char bytes[4096];
    ssize_t n;
    while ((n = read(STDIN_FILENO, bytes, sizeof bytes - 1)) > 0) {
        long long now = now_ns();
        bytes[n] = '\0';
        for (char *line = strtok(bytes, "\n"); line != NULL; line = strtok(NULL, "\n"))
            say("%lld %.400s\n", now, line);
    }
    say("%lld end\n", now_ns());
    return 0;
}
