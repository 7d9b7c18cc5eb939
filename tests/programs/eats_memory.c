/*
 * eats_memory bytes: touches that much memory, says "ready <pid>" and sleeps; says "refused" and
 * exits 3 if it may not have it.
 */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    size_t bytes = (size_t)number(argc, argv, 1, 1 << 20), block = 1 << 20;
    for (size_t at = 0; at < bytes; at += block) {
        char *memory = malloc(block);
        if (memory == NULL) {
            say("refused\n");
            return 3;
        }
        memset(memory, 1, block);
    }
    say("ready %d\n", getpid());
    sleep_for_ever();
}
