/*
 * test_nursery.c: births beside which the loop does not stand. What becomes of
 * them is what would have become of them otherwise, and while one of them hangs
 * its supervisor goes on.
 */
#include <sys/stat.h>

#include "frozen.h"

#define IN_LEAF(script, ...) SHELL(script, .containment = FP_CONTAIN_CGROUP, __VA_ARGS__)

static crew us; /* of one */

/* ---- births ------------------------------------------------------------------------- */

static fp_proc *queue(const fp_spec *spec) {
    fp_proc *proc = NULL;
    CHECK_EQ(fp_spawn_many(members(&us), (size_t)us.n, &spec, 1, 0, &proc), 0);
    return proc;
}

static bool can_be_left_alone(void) {
    return fp_probe(FP_CAP_CLONE3) && fp_probe(FP_CAP_PIDFD);
}

/* From now on whoever is to be born into an idle leaf hangs. False: that cannot be had here. */
static bool freeze(void) {
    if (!fp_probe(FP_CAP_CGROUP) || !fp_probe(FP_CAP_INTO_CGROUP) || !can_be_left_alone())
        return false;
    /* There is one at least. */
    CHECK_EQ(ended(start(us.of[0], IN_LEAF("exit 3"))).code, 3);
    CHECK(freeze_all(&us, "1") > 0);
    return true;
}

/* One whose birth hangs. False: that cannot be had here. */
static bool hang(const fp_spec *spec, fp_proc **ret_proc) {
    if (!freeze())
        return false;
    *ret_proc = queue(spec);
    return true;
}

/* Wait until nothing is left of one that was stopped, and give it back. False: it was withdrawn before its turn. */
static bool is_over(fp_proc *proc, fp_exit *ret_exit) {
    fp_failure failure = {0};
    int r = fp_proc_wait(proc, FP_STATE_DONE, LONG, ret_exit);
    CHECK(r == 0 || (fp_proc_failure(proc, &failure) == 0 && failure.error == ECANCELED));
    fp_proc_free(proc);
    return r == 0;
}

/* ---- what becomes of them --------------------------------------------------------------- */

static void one_that_nobody_waits_for_runs_before_long(void) {
    fp_proc *proc = queue(SHELL("exec sleep 100", .flags = FP_PATIENT_START));
    /* Not as late as the loop looks by itself, which is after 5 s. */
    CHECK_EQ(fp_procs_wait_started(&proc, 1, 2000 * MS), 0);
    CHECK(fp_proc_pid(proc) > 0);
    CHECK_EQ(kill(fp_proc_pid(proc), 0), 0);
    CHECK_EQ(fp_proc_stop(proc, FP_REASON_TERMINATED, -1, 0), 0);
    CHECK_EQ(ended(proc).reason, FP_REASON_TERMINATED);
}

static void those_that_fail_say_why(void) {
    static const uint32_t flags[] = {0, FP_PATIENT_START, FP_QUIET_START};
    for (int i = 0; i < 3; i++) {
        const fp_spec spec = {
            .size = sizeof spec, .argv = (const char *const[]){"/nowhere/nothing", NULL}, .flags = flags[i]};
        fp_failure failure = {0};
        fp_proc *proc = queue(&spec);
        CHECK_EQ(fp_procs_wait_started(&proc, 1, LONG), 0);
        CHECK_EQ(fp_proc_failure(proc, &failure), 0);
        CHECK_EQ(failure.error, ENOENT);
        CHECK_EQ(failure.stage, FP_STAGE_EXEC);
        fp_proc_free(proc);
    }
    CHECK(has_no_child());
}

static void *let_go(void *fd) {
    nap(15 * MS);
    close(*(int *)fd);
    return NULL;
}

