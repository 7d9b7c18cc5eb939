/*
 * fault_spawn.c: births in which each system call fails in turn. Whatever
 * fails, the failure names its stage, and no child, descriptor or slot is
 * left; or the birth succeeds all the same, and the child is what was asked
 * for. For each way in which a child can be made.
 */
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "faults.h"
#include "internal.h"

static fp_slots slots;
static char work_dir[64];
static int high_fd; /* beyond what is cheap to copy, so that a slot is needed */

/* ---- one birth -------------------------------------------------------------------- */

static void close_pipes(const fp_birth *birth) {
    for (int i = 0; i < 3; i++)
        if (birth->pipe_fd[i] >= 0)
            close(birth->pipe_fd[i]);
}

static void collect(const fp_birth *birth, int expected_code) {
    int status = -1;
    if (birth->pidfd >= 0)
        close(birth->pidfd);
    CHECK_EQ(waitpid(birth->pid, &status, 0), birth->pid);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), expected_code);
}

/* Make the child with faults; it must come back with `code`, if it comes at all. */
static void bear(const fp_spec *spec, int cgroup_fd, int code) {
    int before = open_descriptors();
    _Atomic pid_t born_pid = 0;
    fp_birthplace place = {.slots = &slots, .cgroup_fd = cgroup_fd, .born_pid = &born_pid};
    fp_birth birth;
    fp_failure failure = {0};

    int r = fp_spec_check(spec, &failure);
    CHECK_EQ(r, 0);
    faults_on();
    r = fp_birth_make(spec, &place, &birth, &failure);
    faults_off();
    CHECK_EQ(born_pid, 0);
    if (r < 0) {
        CHECK(failure.stage > FP_STAGE_NONE && failure.stage < FP_STAGE_COUNT);
        CHECK_EQ(failure.error, -r);
    } else {
        collect(&birth, code);
        close_pipes(&birth);
    }
    CHECK(has_no_child());
    /* A slot may be lost to a failing dup3(2), but is never taken for free without its placeholder. */
    int lost = 0;
    for (int i = 0; i < slots.count; i++) {
        lost += slots.fd[i] < 0;
        CHECK(!(slots.free >> i & 1) || fcntl(slots.fd[i], F_GETFD) >= 0);
        CHECK((slots.free >> i & 1) == (slots.fd[i] >= 0));
    }
    CHECK_EQ(open_descriptors(), before - lost);
}

/* Slots that were lost are of no use for the next try. */
static void with_fresh_slots(const fp_spec *spec, int cgroup_fd, int code) {
    CHECK_EQ(fp_slots_init(&slots), 0);
    bear(spec, cgroup_fd, code);
    fp_slots_done(&slots);
}

static void a_plain_one(void) {
    with_fresh_slots(SHELL("exit 7"), -1, 7);
}

static void one_with_pipes(void) {
    with_fresh_slots(SHELL("exit 7", .stdio = {{FP_STDIO_PIPE}, {FP_STDIO_PIPE}, {FP_STDIO_PIPE}}), -1, 7);
}

static void one_with_files(void) {
    char out[96];
    snprintf(out, sizeof out, "%s/out", work_dir);
    with_fresh_slots(SHELL("echo hello; read x; exit 7",
                           .stdio = {{FP_STDIO_READ, -1, "/dev/null"}, {FP_STDIO_APPEND, -1, out}, {FP_STDIO_STDOUT}}),
                     -1, 7);
}

static void one_with_other_files(void) {
    char out[96];
    snprintf(out, sizeof out, "%s/out", work_dir);
    with_fresh_slots(SHELL("exit 7", .stdio = {{FP_STDIO_DEVNULL}, {FP_STDIO_TRUNCATE, -1, out}, {FP_STDIO_DEVNULL}}),
                     -1, 7);
}

