/*
 * child: the program that benchmarks start. Without libc and dynamic loader,
 * so that measuring its start measures the starting: a dynamic true(1) spends
 * most of its 0.7 ms in the loader, whoever starts it.
 *
 *   child           exits at once with code 7, a status that nobody invents
 *   child announce  writes a byte to standard output first
 *   child text      writes 64 bytes to standard output first
 *   child okay      the same, and exits with code 0
 *   child bulk N    writes N pieces of 64 KiB to standard output first
 *   child live      writes a byte to standard output, then waits to be ended
 *   child stub      the same, but ignores SIGTERM
 *   child forest N  the same, with N children of its own that do so too
 *   child gate      waits until standard input ends, then exits
 *   child wake      lets 1 ms pass, writes the clock to standard output, exits
 *   child ping      the same, and writes a byte to standard error in between
 *
 * What waits gives up after five minutes, should its benchmark have died.
 */
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

enum { CODE = 7, GIVE_UP_SECONDS = 300, TEXT_BYTES = 64, PIECE_BYTES = 65536 };

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

static char piece[PIECE_BYTES];

__attribute__((noreturn)) static void end_with(int code) {
    for (;;)
        call(SYS_exit_group, code, 0, 0, 0);
}

__attribute__((noreturn)) static void end(void) {
    end_with(CODE);
}

__attribute__((noreturn)) static void live(void) {
    struct itimerval give_up = {.it_value.tv_sec = GIVE_UP_SECONDS};
    call(SYS_setitimer, ITIMER_REAL, (long)&give_up, 0, 0);
    call(SYS_write, 1, (long)"r", 1, 0);
    for (;;)
        call(SYS_ppoll, 0, 0, 0, 0);
}

static long number(const char *digits) {
    long value = 0;
    while (*digits)
        value = value * 10 + (*digits++ - '0');
    return value;
}

static void write_pieces(long n) {
    for (long i = 0; i < n; i++)
        for (long done = 0; done < PIECE_BYTES;) {
            long r = call(SYS_write, 1, (long)piece, PIECE_BYTES - done, 0);
            if (r <= 0)
                return;
            done += r;
        }
}

__attribute__((noreturn)) static void forest(long n) {
    for (long i = 0; i < n; i++)
        if (call(SYS_clone, SIGCHLD, 0, 0, 0) == 0)
            live();
    live();
}

__attribute__((noreturn)) static void wake(long ping) {
    struct timespec nap = {.tv_nsec = 1000000}, now;
    call(SYS_nanosleep, (long)&nap, 0, 0, 0);
    call(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&now, 0, 0);
    long stamp = now.tv_sec * 1000000000 + now.tv_nsec;
    call(SYS_write, 1, (long)&stamp, sizeof stamp, 0);
    if (ping)
        call(SYS_write, 2, (long)"r", 1, 0);
    end();
}

__attribute__((noreturn, used)) void run(long argc, char **argv) {
    struct kernel_action ignore = {.handler = (void *)SIG_IGN};
    switch (argc > 1 ? argv[1][0] : 0) {
    case 'a':
        call(SYS_write, 1, (long)"r", 1, 0);
        break;
    case 't':
        call(SYS_write, 1, (long)piece, TEXT_BYTES, 0);
        break;
    case 'o':
        call(SYS_write, 1, (long)piece, TEXT_BYTES, 0);
        end_with(0);
    case 'b':
        write_pieces(argc > 2 ? number(argv[2]) : 1);
        break;
    case 'g':
        call(SYS_read, 0, (long)piece, 1, 0);
        break;
    case 'w':
    case 'p':
        wake(argv[1][0] == 'p');
    case 's':
        call(SYS_rt_sigaction, SIGTERM, (long)&ignore, 0, sizeof ignore.mask);
        live();
    case 'l':
        live();
    case 'f':
        forest(argc > 2 ? number(argv[2]) : 1);
    default:
        break;
    }
    end();
}
