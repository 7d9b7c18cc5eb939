/*
 * reborn_as pid: makes a process with this pid, which must be free, in a
 * session and group of the same number: so a pid is used again at will. It
 * says "ready <pid>" and sleeps; the one who made it waits for it and says
 * "ended <status>" in the end. Says "refused <errno>" and exits 3 when the
 * kernel will not: clone3(2) with set_tid needs CAP_CHECKPOINT_RESTORE.
 */
#include <linux/sched.h>
#include <sys/syscall.h>

#include "program.h"

int main(int argc, char **argv) {
    give_up();
    pid_t wanted = (pid_t)number(argc, argv, 1, 0);
    struct clone_args args = {
        .exit_signal = SIGCHLD,
        .set_tid = (uint64_t)(uintptr_t)&wanted,
        .set_tid_size = 1,
    };
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (pid < 0) {
        say("refused %d\n", errno);
        return 3;
    }
    if (pid == 0) {
        give_up();
        setsid();
        say("ready %d\n", (int)syscall(SYS_getpid));
        sleep_for_ever();
    }
    int status;
    if (waitpid(pid, &status, 0) == pid)
        say("ended %d\n", status);
    return 0;
}
