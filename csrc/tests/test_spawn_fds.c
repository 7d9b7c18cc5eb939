/*
 * test_spawn_fds.c: the descriptors of a child, and the slots that they pass
 * through.
 */
#include "spawn.h"

/* ---- descriptors --------------------------------------------------------------- */

static void a_child_sees_nothing_but_its_streams(void) {
    fp_spec spec = describer();
    int leaked = open("/dev/null", O_RDONLY);       /* inheritable, as careless libraries leave them */
    int high = fcntl(leaked, F_DUPFD, 1000);
    struct result result = run(&spec);

    CHECK_EQ(count_told_fds(result.text), 3);
    free(result.text);
    close(leaked);
    close(high);
}

static void streams_come_from_where_the_spec_says(void) {
    fp_spec spec = SHELL("cat; echo err >&2");
    const char *in = in_scratch("in"), *out = in_scratch("out"), *err = in_scratch("err");
    char where[128];

    CHECK(getcwd(where, sizeof where));
    CHECK_EQ(chdir(scratch), 0);
    write_file(in, "from a file\n", 0600);
    spec.stdio[0] = (fp_stdio){.kind = FP_STDIO_READ, .path = "in"};
    spec.stdio[1] = (fp_stdio){.kind = FP_STDIO_APPEND, .path = "out"};
    spec.stdio[2] = (fp_stdio){.kind = FP_STDIO_TRUNCATE, .path = "err"};
    spec.cwd = "/"; /* The paths are relative to our directory, not to this one. */
    for (int i = 0; i < 2; i++) {
        struct result result = run(&spec);
        CHECK_EQ(result.error, 0);
        CHECK_EQ(result.code, 0);
        free(result.text);
    }
    CHECK_TEXT(read_file(out), "from a file\nfrom a file\n");
    CHECK_TEXT(read_file(err), "err\n");

    spec.stdio[1].kind = FP_STDIO_TRUNCATE;
    spec.stdio[2] = (fp_stdio){.kind = FP_STDIO_STDOUT};
    struct result result = run(&spec);
    free(result.text);
    CHECK_TEXT(read_file(out), "from a file\nerr\n");

    int fd = open(out, O_WRONLY | O_TRUNC | O_CLOEXEC);
    spec.stdio[0].kind = FP_STDIO_DEVNULL;
    spec.stdio[1] = (fp_stdio){.kind = FP_STDIO_FD, .fd = fd};
    result = run(&spec);
    free(result.text);
    close(fd);
    CHECK_TEXT(read_file(out), "err\n");
    CHECK_EQ(chdir(where), 0);

    spec.stdio[1] = (fp_stdio){.kind = FP_STDIO_TRUNCATE, .path = "/nonexistent/file"};
    FAILS(spec, ENOENT, FP_STAGE_FDS, 1);
}

static void a_fifo_without_another_end_does_not_hold_up_the_start(void) {
    fp_spec spec = SHELL("cat; echo end");
    const char *fifo = in_scratch("fifo");

    CHECK_EQ(mkfifo(fifo, 0600), 0);
    spec.stdio[0] = (fp_stdio){.kind = FP_STDIO_READ, .path = fifo};
    struct result result = run(&spec);
    CHECK_TEXT(result.text, "end\n");
    free(result.text);
    spec.stdio[0].kind = FP_STDIO_DEVNULL;
    spec.stdio[1] = (fp_stdio){.kind = FP_STDIO_APPEND, .path = fifo};
    FAILS(spec, ENXIO, FP_STAGE_FDS, 1);
}

static void the_childs_ends_block_and_are_distinct(void) {
    fp_spec spec = describer();

    spec.stdio[0].kind = FP_STDIO_PIPE;
    spec.stdio[2].kind = FP_STDIO_PIPE;
    struct result result = run(&spec);
    CHECK_EQ(count_told_fds(result.text), 3);
    for (int i = 0; i < 3; i++) {
        static const char *const keys[] = {"fd0", "fd1", "fd2"};
        const char *value = told(result.text, keys[i]);
        CHECK(*value && value[strlen(value) - 1] == '0');
    }
    free(result.text);
}

/* Start the describer with these descriptors and compare what it has with what we have. */
static void compare_map(const fp_fd_map *map, size_t n) {
    char path[128];
    const char *argv[] = {"describe", path, NULL};
    fp_spec spec = describer();

    snprintf(path, sizeof path, "%s/map", scratch);
    spec.argv = argv;
    spec.stdio[1].kind = FP_STDIO_INHERIT;
    spec.fds = map;
    spec.n_fds = n;
    struct result result = run(&spec);
    CHECK_EQ(result.error, 0);
    CHECK_EQ(result.code, 0);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = read(fd, result.text, OUTPUT_BYTES);
    result.text[got > 0 ? got : 0] = '\0';
    close(fd);
    int extra = 0;
    for (size_t i = 0; i < n; i++) {
        char key[16];
        snprintf(key, sizeof key, "fd%d", map[i].target);
        const char *wanted = identity_of(map[i].source);
        if (strncmp(told(result.text, key), wanted, strlen(wanted)) != 0)
            fprintf(stderr, "    %d -> %d: %s, not %s\n", map[i].source, map[i].target, told(result.text, key), wanted);
        CHECK(strncmp(told(result.text, key), wanted, strlen(wanted)) == 0);
        extra += map[i].target > 2;
    }
    /* The report file is one more, unless it has the number of a stream. */
    CHECK_EQ(count_told_fds(result.text), 3 + extra);
    free(result.text);
}

