/*
 * test_spawn.c: births. The program starts itself as the child, which looks
 * round and tells what it finds: descriptors, ids, signals, limits.
 *
 * All tests run once in each way a child can be made, each in a process of
 * its own that starts with another FASTPROC_DISABLE, and as another user too
 * where we are root.
 */
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

static void describe(FILE *out) {
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
static const char *told(const char *text, const char *key) {
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

static uint64_t told_mask(const char *text, const char *key) {
    return strtoull(told(text, key), NULL, 16);
}

static int count_told_fds(const char *text) {
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

static int wait_for(pid_t pid) {
    int status = 0;

    if (waitpid(pid, &status, 0) != pid)
        return -1000;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static fp_birthplace birthplace(void) {
    return (fp_birthplace){.slots = with_slots ? &slots : NULL, .cgroup_fd = -1};
}

static struct result run_in(const fp_spec *spec, const fp_birthplace *place) {
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

static struct result run(const fp_spec *spec) {
    fp_birthplace place = birthplace();
    return run_in(spec, &place);
}

/* A child that describes itself on its standard output. */
static fp_spec describer(void) {
    static const char *argv[] = {"describe", NULL};
    fp_spec spec = FP_SPEC_INIT;

    spec.argv = argv;
    spec.program = self;
    spec.stdio[1].kind = FP_STDIO_PIPE;
    return spec;
}

static fp_spec shell(const char *const *argv) {
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

static const char *in_scratch(const char *name) {
    static char paths[4][128];
    static int next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof paths[0], "%s/%s", scratch, name);
    return path;
}

static void write_file(const char *path, const char *text, int mode) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    chmod(path, (mode_t)mode);
}

static const char *read_file(const char *path) {
    static char text[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, text, sizeof text - 1);

    text[n > 0 ? n : 0] = '\0';
    close(fd);
    return text;
}

static const char *identity_of(int fd) {
    static char text[64];
    struct stat seen;

    if (fstat(fd, &seen) < 0)
        return "";
    snprintf(text, sizeof text, "%lu:%lu", (unsigned long)seen.st_dev, (unsigned long)seen.st_ino);
    return text;
}

/* ---- births that succeed -------------------------------------------------------- */

static void a_program_runs_and_its_output_is_read(void) {
    fp_spec spec = SHELL("echo out; echo err >&2; exit 7");

    spec.stdio[2].kind = FP_STDIO_STDOUT;
    struct result result = run(&spec);
    CHECK_EQ(result.error, 0);
    CHECK_EQ(result.code, 7);
    CHECK_TEXT(result.text, "out\nerr\n");
    free(result.text);
}

static void packed_arguments_and_a_packed_environment_arrive(void) {
    static const char args[] = "/bin/sh\0-c\0echo \"$0|$1|$A|$B\"\0zero\0one two";
    fp_spec spec = FP_SPEC_INIT;
    fp_env *env;

    CHECK_EQ(fp_env_new("A=a b\0B=", 9, &env), 0);
    spec.args = args;
    spec.args_bytes = sizeof args;
    spec.env = env;
    spec.stdio[1].kind = FP_STDIO_PIPE;
    struct result result = run(&spec);
    CHECK_TEXT(result.text, "zero|one two|a b|\n");
    free(result.text);
    fp_env_free(env);
}

static void input_is_fed_and_ends(void) {
    fp_spec spec = SHELL("cat; echo end");

    spec.stdio[0].kind = FP_STDIO_PIPE;
    spec.input = "hello ";
    spec.input_bytes = 6;
    struct result result = run(&spec);
    CHECK_TEXT(result.text, "hello end\n");
    free(result.text);
}

static void a_child_leads_what_it_is_told_to(void) {
    fp_spec spec = describer();

    struct result result = run(&spec);
    int pid = atoi(told(result.text, "pid"));
    CHECK(pid > 1);
    CHECK_EQ(atoi(told(result.text, "sid")), pid);
    CHECK_EQ(atoi(told(result.text, "pgid")), pid);
    free(result.text);

    spec.lead = FP_LEAD_GROUP;
    result = run(&spec);
    pid = atoi(told(result.text, "pid"));
    CHECK_EQ(atoi(told(result.text, "sid")), getsid(0));
    CHECK_EQ(atoi(told(result.text, "pgid")), pid);
    free(result.text);

    spec.lead = FP_LEAD_NOTHING;
    result = run(&spec);
    CHECK_EQ(atoi(told(result.text, "sid")), getsid(0));
    CHECK_EQ(atoi(told(result.text, "pgid")), getpgrp());
    free(result.text);
}

static void the_caller_hears_the_pid_while_the_birth_lasts_only(void) {
    _Atomic pid_t born_pid = 0;
    fp_birthplace place = birthplace();
    fp_spec spec = SHELL("exit 0");

    place.born_pid = &born_pid;
    struct result result = run_in(&spec, &place);
    CHECK_EQ(result.code, 0);
    CHECK_EQ(born_pid, 0);
    free(result.text);
}

/* ---- descriptors ------------------------------------------------------------------ */

static void a_child_sees_nothing_but_its_streams(void) {
    fp_spec spec = describer();
    int leaked = open("/dev/null", O_RDONLY);       /* inheritable, as careless libraries leave them */
    int high = fcntl(leaked, F_DUPFD, 1000);
    struct result result = run(&spec);

    CHECK_EQ(count_told_fds(result.text), 3);
    free(result.text);
    close(leaked);
    close(high);
}

static void streams_come_from_where_the_spec_says(void) {
    fp_spec spec = SHELL("cat; echo err >&2");
    const char *in = in_scratch("in"), *out = in_scratch("out"), *err = in_scratch("err");
    char where[128];

    CHECK(getcwd(where, sizeof where));
    CHECK_EQ(chdir(scratch), 0);
    write_file(in, "from a file\n", 0600);
    spec.stdio[0] = (fp_stdio){.kind = FP_STDIO_READ, .path = "in"};
    spec.stdio[1] = (fp_stdio){.kind = FP_STDIO_APPEND, .path = "out"};
    spec.stdio[2] = (fp_stdio){.kind = FP_STDIO_TRUNCATE, .path = "err"};
    spec.cwd = "/"; /* The paths are relative to our directory, not to this one. */
    for (int i = 0; i < 2; i++) {
        struct result result = run(&spec);
        CHECK_EQ(result.error, 0);
        CHECK_EQ(result.code, 0);
        free(result.text);
    }
    CHECK_TEXT(read_file(out), "from a file\nfrom a file\n");
    CHECK_TEXT(read_file(err), "err\n");

    spec.stdio[1].kind = FP_STDIO_TRUNCATE;
    spec.stdio[2] = (fp_stdio){.kind = FP_STDIO_STDOUT};
    struct result result = run(&spec);
    free(result.text);
    CHECK_TEXT(read_file(out), "from a file\nerr\n");

    int fd = open(out, O_WRONLY | O_TRUNC | O_CLOEXEC);
    spec.stdio[0].kind = FP_STDIO_DEVNULL;
    spec.stdio[1] = (fp_stdio){.kind = FP_STDIO_FD, .fd = fd};
    result = run(&spec);
    free(result.text);
    close(fd);
    CHECK_TEXT(read_file(out), "err\n");
    CHECK_EQ(chdir(where), 0);

    spec.stdio[1] = (fp_stdio){.kind = FP_STDIO_TRUNCATE, .path = "/nonexistent/file"};
    FAILS(spec, ENOENT, FP_STAGE_FDS, 1);
}

static void a_fifo_without_another_end_does_not_hold_up_the_start(void) {
    fp_spec spec = SHELL("cat; echo end");
    const char *fifo = in_scratch("fifo");

    CHECK_EQ(mkfifo(fifo, 0600), 0);
    spec.stdio[0] = (fp_stdio){.kind = FP_STDIO_READ, .path = fifo};
    struct result result = run(&spec);
    CHECK_TEXT(result.text, "end\n");
    free(result.text);
    spec.stdio[0].kind = FP_STDIO_DEVNULL;
    spec.stdio[1] = (fp_stdio){.kind = FP_STDIO_APPEND, .path = fifo};
    FAILS(spec, ENXIO, FP_STAGE_FDS, 1);
}

static void the_childs_ends_block_and_are_distinct(void) {
    fp_spec spec = describer();

    spec.stdio[0].kind = FP_STDIO_PIPE;
    spec.stdio[2].kind = FP_STDIO_PIPE;
    struct result result = run(&spec);
    CHECK_EQ(count_told_fds(result.text), 3);
    for (int i = 0; i < 3; i++) {
        static const char *const keys[] = {"fd0", "fd1", "fd2"};
        const char *value = told(result.text, keys[i]);
        CHECK(*value && value[strlen(value) - 1] == '0');
    }
    free(result.text);
}

/* Start the describer with these descriptors and compare what it has with what we have. */
static void compare_map(const fp_fd_map *map, size_t n) {
    char path[128];
    const char *argv[] = {"describe", path, NULL};
    fp_spec spec = describer();

    snprintf(path, sizeof path, "%s/map", scratch);
    spec.argv = argv;
    spec.stdio[1].kind = FP_STDIO_INHERIT;
    spec.fds = map;
    spec.n_fds = n;
    struct result result = run(&spec);
    CHECK_EQ(result.error, 0);
    CHECK_EQ(result.code, 0);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = read(fd, result.text, OUTPUT_BYTES);
    result.text[got > 0 ? got : 0] = '\0';
    close(fd);
    int extra = 0;
    for (size_t i = 0; i < n; i++) {
        char key[16];
        snprintf(key, sizeof key, "fd%d", map[i].target);
        const char *wanted = identity_of(map[i].source);
        if (strncmp(told(result.text, key), wanted, strlen(wanted)) != 0)
            fprintf(stderr, "    %d -> %d: %s, not %s\n", map[i].source, map[i].target, told(result.text, key), wanted);
        CHECK(strncmp(told(result.text, key), wanted, strlen(wanted)) == 0);
        extra += map[i].target > 2;
    }
    /* The report file is one more, unless it has the number of a stream. */
    CHECK_EQ(count_told_fds(result.text), 3 + extra);
    free(result.text);
}

static void descriptors_arrive_in_any_permutation(void) {
    int fds[6];

    for (int i = 0; i < 6; i++) {
        char name[16];
        snprintf(name, sizeof name, "file%d", i);
        int fd = open(in_scratch(name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        /* Some low, some beyond what a child that shares the table keeps. */
        fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, i < 3 ? 20 : 300);
        close(fd);
    }
    compare_map((fp_fd_map[]){{fds[0], fds[1]}, {fds[1], fds[0]}}, 2);
    compare_map((fp_fd_map[]){{fds[3], fds[4]}, {fds[4], fds[5]}, {fds[5], fds[3]}}, 3);
    compare_map((fp_fd_map[]){{fds[0], 3}, {fds[3], 4}, {fds[0], 5}, {fds[3], 1000}}, 4);
    compare_map((fp_fd_map[]){{fds[0], fds[0]}, {fds[3], fds[3]}}, 2);
    compare_map((fp_fd_map[]){{fds[2], 0}, {fds[4], 1}, {0, 7}, {1, 8}}, 4);
    compare_map((fp_fd_map[]){{0, 1}, {1, 2}, {2, 0}}, 3);
    srand(11);
    for (int round = 0; round < 25; round++) {
        fp_fd_map map[8];
        size_t n = (size_t)(rand() % 9);
        int first = rand() % 10;
        for (size_t i = 0; i < n; i++)
            map[i] = (fp_fd_map){.source = fds[rand() % 6], .target = first + (int)((i * 5) % 8)};
        compare_map(map, n);
    }
    for (int i = 0; i < 6; i++)
        close(fds[i]);
}

static void a_closed_source_is_named_by_its_target(void) {
    fp_spec spec = SHELL("exit 0");
    fp_fd_map map[] = {{.source = 0, .target = 40}, {.source = 3000, .target = 41}};
    int closed = open("/dev/null", O_RDONLY | O_CLOEXEC);

    close(closed); /* The next number that would be handed out: it must not be mistaken for our pipe. */
    spec.stdio[0] = (fp_stdio){.kind = FP_STDIO_FD, .fd = closed};
    FAILS(spec, EBADF, FP_STAGE_FDS, 0);
    spec.stdio[0].kind = FP_STDIO_INHERIT;
    spec.fds = map;
    spec.n_fds = 2;
    FAILS(spec, EBADF, FP_STAGE_FDS, 41);
    map[1].source = closed;
    map[1].target = closed;
    FAILS(spec, EBADF, FP_STAGE_FDS, closed);
}

static void a_target_beyond_the_limit_is_named(void) {
    fp_spec spec = SHELL("exit 0");
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    fp_fd_map map[] = {{.source = 0, .target = (int)limit.rlim_cur}};
    if (limit.rlim_cur == RLIM_INFINITY)
        SKIP("no limit of descriptors");
    spec.fds = map;
    spec.n_fds = 1;
    FAILS(spec, EBADF, FP_STAGE_FDS, (int)limit.rlim_cur);
}

static void pipes_are_right_when_our_own_streams_are_closed(void) {
    fp_spec spec = describer();
    int kept[3];

    spec.stdio[0].kind = FP_STDIO_PIPE;
    for (int i = 0; i < 3; i++)
        kept[i] = fcntl(i, F_DUPFD_CLOEXEC, 50);
    for (int i = 0; i < 3; i++)
        close(i);
    struct result result = run(&spec);
    fp_spec all_closed = describer();
    char path[128];
    const char *argv[] = {"describe", path, NULL};
    snprintf(path, sizeof path, "%s/closed", scratch);
    all_closed.argv = argv;
    all_closed.stdio[1].kind = FP_STDIO_INHERIT;
    struct result inherited = run(&all_closed);
    for (int i = 0; i < 3; i++) {
        dup2(kept[i], i);
        close(kept[i]);
    }
    CHECK_EQ(result.error, 0);
    CHECK_EQ(count_told_fds(result.text), 2);
    CHECK_TEXT(told(result.text, "fd2"), "");
    CHECK_EQ(inherited.code, 0);
    /* The report has become its first descriptor. */
    CHECK_EQ(count_told_fds(read_file(path)), 1);
    free(result.text);
    free(inherited.text);
}

static void many_open_descriptors_change_nothing(void) {
    enum { MANY = 900 };
    static int fds[MANY];
    fp_spec spec = describer();
    fp_fd_map map[] = {{0, 3}, {0, 4}};

    for (int i = 0; i < MANY; i++)
        fds[i] = open("/dev/null", O_RDONLY);
    map[0].source = fds[MANY - 1];
    map[1].source = fds[MANY - 2];
    spec.fds = map;
    spec.n_fds = 2;
    spec.stdio[0].kind = FP_STDIO_PIPE;
    spec.stdio[2].kind = FP_STDIO_PIPE;
    struct result result = run(&spec);
    CHECK_EQ(result.error, 0);
    CHECK_EQ(count_told_fds(result.text), 5);
    free(result.text);
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
    if (with_slots)
        CHECK_EQ(slots.free, (1u << FP_SLOT_COUNT) - 1);
}

static void more_descriptors_than_slots_arrive_all_the_same(void) {
    enum { MANY = 30 };
    fp_fd_map map[MANY];

    for (int i = 0; i < MANY; i++) {
        char name[16];
        snprintf(name, sizeof name, "many%d", i);
        int fd = open(in_scratch(name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        map[i] = (fp_fd_map){.source = fcntl(fd, F_DUPFD_CLOEXEC, 400), .target = 10 + i};
        close(fd);
    }
    compare_map(map, MANY);
    for (int i = 0; i < MANY; i++)
        close(map[i].source);
    if (with_slots)
        CHECK_EQ(slots.free, (1u << FP_SLOT_COUNT) - 1);
}

/* ---- attributes ---------------------------------------------------------------------- */

static void limits_and_attributes_are_set(void) {
    fp_spec spec = describer();
    uint64_t cpu0 = 1;

    spec.rlimit_set = 1u << FP_RLIMIT_CPU | 1u << FP_RLIMIT_CORE | 1u << FP_RLIMIT_OPEN_FILES | 1u << FP_RLIMIT_STACK;
    spec.rlimits[FP_RLIMIT_CPU] = (fp_rlimit){100, 200};
    spec.rlimits[FP_RLIMIT_CORE] = (fp_rlimit){0, 0};
    spec.rlimits[FP_RLIMIT_OPEN_FILES] = (fp_rlimit){33, 44};
    spec.rlimits[FP_RLIMIT_STACK] = (fp_rlimit){1 << 20, 1 << 20};
    spec.flags = FP_SET_UMASK | FP_SET_NICE | FP_NO_NEW_PRIVS | FP_DIE_WITH_PARENT;
    spec.umask = 027;
    spec.nice = 11;
    spec.affinity = &cpu0;
    spec.n_affinity = 1;
    spec.cwd = "/usr";
    struct result result = run(&spec);
    CHECK_EQ(result.error, 0);
    CHECK_TEXT(told(result.text, "rlimit0"), "100 200");
    CHECK_TEXT(told(result.text, "rlimit4"), "0 0");
    CHECK_TEXT(told(result.text, "rlimit5"), "1048576 1048576");
    CHECK_TEXT(told(result.text, "rlimit6"), "33 44");
    CHECK_TEXT(told(result.text, "umask"), "27");
    CHECK_TEXT(told(result.text, "nice"), "11");
    CHECK_TEXT(told(result.text, "cwd"), "/usr");
    CHECK_TEXT(told(result.text, "cpus"), "1 1");
    CHECK_TEXT(told(result.text, "nnp"), "1");
    CHECK_EQ(atoi(told(result.text, "pdeathsig")), SIGKILL);
    free(result.text);
}

static void what_was_not_asked_for_is_inherited(void) {
    fp_spec spec = describer();
    char here[512];

    mode_t mask = umask(0);
    umask(mask);
    struct result result = run(&spec);
    CHECK_TEXT(told(result.text, "cwd"), getcwd(here, sizeof here));
    CHECK_EQ(strtol(told(result.text, "umask"), NULL, 8), mask);
    CHECK_EQ(atoi(told(result.text, "nice")), getpriority(PRIO_PROCESS, 0));
    CHECK_TEXT(told(result.text, "nnp"), "0");
    CHECK_EQ(atoi(told(result.text, "uid")), getuid());
    free(result.text);
}

static void noop(int sig) {
    (void)sig;
}

static void signals_start_afresh(void) {
    fp_spec spec = describer();
    int rt = SIGRTMIN + 5;
    sigset_t blocked, before, after;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, noop);
    signal(rt, SIG_IGN);
    usleep(2000); /* Real-time signals are looked at once a millisecond. */
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    sigprocmask(SIG_BLOCK, &blocked, &before);

    struct result result = run(&spec);
    CHECK_EQ(told_mask(result.text, "SigIgn"), 0);
    CHECK_EQ(told_mask(result.text, "SigBlk"), 0);
    free(result.text);
    sigprocmask(SIG_SETMASK, NULL, &after);
    CHECK_EQ(sigismember(&after, SIGUSR2), 1);
    CHECK_EQ(sigismember(&after, SIGUSR1), 0);

    spec.sigmask = UINT64_C(1) << (SIGUSR1 - 1) | UINT64_C(1) << (SIGKILL - 1);
    spec.sigignore = UINT64_C(1) << (SIGINT - 1) | UINT64_C(1) << (SIGSTOP - 1);
    result = run(&spec);
    CHECK_EQ(result.error, 0);
    CHECK_EQ(told_mask(result.text, "SigIgn"), UINT64_C(1) << (SIGINT - 1));
    CHECK_EQ(told_mask(result.text, "SigBlk"), UINT64_C(1) << (SIGUSR1 - 1));
    free(result.text);

    spec.sigignore = 0;
    spec.flags = FP_KEEP_SIGNALS;
    result = run(&spec);
    /* What was ignored when we were started among them. */
    CHECK_EQ(told_mask(result.text, "SigIgn"), told_mask(read_file("/proc/self/status"), "SigIgn"));
    CHECK(told_mask(result.text, "SigIgn") & UINT64_C(1) << (rt - 1));
    free(result.text);

    signal(SIGPIPE, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    signal(rt, SIG_DFL);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

/* ---- ids -------------------------------------------------------------------------------- */

static void privileges_are_dropped_for_good(void) {
    fp_spec spec = describer();
    uint32_t groups[] = {2000, 1000, 1000, 5};

    if (geteuid() != 0)
        SKIP("needs root");
    CHECK_EQ(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 1);
    spec.flags = FP_SET_UID | FP_SET_GID | FP_SET_GROUPS | FP_DIE_WITH_PARENT;
    spec.uid = NOBODY;
    spec.gid = 1234;
    spec.groups = groups;
    spec.n_groups = 4;
    struct result result = run(&spec);
    CHECK_EQ(result.error, 0);
    CHECK_EQ(atoi(told(result.text, "uid")), NOBODY);
    CHECK_EQ(atoi(told(result.text, "gid")), 1234);
    CHECK_TEXT(told(result.text, "groups"), "5,1000,1000,2000");
    CHECK_EQ(told_mask(result.text, "CapEff"), 0);
    /* A change of ids clears it: it has been set afterwards. */
    CHECK_EQ(atoi(told(result.text, "pdeathsig")), SIGKILL);
    free(result.text);

    spec.n_groups = 0;
    result = run(&spec);
    CHECK_TEXT(told(result.text, "groups"), "");
    free(result.text);
    /* The child has changed ids in our memory; we are as before. */
    CHECK_EQ(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 1);
    CHECK_EQ(geteuid(), 0);
}

static void without_privileges_nothing_is_started(void) {
    fp_spec spec = SHELL("exit 0");
    uint32_t group = 5;

    if (geteuid() == 0)
        SKIP("only for a user without privileges");
    spec.flags = FP_SET_UID;
    FAILS(spec, EPERM, FP_STAGE_IDS, -1);
    spec.flags = FP_SET_GID;
    FAILS(spec, EPERM, FP_STAGE_IDS, -1);
    spec.flags = FP_SET_GROUPS;
    spec.groups = &group;
    spec.n_groups = 1;
    FAILS(spec, EPERM, FP_STAGE_IDS, -1);
    spec.flags = FP_SET_UID;
    spec.uid = getuid();
    struct result result = run(&spec);
    CHECK_EQ(result.error, 0);
    free(result.text);

    spec.flags = FP_SET_NICE;
    spec.nice = -5;
    FAILS(spec, EACCES, FP_STAGE_NICE, -1);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    spec.flags = 0;
    spec.rlimit_set = 1u << FP_RLIMIT_OPEN_FILES;
    spec.rlimits[FP_RLIMIT_OPEN_FILES] = (fp_rlimit){limit.rlim_cur, limit.rlim_max + 1};
    FAILS(spec, EPERM, FP_STAGE_RLIMIT, FP_RLIMIT_OPEN_FILES);
}

static void the_limit_of_processes_is_told_as_such(void) {
    fp_spec spec = SHELL("exit 0");
    struct rlimit before, none;

    if (geteuid() == 0)
        SKIP("root has no limit of processes");
    getrlimit(RLIMIT_NPROC, &before);
    none = (struct rlimit){0, before.rlim_max};
    setrlimit(RLIMIT_NPROC, &none);
    FAILS(spec, EAGAIN, FP_STAGE_CLONE, -1);
    setrlimit(RLIMIT_NPROC, &before);
}

/* ---- births that fail ---------------------------------------------------------------------- */

static void a_program_that_cannot_be_executed_gives_the_kernels_error(void) {
    fp_spec spec = SHELL("exit 0");

    write_file(in_scratch("plain"), "echo hi\n", 0600);
    write_file(in_scratch("text"), "echo hi\n", 0700);
    write_file(in_scratch("script"), "#!/nonexistent/interpreter\n", 0700);
    spec.program = "/nonexistent";
    FAILS(spec, ENOENT, FP_STAGE_EXEC, -1);
    spec.program = in_scratch("plain");
    FAILS(spec, EACCES, FP_STAGE_EXEC, -1);
    spec.program = scratch;
    FAILS(spec, EACCES, FP_STAGE_EXEC, -1);
    spec.program = in_scratch("text");
    FAILS(spec, ENOEXEC, FP_STAGE_EXEC, -1);
    spec.program = in_scratch("script");
    FAILS(spec, ENOENT, FP_STAGE_EXEC, -1);
    spec.program = in_scratch("plain/below");
    FAILS(spec, ENOTDIR, FP_STAGE_EXEC, -1);
    static char longest[5000];
    memset(longest, 'x', sizeof longest - 1);
    spec.program = longest;
    FAILS(spec, ENAMETOOLONG, FP_STAGE_EXEC, -1);
}

static void a_directory_that_cannot_be_entered_is_told_as_such(void) {
    fp_spec spec = SHELL("exit 0");

    spec.cwd = "/nonexistent";
    FAILS(spec, ENOENT, FP_STAGE_CWD, -1);
    spec.cwd = "/etc/passwd";
    FAILS(spec, ENOTDIR, FP_STAGE_CWD, -1);
}

static void an_impossible_affinity_is_told_as_such(void) {
    fp_spec spec = SHELL("exit 0");
    uint64_t none = 0;

    spec.affinity = &none;
    spec.n_affinity = 1;
    FAILS(spec, EINVAL, FP_STAGE_AFFINITY, -1);
}

static void a_full_table_is_told_as_such(void) {
    fp_spec spec = FP_SPEC_INIT;
    struct rlimit before;
    static const char *const argv[] = {"/bin/true", NULL};

    if (!fp_can(FP_CAP_PIDFD))
        SKIP("no pidfd, no descriptor needed");
    spec.argv = argv;
    getrlimit(RLIMIT_NOFILE, &before);
    int next = dup(0);
    close(next);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)next, before.rlim_max});
    struct result result = run(&spec);
    CHECK_EQ(result.error, -EMFILE);
    CHECK(result.failure.stage == FP_STAGE_CLONE || (result.failure.stage == FP_STAGE_PIPE && !fp_can(FP_CAP_CLONE)));
    free(result.text);
    spec.stdio[1].kind = FP_STDIO_PIPE;
    FAILS(spec, EMFILE, FP_STAGE_PIPE, 1);
    setrlimit(RLIMIT_NOFILE, &before);
}

static void the_search_goes_as_execvp_has_it(void) {
    static const char *const argv[] = {"tool", NULL};
    char path[512];
    char where[128];
    fp_spec spec = shell(argv);

    mkdir(in_scratch("denied"), 0700);
    mkdir(in_scratch("found"), 0700);
    write_file(in_scratch("denied/tool"), "#!/bin/sh\necho denied\n", 0600);
    write_file(in_scratch("found/tool"), "#!/bin/sh\necho found $0\n", 0700);

    snprintf(path, sizeof path, "/nonexistent:%s/denied:%s/found:/bin", scratch, scratch);
    spec.search_path = path;
    struct result result = run(&spec);
    CHECK_EQ(result.error, 0);
    CHECK(strncmp(result.text, "found ", 6) == 0);
    free(result.text);

    snprintf(path, sizeof path, "/nonexistent:%s/denied:/bin", scratch);
    FAILS(spec, EACCES, FP_STAGE_EXEC, -1);
    spec.search_path = "/nonexistent:/etc/passwd";
    FAILS(spec, ENOENT, FP_STAGE_EXEC, -1);

    /* An empty directory is the current one; so is the whole of an empty path. */
    CHECK(getcwd(where, sizeof where));
    CHECK_EQ(chdir(in_scratch("found")), 0);
    static const char *const with_current[] = {"/nonexistent:", ":/nonexistent", "/nonexistent::/none", ""};
    for (size_t i = 0; i < sizeof with_current / sizeof *with_current; i++) {
        spec.search_path = with_current[i];
        result = run(&spec);
        CHECK_EQ(result.error, 0);
        free(result.text);
    }
    spec.search_path = "/nonexistent";
    FAILS(spec, ENOENT, FP_STAGE_EXEC, -1);
    spec.flags = FP_ONE_PATH;
    result = run(&spec);
    CHECK_EQ(result.error, 0);
    free(result.text);
    CHECK_EQ(chdir(where), 0);
}

static void the_search_path_is_that_of_the_child(void) {
    static const char *const argv[] = {"sh", "-c", "echo hi", NULL};
    static const char *const elsewhere[] = {"PATH=/nonexistent", NULL};
    static const char *const none[] = {"A=1", NULL};
    fp_spec spec = shell(argv);
    fp_env *env;

    spec.envp = elsewhere;
    FAILS(spec, ENOENT, FP_STAGE_EXEC, -1);
    spec.envp = none;
    struct result result = run(&spec);
    CHECK_TEXT(result.text, "hi\n");
    free(result.text);
    spec.envp = NULL;
    CHECK_EQ(fp_env_new("PATH=/nonexistent", 18, &env), 0);
    spec.env = env;
    FAILS(spec, ENOENT, FP_STAGE_EXEC, -1);
    fp_env_free(env);

    /* A path too long for the small plan. */
    char *path = malloc(40000);
    *path = '\0';
    char *end = path;
    for (int i = 0; i < 1500; i++)
        end = stpcpy(end, "/nonexistent/dir:");
    strcpy(end, "/bin");
    spec.env = NULL;
    spec.search_path = path;
    result = run(&spec);
    CHECK_TEXT(result.text, "hi\n");
    free(result.text);
    free(path);
}

static void *close_in_a_while(void *fd) {
    usleep(15000);
    close(*(int *)fd);
    return NULL;
}

static void a_busy_program_is_tried_again(void) {
    const char *path = in_scratch("busy");
    const char *copy[] = {"/bin/cp", "/bin/true", path, NULL};
    fp_spec spec = shell(copy);
    pthread_t thread;

    struct result result = run(&spec);
    CHECK_EQ(result.code, 0);
    free(result.text);
    int writer = open(path, O_WRONLY | O_CLOEXEC);
    spec = (fp_spec)FP_SPEC_INIT;
    const char *argv[] = {path, NULL};
    spec.argv = argv;
    FAILS(spec, ETXTBSY, FP_STAGE_EXEC, -1);
    pthread_create(&thread, NULL, close_in_a_while, &writer);
    result = run(&spec);
    CHECK_EQ(result.error, 0);
    CHECK_EQ(result.code, 0);
    free(result.text);
    pthread_join(thread, NULL);
}

struct killer {
    int sig;
    _Atomic pid_t born_pid;
    _Atomic bool over;
};

static void *kill_at_birth(void *arg) {
    struct killer *killer = arg;

    while (!killer->over) {
        pid_t pid = killer->born_pid;
        if (pid > 1)
            kill(pid, killer->sig);
    }
    return NULL;
}

/* Send `sig` to a child while it is being born, until that has hit one before its execve(2). */
static bool kill_one_before_execve(int sig, uint32_t flags) {
    enum { MANY = 1000 };
    static fp_fd_map map[MANY];
    struct killer killer = {.sig = sig};
    fp_birthplace place = birthplace();
    fp_spec spec = SHELL("exit 0");
    pthread_t thread;
    bool seen = false;

    /* So much to do that there is time. */
    for (int i = 0; i < MANY; i++)
        map[i] = (fp_fd_map){.source = 0, .target = 10 + i};
    spec.stdio[1].kind = FP_STDIO_INHERIT;
    spec.fds = map;
    spec.n_fds = MANY;
    spec.flags = flags;
    place.born_pid = &killer.born_pid;
    pthread_create(&thread, NULL, kill_at_birth, &killer);
    for (int i = 0; i < 500 && !seen; i++) {
        struct result result = run_in(&spec, &place);
        if (result.error < 0) {
            CHECK_EQ(result.error, -ESRCH);
            CHECK_EQ(result.failure.stage, FP_STAGE_PRE_EXEC);
            CHECK_EQ(result.failure.detail, sig);
            CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
            seen = true;
        }
        free(result.text);
    }
    killer.over = true;
    pthread_join(thread, NULL);
    return seen;
}

static void a_child_killed_before_execve_was_never_started(void) {
    CHECK(kill_one_before_execve(SIGKILL, 0));
}

static volatile sig_atomic_t handled;

static void count_handled(int sig) {
    (void)sig;
    handled++;
}

static void a_handler_of_the_host_never_runs_in_a_child(void) {
    signal(SIGHUP, count_handled);
    CHECK(kill_one_before_execve(SIGHUP, 0));
    CHECK(kill_one_before_execve(SIGHUP, FP_KEEP_SIGNALS));
    CHECK_EQ(handled, 0);
    signal(SIGHUP, SIG_DFL);
}

static void failures_are_told_although_the_host_ignores_sigchld(void) {
    fp_spec spec = SHELL("exit 0");

    signal(SIGCHLD, SIG_IGN);
    spec.program = "/nonexistent";
    FAILS(spec, ENOENT, FP_STAGE_EXEC, -1);
    signal(SIGCHLD, SIG_DFL);
}

/* ---- cgroups -------------------------------------------------------------------------------- */

static void a_child_is_born_into_its_cgroup(void) {
    char path[512];
    fp_birthplace place = birthplace();
    fp_spec spec = describer();

    if (!fp_can(FP_CAP_CGROUP))
        SKIP("no cgroup can be made here");
    snprintf(path, sizeof path, "%s/fastproc-test-%d", fp_cgroup_dir(), (int)getpid());
    CHECK_EQ(mkdir(path, 0700), 0);
    place.cgroup_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct result result = run_in(&spec, &place);
    CHECK_EQ(result.error, 0);
    CHECK(strstr(told(result.text, "cgroup"), "fastproc-test-"));
    CHECK_EQ(count_told_fds(result.text), 3);
    free(result.text);
    while (rmdir(path) < 0 && errno == EBUSY)
        usleep(1000);

    /* It has gone: the start fails and says why. */
    result = run_in(&spec, &place);
    CHECK_EQ(result.failure.stage, FP_STAGE_CGROUP);
    CHECK(result.error == -ENODEV || result.error == -ENOENT);
    free(result.text);
    close(place.cgroup_fd);
}

/* ---- many at a time ----------------------------------------------------------------------------- */

static void *bear_many(void *arg) {
    int number = *(int *)arg;

    for (int i = 0; i < 100; i++) {
        char text[32], script[64];
        snprintf(text, sizeof text, "%d.%d\n", number, i);
        snprintf(script, sizeof script, "cat; exit %d", i);
        fp_spec spec = SHELL(script);
        spec.stdio[0].kind = FP_STDIO_PIPE;
        spec.input = text;
        spec.input_bytes = strlen(text);
        if (geteuid() == 0 && i % 2) {
            spec.flags = FP_SET_UID;
            spec.uid = NOBODY;
        }
        struct result result = run(&spec);
        if (result.error != 0 || result.code != i || strcmp(result.text, text) != 0)
            __atomic_fetch_add(&check_failures, 1, __ATOMIC_RELAXED);
        free(result.text);
    }
    return NULL;
}

static void threads_do_not_get_in_each_others_way(void) {
    pthread_t threads[4];
    int numbers[4];
    int failures = check_failures;

    for (int i = 0; i < 4; i++) {
        numbers[i] = i;
        pthread_create(&threads[i], NULL, bear_many, &numbers[i]);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(check_failures, failures);
    CHECK_EQ(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 1);
    if (with_slots)
        CHECK_EQ(slots.free, (1u << FP_SLOT_COUNT) - 1);
}

/* ---- slots ------------------------------------------------------------------------------------- */

static void slots_are_borrowed_and_returned(void) {
    fp_slots mine;
    int got[FP_SLOT_COUNT];

    CHECK_EQ(fp_slots_init(&mine, NULL), 0);
    for (int i = 0; i < FP_SLOT_COUNT; i++) {
        got[i] = fp_slots_borrow(&mine, 0);
        CHECK(got[i] >= 3 && got[i] < mine.bound);
        CHECK_TEXT(identity_of(got[i]), identity_of(0));
        CHECK(fcntl(got[i], F_GETFD) & FD_CLOEXEC);
    }
    CHECK_EQ(fp_slots_borrow(&mine, 0), -ENOSPC);
    for (int i = 0; i < FP_SLOT_COUNT; i++)
        fp_slots_return(&mine, got[i]);
    CHECK_EQ(fp_slots_borrow(&mine, 3333), -EBADF);
    CHECK_EQ(mine.free, (1u << FP_SLOT_COUNT) - 1);
    fp_slots_done(&mine);

    struct rlimit before;
    getrlimit(RLIMIT_NOFILE, &before);
    int next = dup(0);
    close(next);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)next + 5, before.rlim_max});
    CHECK_EQ(fp_slots_init(&mine, NULL), -EMFILE);
    setrlimit(RLIMIT_NOFILE, &before);
    int after = dup(0);
    close(after);
    CHECK_EQ(after, next);
}

/* A sibling's null device lies as low as that of the first, which keeps most of its slots. */
static void a_sibling_is_given_a_low_slot(void) {
    enum { SIBLINGS = FP_SLOT_COUNT };
    fp_slots first, siblings[SIBLINGS];
    int given = 0;

    CHECK_EQ(fp_slots_init(&first, NULL), 0);
    fp_slots before = first;
    for (int i = 0; i < SIBLINGS; i++) {
        CHECK_EQ(fp_slots_init(&siblings[i], &first), 0);
        given += i < FP_SLOT_COUNT / 2 && siblings[i].placeholder_fd == before.fd[i];
        CHECK_TEXT(identity_of(siblings[i].placeholder_fd), identity_of(first.placeholder_fd));
    }
    CHECK_EQ(given, FP_SLOT_COUNT / 2);
    CHECK_EQ(__builtin_popcount(first.free), FP_SLOT_COUNT - given);
    fp_slots_done(&first);
    CHECK(fcntl(siblings[0].placeholder_fd, F_GETFD) >= 0);
    for (int i = 0; i < SIBLINGS; i++)
        fp_slots_done(&siblings[i]);
}

/* ---- all of it, in each way ----------------------------------------------------------------------- */

static int count_open(void) {
    int n = 0;
    for (int fd = 0; fd < MOST_SEEN_FD; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void all_tests(void) {
    RUN(a_program_runs_and_its_output_is_read);
    RUN(packed_arguments_and_a_packed_environment_arrive);
    RUN(input_is_fed_and_ends);
    RUN(a_child_leads_what_it_is_told_to);
    RUN(the_caller_hears_the_pid_while_the_birth_lasts_only);
    RUN(a_child_sees_nothing_but_its_streams);
    RUN(streams_come_from_where_the_spec_says);
    RUN(a_fifo_without_another_end_does_not_hold_up_the_start);
    RUN(the_childs_ends_block_and_are_distinct);
    RUN(descriptors_arrive_in_any_permutation);
    RUN(a_closed_source_is_named_by_its_target);
    RUN(a_target_beyond_the_limit_is_named);
    RUN(pipes_are_right_when_our_own_streams_are_closed);
    RUN(many_open_descriptors_change_nothing);
    RUN(more_descriptors_than_slots_arrive_all_the_same);
    RUN(limits_and_attributes_are_set);
    RUN(what_was_not_asked_for_is_inherited);
    RUN(signals_start_afresh);
    RUN(privileges_are_dropped_for_good);
    RUN(without_privileges_nothing_is_started);
    RUN(the_limit_of_processes_is_told_as_such);
    RUN(a_program_that_cannot_be_executed_gives_the_kernels_error);
    RUN(a_directory_that_cannot_be_entered_is_told_as_such);
    RUN(an_impossible_affinity_is_told_as_such);
    RUN(a_full_table_is_told_as_such);
    RUN(the_search_goes_as_execvp_has_it);
    RUN(the_search_path_is_that_of_the_child);
    RUN(a_busy_program_is_tried_again);
    RUN(a_child_killed_before_execve_was_never_started);
    RUN(a_handler_of_the_host_never_runs_in_a_child);
    RUN(failures_are_told_although_the_host_ignores_sigchld);
    RUN(a_child_is_born_into_its_cgroup);
    RUN(threads_do_not_get_in_each_others_way);
}

/* In a process of its own: with these capabilities hidden, by this user, with or without slots. */
static int run_way(const char *disable, bool as_nobody, bool use_slots) {
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
            CHECK_EQ(fp_slots_init(&slots, NULL), 0);
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

int main(int argc, char **argv) {
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

    if (argc > 0 && strcmp(argv[0], "describe") == 0) {
        FILE *out = argc > 1 ? fopen(argv[1], "we") : stdout;
        describe(out);
        return fflush(out) == 0 ? 0 : 1;
    }
    /* Others must be able to execute it too. */
    ssize_t bytes = readlink("/proc/self/exe", self, sizeof self - 1);
    self[bytes > 0 ? bytes : 0] = '\0';
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            CHECK_EQ(open("/dev/null", O_RDWR), fd);

    RUN(slots_are_borrowed_and_returned);
    RUN(a_sibling_is_given_a_low_slot);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        check_failures += run_way(ways[i], false, true) != 0;
    check_failures += run_way("", false, false) != 0;
    if (geteuid() == 0) {
        check_failures += run_way("", true, true) != 0;
        check_failures += run_way("clone3", true, true) != 0;
        check_failures += run_way("all", true, true) != 0;
    }
    return check_result();
}
