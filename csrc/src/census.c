/*
 * census.c: who is alive, read from /proc.
 *
 * /proc is never the first means: groups are signalled and found empty by the
 * kernel. It finds what left the group, and tells zombies from the living,
 * which signal 0 does not. A walk through all of it costs about 10 us a
 * process, so it is made in slices between two looks at the clock.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "sys.h"

/* The kernel's flags of a process, and among them PF_FORKNOEXEC: it is still the program that it was forked from. */
enum { FLAGS_FIELD = 9, FORKED_NO_EXEC = 0x40 };

/* An unsigned number at *text, which is moved behind it and the blank that follows. */
static uint64_t take_number(const char **text, const char *end) {
    uint64_t value = 0;
    const char *p = *text;
    if (p < end && *p == '-')
        p++;
    for (; p < end && *p >= '0' && *p <= '9'; p++)
        value = value * 10 + (uint64_t)(*p - '0');
    while (p < end && *p == ' ')
        p++;
    *text = p;
    return value;
}

int fp_person_parse(const char *text, size_t text_bytes, fp_person *ret_person) {
    const char *end = text + text_bytes;
    const char *p = text;
    fp_person person = {0};

    person.pid = (pid_t)take_number(&p, end);
    /* The name is the program's to choose, brackets and all: it ends at the last one. */
    const char *bracket = memrchr(text, ')', text_bytes);
    if (!bracket || end - bracket < 4 || bracket[1] != ' ')
        return -EINVAL;
    person.state = bracket[2];
    p = bracket + 4;
    person.parent = (pid_t)take_number(&p, end);
    person.group = (pid_t)take_number(&p, end);
    person.session = (pid_t)take_number(&p, end);
    /* From field 7, the terminal, to field 21; 22 is the start time. */
    for (int field = 7; field <= 21; field++) {
        uint64_t value = take_number(&p, end);
        if (field == FLAGS_FIELD)
            person.executed = !(value & FORKED_NO_EXEC);
    }
    if (p >= end)
        return -EINVAL;
    person.start = take_number(&p, end);
    if (person.pid <= 0)
        return -EINVAL;
    *ret_person = person;
    return 0;
}

static char *append_number(char *to, uint64_t number) {
    char digits[20];
    int n = 0;
    do
        digits[n++] = (char)('0' + number % 10);
    while (number /= 10);
    while (n)
        *to++ = digits[--n];
    return to;
}

static char *append_text(char *to, const char *text) {
    while (*text)
        *to++ = *text++;
    *to = '\0';
    return to;
}

int fp_person_read(pid_t pid, fp_person *ret_person) {
    char path[48], text[640];

    append_text(append_number(append_text(path, "/proc/"), (uint64_t)pid), "/stat");
    int fd = sys_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd == -ENOENT ? -ESRCH : fd;
    ssize_t n = sys_read(fd, text, sizeof text);
    sys_close(fd);
    if (n <= 0)
        return n < 0 ? (int)n : -ESRCH;
    return fp_person_parse(text, (size_t)n, ret_person);
}

bool fp_person_is_alive(const fp_person *person) {
    return person->state != 'Z' && person->state != 'X';
}

/* The pid that a directory entry of /proc stands for, or 0. */
static pid_t entry_pid(const char *name) {
    pid_t pid = 0;
    for (; *name >= '0' && *name <= '9'; name++)
        pid = pid * 10 + (*name - '0');
    return *name ? 0 : pid;
}

/* The children of one thread, from /proc/PID/task/TID/children. */
static int thread_children(pid_t pid, pid_t tid, pid_t *ret_pids, int n) {
    char path[80], text[4096];
    char *p = append_number(append_text(path, "/proc/"), (uint64_t)pid);
    append_text(append_number(append_text(p, "/task/"), (uint64_t)tid), "/children");
    int fd = sys_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    int found = 0;
    pid_t number = 0;
    ssize_t got;
    while (found < n && (got = sys_read(fd, text, sizeof text)) > 0) {
        for (ssize_t i = 0; i < got; i++) {
            if (text[i] >= '0' && text[i] <= '9') {
                number = number * 10 + (text[i] - '0');
            } else if (number) {
                if (found < n)
                    ret_pids[found++] = number;
                number = 0;
            }
        }
    }
    sys_close(fd);
    return found;
}

