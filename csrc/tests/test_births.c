/*
 * test_births.c: births that hang hold up nobody but themselves, and those not
 * for long; and the thread that sees to them is there when it is needed only.
 */
#include <sys/stat.h>

#include "frozen.h"

enum { IDLE_EACH = 3, CALLERS = 2 };

/* A cgroup at any rate, or none. */
#define IN_LEAF(script) SHELL(script, .containment = FP_CONTAIN_CGROUP)
#define IN_SESSION(script) SHELL(script, .containment = FP_CONTAIN_SESSION)

/* ---- the watcher ------------------------------------------------------------------- */

/* The threads of this process; in *ret_watcher the number of the watcher, or 0. */
static int count_threads(int *ret_watcher) {
    char path[320], name[32];
    int n = 0;
    DIR *dir = opendir("/proc/self/task");
    *ret_watcher = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (*entry->d_name == '.')
            continue;
        n++;
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
        if (read_text(path, name, sizeof name) && strcmp(name, "fp-births\n") == 0)
            *ret_watcher = atoi(entry->d_name);
    }
    if (dir)
        closedir(dir);
    return n;
}

static int watcher_now(void) {
    int watcher;
    count_threads(&watcher);
    return watcher;
}

/* It gives itself its name, a moment after it was made. */
static int await_watcher(void) {
    for (int64_t begin = now_ns(); now_ns() - begin < LONG && !watcher_now();)
        nap(MS);
    return watcher_now();
}

/* How often it has gone to sleep. */
static long sleeps_of(int thread) {
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/self/task/%d/status", thread);
    const char *line = read_text(path, text, sizeof text) ? strstr(text, "\nvoluntary_ctxt_switches:") : NULL;
    return line ? atol(strchr(line, ':') + 1) : -1;
}

static void there_is_a_watcher_from_the_first_birth_to_the_end_of_the_crew(void) {
    crew us;
    int watcher;
    if (!fp_probe(FP_CAP_PROCFS))
        SKIP("threads are counted in /proc");
    crew_begin(&us, 2);
    int lent = count_threads(&watcher);
    CHECK_EQ(watcher, 0);
    CHECK_EQ(ended(start(us.of[0], IN_SESSION("exit 3"))).code, 3);
    CHECK(await_watcher() > 0);
    CHECK_EQ(ended(start(us.of[1], IN_SESSION("exit 4"))).code, 4);
    CHECK_EQ(count_threads(&watcher), lent + 1); /* one, however many are born */
    crew_end(&us);
    CHECK_EQ(count_threads(&watcher), lent - 2);
}

static void while_nobody_is_born_the_watcher_sleeps(void) {
    crew us;
    long sleeps = -1, later = -2;
    if (!fp_probe(FP_CAP_PROCFS))
        SKIP("threads are counted in /proc");
    crew_begin(&us, 2);
    ended(start(us.of[0], IN_SESSION(":")));
    int watcher = await_watcher();
    for (int64_t begin = now_ns(); now_ns() - begin < LONG && sleeps != later;) {
        sleeps = sleeps_of(watcher);
        nap(700 * MS);
        later = sleeps_of(watcher);
    }
    CHECK(sleeps > 0);
    CHECK_EQ(sleeps, later);
    /* The next birth wakes it. */
    ended(start(us.of[0], IN_SESSION(":")));
    for (int64_t begin = now_ns(); now_ns() - begin < LONG && later == sleeps; nap(MS))
        later = sleeps_of(watcher);
    CHECK(later > sleeps);
    crew_end(&us);
}

static void a_forked_copy_does_not_wait_for_the_watcher(void) {
    crew us;
    int status = -1;
    crew_begin(&us, 2);
    ended(start(us.of[0], IN_SESSION(":")));
    pid_t copy = fork();
    if (copy == 0) {
        alarm(20);
        for (int i = 0; i < us.n; i++)
            fp_supervisor_free(us.of[i]);
        _exit(5);
    }
    CHECK_EQ(waitpid(copy, &status, 0), copy);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
    CHECK_EQ(ended(start(us.of[0], IN_SESSION("exit 3"))).code, 3);
    crew_end(&us);
}

/* Our thread may be late to see that a birth is over, and the program may have stopped by then. */
static void a_program_that_has_stopped_itself_is_not_set_going(void) {
    crew us;
    int status = -1;
    if (!fp_probe(FP_CAP_PROCFS))
        SKIP("who is stopped is read in /proc");
    crew_begin(&us, 1);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", "kill -STOP $$; exit 3", (char *)NULL);
        _exit(127);
    }
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK(WIFSTOPPED(status));

    fp_birth_watch birth = {.pid = pid, .leaf_fd = -1};
    fp_birth_begins(us.of[0]->crew, &birth);
    nap(700 * MS);
    fp_birth_ends(us.of[0]->crew, &birth);

    CHECK_EQ(waitpid(pid, &status, WNOHANG | WCONTINUED), 0);
    kill(pid, SIGKILL);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    crew_end(&us);
}