static void one_with_descriptors(void) {
    const fp_fd_map maps[] = {{high_fd, 3}, {high_fd, 4}, {high_fd + 1, 5}, {1, 6}};
    with_fresh_slots(
        SHELL("[ -e /proc/$$/fd/5 ] || exit 1; exit 7", .fds = maps, .n_fds = 4, .stdio[2] = {FP_STDIO_FD, high_fd}),
        -1, 7);
}

static void one_whose_error_follows_output(void) {
    with_fresh_slots(SHELL("exit 7", .stdio[2].kind = FP_STDIO_STDOUT), -1, 7);
}

/* More high descriptors than there are slots: the table is copied. */
static void one_with_many_descriptors(void) {
    fp_fd_map maps[FP_SLOT_COUNT + 2];
    for (int i = 0; i < FP_SLOT_COUNT + 2; i++)
        maps[i] = (fp_fd_map){high_fd + i, 3 + i};
    with_fresh_slots(SHELL("exit 7", .fds = maps, .n_fds = FP_SLOT_COUNT + 2), -1, 7);
}

/* Targets wherever a descriptor of ours might be at the time. */
static void one_that_wants_all_numbers(void) {
    enum { MANY = 50 };
    fp_fd_map maps[MANY];
    for (int i = 0; i < MANY; i++)
        maps[i] = (fp_fd_map){2, 3 + i};
    with_fresh_slots(SHELL("exit 7", .fds = maps, .n_fds = MANY), -1, 7);
}

/* The caller has closed his own standard streams: what we open gets their numbers. */
static void one_of_a_caller_without_streams(void) {
    int kept[2] = {fcntl(0, F_DUPFD_CLOEXEC, 100), fcntl(1, F_DUPFD_CLOEXEC, 100)};
    CHECK_EQ(fp_slots_init(&slots), 0);
    close(0);
    close(1);
    bear(SHELL("exit 7", .stdio = {{FP_STDIO_PIPE}, {FP_STDIO_PIPE}, {FP_STDIO_PIPE}}), -1, 7);
    fp_slots_done(&slots);
    for (int i = 0; i < 2; i++) {
        dup2(kept[i], i);
        close(kept[i]);
    }
}

/* So many arguments that the plan needs memory of its own. */
static void one_with_many_arguments(void) {
    enum { MANY = 3000 };
    static const char begin[] = "/bin/sh\0-c\0exit $(($# - 2992))\0sh";
    static char args[sizeof begin + 2 * MANY];
    memcpy(args, begin, sizeof begin);
    for (int i = 0; i < MANY; i++)
        args[sizeof begin + 2 * i] = 'x';
    with_fresh_slots(&(fp_spec){.size = sizeof(fp_spec), .args = args, .args_bytes = sizeof args}, -1, 8);
}

/* A copy for later, with all that is copied. */
static void a_copy_of_a_spec(void) {
    static const char block[] = "PATH=/bin\0A=b";
    int before = open_descriptors();
    faults_on();
    fp_env *env = NULL;
    int r = fp_env_new(block, sizeof block, &env);
    CHECK(r == 0 || r == -ENOMEM);
    if (r == 0) {
        fp_spec *copy = fp_spec_copy(SHELL("exit 7", .env = env, .cwd = "/", .input = "abc", .input_bytes = 3));
        fp_spec_free_copy(copy);
    }
    fp_env_free(env);
    faults_off();
    CHECK_EQ(open_descriptors(), before);
}

static void one_with_everything(void) {
    static const uint64_t cpus[] = {~UINT64_C(0)};
    static const uint32_t groups[] = {65534};
    uint32_t ids = geteuid() == 0 ? FP_SET_UID | FP_SET_GID | FP_SET_GROUPS : 0;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    const fp_spec *spec = SHELL(
        "exit 7", .cwd = "/", .lead = FP_LEAD_GROUP, .uid = 65534, .gid = 65534, .groups = groups, .n_groups = 1,
        .umask = 027, .nice = 1, .affinity = cpus, .n_affinity = 1, .sigmask = UINT64_C(1) << (SIGUSR1 - 1),
        .sigignore = UINT64_C(1) << (SIGUSR2 - 1), .rlimit_set = 1u << FP_RLIMIT_CORE | 1u << FP_RLIMIT_OPEN_FILES,
        .rlimits[FP_RLIMIT_OPEN_FILES] = {files.rlim_cur, files.rlim_max},
        .flags = FP_SET_UMASK | FP_SET_NICE | FP_NO_NEW_PRIVS | FP_DIE_WITH_PARENT | ids);
    with_fresh_slots(spec, -1, 7);
}

