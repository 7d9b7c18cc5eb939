/*
 * test_census.c: reading /proc. The parser with hostile names and broken
 * text, then the real thing.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "internal.h"

#define REST " 0 -1 4194560 120 0 0 0 3 1 0 0 20 0 1 0 987654 1000 200 18446744073709551615"

static int parse(const char *text, fp_person *ret_person) {
    memset(ret_person, 0xaa, sizeof *ret_person);
    return fp_person_parse(text, strlen(text), ret_person);
}

static void a_plain_line_is_read(void) {
    fp_person person;
    CHECK_EQ(parse("1234 (sh) S 1 1233 1200" REST "\n", &person), 0);
    CHECK_EQ(person.pid, 1234);
    CHECK_EQ(person.state, 'S');
    CHECK_EQ(person.parent, 1);
    CHECK_EQ(person.group, 1233);
    CHECK_EQ(person.session, 1200);
    CHECK_EQ(person.start, 987654);
}

static void a_name_cannot_lie(void) {
    static const char *const names[] = {
        ") Z 1 (",    "))))",        "(",
        "",           " ",           "a b) Z 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 (x",
        "(sh) R 1 1", "\n) Z 1 1 1", "7) Z 1 1 1 ",
        "%s%n%d",     "\xff\xfe",    ") X",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[512];
        fp_person person;
        snprintf(text, sizeof text, "77 (%s) R 5 6 7" REST "\n", names[i]);
        CHECK_EQ(parse(text, &person), 0);
        CHECK_EQ(person.pid, 77);
        CHECK_EQ(person.state, 'R');
        CHECK_EQ(person.parent, 5);
        CHECK_EQ(person.group, 6);
        CHECK_EQ(person.session, 7);
        CHECK_EQ(person.start, 987654);
    }
}

static void a_group_outside_of_our_namespace_is_0_or_less(void) {
    fp_person person;
    CHECK_EQ(parse("9 (k) S 0 0 0" REST, &person), 0);
    CHECK_EQ(person.group, 0);
    /* Field 8, of a process without a terminal, is -1: it must not throw the count out. */
    CHECK_EQ(parse("9 (k) S 2 0 0 0 -1 0 0 0 0 0 0 0 0 0 0 0 0 0 4242 0", &person), 0);
    CHECK_EQ(person.start, 4242);
}

static void what_is_cut_off_is_refused(void) {
    const char *whole = "1234 (a b) S 1 1233 1200 0 -1 4194560 120 0 0 0 3 1 0 0 20 0 1 0 987654 1000";
    const char *start = strstr(whole, "987654");
    size_t length = strlen(whole);

    for (size_t n = 0; n <= length; n++) {
        /* Exactly this many bytes, so that a sanitizer sees a step beyond. */
        char *text = malloc(n + 1);
        fp_person person;
        memcpy(text, whole, n);
        char *exact = realloc(text, n ? n : 1);
        int r = fp_person_parse(exact, n, &person);
        CHECK_EQ(r, n > (size_t)(start - whole) ? 0 : -EINVAL);
        free(exact);
    }
}

static void rubbish_is_refused_and_does_no_harm(void) {
    static const char alphabet[] = "0123456789 ()-ZSRn\n\0)";
    fp_person person;
    uint32_t seed = 1;

    CHECK_EQ(parse("", &person), -EINVAL);
    CHECK_EQ(parse("abc", &person), -EINVAL);
    CHECK_EQ(parse("1 (x)", &person), -EINVAL);
    CHECK_EQ(parse("1 (x) ", &person), -EINVAL);
    CHECK_EQ(parse("0 (x) S 1 1 1" REST, &person), -EINVAL);
    CHECK_EQ(parse(")", &person), -EINVAL);
    for (int i = 0; i < 20000; i++) {
        seed = seed * 1664525 + 1013904223;
        size_t n = seed >> 26;
        char *text = malloc(n ? n : 1);
        for (size_t j = 0; j < n; j++) {
            seed = seed * 1664525 + 1013904223;
            text[j] = alphabet[(seed >> 16) % (sizeof alphabet - 1)];
        }
        int r = fp_person_parse(text, n, &person);
        CHECK(r == 0 || r == -EINVAL);
        free(text);
    }
}

static void we_find_ourselves(void) {
    fp_person person;
    if (fp_person_read(getpid(), &person) < 0)
        SKIP("no /proc");
    CHECK_EQ(person.pid, getpid());
    CHECK_EQ(person.parent, getppid());
    CHECK_EQ(person.group, getpgrp());
    CHECK_EQ(person.session, getsid(0));
    CHECK_EQ(person.state, 'R');
    CHECK(person.start > 0);
}

static void our_hostile_name_does_not_hide_us(void) {
    fp_person person;
    char name[16];
    prctl(PR_GET_NAME, name);
    prctl(PR_SET_NAME, ") Z 1 (");
    CHECK_EQ(fp_person_read(getpid(), &person), 0);
    CHECK_EQ(person.state, 'R');
    CHECK_EQ(person.parent, getppid());
    prctl(PR_SET_NAME, name);
}

/* A child that waits for its end, or is over already. */
static pid_t child_that(bool lives) {
    pid_t pid = fork();
    if (pid == 0) {
        if (lives)
            pause();
        _exit(0);
    }
    siginfo_t info;
    if (!lives)
        waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
    return pid;
}

