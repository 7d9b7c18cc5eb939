/*
 * cgroup_tree.c: what lies below a cgroup: programs make cgroups of their own,
 * a container runtime for one, or another fastproc. Whoever lives there belongs
 * to the leaf as well, and what they leave behind keeps it from being removed.
 */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "proc.h"
#include "sys.h"

/* The kernel has no bound by default; below that nothing is looked for. */
enum { DEEPEST = 16 };

/* kernfs counts the subdirectories of a directory among its links. */
static bool has_cgroups_in_it(int dir_fd, const char *name) {
    struct statx seen;

    return sys_statx(dir_fd, name, *name ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH, STATX_NLINK, &seen) < 0 ||
           seen.stx_nlink > 2;
}

static int open_cgroup(int dir_fd, const char *name) {
    return sys_openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
}

/* Call `visit` with the name of each cgroup in this one. A descriptor of its own, as reading moves it on. */
static void for_each_in(int dir_fd, void (*visit)(int dir_fd, const char *name, int depth, void *arg), int depth,
                        void *arg) {
    _Alignas(fp_dirent) char entries[2048];
    int list_fd = open_cgroup(dir_fd, ".");
    ssize_t got;

    while (list_fd >= 0 && (got = sys_getdents64(list_fd, entries, sizeof entries)) > 0) {
        for (ssize_t at = 0; at < got;) {
            const fp_dirent *entry = (const void *)(entries + at);
            if (entry->type == DT_DIR && entry->name[0] != '.')
                visit(dir_fd, entry->name, depth, arg);
            at += entry->record_bytes;
        }
    }
    if (list_fd >= 0)
        sys_close(list_fd);
}

/* ---- members --------------------------------------------------------------------- */

typedef struct member_list {
    pid_t *pids;
    int n;
    int most;
} member_list;

static int read_members(int dir_fd, member_list *members) {
    char text[4096];
    pid_t number = 0;
    ssize_t got;

    int fd = sys_openat(dir_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    while (members->n < members->most && (got = sys_read(fd, text, sizeof text)) > 0) {
        for (ssize_t i = 0; i < got && members->n < members->most; i++) {
            if (text[i] >= '0' && text[i] <= '9') {
                number = number * 10 + (text[i] - '0');
            } else {
                if (number > 0)
                    members->pids[members->n++] = number;
                number = 0;
            }
        }
    }
    sys_close(fd);
    return 0;
}

static void add_members(int dir_fd, const char *name, int depth, void *arg) {
    int cgroup_fd = open_cgroup(dir_fd, name);

    if (cgroup_fd < 0)
        return;
    read_members(cgroup_fd, arg);
    if (depth > 0 && has_cgroups_in_it(cgroup_fd, ""))
        for_each_in(cgroup_fd, add_members, depth - 1, arg);
    sys_close(cgroup_fd);
}

int fp_cgroup_members(int cgroup_fd, pid_t *ret_pids, int most) {
    member_list members = {.pids = ret_pids, .most = most};

    int r = read_members(cgroup_fd, &members);
    if (r < 0)
        return r;
    if (has_cgroups_in_it(cgroup_fd, ""))
        for_each_in(cgroup_fd, add_members, DEEPEST, &members);
    return members.n;
}

/* ---- removal --------------------------------------------------------------------- */

static bool is_populated(int cgroup_fd) {
    char text[128];

    int fd = sys_openat(cgroup_fd, "cgroup.events", O_RDONLY | O_CLOEXEC, 0);
    ssize_t n = fd < 0 ? fd : sys_read(fd, text, sizeof text - 1);
    if (fd >= 0)
        sys_close(fd);
    if (n < 0)
        return true;
    text[n] = '\0';
    return !strstr(text, "populated 0");
}

static int remove_it(int dir_fd, const char *name, int depth);

static void remove_one(int dir_fd, const char *name, int depth, void *arg) {
    (void)arg;
    remove_it(dir_fd, name, depth);
}

static int remove_it(int dir_fd, const char *name, int depth) {
    int r = sys_unlinkat(dir_fd, name, AT_REMOVEDIR);

    if ((r != -EBUSY && r != -ENOTEMPTY) || depth == 0 || !has_cgroups_in_it(dir_fd, name))
        return r;
    int cgroup_fd = open_cgroup(dir_fd, name);
    if (cgroup_fd < 0)
        return r;
    /* Who lives in there may need those that are empty. */
    bool populated = is_populated(cgroup_fd);
    if (!populated)
        for_each_in(cgroup_fd, remove_one, depth - 1, NULL);
    sys_close(cgroup_fd);
    return populated ? r : sys_unlinkat(dir_fd, name, AT_REMOVEDIR);
}

int fp_cgroup_remove(int dir_fd, const char *name) {
    return remove_it(dir_fd, name, DEEPEST);
}
