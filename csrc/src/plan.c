/*
 * plan.c: from a checked spec to the plan that the child carries out. All
 * decisions end here; what the child does not find in its plan it does not do.
 *
 * The plan points into the spec where it can. What has to be computed (argv
 * from packed strings, the paths to try, the order of descriptors) goes into
 * one piece of memory, whose size is known beforehand, so that nothing here
 * can fail.
 */
#include <limits.h>
#include <paths.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "child.h"

static const int resources[FP_RLIMIT_COUNT] = {
    [FP_RLIMIT_CPU] = RLIMIT_CPU,
    [FP_RLIMIT_ADDRESS_SPACE] = RLIMIT_AS,
    [FP_RLIMIT_DATA] = RLIMIT_DATA,
    [FP_RLIMIT_FILE_SIZE] = RLIMIT_FSIZE,
    [FP_RLIMIT_CORE] = RLIMIT_CORE,
    [FP_RLIMIT_STACK] = RLIMIT_STACK,
    [FP_RLIMIT_OPEN_FILES] = RLIMIT_NOFILE,
    [FP_RLIMIT_PROCESSES] = RLIMIT_NPROC,
    [FP_RLIMIT_LOCKED_MEMORY] = RLIMIT_MEMLOCK,
};

/* Where to look when the child's environment has no PATH; the current directory is not among them. */
static const char default_search_path[] = "/usr/local/bin:/usr/bin:/bin";

/* ---- memory ---------------------------------------------------------------- */

struct arena {
    char *next;
};

static size_t rounded(size_t bytes) {
    return (bytes + 15) & ~(size_t)15;
}

static void *take(struct arena *arena, size_t bytes) {
    void *memory = arena->next;

    arena->next += rounded(bytes);
    return memory;
}

/* ---- the program and its arguments --------------------------------------------- */

static const char *search_path_of(const fp_spec *spec) {
    const char *path = NULL;

    if (spec->search_path)
        return spec->search_path;
    if (spec->env) {
        path = fp_env_path(spec->env);
    } else {
        for (const char *const *string = fp_spec_environment(spec); !path && *string; string++)
            if (strncmp(*string, "PATH=", 5) == 0)
                path = *string + 5;
    }
    return path ? path : default_search_path;
}

/* A name longer than any file can have is given to the kernel as it is, for its ENAMETOOLONG. */
static bool is_searched(const fp_spec *spec) {
    const char *program = fp_spec_program(spec);

    return !(spec->flags & FP_ONE_PATH) && !strchr(program, '/') && strlen(program) <= NAME_MAX;
}

static size_t count_char(const char *text, size_t bytes, char wanted) {
    size_t count = 0;

    for (const char *end = text + bytes; (text = memchr(text, wanted, (size_t)(end - text))); text++)
        count++;
    return count;
}

static size_t search_space(const fp_spec *spec) {
    if (!is_searched(spec))
        return rounded(sizeof(char *));

    const char *path = search_path_of(spec);
    size_t path_bytes = strlen(path);
    size_t n = count_char(path, path_bytes, ':') + 1;
    return rounded(n * sizeof(char *)) + rounded(path_bytes + n * (strlen(fp_spec_program(spec)) + 2));
}

/* The paths to try in turn; an empty directory is the current one, as for execvp(3). */
static void plan_program(fp_child_plan *plan, struct arena *space, const fp_spec *spec) {
    const char *program = fp_spec_program(spec);

    plan->searching = is_searched(spec);
    plan->searching_on = spec->flags & FP_SEARCH_ON;
    if (!plan->searching) {
        const char **paths = take(space, sizeof *paths);
        paths[0] = program;
        plan->paths = paths;
        plan->n_paths = 1;
        return;
    }

    const char *dir = search_path_of(spec);
    size_t path_bytes = strlen(dir);
    size_t n = count_char(dir, path_bytes, ':') + 1;
    size_t program_bytes = strlen(program) + 1;
    const char **paths = take(space, n * sizeof *paths);
    char *text = take(space, path_bytes + n * (program_bytes + 1));
    for (size_t i = 0; i < n; i++) {
        size_t dir_bytes = strcspn(dir, ":");
        paths[i] = text;
        if (dir_bytes > 0) {
            text = mempcpy(text, dir, dir_bytes);
            *text++ = '/';
        }
        text = mempcpy(text, program, program_bytes);
        dir += dir_bytes + 1;
    }
    plan->paths = paths;
    plan->n_paths = n;
}

