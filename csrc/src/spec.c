/*
 * spec.c: checks a spec as far as that is possible before a process exists,
 * copies it for a later start, and keeps packed environments.
 *
 * What only the kernel can know (a path, a right, a descriptor that another
 * thread may close meanwhile) is left to the start itself.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proc.h"

enum { MOST_GROUPS = 65536, MOST_FDS = 4096, MOST_CPU_WORDS = 1024, MOST_SIGNALS = 64 };

static const uint32_t known_flags = FP_KEEP_LEFTOVERS | FP_NO_NEW_PRIVS | FP_DIE_WITH_PARENT | FP_SET_UID | FP_SET_GID |
                                    FP_SET_GROUPS | FP_SET_UMASK | FP_SET_NICE | FP_STOP_AT_MAX_OUTPUT |
                                    FP_KEEP_SIGNALS | FP_ONE_PATH | FP_QUIET_START | FP_FOLLOW_STDOUT |
                                    FP_FOLLOW_STDERR | FP_PATIENT_START | FP_KEEP_MASK | FP_INHERIT_FDS | FP_SEARCH_ON |
                                    FP_JOIN_GROUP | FP_ASK_FOR_ROOM;

/* ---- the packed environment --------------------------------------------------- */

struct fp_env {
    _Atomic uint32_t refs;
    const char *path;     /* value of PATH, or NULL */
    size_t longest_bytes; /* of any string, its NUL included */
    const char *strings[];
};

static int by_name(const void *a, const void *b) {
    const char *left = *(const char *const *)a;
    const char *right = *(const char *const *)b;
    size_t left_bytes = strcspn(left, "=");
    size_t right_bytes = strcspn(right, "=");
    int order = memcmp(left, right, left_bytes < right_bytes ? left_bytes : right_bytes);

    return order ? order : (left_bytes > right_bytes) - (left_bytes < right_bytes);
}

static int names_are_unique(const char *const *strings, size_t n) {
    int unique = 1;
    const char **sorted = malloc((n + 1) * sizeof *sorted);

    if (!sorted)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        sorted[i] = strings[i];
    qsort(sorted, n, sizeof *sorted, by_name);
    for (size_t i = 1; i < n; i++)
        if (by_name(&sorted[i - 1], &sorted[i]) == 0)
            unique = 0;
    free(sorted);
    return unique;
}

static int make_env(const char *block, size_t block_bytes, bool checked, fp_env **ret_env) {
    size_t n = 0;
    fp_env *env = NULL;
    int r = -EINVAL;

    if (!ret_env || (block_bytes > 0 && (!block || block[block_bytes - 1] != '\0')))
        return -EINVAL;
    for (size_t i = 0; i < block_bytes; i++)
        n += block[i] == '\0';

    /* The strings' addresses and the strings in one piece. */
    size_t head_bytes = sizeof *env + (n + 1) * sizeof *env->strings;
    env = malloc(head_bytes + block_bytes);
    if (!env)
        return -ENOMEM;
    atomic_init(&env->refs, 1);
    env->path = NULL;
    env->longest_bytes = 0;
    char *string = (char *)env + head_bytes;
    if (block_bytes > 0)
        memcpy(string, block, block_bytes);
    for (size_t i = 0; i < n; i++) {
        size_t bytes = strlen(string) + 1;
        if (checked && (*string == '=' || !strchr(string, '=')))
            goto out;
        if (!env->path && strncmp(string, "PATH=", 5) == 0)
            env->path = string + 5;
        if (env->longest_bytes < bytes)
            env->longest_bytes = bytes;
        env->strings[i] = string;
        string += bytes;
    }
    env->strings[n] = NULL;

    r = checked ? names_are_unique(env->strings, n) : 1;
    if (r == 0)
        r = -EINVAL;
out:
    if (r < 0) {
        free(env);
        return r;
    }
    *ret_env = env;
    return 0;
}

int fp_env_new(const char *block, size_t block_bytes, fp_env **ret_env) {
    return make_env(block, block_bytes, true, ret_env);
}

int fp_env_new_as_is(const char *block, size_t block_bytes, fp_env **ret_env) {
    return make_env(block, block_bytes, false, ret_env);
}

fp_env *fp_env_ref(fp_env *env) {
    if (env)
        atomic_fetch_add_explicit(&env->refs, 1, memory_order_relaxed);
    return env;
}

fp_env *fp_env_free(fp_env *env) {
    if (env && atomic_fetch_sub_explicit(&env->refs, 1, memory_order_acq_rel) == 1)
        free(env);
    return NULL;
}