/* The first attempt finds the program open for writing, and somebody lets go of it meanwhile. */
static void a_busy_program_is_tried_again(void) {
    char path[] = "/tmp/fastproc-busy-XXXXXX", text[4096];
    int to = mkstemp(path), from = open("/bin/true", O_RDONLY | O_CLOEXEC);
    pthread_t thread;

    CHECK(to >= 0 && from >= 0);
    fchmod(to, 0700);
    fcntl(to, F_SETFD, FD_CLOEXEC);
    for (ssize_t n; (n = read(from, text, sizeof text)) > 0;)
        CHECK_EQ(write(to, text, (size_t)n), n);
    close(from);
    const fp_spec spec = {.size = sizeof spec, .argv = (const char *const[]){path, NULL}};
    pthread_create(&thread, NULL, let_go, &to);
    fp_proc *proc = queue(&spec);
    fp_exit exit = {0};
    CHECK_EQ(fp_proc_wait(proc, FP_STATE_DONE, LONG, &exit), 0);
    CHECK_EQ(exit.code, 0);
    fp_proc_free(proc);
    pthread_join(thread, NULL);

    /* One that nobody lets go of fails in the end. */
    to = open(path, O_WRONLY | O_CLOEXEC);
    proc = queue(&spec);
    fp_failure failure = {0};
    CHECK_EQ(fp_procs_wait_started(&proc, 1, LONG), 0);
    CHECK_EQ(fp_proc_failure(proc, &failure), 0);
    CHECK_EQ(failure.error, ETXTBSY);
    CHECK_EQ(failure.stage, FP_STAGE_EXEC);
    fp_proc_free(proc);
    close(to);
    unlink(path);
    CHECK(has_no_child());
}

/* Short and long ones, failing ones, with pipes and without, awaited or not, a few at a time. */
static void many_of_all_kinds_end_as_they_should(void) {
    enum { MANY = 240, KINDS = 6 };
    static fp_spec specs[MANY];
    static const fp_spec *list[MANY];
    static fp_proc *procs[MANY];
    fp_mailbox *mailbox;

    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    for (int i = 0; i < MANY; i++) {
        switch (i % KINDS) {
        case 0:
            specs[i] = STORED("exit 3");
            break;
        case 1:
            specs[i] = STORED("exec sleep .02");
            break;
        case 2:
            specs[i] = (fp_spec){.size = sizeof specs[i], .args = "/nowhere/nothing", .args_bytes = 17};
            break;
        case 3:
            specs[i] = STORED("echo said", .stdio[1].kind = FP_STDIO_PIPE);
            break;
        case 4:
            specs[i] = STORED("kill -KILL $$");
            break;
        default:
            specs[i] = STORED("exec sleep 100", .timeout_ns = 10 * MS, .grace_ns = -1);
            break;
        }
        specs[i].flags |= (const uint32_t[]){0, FP_PATIENT_START, FP_QUIET_START}[i / KINDS % 3];
        specs[i].mailbox = mailbox;
    }
    list_specs(specs, list, MANY);
    CHECK_EQ(fp_spawn_many(members(&us), (size_t)us.n, list, MANY, 3, procs), 0);
    for (int i = 0; i < MANY; i++) {
        fp_exit exit = {0};
        fp_failure failure = {0};
        int r = fp_proc_wait(procs[i], FP_STATE_DONE, LONG, &exit);
        if (i % KINDS == 2) {
            CHECK_EQ(fp_proc_failure(procs[i], &failure), 0);
            CHECK_EQ(failure.error, ENOENT);
        } else {
            static const int codes[KINDS] = {3, 0, -1, 0, -1, -1};
            static const int signals[KINDS] = {0, 0, 0, 0, SIGKILL, SIGKILL};
            CHECK_EQ(r, 0);
            CHECK_EQ(exit.code, codes[i % KINDS]);
            CHECK_EQ(exit.signal, signals[i % KINDS]);
            CHECK_EQ(exit.reason == FP_REASON_TIMEOUT, i % KINDS == 5);
        }
        fp_proc_free(procs[i]);
    }
    fp_mailbox_free(mailbox);
    CHECK(has_no_child());
}

/* ---- births that hang ---------------------------------------------------------------------- */

/* A deadline is kept by a supervisor one of whose births hangs. */
static void while_a_birth_hangs_its_supervisor_goes_on(void) {
    enum { ATTEMPTS = 5 };
    bool seen = false;

    for (int i = 0; i < ATTEMPTS && !seen; i++) {
        fp_proc *hung;
        fp_exit exit = {0};
        if (!hang(IN_LEAF("exit 4"), &hung))
            SKIP("no birth can be made to hang, or to be left alone");
        fp_proc *other = start(us.of[0], SHELL("exec sleep 100", .containment = FP_CONTAIN_SESSION,
                                               .timeout_ns = 30 * MS, .grace_ns = -1));
        CHECK_EQ(fp_proc_wait(other, FP_STATE_EXITED, LONG, &exit), 0);
        /* Unless we were so late that it has come to its end meanwhile. */
        seen = fp_proc_state(hung) == FP_STATE_QUEUED;
        CHECK_EQ(exit.reason, FP_REASON_TIMEOUT);
        ended(other);
        CHECK_EQ(ended(hung).code, 4);
    }
    CHECK(seen);
}