/* ---- frozen leaves ---------------------------------------------------------------------- */

typedef struct caller {
    pthread_t thread;
    fp_supervisor *supervisor;
    fp_proc *proc;
} caller;

static void *call(void *arg) {
    caller *c = arg;
    c->proc = start(c->supervisor, IN_LEAF("exit 3"));
    return NULL;
}

/*
 * Every supervisor has empty leaves at hand, and all of them are frozen when
 * each is to start one, and threads of the host as well: nobody is left who
 * could see to it but the watcher.
 */
static void all_may_be_born_into_frozen_leaves_at_once(void) {
    crew us;
    fp_proc *sleepers[MOST_CREW * IDLE_EACH], *queued[MOST_CREW];
    caller callers[MOST_CREW * CALLERS];
    const fp_spec *spec = IN_LEAF("exit 4");

    if (!fp_probe(FP_CAP_CGROUP))
        SKIP("no cgroup can be made here");
    crew_begin(&us, 2);
    for (int i = 0; i < us.n * IDLE_EACH; i++)
        sleepers[i] = start(us.of[i % us.n], IN_LEAF("sleep .3"));
    for (int i = 0; i < us.n * IDLE_EACH; i++)
        ended(sleepers[i]);
    CHECK_EQ(freeze_all(&us, "1"), us.n * IDLE_EACH);

    for (int i = 0; i < us.n * CALLERS; i++) {
        callers[i] = (caller){.supervisor = us.of[i % us.n]};
        pthread_create(&callers[i].thread, NULL, call, &callers[i]);
    }
    for (int i = 0; i < us.n; i++)
        CHECK_EQ(fp_spawn_many(&us.of[i], 1, &spec, 1, 0, &queued[i]), 0);
    CHECK_EQ(fp_procs_wait_started(queued, (size_t)us.n, LONG), 0);
    for (int i = 0; i < us.n * CALLERS; i++)
        pthread_join(callers[i].thread, NULL);
    for (int i = 0; i < us.n * CALLERS; i++)
        CHECK_EQ(ended(callers[i].proc).code, 3);
    for (int i = 0; i < us.n; i++)
        CHECK_EQ(ended(queued[i]).code, 4);

    /* It was learnt from: none that is frozen is kept for those who come. */
    for (int i = 0; i < us.n; i++)
        CHECK_EQ(ended(start(us.of[i], IN_LEAF("exit 5"))).code, 5);
    CHECK_EQ(freeze_all(&us, NULL), 0);
    crew_end(&us);
}

/* The crew goes while one of its births hangs: it is still seen to. */
static void a_crew_that_is_stopped_still_sees_to_its_births(void) {
    crew us;
    fp_proc *queued[MOST_CREW];
    const fp_spec *spec = IN_LEAF("exit 4");

    if (!fp_probe(FP_CAP_CGROUP))
        SKIP("no cgroup can be made here");
    crew_begin(&us, 2);
    for (int i = 0; i < us.n; i++)
        ended(start(us.of[i], IN_LEAF(":")));
    freeze_all(&us, "1");
    for (int i = 0; i < us.n; i++)
        CHECK_EQ(fp_spawn_many(&us.of[i], 1, &spec, 1, 0, &queued[i]), 0);
    nap(50 * MS); /* both are at it, most likely */
    crew_end(&us);
    for (int i = 0; i < us.n; i++)
        fp_proc_free(queued[i]);
    /* What has been born is nobody's now, and ours to reap. */
    while (waitpid(-1, NULL, 0) > 0)
        continue;
}

int main(void) {
    for (int i = 0; i < FP_CAP_COUNT; i++)
        fp_probe(i);
    int before = open_descriptors();
    WATCHED(there_is_a_watcher_from_the_first_birth_to_the_end_of_the_crew);
    WATCHED(while_nobody_is_born_the_watcher_sleeps);
    WATCHED(a_program_that_has_stopped_itself_is_not_set_going);
    WATCHED(a_forked_copy_does_not_wait_for_the_watcher);
    WATCHED(all_may_be_born_into_frozen_leaves_at_once);
    WATCHED(a_crew_that_is_stopped_still_sees_to_its_births);
    CHECK(has_no_child());
    CHECK_EQ(open_descriptors(), before);
    return check_result();
}
