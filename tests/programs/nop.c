/*
 * nop: ends at once with code 0. Without libc and dynamic loader, so that a
 * measurement of starting it measures the starting.
 */
#if defined(__x86_64__)
__asm__(".globl _start\n"
        "_start:\n"
        "    xor %edi, %edi\n"
        "    mov $231, %eax\n" /* exit_group */
        "    syscall\n"
        "    hlt\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n"
        "_start:\n"
        "    mov x0, #0\n"
        "    mov x8, #94\n" /* exit_group */
        "    svc #0\n"
        "    brk #0\n");
#else
int main(void) {
    return 0;
}
#endif
