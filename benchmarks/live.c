/*
 * live: what a living child costs a C program that uses libfastproc: its
 * resident memory before and after so many were started, all of them ready.
 *
 *   live CHILD NUMBER     prints the bytes for each child
 *
 * CHILD is benchmarks/child.c. Each child gets a session, its containment, a
 * pidfd and a handle; nothing is captured.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fastproc.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WARM_UP = 100 };

static int fail(const char *what, int error) {
    fprintf(stderr, "live: %s: %s\n", what, fp_strerror(error));
    return 1;
}

/* Exactly, in bytes; statm lags behind, see proc(5). */
static long resident_bytes(void) {
    char line[128];
    long kib = -1;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "Rss: %ld kB", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib * 1024;
}

static void *lend(void *supervisor) {
    fp_supervisor_run(supervisor);
    return NULL;
}

/* Start `n`, wait until each has said that it is ready; 0 or -errno. */
static int start(fp_supervisor *supervisor, const char *child, fp_proc **procs, int n, const int ready[2]) {
    fp_spec spec = FP_SPEC_INIT;
    spec.argv = (const char *const[]){child, "live", NULL};
    spec.stdio[0].kind = FP_STDIO_DEVNULL;
    spec.stdio[1] = (fp_stdio){.kind = FP_STDIO_FD, .fd = ready[1]};
    for (int i = 0; i < n; i++) {
        int r = fp_spawn(supervisor, &spec, &procs[i], NULL);
        if (r < 0)
            return r;
    }
    char bytes[256];
    for (int left = n; left > 0;) {
        ssize_t came = read(ready[0], bytes, sizeof bytes < (size_t)left ? sizeof bytes : (size_t)left);
        if (came <= 0)
            return -EIO;
        left -= (int)came;
    }
    return 0;
}

/* End them, and look at each status; 0 or -errno. */
static int finish(fp_proc **procs, int n) {
    int r = fp_procs_stop(procs, (size_t)n, FP_REASON_TERMINATED, 0, 0);
    for (int i = 0; i < n && r >= 0; i++) {
        fp_exit end;
        r = fp_proc_wait(procs[i], FP_STATE_DONE, -1, &end);
        if (r == 0 && end.signal != SIGTERM)
            r = -EBADMSG;
    }
    for (int i = 0; i < n; i++)
        procs[i] = fp_proc_free(procs[i]);
    return r < 0 ? r : 0;
}

int main(int argc, char **argv) {
    int n = argc == 3 ? atoi(argv[2]) : 0, ready[2], r;
    if (n < 1) {
        fprintf(stderr, "usage: live CHILD NUMBER\n");
        return 2;
    }
    fp_supervisor *supervisor;
    pthread_t thread;
    fp_proc **procs = calloc((size_t)n + WARM_UP, sizeof *procs);
    if (!procs || pipe2(ready, O_CLOEXEC) < 0)
        return fail("pipe", -errno);
    /* What callers keep of each is one pointer; it is theirs, so it is there from the beginning. */
    memset(procs, 0, ((size_t)n + WARM_UP) * sizeof *procs);
    if ((r = fp_supervisor_new(NULL, &supervisor)) < 0)
        return fail("supervisor", r);
    if ((r = -pthread_create(&thread, NULL, lend, supervisor)) < 0)
        return fail("thread", r);
    if ((r = start(supervisor, argv[1], procs, WARM_UP, ready)) < 0 || (r = finish(procs, WARM_UP)) < 0)
        return fail("warming up", r);
    long before = resident_bytes();
    if ((r = start(supervisor, argv[1], procs, n, ready)) < 0)
        return fail("start", r);
    long grown = resident_bytes() - before;
    int active = fp_supervisor_active(supervisor);
    if ((r = finish(procs, n)) < 0)
        return fail("finish", r);
    fp_supervisor_stop(supervisor);
    pthread_join(thread, NULL);
    fp_supervisor_free(supervisor);
    free(procs);
    if (active != n) {
        fprintf(stderr, "live: %d of %d were alive\n", active, n);
        return 1;
    }
    printf("%ld\n", grown / n);
    return 0;
}
