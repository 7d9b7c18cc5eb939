/*
 * test_supervise_crew.c: supervisors come and go, and so do handles, in any
 * order; what the dead have left, and what their children leave to us.
 */
#include <sys/prctl.h>
#include <sys/stat.h>

#include "supervise.h"

/* ---- supervisors come and go --------------------------------------------------- */

/* All orders of giving back, with the process alive or dead. */
static void anything_may_be_freed_first_in(void) {
    static const char orders[6][4] = {"pms", "psm", "mps", "msp", "spm", "smp"};
    for (int i = 0; i < 12; i++) {
        bool alive = i % 2;
        crew c;
        fp_mailbox *mailbox;
        int before = open_descriptors();
        CHECK_EQ(fp_mailbox_new(&mailbox), 0);
        crew_begin(&c, 1);
        fp_proc *proc = start(c.of[0], JOB(alive ? "exec sleep 100" : "exit 0", CAPTURED, .mailbox = mailbox));
        pid_t pid = fp_proc_pid(proc);
        if (!alive)
            CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
        for (const char *order = orders[i / 2]; *order; order++) {
            if (*order == 'p')
                proc = fp_proc_free(proc);
            else if (*order == 'm')
                mailbox = fp_mailbox_free(mailbox);
            else
                crew_end(&c);
        }
        /* Left running, as promised; now it is the host's. */
        if (alive) {
            CHECK_EQ(kill(pid, SIGKILL), 0);
            CHECK_EQ(waitpid(pid, NULL, 0), pid);
        }
        CHECK_EQ(open_descriptors(), before);
    }
}

static void anything_may_be_freed_first(void) {
    for_each_containment(anything_may_be_freed_first_in);
}

/* Each child copies the lowest 64 descriptors, whatever it needs: what we keep open is not among them. */
static void what_is_kept_lies_out_of_the_way_of_children(void) {
    enum { CREW = 4, LOWEST_WORD = 64, MOST_IN_RESERVE = 14 };
    bool before[LOWEST_WORD];
    int more = 0;
    crew c;
    fp_mailbox *mailbox;

    for (int fd = 0; fd < LOWEST_WORD; fd++)
        before[fd] = fcntl(fd, F_GETFD) >= 0;
    crew_begin(&c, CREW);
    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    CHECK(fp_mailbox_fd(mailbox) >= LOWEST_WORD);
    for (int i = 0; i < CREW; i++) {
        fp_proc *proc = start(c.of[i], JOB("exit 0", .mailbox = mailbox));
        CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
        fp_proc_free(proc);
    }
    for (int fd = 0; fd < LOWEST_WORD; fd++)
        more += !before[fd] && fcntl(fd, F_GETFD) >= 0;
    CHECK(more > 0 && more <= MOST_IN_RESERVE);
    fp_mailbox_free(mailbox);
    crew_end(&c);
}

/* The handle outlives its supervisor, and is as good as before. */
static void a_handle_outlives_its_supervisor_in(void) {
    for (int kind = 0; kind < 4; kind++) {
        int before = open_descriptors();
        lifeline life;
        crew c;
        fp_exit exit;

        lifeline_begin(&life);
        crew_begin(&c, 1);
        fp_proc *proc =
            start(c.of[0], JOB("echo r; sleep .05; echo s; sleep 100", CAPTURED, .fds = &life.map, .n_fds = 1));
        await_output(proc, 2);
        crew_end(&c);
        await_output(proc, 4);
        CHECK_EQ(fp_proc_wait(proc, FP_STATE_EXITED, 10 * MS, &exit), -ETIMEDOUT);
        if (kind == 0) {
            CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, 0, 0), 0);
            exit = ended(proc);
            CHECK_EQ(exit.reason, FP_REASON_TERMINATED);
        } else if (kind == 1) {
            CHECK_EQ(fp_proc_signal(proc, SIGKILL, 1), 0);
            exit = ended(proc);
            CHECK_EQ(exit.reason, FP_REASON_SIGNALED);
        } else if (kind == 2) {
            CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0), 0);
            CHECK_EQ(fp_proc_wait_stopped(proc, LONG, NULL), 0);
            fp_proc_free(proc);
        } else {
            pid_t pid = fp_proc_pid(proc);
            CHECK_EQ(fp_proc_signal(proc, SIGKILL, 1), 0);
            fp_proc_free(proc);
            CHECK_EQ(waitpid(pid, NULL, 0), pid);
        }
        CHECK(lifeline_is_cut(&life, 1000));
        lifeline_end(&life);
        CHECK_EQ(open_descriptors(), before);
    }
}

