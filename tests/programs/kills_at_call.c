/*
 * kills_at_call pid n [all]: follows a process and its threads, not its
 * children, and kills it by SIGKILL when it is about to make its n-th system
 * call that leaves a trace outside of it, or with `all` its n-th of any kind.
 * Says "ready" when it follows, "killed <number of the call>" if it came to
 * that, and in the end "ended <calls counted>". Says "refused <errno>" and
 * exits 3 where ptrace(2) is not allowed.
 *
 * A kill before a call that only looks is a kill before the next one that
 * changes something: so every n of the shorter count stands for all.
 */
#include <stdbool.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "program.h"

#ifndef PTRACE_GET_SYSCALL_INFO
#define PTRACE_GET_SYSCALL_INFO 0x420e
#endif

/* struct ptrace_syscall_info of Linux 5.3, as far as an entry needs it. */
struct call {
    uint8_t op, pad[3];
    uint32_t arch;
    uint64_t at, stack, number, args[6];
};
enum { ENTRY = 1 };

static bool leaves_a_trace(const struct call *call) {
    switch (call->number) {
#ifdef SYS_open
    case SYS_open:
        return call->args[1] & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY));
    case SYS_mkdir:
    case SYS_rename:
    case SYS_link:
    case SYS_unlink:
    case SYS_rmdir:
    case SYS_fork:
    case SYS_vfork:
#endif
    case SYS_write:
    case SYS_pwrite64:
    case SYS_writev:
    case SYS_sendmsg:
    case SYS_mkdirat:
    case SYS_linkat:
    case SYS_unlinkat:
    case SYS_renameat2:
    case SYS_fsync:
    case SYS_fdatasync:
    case SYS_ftruncate:
    case SYS_flock:
    case SYS_clone:
    case SYS_clone3:
    case SYS_execve:
    case SYS_kill:
    case SYS_pidfd_send_signal:
    case SYS_waitid:
    case SYS_wait4:
    case SYS_exit_group:
        return true;
    case SYS_openat:
        return call->args[2] & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY));
    default:
        return false;
    }
}

int main(int argc, char **argv) {
    give_up();
    pid_t pid = (pid_t)number(argc, argv, 1, 0);
    long wanted = (long)number(argc, argv, 2, 0), count = 0;
    bool all = has_word(argc, argv, "all");
    long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SEIZE, pid, NULL, options) < 0 || ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) < 0) {
        say("refused %d\n", errno);
        return 3;
    }
    bool ready = false, killed = false;
    for (;;) {
        int status;
        pid_t who = waitpid(-1, &status, __WALL);
        if (who < 0)
            break;
        if (!WIFSTOPPED(status))
            continue;
        if (!ready) {
            ready = true;
            say("ready\n");
        }
        long passed_on = 0;
        int event = status >> 16;
        if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
            struct call call = {0};
            if (ptrace(PTRACE_GET_SYSCALL_INFO, who, sizeof call, &call) > 0 && call.op == ENTRY && !killed &&
                (all || leaves_a_trace(&call)) && ++count == wanted) {
                killed = true;
                kill(pid, SIGKILL);
                say("killed %d\n", (int)call.number);
                continue; /* it is not let go: the call is never made */
            }
        } else if (event == 0) {
            passed_on = WSTOPSIG(status);
        }
        /* PTRACE_EVENT_STOP without a signal is a new thread, or our own interrupt. */
        ptrace(PTRACE_SYSCALL, who, NULL, passed_on);
    }
    say("ended %ld\n", count);
    return 0;
}
