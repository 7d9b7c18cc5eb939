/*
 * slots.c: low descriptors kept in reserve, see internal.h.
 *
 * They are taken once, at the start of a supervisor, and stay taken: the
 * kernel hands out the lowest free number, so a number given up for a moment
 * would be gone.
 */
#include <errno.h>
#include <fcntl.h>

#include "internal.h"
#include "sys.h"

enum { FIRST_SLOT = 3, MOST_GIVEN = FP_SLOT_COUNT / 2 };

/* Take the lowest slot of `donor` out of its hands; it holds a placeholder. -1: it keeps what it has. */
static int take_from(fp_slots *donor) {
    int fd = -1;

    pthread_mutex_lock(&donor->lock);
    for (int i = 0; i < MOST_GIVEN && fd < 0; i++) {
        if (!(donor->free >> i & 1))
            continue;
        fd = donor->fd[i];
        donor->fd[i] = -1;
        donor->free &= ~(UINT32_C(1) << i);
    }
    pthread_mutex_unlock(&donor->lock);
    return fd;
}

static int open_placeholder(void) {
    int null_fd = sys_openat(AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
    if (null_fd < 0)
        return null_fd;
    /* Not 0 to 2: they would be taken for standard streams where the caller has closed his. */
    int r = sys_fcntl(null_fd, F_DUPFD_CLOEXEC, FIRST_SLOT);
    sys_close(null_fd);
    return r;
}

int fp_slots_init(fp_slots *slots, fp_slots *donor) {
    int r;

    *slots = (fp_slots){.placeholder_fd = -1, .dispositions_fd = -1};
    pthread_mutex_init(&slots->lock, NULL);
    for (int i = 0; i < FP_SLOT_COUNT; i++)
        slots->fd[i] = -1;

    r = donor ? take_from(donor) : -1;
    if (r < 0)
        r = open_placeholder();
    if (r < 0)
        goto out;
    slots->placeholder_fd = r;
    slots->bound = r + 1;
    for (int i = 0; i < FP_SLOT_COUNT; i++) {
        r = sys_fcntl(slots->placeholder_fd, F_DUPFD_CLOEXEC, FIRST_SLOT);
        if (r < 0)
            goto out;
        slots->fd[i] = r;
        slots->free |= UINT32_C(1) << i;
        if (slots->bound <= r)
            slots->bound = r + 1;
    }
    slots->dispositions_fd = fp_dispositions_open();
    r = 0;
out:
    if (r < 0)
        fp_slots_done(slots);
    return r;
}

void fp_slots_close(fp_slots *slots) {
    for (int i = 0; i < FP_SLOT_COUNT; i++) {
        if (slots->fd[i] >= 0)
            sys_close(slots->fd[i]);
        slots->fd[i] = -1;
    }
    if (slots->placeholder_fd >= 0)
        sys_close(slots->placeholder_fd);
    slots->placeholder_fd = -1;
    if (slots->dispositions_fd >= 0)
        sys_close(slots->dispositions_fd);
    slots->dispositions_fd = -1;
}

void fp_slots_done(fp_slots *slots) {
    fp_slots_close(slots);
    slots->free = 0;
    slots->bound = 0;
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
    for (int i = 0; i < FP_SLOT_COUNT; i++) {
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
