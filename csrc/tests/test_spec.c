/*
 * test_spec.c: what is refused before any process exists, and what a copy of a
 * spec keeps.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "internal.h"

static const char *const true_argv[] = {"/bin/true", NULL};

static fp_spec good_spec(void) {
    fp_spec spec = FP_SPEC_INIT;

    spec.argv = true_argv;
    return spec;
}

/* Checks that `spec` is refused with this error, stage and detail. */
#define REFUSED(spec, wanted_error, wanted_stage, wanted_detail)                                                       \
    do {                                                                                                               \
        fp_failure failure = {0};                                                                                      \
        CHECK_EQ(fp_spec_check(&(spec), &failure), -(wanted_error));                                                   \
        CHECK_EQ(failure.error, wanted_error);                                                                         \
        CHECK_EQ(failure.stage, wanted_stage);                                                                         \
        CHECK_EQ(failure.detail, wanted_detail);                                                                       \
    } while (0)

#define ACCEPTED(spec) CHECK_EQ(fp_spec_check(&(spec), NULL), 0)

static void the_smallest_spec_is_accepted(void) {
    fp_spec spec = good_spec();
    ACCEPTED(spec);
}

static void a_spec_of_another_size_is_refused_unless_the_rest_is_zero(void) {
    struct {
        fp_spec spec;
        uint64_t newer;
    } longer = {.spec = good_spec()};
    fp_spec shorter = good_spec();

    shorter.size = sizeof shorter - 8;
    REFUSED(shorter, EINVAL, FP_STAGE_REQUEST, -1);
    longer.spec.size = sizeof longer;
    CHECK_EQ(fp_spec_check(&longer.spec, NULL), 0);
    longer.newer = 1;
    CHECK_EQ(fp_spec_check(&longer.spec, NULL), -EINVAL);
    CHECK_EQ(fp_spec_check(NULL, NULL), -EINVAL);
}

static void arguments_must_be_there_and_well_formed(void) {
    static const char *const none[] = {NULL};
    static const char *const unnamed[] = {"", NULL};
    fp_spec spec = FP_SPEC_INIT;

    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, -1);
    spec.argv = none;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, -1);
    spec.argv = unnamed;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, -1);
    spec.program = "/bin/true";
    ACCEPTED(spec);
    spec.program = "";
    spec.argv = true_argv;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, -1);

    spec = (fp_spec)FP_SPEC_INIT;
    spec.args = "true";
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, -1);
    spec.args_bytes = 4;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, -1);
    spec.args_bytes = 5;
    ACCEPTED(spec);
}

static void a_string_longer_than_the_kernel_takes_is_named(void) {
    size_t most = 32 * (size_t)sysconf(_SC_PAGESIZE);
    char *text = malloc(most + 8);
    const char *argv[] = {"echo", "short", text, NULL};
    const char *envp[] = {text, NULL};
    fp_spec spec = good_spec();
    fp_env *env;

    memset(text, 'x', most);
    memcpy(text, "A=", 2);
    text[most] = '\0';
    spec.argv = argv;
    REFUSED(spec, E2BIG, FP_STAGE_REQUEST, 2);
    text[most - 1] = '\0';
    ACCEPTED(spec);

    text[most - 1] = 'x';
    spec = good_spec();
    spec.envp = envp;
    REFUSED(spec, E2BIG, FP_STAGE_REQUEST, -1);
    spec.envp = NULL;
    CHECK_EQ(fp_env_new(text, most + 1, &env), 0);
    spec.env = env;
    REFUSED(spec, E2BIG, FP_STAGE_REQUEST, -1);
    env = fp_env_free(env);

    memcpy(text, "echo", 5);
    memset(text + 5, 'y', most);
    text[most + 5] = '\0';
    spec = (fp_spec)FP_SPEC_INIT;
    spec.args = text;
    spec.args_bytes = most + 6;
    REFUSED(spec, E2BIG, FP_STAGE_REQUEST, 1);
    free(text);
}

static void streams_must_make_sense(void) {
    fp_spec spec = good_spec();

    spec.stdio[0].kind = FP_STDIO_STDOUT;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, 0);
    spec.stdio[0].kind = 8;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, 0);
    spec.stdio[0].kind = -1;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, 0);
    spec.stdio[0] = (fp_stdio){.kind = FP_STDIO_READ};
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, 0);
    spec.stdio[0].path = "/dev/null";
    ACCEPTED(spec);
    spec.stdio[0].kind = FP_STDIO_APPEND;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, 0);
    spec.stdio[0] = (fp_stdio){.kind = FP_STDIO_FD, .fd = -1};
    REFUSED(spec, EBADF, FP_STAGE_FDS, 0);

    spec = good_spec();
    spec.input = "x";
    spec.input_bytes = 1;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, 0);
    spec.stdio[0].kind = FP_STDIO_PIPE;
    ACCEPTED(spec);
    spec.input = NULL;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, 0);
}

