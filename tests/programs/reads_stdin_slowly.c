/*
 * reads_stdin_slowly [bytes [seconds]]: reads so many bytes, pauses so long, again; in the end
 * says how many came.
 */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    static char block[1 << 20];
    size_t step = (size_t)number(argc, argv, 1, 4096);
    double pause_seconds = number(argc, argv, 2, 0.001);
    unsigned long long total = 0;
    for (;;) {
        ssize_t n = read(STDIN_FILENO, block, step < sizeof block ? step : sizeof block);
        if (n <= 0)
            break;
        total += (unsigned long long)n;
        pause_for(pause_seconds);
    }
    say("%llu\n", total);
    return 0;
}