static void a_zombie_is_told_from_the_living_and_the_gone(void) {
    fp_person person;
    pid_t dead = child_that(false);
    CHECK_EQ(fp_person_read(dead, &person), 0);
    CHECK_EQ(person.state, 'Z');
    waitpid(dead, NULL, 0);
    CHECK_EQ(fp_person_read(dead, &person), -ESRCH);
    CHECK_EQ(fp_person_read(0, &person), -ESRCH);
}

static bool is_among(pid_t pid, const pid_t *pids, int n) {
    for (int i = 0; i < n; i++)
        if (pids[i] == pid)
            return true;
    return false;
}

static void children_are_listed(void) {
    enum { MANY = 20 };
    pid_t pids[MANY], found[64], few[5];

    for (int i = 0; i < MANY; i++)
        pids[i] = child_that(true);
    int n = fp_children_read(getpid(), found, 64);
    CHECK_EQ(n, MANY);
    for (int i = 0; i < MANY; i++)
        CHECK(is_among(pids[i], found, n));
    CHECK_EQ(fp_children_read(getpid(), few, 5), 5);
    CHECK_EQ(fp_children_read(pids[0], found, 64), 0);
    for (int i = 0; i < MANY; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    CHECK_EQ(fp_children_read(pids[0], found, 64), -ESRCH);
}

static void a_census_in_slices_finds_all(void) {
    enum { MANY = 30 };
    pid_t pids[MANY];
    fp_census census;
    int r, steps = 0;

    for (int i = 0; i < MANY; i++)
        pids[i] = child_that(i % 3 != 0);
    fp_census_init(&census);
    CHECK(!fp_census_find(&census, getpid()));
    do
        r = fp_census_step(&census, 7);
    while (r == 0 && ++steps < 100000);
    CHECK_EQ(r, 1);
    CHECK(census.counted_ns > 0);
    CHECK_EQ(census.dir_fd, -1);
    for (uint32_t i = 1; i < census.count; i++)
        CHECK(census.people[i - 1].pid < census.people[i].pid);
    for (int i = 0; i < MANY; i++) {
        const fp_person *person = fp_census_find(&census, pids[i]);
        CHECK(person && person->parent == getpid() && (person->state == 'Z') == (i % 3 == 0));
    }
    CHECK(fp_census_find(&census, getpid()));
    CHECK(!fp_census_find(&census, 0x7fffffff));
    for (int i = 0; i < MANY; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    /* The next one replaces the last. */
    int64_t before = census.counted_ns;
    while ((r = fp_census_step(&census, 1000)) == 0)
        ;
    CHECK_EQ(r, 1);
    CHECK(census.counted_ns > before);
    CHECK(!fp_census_find(&census, pids[1]));
    fp_census_done(&census);
    fp_census_done(&census);
}

static void a_census_may_be_given_up_half_way(void) {
    fp_census census;
    fp_census_init(&census);
    CHECK_EQ(fp_census_step(&census, 1), 0);
    CHECK(census.dir_fd >= 0);
    fp_census_done(&census);
    CHECK_EQ(census.dir_fd, -1);
}

/* Who is not found because a file could not be opened is not gone. */
static void without_descriptors_there_is_no_census(void) {
    struct rlimit limit, none;
    fp_census census;
    fp_person person;
    pid_t pids[4];

    fp_census_init(&census);
    getrlimit(RLIMIT_NOFILE, &limit);
    none = (struct rlimit){.rlim_cur = 3, .rlim_max = limit.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    int whole = fp_census_step(&census, 1000);
    int one = fp_person_read(getpid(), &person);
    int children = fp_children_read(getpid(), pids, 4);
    setrlimit(RLIMIT_NOFILE, &limit);
    CHECK_EQ(whole, -EMFILE);
    CHECK_EQ(one, -EMFILE);
    CHECK_EQ(children, -EMFILE);
    CHECK_EQ(census.counted_ns, 0);

    /* Room for the directory, but for nothing in it: half a census is none. */
    CHECK_EQ(fp_census_step(&census, 1), 0);
    int next = dup(0);
    close(next);
    none.rlim_cur = (rlim_t)next;
    setrlimit(RLIMIT_NOFILE, &none);
    while ((whole = fp_census_step(&census, 1000)) == 0)
        ;
    setrlimit(RLIMIT_NOFILE, &limit);
    CHECK_EQ(whole, -EMFILE);
    CHECK_EQ(census.counted_ns, 0);
    CHECK_EQ(census.count, 0);
    while ((whole = fp_census_step(&census, 1000)) == 0)
        ;
    CHECK_EQ(whole, 1);
    CHECK(fp_census_find(&census, getpid()));
    fp_census_done(&census);
}

int main(void) {
    RUN(a_plain_line_is_read);
    RUN(a_name_cannot_lie);
    RUN(a_group_outside_of_our_namespace_is_0_or_less);
    RUN(what_is_cut_off_is_refused);
    RUN(rubbish_is_refused_and_does_no_harm);
    RUN(we_find_ourselves);
    RUN(our_hostile_name_does_not_hide_us);
    RUN(a_zombie_is_told_from_the_living_and_the_gone);
    RUN(children_are_listed);
    RUN(a_census_in_slices_finds_all);
    RUN(a_census_may_be_given_up_half_way);
    RUN(without_descriptors_there_is_no_census);
    return check_result();
}
