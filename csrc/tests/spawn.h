/*
 * spawn.h: what the tests of births share. The program starts itself as the
 * child, which looks round and tells what it finds: descriptors, ids, signals,
 * limits.
 *
 * All tests run once in each way a child can be made, each in a process of
 * its own that starts with another FASTPROC_DISABLE, and as another user too
 * where we are root.
 */
#ifndef FASTPROC_SPAWN_H
#define FASTPROC_SPAWN_H

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "internal.h"

enum { OUTPUT_BYTES = 64 * 1024, NOBODY = 65534, MOST_SEEN_FD = 4200 };

static fp_slots slots;
static bool with_slots = true;
static char self[512];
static char scratch[64]; /* a directory that goes away afterwards */

/* ---- the child: tells what it finds --------------------------------------- */

static inline void describe(FILE *out) {
    char text[4096];
    gid_t groups[128];

    for (int fd = 0; fd < MOST_SEEN_FD; fd++) {
        struct stat seen;
        if (fd == fileno(out) && fd > 2)
            continue;
        if (fstat(fd, &seen) == 0)
            fprintf(out, "fd%d %lu:%lu %d\n", fd, (unsigned long)seen.st_dev, (unsigned long)seen.st_ino,
                    fcntl(fd, F_GETFL) & O_NONBLOCK ? 1 : 0);
    }
    fprintf(out, "pid %d\nsid %d\npgid %d\n", (int)getpid(), (int)getsid(0), (int)getpgrp());
    fprintf(out, "uid %d\ngid %d\ngroups", (int)getuid(), (int)getgid());
    int n = getgroups(128, groups);
    for (int i = 0; i < n; i++)
        fprintf(out, "%s%d", i ? "," : " ", (int)groups[i]);
    mode_t mask = umask(0);
    fprintf(out, "\numask %o\nnice %d\ncwd %s\n", (unsigned)mask, getpriority(PRIO_PROCESS, 0),
            getcwd(text, sizeof text) ? text : "?");
    cpu_set_t cpus;
    sched_getaffinity(0, sizeof cpus, &cpus);
    fprintf(out, "cpus %d %d\nnnp %d\n", CPU_COUNT(&cpus), !!CPU_ISSET(0, &cpus),
            prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    int death = 0;
    prctl(PR_GET_PDEATHSIG, &death);
    fprintf(out, "pdeathsig %d\n", death);
    static const int resources[] = {RLIMIT_CPU,   RLIMIT_AS,     RLIMIT_DATA,  RLIMIT_FSIZE,  RLIMIT_CORE,
                                    RLIMIT_STACK, RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_MEMLOCK};
    for (int i = 0; i < FP_RLIMIT_COUNT; i++) {
        struct rlimit limit;
        getrlimit(resources[i], &limit);
        fprintf(out, "rlimit%d %lld %lld\n", i, (long long)limit.rlim_cur, (long long)limit.rlim_max);
    }
    FILE *status = fopen("/proc/self/status", "re");
    while (status && fgets(text, sizeof text, status))
        if (strncmp(text, "Sig", 3) == 0 || strncmp(text, "CapEff", 6) == 0)
            fputs(text, out);
    if (status)
        fclose(status);
    FILE *cgroup = fopen("/proc/self/cgroup", "re");
    while (cgroup && fgets(text, sizeof text, cgroup))
        if (strncmp(text, "0::", 3) == 0)
            fprintf(out, "cgroup %s", text + 3);
    if (cgroup)
        fclose(cgroup);
}

/* The value that the child has told under `key`, or "". */
static inline const char *told(const char *text, const char *key) {
    static char value[512];
    size_t bytes = strlen(key);

    for (const char *line = text; line && *line; line = strchr(line, '\n'), line += line ? 1 : 0) {
        if (strncmp(line, key, bytes) != 0 || (line[bytes] != ' ' && line[bytes] != ':'))
            continue;
        line += bytes + 1;
        while (*line == ' ' || *line == '\t')
            line++;
        size_t length = strcspn(line, "\n");
        if (length >= sizeof value)
            length = sizeof value - 1;
        memcpy(value, line, length);
        value[length] = '\0';
        return value;
    }
    return "";
}

static inline uint64_t told_mask(const char *text, const char *key) {
    return strtoull(told(text, key), NULL, 16);
}

static inline int count_told_fds(const char *text) {
    int n = 0;
    for (const char *line = text; (line = strstr(line, "fd")); line += 2)
        n += (line == text || line[-1] == '\n') && line[2] >= '0' && line[2] <= '9';
    return n;
}

/* ---- the parent -------------------------------------------------------------- */

struct result {
    int error; /* of fp_birth_make() */
    fp_failure failure;
    int code;   /* exit code, or -signal */
    char *text; /* standard output, if it was a pipe */
};

static inline int wait_for(pid_t pid) {
    int status = 0;

    if (waitpid(pid, &status, 0) != pid)
        return -1000;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static inline fp_birthplace birthplace(void) {
    return (fp_birthplace){.slots = with_slots ? &slots : NULL, .cgroup_fd = -1};
}

static inline struct result run_in(const fp_spec *spec, const fp_birthplace *place) {
    struct result result = {.text = calloc(1, OUTPUT_BYTES + 1)};
    fp_birth birth;

    result.error = fp_spec_check(spec, &result.failure);
    if (result.error == 0)
        result.error = fp_birth_make(spec, place, &birth, &result.failure);
    if (result.error < 0)
        return result;
    CHECK(birth.pid > 1);
    CHECK(birth.pidfd >= 3 || !fp_can(FP_CAP_PIDFD));
    for (int i = 0; i < 3; i++)
        CHECK_EQ(birth.pipe_fd[i] >= 3, spec->stdio[i].kind == FP_STDIO_PIPE);
    if (birth.pipe_fd[0] >= 0) {
        if (spec->input_bytes > 0)
            CHECK_EQ(write(birth.pipe_fd[0], spec->input, spec->input_bytes), spec->input_bytes);
        CHECK(fcntl(birth.pipe_fd[0], F_GETFL) & O_NONBLOCK);
        close(birth.pipe_fd[0]);
    }
    for (int i = 1; i < 3; i++) {
        size_t used = strlen(result.text);
        ssize_t n;
        if (birth.pipe_fd[i] < 0)
            continue;
        CHECK(fcntl(birth.pipe_fd[i], F_GETFD) & FD_CLOEXEC);
        struct pollfd fd = {.fd = birth.pipe_fd[i], .events = POLLIN};
        while (poll(&fd, 1, 20000) > 0 && (n = read(fd.fd, result.text + used, OUTPUT_BYTES - used)) > 0)
            used += (size_t)n;
        close(birth.pipe_fd[i]);
    }
    result.code = wait_for(birth.pid);
    if (birth.pidfd >= 0)
        close(birth.pidfd);
    return result;
}

static inline struct result run(const fp_spec *spec) {
    fp_birthplace place = birthplace();
    return run_in(spec, &place);
}

/* A child that describes itself on its standard output. */
static inline fp_spec describer(void) {
    static const char *argv[] = {"describe", NULL};
    fp_spec spec = FP_SPEC_INIT;

    spec.argv = argv;
    spec.program = self;
    spec.stdio[1].kind = FP_STDIO_PIPE;
    return spec;
}

static inline fp_spec shell(const char *const *argv) {
    fp_spec spec = FP_SPEC_INIT;

    spec.argv = argv;
    spec.stdio[1].kind = FP_STDIO_PIPE;
    return spec;
}

#define SHELL(script) shell((const char *const[]){"/bin/sh", "-c", script, NULL})

#define FAILS(spec, wanted_error, wanted_stage, wanted_detail)                                                         \
    do {                                                                                                               \
        struct result fails_result = run(&(spec));                                                                     \
        CHECK_EQ(fails_result.error, -(wanted_error));                                                                 \
        CHECK_EQ(fails_result.failure.error, wanted_error);                                                            \
        CHECK_EQ(fails_result.failure.stage, wanted_stage);                                                            \
        CHECK_EQ(fails_result.failure.detail, wanted_detail);                                                          \
        CHECK_EQ(waitpid(-1, NULL, WNOHANG | __WALL), -1);                                                             \
        free(fails_result.text);                                                                                       \
    } while (0)

static inline const char *in_scratch(const char *name) {
    static char paths[4][128];
    static int next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof paths[0], "%s/%s", scratch, name);
    return path;
}

static inline void write_file(const char *path, const char *text, int mode) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    chmod(path, (mode_t)mode);
}

