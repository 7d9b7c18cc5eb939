/*
 * cgroup.c: leaves of the cgroup v2 tree, one a job.
 *
 * A leaf is what descendants cannot leave without the right to write to the
 * cgroup tree, and `cgroup.kill` ends all that is in it at once. Neither needs
 * a controller, so it works on hybrid hosts, where v2 is mounted beside v1.
 *
 * A leaf whose job ended by itself and left nobody behind serves again. One
 * that was killed does not: since its cgroup.kill was written, the kernel
 * kills all that is later cloned into it (seen on 6.18).
 *
 * Layout: <our cgroup>/fastproc-<pid>-<start time>-<n>/<leaf>; who needs only
 * one and no limits lives in the directory itself. The start time tells a
 * living owner from a recycled pid, so that what a crashed owner left behind
 * can be cleared away by the next.
 *
 * Sources: cgroups(7); Documentation/admin-guide/cgroup-v2.rst; cgroup.kill since 5.14.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "proc.h"
#include "sys.h"

enum { MOST_IDLE = 24, MOST_MEMBERS = 1024 };

/* One a living job: 24 bytes, the least that malloc(3) gives. */
struct fp_leaf {
    fp_leaf *next;
    uint64_t name : 59;
    bool known : 1; /* the kernel keeps the inode of its cgroup.procs */
    bool killed : 1;
    bool limited : 1;
    bool alone : 1;  /* its directory is that of its fp_leaves */
    bool frozen : 1; /* somebody has frozen it: a child born into it would stand still */
    int dir_fd;
    int events_fd;
};

/* ---- where leaves may be made -------------------------------------------- */

static pthread_once_t found_once = PTHREAD_ONCE_INIT;
static char found_dir[256];
static bool found_writable;

/* Undo the octal escapes of mountinfo, see proc(5). */
static void unescape(char *text) {
    char *to = text;
    for (const char *p = text; *p; p++) {
        if (p[0] == '\\' && p[1] && p[2] && p[3]) {
            *to++ = (char)((p[1] - '0') * 64 + (p[2] - '0') * 8 + (p[3] - '0'));
            p += 3;
        } else {
            *to++ = *p;
        }
    }
    *to = '\0';
}

/* The mount of cgroup v2: where it is, and which part of the tree it shows. */
static bool find_mount(char *ret_point, char *ret_root, size_t size) {
    FILE *file = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t capacity = 0;
    bool found = false;

    while (file && !found && getline(&line, &capacity, file) > 0) {
        const char *dash = strstr(line, " - ");
        char root[256], point[256];
        if (!dash || strncmp(dash + 3, "cgroup2 ", 8) != 0)
            continue;
        if (sscanf(line, "%*s %*s %*s %255s %255s", root, point) != 2)
            continue;
        unescape(root);
        unescape(point);
        snprintf(ret_root, size, "%s", strcmp(root, "/") ? root : "");
        snprintf(ret_point, size, "%s", point);
        found = true;
    }
    free(line);
    if (file)
        fclose(file);
    return found;
}

/* Our place in the v2 tree: the line "0::" of /proc/self/cgroup. */
static bool find_place(char *ret_place, size_t size) {
    FILE *file = fopen("/proc/self/cgroup", "re");
    char *line = NULL;
    size_t capacity = 0;
    bool found = false;

    while (file && !found && getline(&line, &capacity, file) > 0) {
        if (strncmp(line, "0::", 3) != 0)
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(ret_place, size, "%s", strcmp(line + 3, "/") ? line + 3 : "");
        found = true;
    }
    free(line);
    if (file)
        fclose(file);
    return found;
}

/* systemd is the only writer of its tree, except where it has delegated a part and marked it so. */
static bool is_ours_to_write(const char *dir) {
    char value[4];
    if (access("/run/systemd/system", F_OK) != 0)
        return true;
    return getxattr(dir, "trusted.delegate", value, sizeof value) > 0 ||
           getxattr(dir, "user.delegate", value, sizeof value) > 0;
}

static bool can_make_leaves(const char *dir) {
    char path[320];
    snprintf(path, sizeof path, "%s/fastproc-probe-%d", dir, (int)sys_getpid());
    if (sys_mkdirat(AT_FDCWD, path, 0755) < 0)
        return false;
    sys_unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
    return true;
}