static void a_handle_outlives_its_supervisor(void) {
    for_each_containment(a_handle_outlives_its_supervisor_in);
}

static void a_stopped_crew_fails_what_is_queued(void) {
    for (int n = 1; n <= 2; n++) {
        enum { JOBS = 5 };
        const fp_spec spec = STORED("exec sleep 100");
        const fp_spec *specs[JOBS] = {&spec, &spec, &spec, &spec, &spec};
        fp_proc *procs[JOBS];
        fp_failure failure = {0};
        crew c;

        crew_begin(&c, n);
        CHECK_EQ(fp_spawn_many(members(&c), (size_t)n, specs, JOBS, 1, procs), 0);
        CHECK_EQ(fp_procs_wait_started(procs, 1, LONG), 0);
        crew_end(&c);
        for (int i = 1; i < JOBS; i++) {
            CHECK_EQ(fp_proc_wait(procs[i], FP_STATE_DONE, LONG, NULL), -ECHILD);
            CHECK_EQ(fp_proc_failure(procs[i], &failure), 0);
            CHECK_EQ(failure.stage, FP_STAGE_SUPERVISOR);
            CHECK_EQ(failure.error, ESHUTDOWN);
            fp_proc_free(procs[i]);
        }
        CHECK_EQ(fp_proc_stop(procs[0], FP_REASON_CANCELLED, -1, 0), 0);
        CHECK_EQ(ended(procs[0]).signal, SIGKILL);

        /* Handed to one that has stopped already. */
        crew_begin(&c, n);
        for (int i = 0; i < n; i++)
            fp_supervisor_stop(c.of[i]);
        CHECK_EQ(fp_spawn_many(members(&c), (size_t)n, specs, JOBS, 0, procs), 0);
        CHECK_EQ(fp_procs_wait_started(procs, JOBS, LONG), 0);
        crew_end(&c);
        for (int i = 0; i < JOBS; i++) {
            CHECK_EQ(fp_proc_wait(procs[i], FP_STATE_DONE, LONG, NULL), -ECHILD);
            fp_proc_free(procs[i]);
        }
    }
}

static void many_places_are_made(void) {
    enum { MANY = 150 };
    fp_proc *procs[MANY];
    for (int i = 0; i < MANY; i++)
        procs[i] = start(us.of[0], SHELL("exec sleep 100", .containment = FP_CONTAIN_SESSION, .timeout_ns = LONG));
    CHECK_EQ(fp_supervisor_active(us.of[0]), MANY);
    CHECK_EQ(fp_procs_stop(procs, MANY, FP_REASON_TERMINATED, -1, 0), MANY);
    for (int i = 0; i < MANY; i++)
        ended(procs[i]);
    CHECK_EQ(fp_supervisor_active(us.of[0]), 0);
}

/* ---- the dead ------------------------------------------------------------------ */

static bool is_there(const char *name) {
    char path[320];
    snprintf(path, sizeof path, "%s/%s", fp_cgroup_dir(), name);
    return access(path, F_OK) == 0;
}

/* Directories of owners who are dead, one with a leaf in it; the first supervisor of the next owner clears them. */
static void what_the_dead_have_left_is_cleared(void) {
    char names[3][64];
    if (!fp_probe(FP_CAP_CGROUP))
        SKIP("no cgroup can be made here");
    /* Beyond the highest pid there can be, see proc(5). */
    int dead = 5000000 + getpid();
    snprintf(names[0], sizeof names[0], "fastproc-probe-%d", dead);
    snprintf(names[1], sizeof names[1], "fastproc-%d-1-0", dead);
    snprintf(names[2], sizeof names[2], "fastproc-%d-1-0/3", dead);
    for (int i = 0; i < 3; i++) {
        char path[320];
        snprintf(path, sizeof path, "%s/%s", fp_cgroup_dir(), names[i]);
        CHECK_EQ(mkdir(path, 0755), 0);
    }
    CHECK_EQ(ended(start(us.of[0], SHELL(":", .containment = FP_CONTAIN_CGROUP))).code, 0);
    for (int i = 0; i < 3; i++)
        CHECK(!is_there(names[i]));
}

