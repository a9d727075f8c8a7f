/* The whole test framework: CHECK counts and goes on, a program ends with `return test_done();`.
 * The line that test_done prints, "N passed, M failed, K skipped", is what tests/run adds up. */
#ifndef SHK_TEST_H
#define SHK_TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int test_passed, test_failed, test_skipped;

#define TEST_FAILED(what, ...)                                                                   \
    (test_failed++, fprintf(stderr, "%s:%d: %s is false: ", __FILE__, __LINE__, what),           \
     fprintf(stderr, __VA_ARGS__), fputc('\n', stderr))

#define CHECK(cond, ...)                                                                         \
    do {                                                                                         \
        if (cond) test_passed++;                                                                 \
        else TEST_FAILED(#cond, __VA_ARGS__);                                                    \
    } while (0)

#define SKIP(...) (test_skipped++, fprintf(stderr, "skipped: "), fprintf(stderr, __VA_ARGS__), fputc('\n', stderr))

/* For what the rest of the program cannot do without; counts only when it fails. */
#define NEED(cond, ...)                                                                          \
    do {                                                                                         \
        if (!(cond)) {                                                                           \
            TEST_FAILED(#cond, __VA_ARGS__);                                                     \
            exit(test_done());                                                                   \
        }                                                                                        \
    } while (0)

static inline int test_done(void) {
    printf("%d passed, %d failed, %d skipped\n", test_passed, test_failed, test_skipped);
    return test_failed ? 1 : 0;
}

/* Under a sanitizer or on an emulated GPU, where all is many times slower, the longest loops and lists are cut short. */
static inline int test_short(void) { return getenv("SHK_TEST_SHORT") != NULL; }

/* xorshift64*: the same numbers everywhere. */
static inline unsigned long long test_random(unsigned long long *s) {
    *s ^= *s >> 12, *s ^= *s << 25, *s ^= *s >> 27;
    return *s * 2685821657736338717ull;
}
static inline double test_uniform(unsigned long long *s) { return (double)(test_random(s) >> 11) / 9007199254740992.0; }

#endif