static void find_dir(void) {
    char point[256], root[256], place[256];
    const char *asked = getenv("FASTPROC_CGROUP");

    if (asked) {
        snprintf(found_dir, sizeof found_dir, "%s", asked);
    } else {
        if (!find_mount(point, root, sizeof point) || !find_place(place, sizeof place))
            return;
        size_t shown = strlen(root);
        const char *below = strncmp(place, root, shown) == 0 ? place + shown : place;
        if (strlen(point) + strlen(below) >= sizeof found_dir)
            return;
        stpcpy(stpcpy(found_dir, point), below);
        if (!is_ours_to_write(found_dir))
            return;
    }
    found_writable = *found_dir && can_make_leaves(found_dir);
}

bool fp_cgroup_available(void) {
    pthread_once(&found_once, find_dir);
    return found_writable;
}

const char *fp_cgroup_dir(void) {
    return fp_can(FP_CAP_CGROUP) ? found_dir : NULL;
}

/* ---- small files ----------------------------------------------------------- */

static int write_at(int dir_fd, const char *name, const char *text) {
    int fd = sys_openat(dir_fd, name, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    ssize_t n = sys_write(fd, text, strlen(text));
    sys_close(fd);
    return n < 0 ? (int)n : 0;
}

static int read_at(int dir_fd, const char *name, char *ret_text, size_t size) {
    int fd = sys_openat(dir_fd, name, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    ssize_t n = sys_read(fd, ret_text, size - 1);
    sys_close(fd);
    if (n < 0)
        return (int)n;
    ret_text[n] = '\0';
    return (int)n;
}

/*
 * For each birth into a cgroup the kernel checks who may write to its
 * cgroup.procs, and to that of the cgroup it has in common with the parent:
 * cgroup_css_set_fork() in kernel/cgroup/cgroup.c, 6.18. For that it makes an
 * inode and drops it again, unless it keeps one because the file has been
 * looked up: one to two percent of a start of benchmarks/bench_spawn.py.
 */
static void let_keep_inode(int dir_fd) {
    sys_faccessat(dir_fd, "cgroup.procs", F_OK);
}

static bool has_word(const char *text, const char *word) {
    size_t length = strlen(word);
    for (const char *p = text; (p = strstr(p, word)); p += length)
        if ((p == text || p[-1] == ' ') && (p[length] == ' ' || p[length] == '\n' || !p[length]))
            return true;
    return false;
}

/* ---- our own directory ------------------------------------------------------ */

/* Those of a dead owner that nobody lives in, while in others of his somebody does. */
static void remove_leaves(int dir_fd) {
    char entries[2048];
    long got;
    while ((got = sys_getdents64(dir_fd, entries, sizeof entries)) > 0) {
        for (long at = 0; at < got;) {
            const fp_dirent *entry = (const void *)(entries + at);
            if (*entry->name >= '0' && *entry->name <= '9')
                fp_cgroup_remove(dir_fd, entry->name);
            at += entry->record_bytes;
        }
    }
}

/* Remove what an owner who is dead has left behind, as far as nobody lives in it. */
static void clear_after_the_dead(int parent_fd) {
    char entries[2048];
    int dir = sys_openat(parent_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    long got;
    while (dir >= 0 && (got = sys_getdents64(dir, entries, sizeof entries)) > 0) {
        for (long at = 0; at < got;) {
            const fp_dirent *entry = (const void *)(entries + at);
            const char *name = entry->name;
            int pid;
            unsigned long long start;
            unsigned n;
            fp_person owner;
            at += entry->record_bytes;
            if (sscanf(name, "fastproc-probe-%d", &pid) == 1 || sscanf(name, "fastproc-try-%d", &pid) == 1) {
                if (fp_person_read(pid, &owner) == -ESRCH)
                    sys_unlinkat(parent_fd, name, AT_REMOVEDIR);
                continue;
            }
            if (sscanf(name, "fastproc-%d-%llu-%u", &pid, &start, &n) != 3)
                continue;
            if (fp_person_read(pid, &owner) == 0 && owner.start == start)
                continue;
            int old = sys_openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
            if (old < 0)
                continue;
            /* Where its owner is in another pid namespace, or /proc is hidden, only the lock tells that he lives. */
            if (sys_flock(old, LOCK_EX | LOCK_NB) < 0) {
                sys_close(old);
                continue;
            }
            remove_leaves(old);
            sys_close(old);
            fp_cgroup_remove(parent_fd, name);
        }
    }
    if (dir >= 0)
        sys_close(dir);
}

void fp_leaves_init(fp_leaves *leaves, const char *parent) {
    *leaves = (fp_leaves){.dir_fd = -1};
    if (!parent)
        parent = fp_cgroup_dir();
    if (parent && strlen(parent) < sizeof leaves->path - 64)
        snprintf(leaves->path, sizeof leaves->path, "%s", parent);
}

static _Atomic unsigned next_owner;

/* When this process began, in clock ticks since boot; 0: that is not to be known. */
static uint64_t own_start(void) {
    static _Atomic pid_t known_of;
    static _Atomic uint64_t known;
    pid_t pid = fp_own_pid();
    fp_person self;

    if (atomic_load_explicit(&known_of, memory_order_acquire) == pid)
        return atomic_load_explicit(&known, memory_order_relaxed);
    if (fp_person_read(pid, &self) < 0)
        return 0;
    atomic_store_explicit(&known, self.start, memory_order_relaxed);
    atomic_store_explicit(&known_of, pid, memory_order_release);
    return self.start;
}

/* Make our directory at the first need; the path is that of the parent until then. */
static int own_directory(fp_leaves *leaves) {
    char name[64];

    if (leaves->dir_fd >= 0)
        return 0;
    if (!*leaves->path)
        return -EOPNOTSUPP;
    int parent = sys_openat(AT_FDCWD, leaves->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (parent < 0)
        return parent;
    unsigned n = atomic_fetch_add(&next_owner, 1);
    if (n == 0)
        clear_after_the_dead(parent);
    snprintf(name, sizeof name, "fastproc-%d-%llu-%u", (int)fp_own_pid(), (unsigned long long)own_start(), n);
    let_keep_inode(parent);
    int r = sys_mkdirat(parent, name, 0755);
    if (r >= 0) {
        r = sys_aside(sys_openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
        if (r < 0)
            sys_unlinkat(parent, name, AT_REMOVEDIR);
    }
    sys_close(parent);
    if (r < 0) {
        *leaves->path = '\0'; /* not asked again: what cannot be written now stays so */
        return -EOPNOTSUPP;
    }
    leaves->dir_fd = r;
    /* Held as long as the descriptor is, see clear_after_the_dead(). */
    sys_flock(r, LOCK_SH | LOCK_NB);
    size_t end = strlen(leaves->path);
    snprintf(leaves->path + end, sizeof leaves->path - end, "/%s", name);
    return 0;
}

static void forget_directory(fp_leaves *leaves) {
    char *name = strrchr(leaves->path, '/');
    if (leaves->dir_fd < 0 || !name)
        return;
    sys_close(leaves->dir_fd);
    leaves->dir_fd = -1;
    *name = '\0';
}

/* See that our leaves have this controller: it must be enabled in every directory above them. */
static int need_controller(fp_leaves *leaves, const char *controller) {
    char text[256], enable[32];

    if (read_at(leaves->dir_fd, "cgroup.subtree_control", text, sizeof text) >= 0 && has_word(text, controller))
        return 0;
    snprintf(enable, sizeof enable, "+%s", controller);
    int r = read_at(leaves->dir_fd, "cgroup.controllers", text, sizeof text);
    if (r >= 0 && !has_word(text, controller))
        r = write_at(leaves->dir_fd, "../cgroup.subtree_control", enable);
    if (r >= 0)
        r = write_at(leaves->dir_fd, "cgroup.subtree_control", enable);
    return r < 0 ? r : 0;
}

/* ---- leaves ------------------------------------------------------------------- */

static void leaf_name(const fp_leaf *leaf, char *ret_name) {
    sprintf(ret_name, "%llu", (unsigned long long)leaf->name);
}

static void leaf_close(fp_leaf *leaf) {
    if (leaf->dir_fd >= 0 && !leaf->alone)
        sys_close(leaf->dir_fd);
    if (leaf->events_fd >= 0)
        sys_close(leaf->events_fd);
    leaf->dir_fd = leaf->events_fd = -1;
}

static int leaf_make(fp_leaves *leaves, fp_leaf **ret_leaf) {
    char name[24];
    int r;
    fp_leaf *leaf = malloc(sizeof *leaf);
    if (!leaf)
        return -ENOMEM;
    *leaf = (fp_leaf){.name = leaves->next_name++, .dir_fd = -1, .events_fd = -1};
    leaf_name(leaf, name);
    r = sys_mkdirat(leaves->dir_fd, name, 0755);
    if (r < 0)
        goto out;
    r = leaf->dir_fd = sys_aside(sys_openat(leaves->dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
    if (r >= 0)
        r = leaf->events_fd = sys_aside(sys_openat(leaf->dir_fd, "cgroup.events", O_RDONLY | O_CLOEXEC, 0));
    if (r < 0) {
        sys_unlinkat(leaves->dir_fd, name, AT_REMOVEDIR);
        goto out;
    }
    *ret_leaf = leaf;
    return 0;
out:
    leaf_close(leaf);
    free(leaf);
    return r;
}

static int leaf_limit(fp_leaves *leaves, fp_leaf *leaf, const fp_spec *spec, int *reterr_which) {
    char text[64];
    int r = 0;

    leaf->limited = true;
    if (spec->memory_max_bytes) {
        *reterr_which = 0;
        r = need_controller(leaves, "memory");
        snprintf(text, sizeof text, "%llu", (unsigned long long)spec->memory_max_bytes);
        if (r == 0)
            r = write_at(leaf->dir_fd, "memory.max", text);
        /* Swap would only make the end slow. The file is missing where swap is not accounted. */
        if (r == 0)
            write_at(leaf->dir_fd, "memory.swap.max", "0");
    }
    if (r == 0 && spec->pids_max) {
        *reterr_which = 1;
        r = need_controller(leaves, "pids");
        snprintf(text, sizeof text, "%llu", (unsigned long long)spec->pids_max);
        if (r == 0)
            r = write_at(leaf->dir_fd, "pids.max", text);
    }
    if (r == 0 && spec->cpu_max_millis) {
        *reterr_which = 2;
        r = need_controller(leaves, "cpu");
        snprintf(text, sizeof text, "%llu 100000", (unsigned long long)spec->cpu_max_millis * 100);
        if (r == 0)
            r = write_at(leaf->dir_fd, "cpu.max", text);
    }
    return r;
}

static void leaf_doom(fp_leaves *leaves, fp_leaf *leaf) {
    char name[24], path[sizeof leaves->path + sizeof name];
    leaf_close(leaf);
    if (leaf->alone) {
        free(leaf); /* its directory goes with `leaves` */
        return;
    }
    leaf_name(leaf, name);
    if (leaves->dir_fd < 0) {
        /* The supervisor has been freed, and this was somebody's who lived on. */
        snprintf(path, sizeof path, "%s/%s", leaves->path, name);
        fp_cgroup_remove(AT_FDCWD, path);
        sys_unlinkat(AT_FDCWD, leaves->path, AT_REMOVEDIR);
        free(leaf);
        return;
    }
    int r = fp_cgroup_remove(leaves->dir_fd, name);
    if (r == 0 || r == -ENOENT) {
        free(leaf);
        return;
    }
    leaf->next = leaves->doomed;
    leaves->doomed = leaf;
}

int fp_leaf_take(fp_leaves *leaves, const fp_spec *spec, fp_leaf **ret_leaf, int *reterr_which) {
    bool limits = fp_spec_needs_controllers(spec);
    fp_leaf *leaf = leaves->idle;
    int r;

    *reterr_which = -1;
    if (!fp_can(FP_CAP_CGROUP))
        return -EOPNOTSUPP;
    if (leaf && !limits) {
        leaves->idle = leaf->next;
        leaves->n_idle--;
        *ret_leaf = leaf;
        return 0;
    }
    r = own_directory(leaves);
    if (r == 0)
        r = leaf_make(leaves, &leaf);
    if (r == -ENOENT) {
        /* Somebody has removed our directory. */
        forget_directory(leaves);
        r = own_directory(leaves);
        if (r == 0)
            r = leaf_make(leaves, &leaf);
    }
    /* "No such file" would be taken for a missing program. */
    if (r < 0)
        return r == -ENOENT ? -EOPNOTSUPP : r;
    if (limits) {
        r = leaf_limit(leaves, leaf, spec, reterr_which);
        if (r < 0) {
            leaf_doom(leaves, leaf);
            return r == -ENOENT ? -EOPNOTSUPP : r;
        }
    }
    *ret_leaf = leaf;
    return 0;
}

int fp_leaf_take_alone(fp_leaves *leaves, fp_leaf **ret_leaf) {
    if (!fp_can(FP_CAP_CGROUP))
        return -EOPNOTSUPP;
    fp_leaf *leaf = malloc(sizeof *leaf);
    if (!leaf)
        return -ENOMEM;
    int r = own_directory(leaves);
    if (r == 0)
        r = sys_aside(sys_openat(leaves->dir_fd, "cgroup.events", O_RDONLY | O_CLOEXEC, 0));
    if (r < 0) {
        free(leaf);
        return r == -ENOENT ? -EOPNOTSUPP : r;
    }
    *leaf = (fp_leaf){.alone = true, .dir_fd = leaves->dir_fd, .events_fd = r};
    *ret_leaf = leaf;
    return 0;
}

void fp_leaf_give(fp_leaves *leaves, fp_leaf *leaf, bool empty) {
    if (!leaf)
        return;
    bool reusable = leaves->dir_fd >= 0 && !leaf->alone && !leaf->killed && !leaf->limited && !leaf->frozen &&
                    leaves->n_idle < MOST_IDLE && (empty || fp_leaf_populated(leaf) == 0);
    if (!reusable) {
        leaf_doom(leaves, leaf);
        return;
    }
    if (!leaf->known)
        let_keep_inode(leaf->dir_fd);
    leaf->known = true;
    leaf->next = leaves->idle;
    leaves->idle = leaf;
    leaves->n_idle++;
}

void fp_leaves_drop_frozen(fp_leaves *leaves) {
    for (fp_leaf **at = &leaves->idle; *at;) {
        fp_leaf *leaf = *at;
        if (fp_leaf_populated(leaf) == 0 && !leaf->frozen) {
            at = &leaf->next;
            continue;
        }
        *at = leaf->next;
        leaves->n_idle--;
        leaf_doom(leaves, leaf);
    }
}

void fp_leaf_drop(fp_leaf *leaf) {
    if (!leaf)
        return;
    leaf_close(leaf);
    free(leaf);
}

uint32_t fp_leaves_sweep(fp_leaves *leaves) {
    fp_leaf *leaf = leaves->doomed;
    uint32_t left = 0;
    leaves->doomed = NULL;
    while (leaf) {
        fp_leaf *next = leaf->next;
        leaf_doom(leaves, leaf);
        leaf = next;
    }
    for (leaf = leaves->doomed; leaf; leaf = leaf->next)
        left++;
    return left;
}

void fp_leaves_done(fp_leaves *leaves) {
    while (leaves->idle) {
        fp_leaf *leaf = leaves->idle;
        leaves->idle = leaf->next;
        leaf->next = NULL;
        leaf_doom(leaves, leaf);
    }
    leaves->n_idle = 0;
    fp_leaves_sweep(leaves);
    while (leaves->doomed) {
        fp_leaf *leaf = leaves->doomed;
        leaves->doomed = leaf->next;
        free(leaf);
    }
    if (leaves->dir_fd >= 0) {
        sys_close(leaves->dir_fd);
        sys_unlinkat(AT_FDCWD, leaves->path, AT_REMOVEDIR);
    }
    leaves->dir_fd = -1;
    for (uint32_t i = 0; i < FP_PAST_LEAVES; i++) {
        fp_mailbox_unref(leaves->past[i].mailbox);
        leaves->past[i].mailbox = NULL;
    }
}

int fp_leaf_fd(const fp_leaf *leaf) {
    return leaf ? leaf->dir_fd : -1;
}

bool fp_leaf_thaw(int leaf_fd) {
    char text[8];
    return read_at(leaf_fd, "cgroup.freeze", text, sizeof text) > 0 && *text == '1' &&
           write_at(leaf_fd, "cgroup.freeze", "0") >= 0;
}

int fp_leaf_populated(fp_leaf *leaf) {
    char text[128];
    ssize_t n = sys_pread(leaf->events_fd, text, sizeof text - 1, 0);
    if (n < 0)
        return (int)n;
    text[n] = '\0';
    const char *p = strstr(text, "populated "), *frozen = strstr(text, "frozen ");
    leaf->frozen = frozen && frozen[7] == '1';
    return p && p[10] == '1';
}

int fp_leaf_members(fp_leaf *leaf, pid_t *ret_pids, int n) {
    return fp_cgroup_members(leaf->dir_fd, ret_pids, n);
}

/*
 * Before 5.14: freeze, so that nobody can fork away from under us, kill each
 * member, thaw. Frozen processes die of SIGKILL. The ladder comes back if
 * somebody is left.
 */
static int kill_one_by_one(fp_leaf *leaf) {
    pid_t pids[MOST_MEMBERS];
    int frozen = write_at(leaf->dir_fd, "cgroup.freeze", "1");
    int n = fp_leaf_members(leaf, pids, MOST_MEMBERS);
    for (int i = 0; i < n; i++)
        if (pids[i] > 1)
            sys_kill(pids[i], SIGKILL);
    if (frozen == 0)
        write_at(leaf->dir_fd, "cgroup.freeze", "0");
    return n < 0 ? n : 0;
}

int fp_leaf_kill(fp_leaf *leaf) {
    leaf->killed = true;
    if (!fp_can(FP_CAP_CGROUP_KILL))
        return kill_one_by_one(leaf);
    int r = write_at(leaf->dir_fd, "cgroup.kill", "1");
    return r < 0 ? kill_one_by_one(leaf) : 0;
}

uint64_t fp_leaf_oom_kills(fp_leaf *leaf) {
    char text[512];
    if (!leaf->limited || read_at(leaf->dir_fd, "memory.events", text, sizeof text) < 0)
        return 0;
    const char *p = strstr(text, "oom_kill ");
    return p ? strtoull(p + 9, NULL, 10) : 0;
}

uint64_t fp_leaf_name(const fp_leaf *leaf) {
    return leaf->name;
}

void fp_leaf_retire(fp_leaves *leaves, fp_leaf *leaf, fp_mailbox *mailbox) {
    if (!leaf)
        return;
    if (leaves->dir_fd >= 0) {
        uint32_t at = leaves->next_past++ % FP_PAST_LEAVES;
        fp_mailbox_unref(leaves->past[at].mailbox);
        leaves->past[at].name = leaf->name;
        leaves->past[at].mailbox = fp_mailbox_ref(mailbox);
    }
    leaf_doom(leaves, leaf);
}

fp_mailbox *fp_leaves_past(const fp_leaves *leaves, uint64_t name) {
    for (uint32_t i = 0; i < FP_PAST_LEAVES; i++)
        if (leaves->past[i].mailbox && leaves->past[i].name == name)
            return leaves->past[i].mailbox;
    return NULL;
}

bool fp_leaves_hold(const fp_leaves *leaves, pid_t pid, uint64_t *ret_name) {
    char path[48], text[1024];
    const char *own = strrchr(leaves->path, '/');
    if (leaves->dir_fd < 0 || !own)
        return false;
    snprintf(path, sizeof path, "/proc/%d/cgroup", (int)pid);
    if (read_at(AT_FDCWD, path, text, sizeof text) < 0)
        return false;
    const char *line = strstr(text, "0::");
    const char *found = line ? strstr(line, own) : NULL;
    if (!found || found[strlen(own)] != '/')
        return false;
    if (ret_name)
        *ret_name = strtoull(found + strlen(own) + 1, NULL, 10);
    return true;
}