static void targets_must_differ(void) {
    fp_fd_map twice[] = {{.source = 5, .target = 7}, {.source = 6, .target = 7}};
    fp_fd_map negative[] = {{.source = 5, .target = -1}};
    fp_fd_map closed[] = {{.source = -1, .target = 5}};
    fp_fd_map output[] = {{.source = 5, .target = 1}};
    fp_spec spec = good_spec();

    spec.fds = twice;
    spec.n_fds = 1;
    ACCEPTED(spec);
    spec.n_fds = 2;
    REFUSED(spec, EINVAL, FP_STAGE_FDS, 7);
    spec.n_fds = 1;
    spec.fds = negative;
    REFUSED(spec, EINVAL, FP_STAGE_FDS, -1);
    spec.fds = closed;
    REFUSED(spec, EBADF, FP_STAGE_FDS, 5);
    spec.fds = output;
    ACCEPTED(spec);
    spec.stdio[1].kind = FP_STDIO_PIPE;
    REFUSED(spec, EINVAL, FP_STAGE_FDS, 1);
    spec.fds = NULL;
    REFUSED(spec, EINVAL, FP_STAGE_FDS, -1);
}

static void what_is_out_of_range_is_refused(void) {
    fp_spec spec = good_spec();

    spec.lead = 3;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, -1);
    spec = good_spec();
    spec.containment = 4;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, -1);
    spec.containment = FP_CONTAIN_GUARD;
    REFUSED(spec, ENOTSUP, FP_STAGE_CGROUP, -1);
    spec.containment = FP_CONTAIN_SESSION;
    spec.pids_max = 5;
    REFUSED(spec, EINVAL, FP_STAGE_CGROUP, -1);
    spec = good_spec();
    spec.flags = 1u << 31;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, -1);
    spec.flags = FP_SET_UMASK;
    spec.umask = 01000;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, -1);
    spec = good_spec();
    spec.flags = FP_SET_NICE;
    spec.nice = 20;
    REFUSED(spec, EINVAL, FP_STAGE_NICE, -1);
    spec.nice = -21;
    REFUSED(spec, EINVAL, FP_STAGE_NICE, -1);
    spec = good_spec();
    spec.flags = FP_SET_UID;
    spec.uid = UINT32_MAX;
    REFUSED(spec, EINVAL, FP_STAGE_IDS, -1);
    spec = good_spec();
    spec.flags = FP_SET_GROUPS;
    ACCEPTED(spec);
    spec.n_groups = 1;
    REFUSED(spec, EINVAL, FP_STAGE_IDS, -1);
    spec.n_groups = 65537;
    REFUSED(spec, EINVAL, FP_STAGE_IDS, -1);
    spec = good_spec();
    spec.stop_signal = 65;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, -1);
    spec = good_spec();
    spec.timeout_ns = -1;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, -1);
    spec = good_spec();
    spec.grace_ns = -1;
    ACCEPTED(spec);
}

static void limits_must_be_in_order(void) {
    fp_spec spec = good_spec();

    spec.rlimit_set = 1u << FP_RLIMIT_STACK;
    spec.rlimits[FP_RLIMIT_STACK] = (fp_rlimit){.soft = 2, .hard = 1};
    REFUSED(spec, EINVAL, FP_STAGE_RLIMIT, FP_RLIMIT_STACK);
    spec.rlimits[FP_RLIMIT_STACK].hard = UINT64_MAX;
    ACCEPTED(spec);
    spec.rlimit_set = 1u << FP_RLIMIT_COUNT;
    REFUSED(spec, EINVAL, FP_STAGE_REQUEST, -1);
}

static void an_environment_must_be_well_formed(void) {
    fp_env *env = NULL;

    CHECK_EQ(fp_env_new("A=1\0B=2", 8, &env), 0);
    CHECK_TEXT(fp_env_strings(env)[0], "A=1");
    CHECK_TEXT(fp_env_strings(env)[1], "B=2");
    CHECK(!fp_env_strings(env)[2]);
    CHECK(!fp_env_path(env));
    CHECK(fp_env_ref(env) == env);
    CHECK(!fp_env_free(env));
    CHECK_TEXT(fp_env_strings(env)[0], "A=1");
    CHECK(!fp_env_free(env));

    CHECK_EQ(fp_env_new("PATH=/bin\0X=", 13, &env), 0);
    CHECK_TEXT(fp_env_path(env), "/bin");
    env = fp_env_free(env);
    CHECK_EQ(fp_env_new(NULL, 0, &env), 0);
    CHECK(!fp_env_strings(env)[0]);
    env = fp_env_free(env);

    CHECK_EQ(fp_env_new("A=1", 3, &env), -EINVAL);
    CHECK_EQ(fp_env_new("A", 2, &env), -EINVAL);
    CHECK_EQ(fp_env_new("=1", 3, &env), -EINVAL);
    CHECK_EQ(fp_env_new("A=1\0", 5, &env), -EINVAL);
    CHECK_EQ(fp_env_new("A=1\0B=2\0A=3", 12, &env), -EINVAL);
    CHECK_EQ(fp_env_new("A=1\0AB=2\0A_=3", 14, &env), 0);
    env = fp_env_free(env);
}