static inline const char *read_file(const char *path) {
    static char text[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, text, sizeof text - 1);

    text[n > 0 ? n : 0] = '\0';
    close(fd);
    return text;
}

static inline const char *identity_of(int fd) {
    static char text[64];
    struct stat seen;

    if (fstat(fd, &seen) < 0)
        return "";
    snprintf(text, sizeof text, "%lu:%lu", (unsigned long)seen.st_dev, (unsigned long)seen.st_ino);
    return text;
}

/* ---- all of it, in each way ----------------------------------------------------------------------- */

static inline int count_open(void) {
    int n = 0;
    for (int fd = 0; fd < MOST_SEEN_FD; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* In a process of its own: with these capabilities hidden, by this user, with or without slots. */
static inline int run_way(void (*all_tests)(void), const char *disable, bool as_nobody, bool use_slots) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        check_run = check_skipped = check_failures = 0;
        setenv("FASTPROC_DISABLE", disable, 1);
        snprintf(scratch, sizeof scratch, "/tmp/fastproc-test-XXXXXX");
        if (!mkdtemp(scratch))
            _exit(1);
        if (as_nobody) {
            CHECK_EQ(chown(scratch, NOBODY, NOBODY), 0);
            CHECK_EQ(setgroups(0, NULL), 0);
            CHECK_EQ(setresgid(NOBODY, NOBODY, NOBODY), 0);
            CHECK_EQ(setresuid(NOBODY, NOBODY, NOBODY), 0);
            /* As after a login: a change of ids has switched it off. */
            prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
        }
        with_slots = use_slots;
        /* What is found out once opens nothing later. */
        for (int capability = 0; capability < FP_CAP_COUNT; capability++)
            fp_probe(capability);
        if (with_slots)
            CHECK_EQ(fp_slots_init(&slots), 0);
        int open_before = count_open();
        all_tests();
        CHECK_EQ(count_open(), open_before);
        CHECK(waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD);
        if (with_slots)
            fp_slots_done(&slots);
        char command[128];
        snprintf(command, sizeof command, "rm -rf %s", scratch);
        CHECK_EQ(system(command), 0);
        int result = check_result();
        fflush(NULL);
        _exit(result);
    }
    int code = wait_for(pid);
    if (code != 0)
        fprintf(stderr, "FASTPROC_DISABLE=%s, %s, %s slots: %d\n", disable, as_nobody ? "nobody" : "as we are",
                use_slots ? "with" : "without", code);
    return code;
}

