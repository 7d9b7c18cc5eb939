/*
 * test_spawn.c: births that succeed: the child is what its spec says, and
 * nothing else.
 */
#include "spawn.h"

/* ---- programs and their streams ------------------------------------------------ */

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

/* ---- attributes ---------------------------------------------------------------- */

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

/* ---- ids ----------------------------------------------------------------------- */

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

/* ---- cgroups ------------------------------------------------------------------- */

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

/* ---- many at a time ------------------------------------------------------------ */

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
        CHECK_EQ(slots.free, (1u << slots.count) - 1);
}

/* ---- all of it, in each way ---------------------------------------------------- */

static void all_tests(void) {
    RUN(a_program_runs_and_its_output_is_read);
    RUN(packed_arguments_and_a_packed_environment_arrive);
    RUN(input_is_fed_and_ends);
    RUN(a_child_leads_what_it_is_told_to);
    RUN(the_caller_hears_the_pid_while_the_birth_lasts_only);
    RUN(limits_and_attributes_are_set);
    RUN(what_was_not_asked_for_is_inherited);
    RUN(signals_start_afresh);
    RUN(privileges_are_dropped_for_good);
    RUN(without_privileges_nothing_is_started);
    RUN(the_limit_of_processes_is_told_as_such);
    RUN(a_child_is_born_into_its_cgroup);
    RUN(threads_do_not_get_in_each_others_way);
}

int main(int argc, char **argv) {
    begin_births(argc, argv);
    return in_each_way(all_tests);
}
