/*
 * writes_after_parent_dies path: exits 0; its child, once it is an orphan, appends "orphan
 * <pid>\n" to the file and exits.
 */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    if (argc < 2)
        return 111;
    pid_t parent = getpid();
    if (fork_or_die() != 0)
        return 0;
    while (getppid() == parent)
        pause_for(0.001);
    int fd = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0)
        return 111;
    say("orphan %d\n", getpid());
    return 0;
}
