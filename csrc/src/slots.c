/*
 * slots.c: low descriptors kept in reserve, see internal.h.
 *
 * They are taken once, when a supervisor joins a crew, and stay taken: the
 * kernel hands out the lowest free number, so a number given up for a moment
 * would be gone. No more of them than are likely to be used at a time, as each
 * child copies all that are low.
 */
#include <errno.h>
#include <fcntl.h>

#include "host.h"
#include "sys.h"

enum { FIRST_SLOT = 3, FIRST_COUNT = 6, FURTHER_COUNT = 2 };

static int open_placeholder(void) {
    int null_fd = sys_openat(AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
    if (null_fd < 0)
        return null_fd;
    /* Not 0 to 2: they would be taken for standard streams where the caller has closed his. */
    int r = sys_fcntl(null_fd, F_DUPFD_CLOEXEC, FIRST_SLOT);
    sys_close(null_fd);
    return r;
}

int fp_slots_low(const fp_slots *slots) {
    return atomic_load_explicit(&slots->low, memory_order_relaxed);
}

static int add(fp_slots *slots, int n) {
    int r = 0;

    pthread_mutex_lock(&slots->lock);
    for (; n > 0 && slots->count < FP_SLOT_COUNT; n--) {
        r = sys_fcntl(slots->placeholder_fd, F_DUPFD_CLOEXEC, FIRST_SLOT);
        if (r < 0)
            break;
        /* Where the first ones lie low a high one is no help, and would have all children copy what is below it. */
        if (slots->count && r >= FP_LOW_FDS && fp_slots_low(slots) == FP_LOW_FDS) {
            sys_close(r);
            break;
        }
        slots->fd[slots->count] = r;
        slots->free |= UINT32_C(1) << slots->count++;
        if (r >= fp_slots_low(slots))
            atomic_store_explicit(&slots->low, r + 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&slots->lock);
    return r < 0 ? r : 0;
}

int fp_slots_init(fp_slots *slots) {
    *slots = (fp_slots){.placeholder_fd = -1, .dispositions_fd = -1, .low = FP_LOW_FDS};
    pthread_mutex_init(&slots->lock, NULL);
    int r = slots->placeholder_fd = open_placeholder();
    if (r >= 0)
        r = add(slots, FIRST_COUNT);
    if (r < 0) {
        fp_slots_done(slots);
        return r;
    }
    slots->dispositions_fd = fp_dispositions_open();
    return 0;
}

void fp_slots_add(fp_slots *slots) {
    add(slots, FURTHER_COUNT);
}

void fp_slots_close(fp_slots *slots) {
    for (int i = 0; i < slots->count; i++)
        if (slots->fd[i] >= 0)
            sys_close(slots->fd[i]);
    slots->count = 0;
    slots->free = 0;
    if (slots->placeholder_fd >= 0)
        sys_close(slots->placeholder_fd);
    slots->placeholder_fd = -1;
    if (slots->dispositions_fd >= 0)
        sys_close(slots->dispositions_fd);
    slots->dispositions_fd = -1;
}

void fp_slots_done(fp_slots *slots) {
    fp_slots_close(slots);
    pthread_mutex_destroy(&slots->lock);
}

int fp_slots_borrow(fp_slots *slots, int fd) {
    int slot_fd = -ENOSPC;

    pthread_mutex_lock(&slots->lock);
    if (slots->free) {
        int i = __builtin_ctz(slots->free);
        slots->free &= ~(UINT32_C(1) << i);
        slot_fd = slots->fd[i];
    }
    pthread_mutex_unlock(&slots->lock);
    if (slot_fd < 0)
        return slot_fd;

    int r = sys_dup3(fd, slot_fd, O_CLOEXEC);
    if (r < 0)
        fp_slots_return(slots, slot_fd);
    return r;
}

void fp_slots_return(fp_slots *slots, int slot_fd) {
    /* A slot that cannot be covered again is given up: better that than to keep a stranger's pipe open. */
    bool covered = sys_dup3(slots->placeholder_fd, slot_fd, O_CLOEXEC) >= 0;

    pthread_mutex_lock(&slots->lock);
    for (int i = 0; i < slots->count; i++) {
        if (slots->fd[i] != slot_fd)
            continue;
        if (covered)
            slots->free |= UINT32_C(1) << i;
        else
            slots->fd[i] = -1;
    }
    pthread_mutex_unlock(&slots->lock);
    if (!covered)
        sys_close(slot_fd);
}
