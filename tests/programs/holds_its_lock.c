/*
 * holds_its_lock directory name seconds [code] [words]: proves that nobody
 * else runs as `name` at the same time. It holds the flock(2) of
 * directory/name.lock and appends to directory/journal "start <name> <pid>",
 * after so many seconds "end <name> <pid>", and exits with the code. If the
 * lock cannot be had it appends "twice <name> <pid>" and exits 90: two ran at
 * once, and the kernel says so, not a clock.
 *
 * Words: `deaf` ignores SIGTERM, `child` has a child that lives as long and
 * holds the lock as well, `closes` closes all descriptors it was born with
 * beyond the streams first, as daemons do.
 */
#include <sys/file.h>

#include "program.h"

static int journal;

static void enter(const char *what, const char *name) {
    char line[512];
    int length = snprintf(line, sizeof line, "%s %s %d\n", what, name, (int)getpid());
    if (write(journal, line, (size_t)length) != length)
        _exit(91);
}

int main(int argc, char **argv) {
    give_up();
    if (argc < 4)
        return 2;
    if (has_word(argc, argv, "closes"))
        for (int fd = 3; fd < 1024; fd++)
            close(fd);
    char path[4096];
    snprintf(path, sizeof path, "%s/journal", argv[1]);
    journal = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    snprintf(path, sizeof path, "%s/%s.lock", argv[1], argv[2]);
    int lock = open(path, O_RDWR | O_CREAT, 0600);
    if (journal < 0 || lock < 0)
        return 91;
    if (flock(lock, LOCK_EX | LOCK_NB) < 0) {
        enter("twice", argv[2]);
        return 90;
    }
    if (has_word(argc, argv, "deaf"))
        signal(SIGTERM, SIG_IGN);
    if (has_word(argc, argv, "child") && fork_or_die() == 0) {
        pause_for(number(argc, argv, 3, 0));
        _exit(0);
    }
    enter("start", argv[2]);
    say("started %s\n", argv[2]);
    pause_for(number(argc, argv, 3, 0));
    enter("end", argv[2]);
    return (int)number(argc, argv, 4, 0);
}
