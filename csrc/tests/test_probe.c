/*
 * test_probe.c: what is found out about the kernel fits together, and can be
 * hidden. Also the words of names.c.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "internal.h"
#include "sys.h"

static volatile sig_atomic_t sigchlds;

static void count_sigchld(int sig) {
    (void)sig;
    sigchlds++;
}

/* All capabilities as one number, found in a fresh process that starts with FASTPROC_DISABLE=`disable`. */
static unsigned probed_with(const char *disable) {
    int ends[2];
    unsigned word = 0;

    CHECK_EQ(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("FASTPROC_DISABLE", disable, 1);
        signal(SIGCHLD, count_sigchld);
        for (int capability = 0; capability < FP_CAP_COUNT; capability++)
            word |= (unsigned)fp_probe(capability) << capability;
        /* The host has heard of no child, and none is left. */
        int quiet = sigchlds == 0 && waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD;
        if (!quiet || write(ends[1], &word, sizeof word) != sizeof word)
            _exit(1);
        _exit(0);
    }
    close(ends[1]);
    CHECK_EQ(read(ends[0], &word, sizeof word), sizeof word);
    close(ends[0]);
    int status = -1;
    waitpid(pid, &status, 0);
    CHECK_EQ(status, 0);
    return word;
}

static bool has(unsigned word, int capability) {
    return word >> capability & 1;
}

static void probing_is_not_noticed_by_the_host(void) {
    unsigned word = probed_with("");
    CHECK(has(word, FP_CAP_PROCFS));
}

static void each_capability_can_be_hidden(void) {
    unsigned all = probed_with("");

    for (int capability = 0; capability < FP_CAP_COUNT; capability++) {
        unsigned word = probed_with(fp_capability_name(capability));
        CHECK(!has(word, capability));
        /* Nothing else appears, and what stands alone stays. */
        CHECK_EQ(word & ~all, 0);
        if (capability != FP_CAP_CLONE)
            CHECK_EQ(has(word, FP_CAP_CLONE), has(all, FP_CAP_CLONE));
        if (capability != FP_CAP_CLOSE_RANGE)
            CHECK_EQ(has(word, FP_CAP_CLOSE_RANGE), has(all, FP_CAP_CLOSE_RANGE));
    }
}

static void what_needs_another_goes_with_it(void) {
    unsigned word = probed_with("pidfd,cgroup");

    CHECK(!has(word, FP_CAP_PIDFD_SIGNAL));
    CHECK(!has(word, FP_CAP_PIDFD_WAIT));
    CHECK(!has(word, FP_CAP_PIDFD_GROUP));
    CHECK(!has(word, FP_CAP_PIDFD_INFO));
    CHECK(!has(word, FP_CAP_CGROUP_KILL));
    CHECK(!has(probed_with("pidfd_signal"), FP_CAP_PIDFD_GROUP));
    CHECK(!has(probed_with("clone3"), FP_CAP_INTO_CGROUP));
}

static void all_hides_all_but_procfs(void) {
    CHECK_EQ(probed_with("all"), probed_with("") & 1u << FP_CAP_PROCFS);
    CHECK_EQ(probed_with("all,procfs"), 0);
}

static void an_unknown_capability_is_an_error(void) {
    CHECK_EQ(fp_probe(-1), -EINVAL);
    CHECK_EQ(fp_probe(FP_CAP_COUNT), -EINVAL);
    CHECK_TEXT(fp_capability_name(FP_CAP_COUNT), "unknown");
    CHECK_TEXT(fp_capability_name(FP_CAP_INTO_CGROUP), "into_cgroup");
}

static void the_descriptor_table_is_as_before(void) {
    int before = dup(0);
    close(before);
    for (int capability = 0; capability < FP_CAP_COUNT; capability++)
        fp_probe(capability);
    int after = dup(0);
    close(after);
    CHECK_EQ(after, before);
}

static void there_is_a_word_for_everything(void) {
    for (int stage = -1; stage <= FP_STAGE_COUNT; stage++)
        CHECK(*fp_stage_name(stage));
    for (int reason = -1; reason <= FP_REASON_COUNT; reason++)
        CHECK(*fp_reason_name(reason));
    for (int sig = -1; sig <= 65; sig++)
        CHECK(*fp_signal_name(sig));
    for (int stage = 0; stage < FP_STAGE_COUNT; stage++)
        CHECK(strcmp(fp_stage_name(stage), "unknown") != 0);
    CHECK_TEXT(fp_stage_name(FP_STAGE_PRE_EXEC), "pre-exec");
    CHECK_TEXT(fp_signal_name(SIGTERM), "SIGTERM");
    CHECK_TEXT(fp_signal_name(34), "SIGRTMIN");
    CHECK_TEXT(fp_signal_name(64), "SIGRTMAX");
    CHECK_TEXT(fp_strerror(ENOENT), fp_strerror(-ENOENT));
#ifdef __GLIBC__
    CHECK_TEXT(fp_strerror(99999), "unknown error");
#else
    CHECK(*fp_strerror(99999)); /* in the words of that library */
#endif
    CHECK(*fp_strerror(0));
    CHECK_TEXT(fp_version(), "0.1.0");
}

int main(void) {
    RUN(probing_is_not_noticed_by_the_host);
    RUN(each_capability_can_be_hidden);
    RUN(what_needs_another_goes_with_it);
    RUN(all_hides_all_but_procfs);
    RUN(an_unknown_capability_is_an_error);
    RUN(the_descriptor_table_is_as_before);
    RUN(there_is_a_word_for_everything);
    return check_result();
}