const char *const *fp_env_strings(const fp_env *env) {
    return env->strings;
}

const char *fp_env_path(const fp_env *env) {
    return env->path;
}

/* ---- reading a spec --------------------------------------------------------------- */

bool fp_spec_needs_controllers(const fp_spec *spec) {
    return spec->memory_max_bytes || spec->pids_max || spec->cpu_max_millis;
}

const char *fp_spec_program(const fp_spec *spec) {
    if (spec->program)
        return spec->program;
    return spec->argv ? spec->argv[0] : spec->args;
}

const char *const *fp_spec_environment(const fp_spec *spec) {
    static const char *const empty[] = {NULL};

    if (spec->env)
        return spec->env->strings;
    if (spec->envp)
        return spec->envp;
    return environ ? (const char *const *)environ : empty;
}

/* ---- the checks, one subject each ---------------------------------------------------- */

static int refuse(fp_failure *reterr_failure, int error, int stage, int detail) {
    if (reterr_failure)
        *reterr_failure = (fp_failure){.error = -error, .stage = stage, .detail = detail};
    return error;
}

/* Callers with a newer header have a longer struct: we can serve them if they use nothing that is new. */
static bool size_is_known(const fp_spec *spec) {
    const char *bytes = (const char *)spec;

    if (spec->size < sizeof *spec)
        return false;
    for (size_t i = sizeof *spec; i < spec->size; i++)
        if (bytes[i])
            return false;
    return true;
}

/* The kernel takes no longer string, NUL included: MAX_ARG_STRLEN, see execve(2). */
static size_t longest_string(void) {
    return 32 * (size_t)sysconf(_SC_PAGESIZE);
}

static int check_arguments(const fp_spec *spec, fp_failure *reterr_failure) {
    size_t most = longest_string();
    const char *program = spec->program;

    if (spec->argv) {
        if (!spec->argv[0])
            return refuse(reterr_failure, -EINVAL, FP_STAGE_REQUEST, -1);
        for (int i = 0; spec->argv[i]; i++)
            if (strlen(spec->argv[i]) >= most)
                return refuse(reterr_failure, -E2BIG, FP_STAGE_REQUEST, i);
    } else {
        if (!spec->args || spec->args_bytes == 0 || spec->args[spec->args_bytes - 1] != '\0')
            return refuse(reterr_failure, -EINVAL, FP_STAGE_REQUEST, -1);
        const char *end = spec->args + spec->args_bytes;
        int i = 0;
        for (const char *string = spec->args; string < end; i++) {
            size_t bytes = strlen(string);
            if (bytes >= most)
                return refuse(reterr_failure, -E2BIG, FP_STAGE_REQUEST, i);
            string += bytes + 1;
        }
    }
    if (!program)
        program = fp_spec_program(spec);
    if (!*program)
        return refuse(reterr_failure, -EINVAL, FP_STAGE_REQUEST, -1);
    return 0;
}

static int check_environment(const fp_spec *spec, fp_failure *reterr_failure) {
    size_t most = longest_string();
    bool fits = true;

    if (spec->env && spec->envp)
        return refuse(reterr_failure, -EINVAL, FP_STAGE_REQUEST, -1);
    if (spec->env) {
        fits = spec->env->longest_bytes <= most;
    } else {
        for (const char *const *string = fp_spec_environment(spec); fits && *string; string++)
            fits = strlen(*string) < most;
    }
    return fits ? 0 : refuse(reterr_failure, -E2BIG, FP_STAGE_REQUEST, -1);
}

static int check_streams(const fp_spec *spec, fp_failure *reterr_failure) {
    for (int target = 0; target < 3; target++) {
        const fp_stdio *stream = &spec->stdio[target];
        bool allowed = false;
        switch (stream->kind) {
        case FP_STDIO_INHERIT:
        case FP_STDIO_DEVNULL:
        case FP_STDIO_PIPE:
            allowed = true;
            break;
        case FP_STDIO_FD:
            if (stream->fd < 0)
                return refuse(reterr_failure, -EBADF, FP_STAGE_FDS, target);
            allowed = true;
            break;
        case FP_STDIO_READ:
            allowed = target == 0 && stream->path && *stream->path;
            break;
        case FP_STDIO_APPEND:
        case FP_STDIO_TRUNCATE:
            allowed = target != 0 && stream->path && *stream->path;
            break;
        case FP_STDIO_STDOUT:
            allowed = target == 2;
            break;
        }
        if (!allowed)
            return refuse(reterr_failure, -EINVAL, FP_STAGE_REQUEST, target);
    }
    if (spec->input_bytes > 0 && (!spec->input || spec->stdio[0].kind != FP_STDIO_PIPE))
        return refuse(reterr_failure, -EINVAL, FP_STAGE_REQUEST, 0);
    return 0;
}