/* First of all in main(). It does not come back where it is the child. */
static inline void begin_births(int argc, char **argv) {
    if (argc > 0 && strcmp(argv[0], "describe") == 0) {
        FILE *out = argc > 1 ? fopen(argv[1], "we") : stdout;
        describe(out);
        exit(fflush(out) == 0 ? 0 : 1);
    }
    /* Others must be able to execute it too. */
    ssize_t bytes = readlink("/proc/self/exe", self, sizeof self - 1);
    self[bytes > 0 ? bytes : 0] = '\0';
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            CHECK_EQ(open("/dev/null", O_RDWR), fd);
}

static inline int in_each_way(void (*all_tests)(void)) {
    static const char *const ways[] = {"",
                                       "clone3",
                                       "clone3,clone",
                                       "pidfd",
                                       "pidfd_wait",
                                       "into_cgroup",
                                       "close_range",
                                       "close_range,procfs",
                                       "clone3,close_range",
                                       "all"};

    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        check_failures += run_way(all_tests, ways[i], false, true) != 0;
    check_failures += run_way(all_tests, "", false, false) != 0;
    if (geteuid() == 0) {
        check_failures += run_way(all_tests, "", true, true) != 0;
        check_failures += run_way(all_tests, "clone3", true, true) != 0;
        check_failures += run_way(all_tests, "all", true, true) != 0;
    }
    return check_result();
}

#endif
