/*
 * check.h: the few words that the tests in C are written with.
 *
 *     static void a_number_is_itself(void) {
 *         CHECK_EQ(7, 7);
 *     }
 *     int main(void) {
 *         RUN(a_number_is_itself);
 *         return check_result();
 *     }
 *
 * A check that fails says where and goes on; the program then ends with 1.
 * SKIP() leaves a test that cannot be made here; a program whose tests were all
 * left ends with 77.
 */
#ifndef FASTPROC_CHECK_H
#define FASTPROC_CHECK_H

#include <stdio.h>
#include <string.h>

static int check_failures;
static int check_run;
static int check_skipped;
static int check_skips_now;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, #condition);                    \
            check_failures++;                                                                                          \
        }                                                                                                              \
    } while (0)

#define CHECK_EQ(actual, expected)                                                                                     \
    do {                                                                                                               \
        long long check_actual = (long long)(actual);                                                                  \
        long long check_expected = (long long)(expected);                                                              \
        if (check_actual != check_expected) {                                                                          \
            fprintf(stderr, "%s:%d: %s: %s is %lld, not %lld\n", __FILE__, __LINE__, __func__, #actual, check_actual,  \
                    check_expected);                                                                                   \
            check_failures++;                                                                                          \
        }                                                                                                              \
    } while (0)

#define CHECK_TEXT(actual, expected)                                                                                   \
    do {                                                                                                               \
        const char *check_actual = (actual);                                                                           \
        const char *check_expected = (expected);                                                                       \
        if (strcmp(check_actual, check_expected) != 0) {                                                               \
            fprintf(stderr, "%s:%d: %s: %s is \"%s\", not \"%s\"\n", __FILE__, __LINE__, __func__, #actual,            \
                    check_actual, check_expected);                                                                     \
            check_failures++;                                                                                          \
        }                                                                                                              \
    } while (0)

#define SKIP(reason)                                                                                                   \
    do {                                                                                                               \
        printf("skipped  %s: %s\n", __func__, reason);                                                                 \
        check_skips_now = 1;                                                                                           \
        return;                                                                                                        \
    } while (0)

#define RUN(test)                                                                                                      \
    do {                                                                                                               \
        check_skips_now = 0;                                                                                           \
        check_run++;                                                                                                   \
        test();                                                                                                        \
        check_skipped += check_skips_now;                                                                              \
    } while (0)

static inline int check_result(void) {
    if (check_failures > 0)
        fprintf(stderr, "%d checks have failed\n", check_failures);
    if (check_failures > 0)
        return 1;
    return check_run > 0 && check_run == check_skipped ? 77 : 0;
}

#endif
