/* ignores_sigterm: says "ready <pid>", shrugs off SIGTERM, SIGINT and SIGHUP. */
#include "program.h"

int main(void) {
    give_up();
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    say("ready %d\n", getpid());
    sleep_for_ever();
}