static void descriptors_arrive_in_any_permutation(void) {
    int fds[6];

    for (int i = 0; i < 6; i++) {
        char name[16];
        snprintf(name, sizeof name, "file%d", i);
        int fd = open(in_scratch(name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        /* Some low, some beyond what a child that shares the table keeps. */
        fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, i < 3 ? 20 : 300);
        close(fd);
    }
    compare_map((fp_fd_map[]){{fds[0], fds[1]}, {fds[1], fds[0]}}, 2);
    compare_map((fp_fd_map[]){{fds[3], fds[4]}, {fds[4], fds[5]}, {fds[5], fds[3]}}, 3);
    compare_map((fp_fd_map[]){{fds[0], 3}, {fds[3], 4}, {fds[0], 5}, {fds[3], 1000}}, 4);
    compare_map((fp_fd_map[]){{fds[0], fds[0]}, {fds[3], fds[3]}}, 2);
    compare_map((fp_fd_map[]){{fds[2], 0}, {fds[4], 1}, {0, 7}, {1, 8}}, 4);
    compare_map((fp_fd_map[]){{0, 1}, {1, 2}, {2, 0}}, 3);
    srand(11);
    for (int round = 0; round < 25; round++) {
        fp_fd_map map[8];
        size_t n = (size_t)(rand() % 9);
        int first = rand() % 10;
        for (size_t i = 0; i < n; i++)
            map[i] = (fp_fd_map){.source = fds[rand() % 6], .target = first + (int)((i * 5) % 8)};
        compare_map(map, n);
    }
    for (int i = 0; i < 6; i++)
        close(fds[i]);
}

static void a_closed_source_is_named_by_its_target(void) {
    fp_spec spec = SHELL("exit 0");
    fp_fd_map map[] = {{.source = 0, .target = 40}, {.source = 3000, .target = 41}};
    int closed = open("/dev/null", O_RDONLY | O_CLOEXEC);

    close(closed); /* The next number that would be handed out: it must not be mistaken for our pipe. */
    spec.stdio[0] = (fp_stdio){.kind = FP_STDIO_FD, .fd = closed};
    FAILS(spec, EBADF, FP_STAGE_FDS, 0);
    spec.stdio[0].kind = FP_STDIO_INHERIT;
    spec.fds = map;
    spec.n_fds = 2;
    FAILS(spec, EBADF, FP_STAGE_FDS, 41);
    map[1].source = closed;
    map[1].target = closed;
    FAILS(spec, EBADF, FP_STAGE_FDS, closed);
}

static void a_target_beyond_the_limit_is_named(void) {
    fp_spec spec = SHELL("exit 0");
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    fp_fd_map map[] = {{.source = 0, .target = (int)limit.rlim_cur}};
    if (limit.rlim_cur == RLIM_INFINITY)
        SKIP("no limit of descriptors");
    spec.fds = map;
    spec.n_fds = 1;
    FAILS(spec, EBADF, FP_STAGE_FDS, (int)limit.rlim_cur);
}

static void pipes_are_right_when_our_own_streams_are_closed(void) {
    fp_spec spec = describer();
    int kept[3];

    spec.stdio[0].kind = FP_STDIO_PIPE;
    for (int i = 0; i < 3; i++)
        kept[i] = fcntl(i, F_DUPFD_CLOEXEC, 50);
    for (int i = 0; i < 3; i++)
        close(i);
    struct result result = run(&spec);
    fp_spec all_closed = describer();
    char path[128];
    const char *argv[] = {"describe", path, NULL};
    snprintf(path, sizeof path, "%s/closed", scratch);
    all_closed.argv = argv;
    all_closed.stdio[1].kind = FP_STDIO_INHERIT;
    struct result inherited = run(&all_closed);
    for (int i = 0; i < 3; i++) {
        dup2(kept[i], i);
        close(kept[i]);
    }
    CHECK_EQ(result.error, 0);
    CHECK_EQ(count_told_fds(result.text), 2);
    CHECK_TEXT(told(result.text, "fd2"), "");
    CHECK_EQ(inherited.code, 0);
    /* The report has become its first descriptor. */
    CHECK_EQ(count_told_fds(read_file(path)), 1);
    free(result.text);
    free(inherited.text);
}

static void many_open_descriptors_change_nothing(void) {
    enum { MANY = 900 };
    static int fds[MANY];
    fp_spec spec = describer();
    fp_fd_map map[] = {{0, 3}, {0, 4}};

    for (int i = 0; i < MANY; i++)
        fds[i] = open("/dev/null", O_RDONLY);
    map[0].source = fds[MANY - 1];
    map[1].source = fds[MANY - 2];
    spec.fds = map;
    spec.n_fds = 2;
    spec.stdio[0].kind = FP_STDIO_PIPE;
    spec.stdio[2].kind = FP_STDIO_PIPE;
    struct result result = run(&spec);
    CHECK_EQ(result.error, 0);
    CHECK_EQ(count_told_fds(result.text), 5);
    free(result.text);
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
    if (with_slots)
        CHECK_EQ(slots.free, (1u << slots.count) - 1);
}

static void more_descriptors_than_slots_arrive_all_the_same(void) {
    enum { MANY = 30 };
    fp_fd_map map[MANY];

    for (int i = 0; i < MANY; i++) {
        char name[16];
        snprintf(name, sizeof name, "many%d", i);
        int fd = open(in_scratch(name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        map[i] = (fp_fd_map){.source = fcntl(fd, F_DUPFD_CLOEXEC, 400), .target = 10 + i};
        close(fd);
    }
    compare_map(map, MANY);
    for (int i = 0; i < MANY; i++)
        close(map[i].source);
    if (with_slots)
        CHECK_EQ(slots.free, (1u << slots.count) - 1);
}

/* ---- slots --------------------------------------------------------------------- */

static void slots_are_borrowed_and_returned(void) {
    fp_slots mine;
    int got[FP_SLOT_COUNT];

    CHECK_EQ(fp_slots_init(&mine), 0);
    int count = mine.count;
    CHECK(count > 3 && count <= FP_SLOT_COUNT);
    for (int i = 0; i < count; i++) {
        got[i] = fp_slots_borrow(&mine, 0);
        CHECK(got[i] >= 3 && got[i] < fp_slots_low(&mine));
        CHECK_TEXT(identity_of(got[i]), identity_of(0));
        CHECK(fcntl(got[i], F_GETFD) & FD_CLOEXEC);
    }
    CHECK_EQ(fp_slots_borrow(&mine, 0), -ENOSPC);
    for (int i = 0; i < count; i++)
        fp_slots_return(&mine, got[i]);
    CHECK_EQ(fp_slots_borrow(&mine, 3333), -EBADF);
    CHECK_EQ(mine.free, (1u << count) - 1);
    fp_slots_done(&mine);

    struct rlimit before;
    getrlimit(RLIMIT_NOFILE, &before);
    int next = dup(0);
    close(next);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)next + 5, before.rlim_max});
    CHECK_EQ(fp_slots_init(&mine), -EMFILE);
    setrlimit(RLIMIT_NOFILE, &before);
    int after = dup(0);
    close(after);
    CHECK_EQ(after, next);
}

