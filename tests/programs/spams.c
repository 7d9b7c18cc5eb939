/*
 * spams bytes [stderr] [lines]: writes that many bytes, as fast as they are
 * taken; 0: without end. Exits 0 when done, 1 when nobody takes them.
 *
 *   stderr  to standard error
 *   lines   as lines of 64 bytes with a running number at the front, instead of one run of x
 */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    static char block[1 << 16];
    uint64_t total = (uint64_t)number(argc, argv, 1, 0), sent = 0, line = 0;
    int fd = has_word(argc, argv, "stderr") ? STDERR_FILENO : STDOUT_FILENO;
    int lines = has_word(argc, argv, "lines");
    memset(block, 'x', sizeof block);
    while (total == 0 || sent < total) {
        if (lines)
            for (size_t at = 0; at < sizeof block; at += 64) {
                char head[32];
                int length = snprintf(head, sizeof head, "%015llu ", (unsigned long long)line++);
                memcpy(block + at, head, (size_t)length);
                block[at + 63] = '\n';
            }
        size_t want = sizeof block;
        if (total != 0 && total - sent < want)
            want = (size_t)(total - sent);
        for (size_t done = 0; done < want;) {
            ssize_t n = write(fd, block + done, want - done);
            if (n < 0 && errno != EINTR)
                return 1;
            done += n > 0 ? (size_t)n : 0;
        }
        sent += want;
    }
    return 0;
}
