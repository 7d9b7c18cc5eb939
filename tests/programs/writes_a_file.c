/*
 * writes_a_file path bytes [ignore]: exits 0, or with the errno of the write that failed;
 * `ignore`: lives through SIGXFSZ.
 */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    if (argc < 3)
        return 111;
    if (has_word(argc, argv, "ignore"))
        signal(SIGXFSZ, SIG_IGN);
    static char block[1 << 16];
    int fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return errno;
    for (uint64_t left = (uint64_t)number(argc, argv, 2, 0); left > 0;) {
        ssize_t n = write(fd, block, left < sizeof block ? (size_t)left : sizeof block);
        if (n < 0)
            return errno;
        left -= (uint64_t)n;
    }
    return 0;
}
