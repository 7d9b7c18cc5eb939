/*
 * frozen.h: births that hang. A child that is born into a frozen leaf stands
 * still before its first instruction, until the watcher thaws it 200 ms later.
 */
#ifndef FASTPROC_FROZEN_H
#define FASTPROC_FROZEN_H

#include "crew.h"
#include "internal.h"

static inline bool read_text(const char *path, char *ret_text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, ret_text, size - 1);
    if (fd >= 0)
        close(fd);
    ret_text[n < 0 ? 0 : n] = '\0';
    return n >= 0;
}

/* Write `text` to cgroup.freeze of all leaves, unless NULL. Returns how many are frozen then. */
static inline int freeze_all(const crew *c, const char *text) {
    char path[640], is[8];
    int frozen = 0;
    for (int i = 0; i < c->n; i++) {
        DIR *dir = opendir(c->of[i]->leaves.path);
        for (struct dirent *entry; dir && (entry = readdir(dir));) {
            if (*entry->d_name < '0' || *entry->d_name > '9')
                continue;
            snprintf(path, sizeof path, "%s/%s/cgroup.freeze", c->of[i]->leaves.path, entry->d_name);
            int fd = text ? open(path, O_WRONLY | O_CLOEXEC) : -1;
            if (fd >= 0) {
                CHECK_EQ(write(fd, text, 1), 1);
                close(fd);
            }
            frozen += read_text(path, is, sizeof is) && *is == '1';
        }
        if (dir)
            closedir(dir);
    }
    return frozen;
}

#endif