static void one_with_signals_kept(void) {
    with_fresh_slots(
        SHELL("exit 7", .flags = FP_KEEP_SIGNALS, .lead = FP_LEAD_NOTHING, .sigignore = UINT64_C(1) << (SIGUSR2 - 1)),
        -1, 7);
}

/* A search that finds a directory, a file that may not be executed, and at last the program. */
static void one_that_is_searched(void) {
    with_fresh_slots(&(fp_spec){.size = sizeof(fp_spec),
                                .argv = (const char *const[]){"sh", "-c", "exit 7", NULL},
                                .search_path = "/nonexistent:/etc:/bin:/usr/bin"},
                     -1, 7);
}

static void one_in_a_cgroup(void) {
    fp_leaves leaves;
    fp_leaf *leaf;
    int which;

    fp_leaves_init(&leaves, NULL);
    CHECK_EQ(fp_leaf_take(&leaves, SHELL(":"), &leaf, &which), 0);
    with_fresh_slots(SHELL("exit 7"), fp_leaf_fd(leaf), 7);
    fp_leaf_give(&leaves, leaf, false);
    fp_leaves_done(&leaves);
}

static void slots_of_their_own(void) {
    int before = open_descriptors();
    faults_on();
    int r = fp_slots_init(&slots);
    if (r == 0) {
        for (int i = 0; i < FP_SLOT_COUNT + 1; i++) {
            int fd = fp_slots_borrow(&slots, high_fd);
            if (fd >= 0)
                fp_slots_return(&slots, fd);
        }
        fp_slots_done(&slots);
    }
    faults_off();
    CHECK(r <= 0);
    CHECK_EQ(open_descriptors(), before);
}

/* ---- outsiders --------------------------------------------------------------------------- */

/* Killed from outside before it was a program: that is said, with the signal. */
static void killed_before_exec(void) {
    int before = open_descriptors();
    fp_birthplace place = {.cgroup_fd = -1};
    fp_failure failure = {0};
    fp_birth birth;

    CHECK_EQ(fp_slots_init(&slots), 0);
    place.slots = &slots;
    fault_n = 1 << 30;
    faults_on();
    fault->before_exec = SIGKILL;
    CHECK_EQ(fp_birth_make(SHELL("exit 7"), &place, &birth, &failure), -ESRCH);
    faults_off();
    CHECK_EQ(failure.stage, FP_STAGE_PRE_EXEC);
    CHECK_EQ(failure.detail, SIGKILL);
    fp_slots_done(&slots);
    CHECK(has_no_child());
    CHECK_EQ(open_descriptors(), before);
}

/* Only a cgroup can be entered. */
static void born_into_no_cgroup(void) {
    fp_birthplace place = {.cgroup_fd = open("/", O_RDONLY | O_CLOEXEC)};
    fp_failure failure = {0};
    fp_birth birth;
    int r = fp_birth_make(SHELL("exit 7"), &place, &birth, &failure);
    CHECK(r < 0);
    CHECK_EQ(failure.stage, FP_STAGE_CGROUP);
    CHECK_EQ(failure.error, -r);
    close(place.cgroup_fd);
    CHECK(has_no_child());
}

/* How often something is listed by a start that is not to inherit `fd`. */
static int listings_with(int fd) {
    char script[64];
    snprintf(script, sizeof script, "[ -e /proc/$$/fd/%d ] || exit 7", fd);
    fault_n = 1 << 30;
    CHECK_EQ(dup2(0, fd), fd);
    with_fresh_slots(SHELL(script), -1, 7);
    close(fd);
    return fault->listings;
}

