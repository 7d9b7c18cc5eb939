/*
 * moment.c: who has just been started is given a moment to end by itself.
 *
 * Most programs say little and end soon. So at first their end is waited for:
 * who reads what they say at once is woken for it, then by the closing of
 * their streams, when the exit is yet to come, and then has to wait for that.
 */
#include <poll.h>
#include <sys/ioctl.h>

#include "host.h"
#include "sys.h"

/* Programs write into a pipe in pieces of that size or more, but for what they have left in the end. */
enum { LITTLE = 4096 };

/* Whether what has come on these streams, and is unread, is less than a program says that writes on and on. */
static bool says_little(const int fds[2]) {
    int64_t bytes = 0;

    for (int i = 0; i < 2; i++) {
        int unread = LITTLE;
        if (fds[i] >= 0 && sys_ioctl(fds[i], FIONREAD, &unread) < 0)
            return false;
        bytes += fds[i] >= 0 ? unread : 0;
    }
    return bytes < LITTLE;
}

int fp_await_quick_end(int pidfd, const int fds[2], int64_t longest) {
    struct pollfd wait[] = {
        {.fd = pidfd, .events = POLLIN}, {.fd = fds[0], .events = POLLIN}, {.fd = fds[1], .events = POLLIN}};
    int64_t moment = fp_earliest(longest, FP_MOMENT);

    int r = sys_poll(wait, fds[0] < 0 && fds[1] < 0 ? 1 : 3, moment);
    if (r > 0 && !wait[0].revents && says_little(fds))
        r = sys_poll(wait, 1, moment);
    if (r <= 0)
        return r;
    return wait[0].revents & POLLIN;
}