static void plan_arguments(fp_child_plan *plan, struct arena *space, const fp_spec *spec) {
    if (spec->argv) {
        plan->argv = spec->argv;
        return;
    }
    size_t n = count_char(spec->args, spec->args_bytes, '\0');
    const char **argv = take(space, (n + 1) * sizeof *argv);
    const char *string = spec->args;
    for (size_t i = 0; i < n; i++) {
        argv[i] = string;
        string += strlen(string) + 1;
    }
    argv[n] = NULL;
    plan->argv = argv;
}

/* ---- descriptors ------------------------------------------------------------------ */

static void add_move(fp_child_plan *plan, int source, int target) {
    plan->moves[plan->n_moves++] = (fp_fd_move){.source = source, .target = target};
}

static void add_open(fp_child_plan *plan, const char *path, int flags, int target) {
    plan->opens[plan->n_opens++] = (fp_child_open){.path = path, .flags = flags, .target = target};
}

static void plan_stream(fp_child_plan *plan, const fp_stdio *stream, int target, int pipe_fd, int null_fd) {
    switch (stream->kind) {
    case FP_STDIO_PIPE:
        add_move(plan, pipe_fd, target);
        break;
    case FP_STDIO_FD:
        add_move(plan, stream->fd, target);
        break;
    case FP_STDIO_DEVNULL:
        if (null_fd >= 0)
            add_move(plan, null_fd, target);
        else
            add_open(plan, _PATH_DEVNULL, O_RDWR, target);
        break;
    case FP_STDIO_READ:
        add_open(plan, stream->path, O_RDONLY, target);
        break;
    case FP_STDIO_APPEND:
        add_open(plan, stream->path, O_WRONLY | O_CREAT | O_APPEND, target);
        break;
    case FP_STDIO_TRUNCATE:
        add_open(plan, stream->path, O_WRONLY | O_CREAT | O_TRUNC, target);
        break;
    }
}

/* What standard output is where the spec does not redirect it by `stdio`. */
static int inherited_output(const fp_spec *spec) {
    for (size_t i = 0; i < spec->n_fds; i++)
        if (spec->fds[i].target == 1)
            return spec->fds[i].source;
    return 1;
}

static void plan_streams(fp_child_plan *plan, const fp_spec *spec, const int pipe_fd[3], int null_fd) {
    const fp_stdio *output = &spec->stdio[1];

    for (int target = 0; target < 3; target++) {
        const fp_stdio *stream = &spec->stdio[target];
        if (stream->kind != FP_STDIO_STDOUT)
            plan_stream(plan, stream, target, pipe_fd[target], null_fd);
        else if (output->kind == FP_STDIO_INHERIT)
            add_move(plan, inherited_output(spec), target);
        else if (output->kind == FP_STDIO_APPEND || output->kind == FP_STDIO_TRUNCATE)
            plan->error_follows_output = true; /* opened once, so that both share the place in the file */
        else
            plan_stream(plan, output, target, pipe_fd[1], null_fd);
    }
    for (size_t i = 0; i < spec->n_fds; i++)
        add_move(plan, spec->fds[i].source, spec->fds[i].target);
}

static bool is_a_target(const fp_child_plan *plan, int fd) {
    for (size_t i = 0; i < plan->n_moves; i++)
        if (plan->moves[i].target == fd)
            return true;
    return false;
}

/* The spare copy must not cover what the child inherits beside the moves: it gets a number that is free here. */
static void move_spare(fp_child_plan *plan) {
    int spare = plan->spare_fd;

    while (is_a_target(plan, spare) || sys_fcntl(spare, F_GETFD, 0) >= 0)
        spare++;
    for (size_t i = 0; i < plan->n_ops; i++) {
        if (plan->ops[i].from == plan->spare_fd)
            plan->ops[i].from = spare;
        if (plan->ops[i].to == plan->spare_fd)
            plan->ops[i].to = spare;
    }
    plan->spare_fd = spare;
}

void fp_plan_fds(fp_child_plan *plan) {
    plan->n_ops = fp_fdplan(plan->moves, plan->n_moves, plan->ops, &plan->spare_fd);
    if (plan->spare_fd >= 0 && plan->flags & FP_INHERIT_FDS)
        move_spare(plan);
}

static int by_number(const void *a, const void *b) {
    int left = *(const int *)a;
    int right = *(const int *)b;

    return (left > right) - (left < right);
}