/* The list in /proc costs microseconds for each that is open: only a large table, perhaps an empty one, is worth it. */
static void what_is_open_is_not_listed(void) {
    enum { LARGE = 1 << 14 };
    struct rlimit files;
    CHECK_EQ(listings_with(150), 0);
    getrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur > LARGE)
        CHECK_EQ(listings_with(LARGE) > 0, !fp_probe(FP_CAP_CLOSE_RANGE) && fp_probe(FP_CAP_PROCFS));
}

/* ---- the probes --------------------------------------------------------------------------- */

/* Each in a process of its own, as what is found is remembered. */
static void probes(void) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int before = open_descriptors();
        alarm(20);
        faults_on();
        for (int i = 0; i < FP_CAP_COUNT; i++)
            fp_probe(i);
        bool is_us = fp_own_pid() == getpid() && fp_own_pid() == getpid();
        faults_off();
        _exit(!is_us || !has_no_child() || open_descriptors() != before);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    CHECK_EQ(status, 0);
}

/* ---- the ways ------------------------------------------------------------------------------- */

#define FAULTS(scenario)                                                                                               \
    do {                                                                                                               \
        int faults = for_each_fault(#scenario, scenario);                                                              \
        if (getenv("VERBOSE"))                                                                                         \
            fprintf(stderr, "%-28s %d faults\n", #scenario, faults);                                                   \
    } while (0)

static void all_scenarios(void) {
    high_fd = fcntl(0, F_DUPFD_CLOEXEC, 200);
    for (int i = 1; i < FP_SLOT_COUNT + 2; i++)
        dup3(high_fd, high_fd + i, O_CLOEXEC);
    FAULTS(a_plain_one);
    FAULTS(one_with_pipes);
    FAULTS(one_with_files);
    FAULTS(one_with_other_files);
    FAULTS(one_with_descriptors);
    FAULTS(one_whose_error_follows_output);
    FAULTS(one_with_many_descriptors);
    FAULTS(one_that_wants_all_numbers);
    FAULTS(one_of_a_caller_without_streams);
    FAULTS(one_with_many_arguments);
    FAULTS(one_with_everything);
    FAULTS(one_with_signals_kept);
    FAULTS(one_that_is_searched);
    if (fp_probe(FP_CAP_CGROUP))
        FAULTS(one_in_a_cgroup);
    FAULTS(slots_of_their_own);
    FAULTS(a_copy_of_a_spec);
    WATCHED(killed_before_exec);
    WATCHED(born_into_no_cgroup);
    WATCHED(what_is_open_is_not_listed);
    for (int i = 0; i < FP_SLOT_COUNT + 2; i++)
        close(high_fd + i);
}

/* What the kernel has is found out once, so each way has a process of its own. */
static void by_way(const char *disable) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (*disable)
            setenv("FASTPROC_DISABLE", disable, 1);
        for (int i = 0; i < FP_CAP_COUNT; i++)
            fp_probe(i);
        all_scenarios();
        exit(check_result());
    }
    int status = -1;
    waitpid(pid, &status, 0);
    if (status != 0)
        fprintf(stderr, "  that was with FASTPROC_DISABLE=%s\n", disable);
    CHECK_EQ(status, 0);
}

static void every_way(void) {
    static const char *const ways[] = {
        "", "clone3", "clone3,clone", "close_range", "close_range,procfs", "into_cgroup", "pidfd_wait", "all"};
    if (getenv("FASTPROC_DISABLE")) {
        by_way("");
        return;
    }
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        by_way(ways[i]);
}

static void every_probe(void) {
    FAULTS(probes);
}

int main(void) {
    faults_begin();
    snprintf(work_dir, sizeof work_dir, "/tmp/fastproc-test-XXXXXX");
    if (!mkdtemp(work_dir))
        return 1;
    RUN(every_probe);
    RUN(every_way);
    char out[96];
    snprintf(out, sizeof out, "%s/out", work_dir);
    unlink(out);
    rmdir(work_dir);
    return check_result();
}