static int check_fds(const fp_spec *spec, fp_failure *reterr_failure) {
    if (spec->n_fds > MOST_FDS || (spec->n_fds > 0 && !spec->fds))
        return refuse(reterr_failure, -EINVAL, FP_STAGE_FDS, -1);
    for (size_t i = 0; i < spec->n_fds; i++) {
        int target = spec->fds[i].target;
        if (target < 0 || (target < 3 && spec->stdio[target].kind != FP_STDIO_INHERIT))
            return refuse(reterr_failure, -EINVAL, FP_STAGE_FDS, target);
        for (size_t j = 0; j < i; j++)
            if (spec->fds[j].target == target)
                return refuse(reterr_failure, -EINVAL, FP_STAGE_FDS, target);
        if (spec->fds[i].source < 0)
            return refuse(reterr_failure, -EBADF, FP_STAGE_FDS, target);
    }
    return 0;
}

static int check_containment(const fp_spec *spec, fp_failure *reterr_failure) {
    bool limited = fp_spec_needs_controllers(spec);

    if (spec->lead < FP_LEAD_SESSION || spec->lead > FP_LEAD_NOTHING)
        return refuse(reterr_failure, -EINVAL, FP_STAGE_REQUEST, -1);
    switch (spec->containment) {
    case FP_CONTAIN_AUTO:
    case FP_CONTAIN_CGROUP:
        return 0;
    case FP_CONTAIN_SESSION:
        return limited ? refuse(reterr_failure, -EINVAL, FP_STAGE_CGROUP, -1) : 0;
    case FP_CONTAIN_GUARD:
        return refuse(reterr_failure, -ENOTSUP, FP_STAGE_CGROUP, -1);
    default:
        return refuse(reterr_failure, -EINVAL, FP_STAGE_REQUEST, -1);
    }
}

static int check_attributes(const fp_spec *spec, fp_failure *reterr_failure) {
    const uint32_t nobody_at_all = UINT32_MAX; /* "leave it as it is" to setresuid(2), which is never meant here */

    if (spec->flags & ~known_flags || spec->rlimit_set >> FP_RLIMIT_COUNT)
        return refuse(reterr_failure, -EINVAL, FP_STAGE_REQUEST, -1);
    for (int i = 0; i < FP_RLIMIT_COUNT; i++)
        if (spec->rlimit_set >> i & 1 && spec->rlimits[i].soft > spec->rlimits[i].hard)
            return refuse(reterr_failure, -EINVAL, FP_STAGE_RLIMIT, i);
    if (spec->flags & FP_JOIN_GROUP && spec->process_group < 0)
        return refuse(reterr_failure, -EINVAL, FP_STAGE_SESSION, -1);
    if (spec->flags & FP_SET_UMASK && spec->umask > 0777)
        return refuse(reterr_failure, -EINVAL, FP_STAGE_REQUEST, -1);
    if (spec->flags & FP_SET_NICE && (spec->nice < -20 || spec->nice > 19))
        return refuse(reterr_failure, -EINVAL, FP_STAGE_NICE, -1);
    if (spec->n_affinity > MOST_CPU_WORDS || (spec->n_affinity > 0 && !spec->affinity))
        return refuse(reterr_failure, -EINVAL, FP_STAGE_AFFINITY, -1);
    if ((spec->flags & FP_SET_UID && spec->uid == nobody_at_all) ||
        (spec->flags & FP_SET_GID && spec->gid == nobody_at_all))
        return refuse(reterr_failure, -EINVAL, FP_STAGE_IDS, -1);
    if (spec->flags & FP_SET_GROUPS) {
        if (spec->n_groups > MOST_GROUPS || (spec->n_groups > 0 && !spec->groups))
            return refuse(reterr_failure, -EINVAL, FP_STAGE_IDS, -1);
        for (size_t i = 0; i < spec->n_groups; i++)
            if (spec->groups[i] == nobody_at_all)
                return refuse(reterr_failure, -EINVAL, FP_STAGE_IDS, -1);
    }
    return 0;
}