static void a_copy_needs_nothing_of_the_original(void) {
    char program[] = "/bin/echo", first[] = "echo", second[] = "hello", cwd[] = "/tmp", path[] = "/dev/null";
    const char *argv[] = {first, second, NULL};
    fp_fd_map fds[] = {{.source = 0, .target = 9}};
    uint32_t groups[] = {1, 2, 3};
    uint64_t affinity[] = {1};
    fp_spec spec = FP_SPEC_INIT;
    fp_env *env;

    CHECK_EQ(fp_env_new("A=1", 4, &env), 0);
    spec.argv = argv;
    spec.program = program;
    spec.cwd = cwd;
    spec.stdio[1] = (fp_stdio){.kind = FP_STDIO_APPEND, .path = path};
    spec.stdio[0].kind = FP_STDIO_PIPE;
    spec.input = second;
    spec.input_bytes = 5;
    spec.fds = fds;
    spec.n_fds = 1;
    spec.groups = groups;
    spec.n_groups = 3;
    spec.affinity = affinity;
    spec.n_affinity = 1;
    spec.env = env;
    spec.token = 42;
    fp_spec *copy = fp_spec_copy(&spec);
    env = fp_env_free(env);
    memset(program, 'z', sizeof program - 1);
    memset(first, 'z', sizeof first - 1);
    memset(second, 'z', sizeof second - 1);
    memset(cwd, 'z', sizeof cwd - 1);
    memset(path, 'z', sizeof path - 1);
    memset(fds, 0xff, sizeof fds);
    memset(groups, 0xff, sizeof groups);
    affinity[0] = 0;

    CHECK_EQ(fp_spec_check(copy, NULL), 0);
    CHECK_TEXT(copy->argv[0], "echo");
    CHECK_TEXT(copy->argv[1], "hello");
    CHECK(!copy->argv[2]);
    CHECK_TEXT(copy->program, "/bin/echo");
    CHECK_TEXT(copy->cwd, "/tmp");
    CHECK_TEXT(copy->stdio[1].path, "/dev/null");
    CHECK(memcmp(copy->input, "hello", 5) == 0);
    CHECK_EQ(copy->fds[0].target, 9);
    CHECK_EQ(copy->groups[2], 3);
    CHECK_EQ(copy->affinity[0], 1);
    CHECK_TEXT(fp_env_strings(copy->env)[0], "A=1");
    CHECK_EQ(copy->token, 42);
    copy = fp_spec_free_copy(copy);
    CHECK(!copy);
}

static void a_copy_without_environment_takes_the_present_one(void) {
    fp_spec spec = FP_SPEC_INIT;

    spec.args = "true";
    spec.args_bytes = 5;
    setenv("FASTPROC_TEST", "before", 1);
    fp_spec *copy = fp_spec_copy(&spec);
    setenv("FASTPROC_TEST", "after", 1);
    int found = 0;
    for (const char *const *string = copy->envp; *string; string++)
        found |= strcmp(*string, "FASTPROC_TEST=before") == 0;
    CHECK(found);
    CHECK_TEXT(copy->args, "true");
    CHECK_EQ(copy->args_bytes, 5);
    fp_spec_free_copy(copy);
    CHECK(!fp_spec_free_copy(NULL));
}

int main(void) {
    RUN(the_smallest_spec_is_accepted);
    RUN(a_spec_of_another_size_is_refused_unless_the_rest_is_zero);
    RUN(arguments_must_be_there_and_well_formed);
    RUN(a_string_longer_than_the_kernel_takes_is_named);
    RUN(streams_must_make_sense);
    RUN(targets_must_differ);
    RUN(what_is_out_of_range_is_refused);
    RUN(limits_must_be_in_order);
    RUN(an_environment_must_be_well_formed);
    RUN(a_copy_needs_nothing_of_the_original);
    RUN(a_copy_without_environment_takes_the_present_one);
    return check_result();
}