void fp_plan_gaps(fp_child_plan *plan, int report_fd) {
    int *kept = plan->kept;
    size_t n_kept = 0;
    unsigned first = 3;

    plan->n_gaps = 0;
    plan->bare_above_2 = false;
    if (plan->flags & FP_INHERIT_FDS)
        return;
    for (size_t i = 0; i < plan->n_moves; i++)
        if (plan->moves[i].target > 2)
            kept[n_kept++] = plan->moves[i].target;
    if (report_fd >= 0)
        kept[n_kept++] = report_fd;
    if (n_kept > 1)
        qsort(kept, n_kept, sizeof *kept, by_number);

    plan->bare_above_2 = n_kept == 0 && plan->spare_fd < 0;
    for (size_t i = 0; i < n_kept; i++) {
        unsigned fd = (unsigned)kept[i];
        if (fd > first)
            plan->gaps[plan->n_gaps++] = (fp_fd_range){first, fd - 1};
        first = fd + 1;
    }
    plan->gaps[plan->n_gaps++] = (fp_fd_range){first, UINT_MAX};
}

/* ---- all of it ---------------------------------------------------------------------- */

static void plan_rlimits(fp_child_plan *plan, const fp_spec *spec) {
    for (int i = 0; i < FP_RLIMIT_COUNT; i++) {
        if (!(spec->rlimit_set >> i & 1))
            continue;
        plan->rlimits[plan->n_rlimits++] = (fp_child_rlimit){
            .resource = resources[i], .index = i, .limit = {spec->rlimits[i].soft, spec->rlimits[i].hard}};
    }
}

static int by_id(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a;
    uint32_t right = *(const uint32_t *)b;

    return (left > right) - (left < right);
}

static void plan_groups(fp_child_plan *plan, struct arena *space, const fp_spec *spec) {
    if (!(spec->flags & FP_SET_GROUPS))
        return;
    uint32_t *groups = take(space, spec->n_groups * sizeof *groups);
    if (spec->n_groups > 0) {
        memcpy(groups, spec->groups, spec->n_groups * sizeof *groups);
        qsort(groups, spec->n_groups, sizeof *groups, by_id);
    }
    plan->groups = groups;
    plan->n_groups = spec->n_groups;
    plan->groups_seen = take(space, (spec->n_groups + 1) * sizeof *groups);
}

static size_t most_moves(const fp_spec *spec) {
    return spec->n_fds + 3;
}

size_t fp_plan_space(const fp_spec *spec) {
    size_t n = most_moves(spec);
    size_t bytes = search_space(spec);

    bytes += rounded(n * sizeof(fp_fd_move)) + rounded(2 * n * sizeof(fp_fd_op));
    bytes += rounded((n + 1) * sizeof(int)) + rounded((n + 2) * sizeof(fp_fd_range));
    if (!spec->argv)
        bytes += rounded((count_char(spec->args, spec->args_bytes, '\0') + 1) * sizeof(char *));
    if (spec->flags & FP_SET_GROUPS)
        bytes += rounded(spec->n_groups * sizeof(uint32_t)) + rounded((spec->n_groups + 1) * sizeof(uint32_t));
    return bytes;
}

/* Those paths that it opens are ours, and relative to our directory. */
static bool opens_relative_path(const fp_child_plan *plan) {
    for (size_t i = 0; i < plan->n_opens; i++)
        if (plan->opens[i].path[0] != '/')
            return true;
    return false;
}

void fp_plan_make(fp_child_plan *plan, void *memory, const fp_spec *spec, const int pipe_fd[3], int null_fd) {
    struct arena space = {memory};
    size_t n = most_moves(spec);

    *plan = (fp_child_plan){
        .parent_pid = spec->flags & FP_DIE_WITH_PARENT ? sys_getpid() : 0,
        .keep_below = -1,
        .lead = spec->lead,
        .process_group = spec->process_group,
        .cgroup_fd = -1,
        .spare_fd = -1,
        .has_close_range = fp_can(FP_CAP_CLOSE_RANGE),
        .has_proc = fp_can(FP_CAP_PROCFS),
        .affinity = spec->affinity,
        .affinity_bytes = spec->n_affinity * sizeof *spec->affinity,
        .cwd = spec->cwd,
        .flags = spec->flags,
        .umask = spec->umask,
        .nice = spec->nice,
        .uid = spec->uid,
        .gid = spec->gid,
        .sigignore = spec->sigignore & FP_SIGNALS_CHANGEABLE,
        .sigmask = spec->sigmask,
        .envp = fp_spec_environment(spec),
    };
    plan->moves = take(&space, n * sizeof *plan->moves);
    plan->ops = take(&space, 2 * n * sizeof *plan->ops);
    plan->kept = take(&space, (n + 1) * sizeof *plan->kept);
    plan->gaps = take(&space, (n + 2) * sizeof *plan->gaps);
    plan_program(plan, &space, spec);
    plan_arguments(plan, &space, spec);
    plan_streams(plan, spec, pipe_fd, null_fd);
    plan->cwd_first = plan->cwd && !opens_relative_path(plan);
    plan_rlimits(plan, spec);
    plan_groups(plan, &space, spec);
}