static int check_times(const fp_spec *spec, fp_failure *reterr_failure) {
    if (spec->timeout_ns < 0 || spec->deadline_ns < 0 || spec->idle_timeout_ns < 0 || spec->kill_timeout_ns < 0 ||
        spec->deadline_reason < 0 || spec->deadline_reason >= FP_REASON_COUNT || spec->stop_signal < 0 ||
        spec->stop_signal > MOST_SIGNALS)
        return refuse(reterr_failure, -EINVAL, FP_STAGE_REQUEST, -1);
    return 0;
}

int fp_spec_check(const fp_spec *spec, fp_failure *reterr_failure) {
    static int (*const checks[])(const fp_spec *, fp_failure *) = {
        check_arguments, check_environment, check_streams, check_fds, check_containment, check_attributes, check_times};

    if (!spec || !size_is_known(spec))
        return refuse(reterr_failure, -EINVAL, FP_STAGE_REQUEST, -1);
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        int r = checks[i](spec, reterr_failure);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- a copy for later ------------------------------------------------------------------ */

/*
 * A copy is made in two passes over the same walk: the first, without memory,
 * finds how much is needed, the second fills it.
 */
struct copier {
    char *memory; /* NULL: only count */
    size_t used;
    size_t capacity;
    bool overflowed; /* somebody has changed the caller's environment between the passes */
};

static void *copy_bytes(struct copier *copier, const void *from, size_t bytes) {
    size_t rounded = (bytes + 15) & ~(size_t)15;
    char *to = NULL;

    if (!from)
        return NULL;
    if (copier->memory) {
        if (rounded > copier->capacity - copier->used) {
            copier->overflowed = true;
            return NULL;
        }
        to = copier->memory + copier->used;
        if (bytes > 0)
            memcpy(to, from, bytes);
    }
    copier->used += rounded;
    return to;
}

static char *copy_string(struct copier *copier, const char *from) {
    return from ? copy_bytes(copier, from, strlen(from) + 1) : NULL;
}

static const char *const *copy_strings(struct copier *copier, const char *const *from) {
    size_t n = 0;

    while (from[n])
        n++;
    const char **to = copy_bytes(copier, from, (n + 1) * sizeof *from);
    for (size_t i = 0; i < n; i++) {
        const char *string = copy_string(copier, from[i]);
        if (to)
            to[i] = string;
    }
    return to;
}

static void copy_spec(struct copier *copier, const fp_spec *spec, fp_spec *copy) {
    *copy = *spec;
    copy->size = sizeof *copy;
    if (spec->argv) {
        copy->argv = copy_strings(copier, spec->argv);
        copy->args = NULL;
        copy->args_bytes = 0;
    } else {
        copy->args = copy_bytes(copier, spec->args, spec->args_bytes);
    }
    copy->program = copy_string(copier, spec->program);
    copy->search_path = copy_string(copier, spec->search_path);
    /* The caller's environment as it is now: when the copy is started, he may be about to change it. */
    if (!spec->env)
        copy->envp = copy_strings(copier, fp_spec_environment(spec));
    copy->cwd = copy_string(copier, spec->cwd);
    for (int i = 0; i < 3; i++)
        copy->stdio[i].path = copy_string(copier, spec->stdio[i].path);
    copy->fds = copy_bytes(copier, spec->fds, spec->n_fds * sizeof *spec->fds);
    copy->input = copy_bytes(copier, spec->input, spec->input_bytes);
    copy->groups = copy_bytes(copier, spec->groups, spec->n_groups * sizeof *spec->groups);
    copy->affinity = copy_bytes(copier, spec->affinity, spec->n_affinity * sizeof *spec->affinity);
}

fp_spec *fp_spec_copy(const fp_spec *spec) {
    size_t head_bytes = (sizeof *spec + 15) & ~(size_t)15;
    struct copier copier = {0};
    fp_spec counted;

    copy_spec(&copier, spec, &counted);
    fp_spec *copy = malloc(head_bytes + copier.used);
    if (!copy)
        return NULL;
    copier = (struct copier){.memory = (char *)copy + head_bytes, .capacity = copier.used};
    copy_spec(&copier, spec, copy);
    if (copier.overflowed) {
        free(copy);
        return NULL;
    }
    fp_env_ref(copy->env);
    if (copy->mailbox)
        fp_mailbox_ref(copy->mailbox);
    return copy;
}

fp_spec *fp_spec_free_copy(fp_spec *copy) {
    if (!copy)
        return NULL;
    fp_env_free(copy->env);
    fp_mailbox_unref(copy->mailbox);
    free(copy);
    return NULL;
}
