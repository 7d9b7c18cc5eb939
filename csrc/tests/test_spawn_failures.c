/*
 * test_spawn_failures.c: births that fail: who is told what, and that no child
 * is left.
 */
#include "spawn.h"

/* ---- births that fail ---------------------------------------------------------- */

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

/* ---- all of it, in each way ---------------------------------------------------- */

static void all_tests(void) {
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
}

int main(int argc, char **argv) {
    begin_births(argc, argv);
    return in_each_way(all_tests);
}