/* So are the streams of others. */
static void while_a_birth_hangs_output_is_read(void) {
    enum { ATTEMPTS = 5 };
    bool seen = false;

    for (int i = 0; i < ATTEMPTS && !seen; i++) {
        fp_proc *hung;
        if (!hang(IN_LEAF("exit 4"), &hung))
            SKIP("no birth can be made to hang, or to be left alone");
        fp_proc *other = start(us.of[0], SHELL("head -c 1000000 /dev/zero", .containment = FP_CONTAIN_SESSION,
                                               .stdio[1].kind = FP_STDIO_PIPE));
        fp_output output = {0};
        for (int64_t begin = now_ns(); output.total_bytes < 1000000 && now_ns() - begin < LONG; nap(MS))
            CHECK_EQ(fp_proc_output(other, 1, &output), 0);
        seen = fp_proc_state(hung) == FP_STATE_QUEUED;
        ended(other);
        CHECK_EQ(ended(hung).code, 4);
    }
    CHECK(seen);
}

/* Before the loop stands beside a birth that needs it, it lets those go that need it no more. */
static void who_has_been_born_runs_while_another_is_stood_beside(void) {
    enum { ATTEMPTS = 5 };
    bool seen = false;

    if (geteuid() != 0)
        SKIP("only root may change ids");
    for (int i = 0; i < ATTEMPTS && !seen; i++) {
        fp_proc *both[2];
        if (!freeze())
            SKIP("no birth can be made to hang, or to be left alone");
        const fp_spec *specs[] = {
            SHELL("exec sleep 100", .containment = FP_CONTAIN_SESSION),
            IN_LEAF("exit 4", .flags = FP_SET_UID | FP_SET_GID, .uid = 65534, .gid = 65534),
        };
        CHECK_EQ(fp_spawn_many(members(&us), 1, specs, 2, 0, both), 0);
        CHECK_EQ(fp_procs_wait_started(both, 1, LONG), 0);
        seen = fp_proc_state(both[1]) == FP_STATE_QUEUED;
        CHECK_EQ(fp_proc_signal(both[0], SIGKILL, false), 0);
        CHECK_EQ(ended(both[0]).signal, SIGKILL);
        CHECK_EQ(ended(both[1]).code, 4);
    }
    CHECK(seen);
}

/* It has ended by itself, and the loop, which stands beside another, has not seen it yet. */
static void who_has_ended_before_it_could_be_stopped_keeps_its_own_end(void) {
    for (int i = 0; i < 4; i++) {
        fp_proc *both[2];
        fp_exit exit = {0};
        if (!freeze())
            SKIP("no birth can be made to hang, or to be left alone");
        const fp_spec *specs[] = {
            SHELL("exit 7", .containment = FP_CONTAIN_SESSION, .flags = FP_PATIENT_START),
            IN_LEAF("exit 4"),
        };
        CHECK_EQ(fp_spawn_many(members(&us), 1, specs, 2, 0, both), 0);
        nap(3 * MS + i * MS / 2);
        fp_proc_stop(both[0], FP_REASON_CANCELLED, -1, 0);
        if (is_over(both[0], &exit))
            CHECK(exit.signal == SIGKILL || (exit.code == 7 && exit.reason == FP_REASON_EXITED));
        CHECK_EQ(ended(both[1]).code, 4);
    }
}

/* The leader may have ended by himself by the time that the stop is carried out: what he has left is meant as well. */
static void who_is_stopped_while_he_is_born_takes_his_own_along(void) {
    for (int containment = FP_CONTAIN_SESSION; containment <= FP_CONTAIN_CGROUP; containment++) {
        if (containment == FP_CONTAIN_CGROUP && !fp_probe(FP_CAP_CGROUP))
            continue;
        for (int i = 0; i < 24; i++) {
            fp_proc *proc = queue(
                SHELL("sleep 100 & exit 0", .flags = FP_PATIENT_START | FP_KEEP_LEFTOVERS, .containment = containment));
            fp_exit exit = {0};
            nap(MS / 2 + i * MS / 10);
            CHECK_EQ(fp_proc_stop(proc, FP_REASON_CANCELLED, -1, 0), 0);
            is_over(proc, &exit);
        }
    }
}

/* Nobody but himself, if he is in a cgroup of his own already. */
static void who_is_not_born_yet_has_no_survivors(void) {
    fp_proc *hung;
    fp_stop_report report;
    if (!hang(IN_LEAF("exit 4"), &hung))
        SKIP("no birth can be made to hang, or to be left alone");
    for (int i = 0; i < 20; i++, nap(MS)) {
        CHECK_EQ(fp_proc_report(hung, &report), 0);
        CHECK(report.n_survivors <= 1);
    }
    CHECK_EQ(ended(hung).code, 4);
}