/* However many supervisors there are: what they have in reserve stays low, and each child copies it. */
static void more_of_a_crew_share_a_few_more_slots(void) {
    enum { SIBLINGS = 100 };
    fp_slots shared;
    int next = dup(0);
    close(next);

    CHECK_EQ(fp_slots_init(&shared), 0);
    int first = shared.count;
    fp_slots_add(&shared);
    CHECK(shared.count > first);
    for (int i = 0; i < SIBLINGS; i++)
        fp_slots_add(&shared);
    CHECK_EQ(shared.count, FP_SLOT_COUNT);
    CHECK_EQ(shared.free, (1u << FP_SLOT_COUNT) - 1);
    CHECK_EQ(fp_slots_low(&shared), 64);
    for (int i = 0; i < FP_SLOT_COUNT; i++)
        CHECK(shared.fd[i] < 64);
    fp_slots_done(&shared);
    int after = dup(0);
    close(after);
    CHECK_EQ(after, next);
}

/* ---- all of it, in each way ---------------------------------------------------- */

static void all_tests(void) {
    RUN(a_child_sees_nothing_but_its_streams);
    RUN(streams_come_from_where_the_spec_says);
    RUN(a_fifo_without_another_end_does_not_hold_up_the_start);
    RUN(the_childs_ends_block_and_are_distinct);
    RUN(descriptors_arrive_in_any_permutation);
    RUN(a_closed_source_is_named_by_its_target);
    RUN(a_target_beyond_the_limit_is_named);
    RUN(pipes_are_right_when_our_own_streams_are_closed);
    RUN(many_open_descriptors_change_nothing);
    RUN(more_descriptors_than_slots_arrive_all_the_same);
}

int main(int argc, char **argv) {
    begin_births(argc, argv);
    RUN(slots_are_borrowed_and_returned);
    RUN(more_of_a_crew_share_a_few_more_slots);
    return in_each_way(all_tests);
}
