/*
 * child: the program that benchmarks start. Without libc and dynamic loader,
 * so that measuring its start measures the starting: a dynamic true(1) spends
 * most of its 0.7 ms in the loader, whoever starts it.
 *
 *   child         exits at once with code 7, a status that nobody invents
 *   child live    writes a byte to standard output, then waits to be ended
 *   child stub    the same, but ignores SIGTERM
 *
 * What waits gives up after five minutes, should its benchmark have died.
 */
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/time.h>

enum { CODE = 7, GIVE_UP_SECONDS = 300 };

#if defined(__x86_64__)
__asm__(".globl _start\n"
        "_start:\n"
        "    xor %ebp, %ebp\n"
        "    mov (%rsp), %rdi\n"
        "    lea 8(%rsp), %rsi\n"
        "    and $-16, %rsp\n"
        "    call run\n");

static long call(long number, long a, long b, long c, long d) {
    register long fourth __asm__("r10") = d;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
__asm__(".globl _start\n"
        "_start:\n"
        "    mov x29, #0\n"
        "    ldr x0, [sp]\n"
        "    add x1, sp, #8\n"
        "    bl run\n");

static long call(long number, long a, long b, long c, long d) {
    register long which __asm__("x8") = number;
    register long first __asm__("x0") = a;
    register long second __asm__("x1") = b;
    register long third __asm__("x2") = c;
    register long fourth __asm__("x3") = d;
    __asm__ volatile("svc #0" : "+r"(first) : "r"(which), "r"(second), "r"(third), "r"(fourth) : "memory");
    return first;
}
#else
#error "child.c knows x86_64 and aarch64"
#endif

/* What rt_sigaction(2) itself takes; glibc's struct sigaction is laid out otherwise. */
struct kernel_action {
    void *handler;
    unsigned long flags;
    void *restorer;
    unsigned long mask;
};

__attribute__((noreturn, used)) void run(long argc, char **argv) {
    if (argc > 1) {
        struct itimerval end = {.it_value.tv_sec = GIVE_UP_SECONDS};
        call(SYS_setitimer, ITIMER_REAL, (long)&end, 0, 0);
        if (argv[1][0] == 's') {
            struct kernel_action ignore = {.handler = (void *)SIG_IGN};
            call(SYS_rt_sigaction, SIGTERM, (long)&ignore, 0, sizeof ignore.mask);
        }
        call(SYS_write, 1, (long)"r", 1, 0);
        for (;;)
            call(SYS_ppoll, 0, 0, 0, 0);
    }
    for (;;)
        call(SYS_exit_group, CODE, 0, 0, 0);
}
