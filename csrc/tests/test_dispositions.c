/*
 * test_dispositions.c: which signals this process ignores, as the kernel tells
 * it in a line of text and as it is in fact.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "check.h"
#include "internal.h"
#include "sys.h"

#define BIT(sig) (UINT64_C(1) << ((sig) - 1))
#define REST " 1 2 2 0 -1 4194304 9 0 0 0 1 2 0 0 20 0 1 0 99 1234567 88 18446744073709551615 1 1 0 0 0 0 "

static void the_line_is_read_whatever_the_name_is(void) {
    uint64_t ignored = 0;

    CHECK(fp_dispositions_parse("17 (cat) R" REST "0 16781312 0 0 0 17\n", 17, &ignored));
    CHECK_EQ(ignored, BIT(SIGPIPE) | BIT(SIGXFSZ));
    CHECK(fp_dispositions_parse("17 (a) R 5 ) (b) S" REST "0 1 0 0 0 17\n", 17, &ignored));
    CHECK_EQ(ignored, BIT(SIGHUP));
}

static void another_text_is_not_believed(void) {
    uint64_t ignored = 42;

    CHECK(!fp_dispositions_parse("", 17, &ignored));
    CHECK(!fp_dispositions_parse("17", 17, &ignored));
    CHECK(!fp_dispositions_parse("17 (cat) R 1 2 3\n", 17, &ignored));
    CHECK(!fp_dispositions_parse("18 (cat) R" REST "0 4096 0 0 0 17\n", 17, &ignored));
    CHECK(!fp_dispositions_parse("17 (cat) R" REST "0 99999999999 0 0 0 17\n", 17, &ignored));
    CHECK(!fp_dispositions_parse("17 (cat) R" REST "0 x 0 0 0 17\n", 17, &ignored));
    CHECK_EQ(ignored, 42);
}

/* Each of them by itself, asked right after it has changed. */
static void what_has_just_been_ignored_is_known(void) {
    int fd = fp_dispositions_open();

    if (fd < 0)
        SKIP("needs /proc");
    prctl(PR_SET_NAME, "a) R 1 (b");
    for (int sig = 1; sig < 32; sig++) {
        if (sig == SIGKILL || sig == SIGSTOP)
            continue;
        void (*before)(int) = signal(sig, SIG_IGN);
        CHECK_EQ(fp_dispositions_ignored(fd) & BIT(sig), BIT(sig));
        signal(sig, SIG_DFL);
        CHECK_EQ(fp_dispositions_ignored(fd) & BIT(sig), 0);
        signal(sig, before);
    }
    close(fd);
}

/* Whoever ignores a signal and asks for starts then must find it known; who has asked before need not. */
static void what_was_ignored_before_a_start_was_asked_for_is_known(void) {
    int fd = fp_dispositions_open();
    fp_ignored last = {0};

    if (fd < 0)
        SKIP("needs /proc");
    void (*before)(int) = signal(SIGUSR1, SIG_DFL);
    CHECK_EQ(fp_dispositions_ignored_since(&last, fd, fp_now_ns()) & BIT(SIGUSR1), 0);
    signal(SIGUSR1, SIG_IGN);
    CHECK_EQ(fp_dispositions_ignored_since(&last, fd, fp_now_ns()) & BIT(SIGUSR1), BIT(SIGUSR1));
    /* Asked for long ago, and seen just now; then seen long ago. */
    signal(SIGUSR1, SIG_DFL);
    last.looked_ns = fp_now_ns() + FP_NS_PER_S;
    CHECK_EQ(fp_dispositions_ignored_since(&last, fd, 0) & BIT(SIGUSR1), BIT(SIGUSR1));
    last.looked_ns = fp_now_ns() - FP_NS_PER_S;
    CHECK_EQ(fp_dispositions_ignored_since(&last, fd, 0) & BIT(SIGUSR1), 0);
    signal(SIGUSR1, before);
    close(fd);
}

/* What cannot be known may be ignored. */
static void without_the_file_all_are_suspected(void) {
    const uint64_t all = BIT(32) - 1;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    CHECK_EQ(fp_dispositions_ignored(-1) & all, all);
    CHECK_EQ(fp_dispositions_ignored(fd) & all, all);
    close(fd);
    CHECK_EQ(fp_dispositions_ignored(fd) & all, all);
}

int main(void) {
    RUN(the_line_is_read_whatever_the_name_is);
    RUN(another_text_is_not_believed);
    RUN(what_was_ignored_before_a_start_was_asked_for_is_known);
    RUN(what_has_just_been_ignored_is_known);
    RUN(without_the_file_all_are_suspected);
    return check_result();
}