/* Not some milliseconds later, where somebody waits; and the end of a short one at any rate. */
static void nobody_is_kept_waiting(void) {
    /* Who is looked at now and then only is kept waiting for 5 ms each time. The machine may be busy with others: one good
     * round is enough. */
    enum { ATTEMPTS = 50, EACH = 5, BOUND = EACH * 4 };
    int64_t start_ns = LONG, end_ns = LONG;

    for (int i = 0; i < ATTEMPTS && (start_ns >= BOUND * MS || end_ns >= BOUND * MS); i++) {
        fp_proc *procs[EACH];
        int64_t begun = now_ns();
        for (int j = 0; j < EACH; j++) {
            procs[j] = queue(SHELL("exec sleep 100"));
            CHECK_EQ(fp_procs_wait_started(&procs[j], 1, LONG), 0);
        }
        int64_t took = now_ns() - begun;
        start_ns = took < start_ns ? took : start_ns;
        for (int j = 0; j < EACH; j++) {
            fp_proc_stop(procs[j], FP_REASON_TERMINATED, -1, 0);
            ended(procs[j]);
        }
        begun = now_ns();
        for (int j = 0; j < EACH; j++)
            CHECK_EQ(ended(queue(SHELL("exit 3", .flags = FP_PATIENT_START))).code, 3);
        took = now_ns() - begun;
        end_ns = took < end_ns ? took : end_ns;
    }
    CHECK(start_ns < BOUND * MS);
    CHECK(end_ns < BOUND * MS);
}

static void who_is_stopped_before_it_is_born_is_stopped_then(void) {
    fp_proc *hung;
    if (!hang(IN_LEAF("exec sleep 100"), &hung))
        SKIP("no birth can be made to hang, or to be left alone");
    nap(30 * MS);
    CHECK_EQ(fp_proc_stop(hung, FP_REASON_CANCELLED, -1, 0), 0);
    fp_exit exit = ended(hung);
    CHECK_EQ(exit.reason, FP_REASON_CANCELLED);
    CHECK_EQ(exit.signal, SIGKILL);
}

/* A copy of the host keeps no end of the pipes of one that is being born. */
static void a_forked_copy_keeps_no_pipe_of_one_that_is_being_born(void) {
    fp_proc *hung;
    int status = -1;
    if (!hang(IN_LEAF("echo said", .stdio[1].kind = FP_STDIO_PIPE), &hung))
        SKIP("no birth can be made to hang, or to be left alone");
    nap(30 * MS);
    pid_t copy = fork();
    if (copy == 0) {
        alarm(30);
        pause();
        _exit(0);
    }
    fp_exit exit = {0};
    fp_output output = {0};
    CHECK_EQ(fp_proc_wait(hung, FP_STATE_DONE, LONG, &exit), 0);
    CHECK_EQ(exit.code, 0);
    CHECK_EQ(fp_proc_output(hung, 1, &output), 0);
    CHECK(output.complete);
    CHECK_EQ(output.total_bytes, 5);
    fp_proc_free(hung);
    kill(copy, SIGKILL);
    CHECK_EQ(waitpid(copy, &status, 0), copy);
}

int main(void) {
    for (int i = 0; i < FP_CAP_COUNT; i++)
        fp_probe(i);
    int before = open_descriptors();
    crew_begin(&us, 1);
    WATCHED(one_that_nobody_waits_for_runs_before_long);
    WATCHED(those_that_fail_say_why);
    WATCHED(a_busy_program_is_tried_again);
    WATCHED(many_of_all_kinds_end_as_they_should);
    WATCHED(nobody_is_kept_waiting);
    WATCHED(while_a_birth_hangs_its_supervisor_goes_on);
    WATCHED(while_a_birth_hangs_output_is_read);
    WATCHED(who_has_been_born_runs_while_another_is_stood_beside);
    WATCHED(who_has_ended_before_it_could_be_stopped_keeps_its_own_end);
    WATCHED(who_is_stopped_while_he_is_born_takes_his_own_along);
    WATCHED(who_is_not_born_yet_has_no_survivors);
    WATCHED(who_is_stopped_before_it_is_born_is_stopped_then);
    WATCHED(a_forked_copy_keeps_no_pipe_of_one_that_is_being_born);
    crew_end(&us);
    CHECK(has_no_child());
    CHECK_EQ(open_descriptors(), before);
    return check_result();
}