/* ---- orphans ------------------------------------------------------------------- */

static void orphans_in(void) {
    fp_supervisor_options options = {.size = sizeof options, .adopt_orphans = 1};
    fp_mailbox *mailbox;
    fp_supervisor *supervisor;
    pthread_t thread;
    fp_news news = {0};

    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    options.orphan_mailbox = mailbox;
    CHECK_EQ(fp_supervisor_new(&options, &supervisor), 0);
    pthread_create(&thread, NULL, crew_thread, supervisor);
    pid_t foreign = fork();
    if (foreign == 0)
        _exit(9);
    fp_proc *proc = start(supervisor, JOB("(sleep .1; exit 3) & exit 0", .flags = FP_KEEP_LEFTOVERS));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, 5000 * MS), 1);
    CHECK_EQ(news.what, FP_NEWS_ORPHAN);
    CHECK_EQ(news.exit.code, 3);
    CHECK_EQ(news.exit.reason, FP_REASON_EXITED);
    fp_proc_free(proc);
    /* Of one whose news have a reader of their own, and who has said where he wants to hear of them, they go there. */
    fp_mailbox *others, *wanted;
    CHECK_EQ(fp_mailbox_new(&others), 0);
    CHECK_EQ(fp_mailbox_new(&wanted), 0);
    CHECK_EQ(fp_mailbox_tell_orphans(others, wanted), 0);
    CHECK_EQ(fp_mailbox_tell_orphans(others, others), 0);
    proc = start(supervisor, JOB("(sleep .1; exit 4) & exit 0", .flags = FP_KEEP_LEFTOVERS, .mailbox = others));
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, NULL), 0);
    fp_mailbox_free(others);
    CHECK_EQ(fp_mailbox_take(wanted, &news, 1, 5000 * MS), 1);
    CHECK_EQ(news.what, FP_NEWS_ORPHAN);
    CHECK_EQ(news.exit.code, 4);
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, 0), -ETIMEDOUT);
    fp_proc_free(proc);
    fp_mailbox_free(wanted);
    /* The host's own child is the host's. */
    int status = -1;
    CHECK_EQ(waitpid(foreign, &status, WNOHANG), foreign);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 9);
    fp_supervisor_stop(supervisor);
    pthread_join(thread, NULL);
    fp_supervisor_free(supervisor);
    fp_mailbox_free(mailbox);
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
    CHECK(has_no_child());
}

static void orphans_are_reaped_and_strangers_are_not(void) {
    if (!can_look())
        SKIP("orphans are found by /proc");
    for_each_containment(orphans_in);
}

/* A start is called out to one supervisor; if that stops before it looks, another has it. */
static void a_start_is_not_lost_with_who_was_called_for_it(void) {
    for (int i = 0; i < 40; i++) {
        crew c;
        fp_spec spec = STORED("exit 5");
        const fp_spec *list[1] = {&spec};
        fp_proc *proc;
        crew_begin(&c, 2);
        /* The second sleeps by now, mostly. */
        nap(MS);
        CHECK_EQ(fp_spawn_many(members(&c), 2, list, 1, 2, &proc), 0);
        CHECK_EQ(fp_supervisor_stop(c.of[0]), 0);
        CHECK_EQ(fp_proc_wait(proc, FP_STATE_RUNNING, LONG, NULL), 0);
        fp_proc_wait(proc, FP_STATE_EXITED, LONG, NULL);
        fp_proc_free(proc);
        crew_end(&c);
    }
}

/* ---- all of it ----------------------------------------------------------------- */

static void all_tests(void) {
    WATCHED(what_the_dead_have_left_is_cleared); /* the first that starts anything */
    WATCHED(what_is_kept_lies_out_of_the_way_of_children);
    WATCHED(anything_may_be_freed_first);
    WATCHED(a_handle_outlives_its_supervisor);
    WATCHED(a_stopped_crew_fails_what_is_queued);
    WATCHED(a_start_is_not_lost_with_who_was_called_for_it);
    WATCHED(many_places_are_made);
    WATCHED(orphans_are_reaped_and_strangers_are_not);
}

int main(void) {
    return with_our_crew(all_tests);
}
