/* becomes_root: installed setuid root, it becomes root in all its ids, says "ready <pid>", sleeps; refused: exits 3. */
#include "program.h"

int main(void) {
    give_up();
    if (setresuid(0, 0, 0) < 0)
        return 3;
    signal(SIGTERM, SIG_IGN);
    say("ready %d\n", getpid());
    sleep_for_ever();
}