int fp_children_read(pid_t pid, pid_t *ret_pids, int n) {
    char path[48], entries[2048];
    append_text(append_number(append_text(path, "/proc/"), (uint64_t)pid), "/task");
    int dir = sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0)
        return dir == -ENOENT ? -ESRCH : dir;
    int found = 0;
    long got;
    while (found < n && (got = sys_getdents64(dir, entries, sizeof entries)) > 0) {
        for (long at = 0; at < got && found < n;) {
            const fp_dirent *entry = (const void *)(entries + at);
            pid_t tid = entry_pid(entry->name);
            at += entry->record_bytes;
            if (!tid)
                continue;
            int r = thread_children(pid, tid, ret_pids + found, n - found);
            if (r > 0)
                found += r;
        }
    }
    sys_close(dir);
    return found;
}

void fp_census_init(fp_census *census) {
    *census = (fp_census){.dir_fd = -1};
}

static void census_abandon(fp_census *census) {
    if (census->dir_fd >= 0)
        sys_close(census->dir_fd);
    census->dir_fd = -1;
    census->next_count = 0;
}

void fp_census_done(fp_census *census) {
    census_abandon(census);
    free(census->people);
    free(census->next);
    fp_census_init(census);
}

static int by_pid(const void *a, const void *b) {
    pid_t x = ((const fp_person *)a)->pid, y = ((const fp_person *)b)->pid;
    return (x > y) - (x < y);
}

static int census_begin(fp_census *census) {
    int fd = sys_aside(sys_openat(AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
    if (fd < 0)
        return fd;
    census->dir_fd = fd;
    census->begun_ns = fp_now_ns();
    census->next_count = 0;
    return 0;
}

static bool census_add(fp_census *census, const fp_person *person) {
    if (census->next_count == census->next_capacity) {
        uint32_t capacity = census->next_capacity ? 2 * census->next_capacity : 256;
        fp_person *next = realloc(census->next, capacity * sizeof *next);
        if (!next)
            return false;
        census->next = next;
        census->next_capacity = capacity;
    }
    census->next[census->next_count++] = *person;
    return true;
}

/* The walk is over: what it found becomes the census. */
static void census_publish(fp_census *census) {
    free(census->people);
    census->people = census->next;
    census->count = census->next_count;
    census->next = NULL;
    census->next_capacity = 0;
    if (census->count)
        qsort(census->people, census->count, sizeof *census->people, by_pid);
    census->counted_ns = census->begun_ns;
    census_abandon(census);
}

/* Did it end meanwhile, or is it hidden from us (hidepid, see proc(5))? Then it is nobody we could find. */
static bool is_out_of_sight(int error) {
    return error == -ESRCH || error == -ENOENT || error == -EACCES || error == -EPERM || error == -EINVAL;
}

int fp_census_step(fp_census *census, uint32_t n) {
    char entries[1024];
    int r = 0;

    if (census->dir_fd < 0)
        r = census_begin(census);
    if (r == -ENOENT) {
        /* Without /proc nobody can be found: an empty census, so that nobody waits for one. */
        census->count = 0;
        census->counted_ns = fp_now_ns();
        return 1;
    }
    for (uint32_t seen = 0; r == 0 && seen < n;) {
        long got = sys_getdents64(census->dir_fd, entries, sizeof entries);
        if (got == 0) {
            census_publish(census);
            return 1;
        }
        if (got < 0)
            r = (int)got;
        for (long at = 0; at < got;) {
            const fp_dirent *entry = (const void *)(entries + at);
            pid_t pid = entry_pid(entry->name);
            fp_person person;
            at += entry->record_bytes;
            if (!pid)
                continue;
            seen++;
            int one = fp_person_read(pid, &person);
            if (one == 0 && !census_add(census, &person))
                one = -ENOMEM;
            if (one < 0 && !is_out_of_sight(one))
                r = one;
        }
    }
    /* Half a census is none: whom we could not look at must not be taken for gone. */
    if (r < 0)
        census_abandon(census);
    return r;
}

const fp_person *fp_census_find(const fp_census *census, pid_t pid) {
    fp_person key = {.pid = pid};
    if (!census->count)
        return NULL;
    return bsearch(&key, census->people, census->count, sizeof *census->people, by_pid);
}

bool fp_census_count_all(fp_census *census) {
    int r;
    while ((r = fp_census_step(census, 1024)) == 0)
        ;
    return r > 0;
}
