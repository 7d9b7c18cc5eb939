/*
 * spawn_pipes.c: the pipes of a child.
 */
#include "birth.h"

int fp_lift_above_2(int *fd) {
    if (*fd > 2)
        return 0;
    int r = sys_fcntl(*fd, F_DUPFD_CLOEXEC, 3);
    if (r < 0)
        return r;
    sys_close(*fd);
    *fd = r;
    return 0;
}

static int make_pipe(int *ret_ours, int *ret_theirs, bool child_reads) {
    int ends[2];

    int r = sys_pipe2(ends, O_CLOEXEC);
    if (r < 0)
        return r;
    r = fp_lift_above_2(&ends[0]);
    if (r >= 0)
        r = fp_lift_above_2(&ends[1]);
    /* The two ends have flags of their own: the child's stays blocking, as programs expect. */
    if (r >= 0)
        r = sys_fcntl(ends[child_reads], F_SETFL, O_NONBLOCK);
    if (r < 0) {
        fp_close_fd(&ends[0]);
        fp_close_fd(&ends[1]);
        return r;
    }
    *ret_ours = ends[child_reads];
    *ret_theirs = ends[!child_reads];
    return 0;
}

bool fp_has_pipes(const fp_spec *spec) {
    for (int target = 0; target < 3; target++)
        if (spec->stdio[target].kind == FP_STDIO_PIPE)
            return true;
    return false;
}

int fp_pipes_make(const fp_spec *spec, fp_pipes *pipes, fp_failure *reterr_failure) {
    int r = 0;

    pthread_mutex_lock(&pipes->lock);
    for (int target = 0; target < 3 && r >= 0; target++) {
        if (spec->stdio[target].kind != FP_STDIO_PIPE)
            continue;
        r = make_pipe(&pipes->ours[target], &pipes->theirs[target], target == 0);
        if (r < 0)
            fp_birth_fail(reterr_failure, r, FP_STAGE_PIPE, target);
    }
    pthread_mutex_unlock(&pipes->lock);
    return r;
}

void fp_pipes_close(fp_pipes *pipes, bool failed) {
    pthread_mutex_lock(&pipes->lock);
    for (int i = 0; i < 3; i++) {
        fp_close_fd(&pipes->theirs[i]);
        if (failed)
            fp_close_fd(&pipes->ours[i]);
    }
    pthread_mutex_unlock(&pipes->lock);
}
