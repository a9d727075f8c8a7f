/* The thread pool: who gets which range, and that loops begin and end. Worth running under SAN=thread. */
#define _GNU_SOURCE /* affinity */
#include <sched.h>
#include <time.h>

#include "cpu/pool.h"
#include "tiers.h"

enum { MOST = 5, ITEMS = 1000 };

typedef struct loop {
    size_t n, grain;
    int threads, visits[ITEMS]; /* each item is one thread's, so no atomics: a race here is the pool's */
    struct { size_t covered, ragged; } of[MOST];
} loop;

static void visit(void *ctx, int thread, size_t begin, size_t end) {
    loop *l = ctx;
    if (thread < 0 || thread >= l->threads || begin >= end || end > l->n) return; /* the counts tell */
    l->of[thread].covered += end - begin;
    l->of[thread].ragged += (end - begin) % l->grain && end != l->n;
    for (size_t i = begin; i < end; i++) l->visits[i]++;
}

static void check_loop(shk_pool *p, loop *l, size_t n, size_t grain) {
    size_t wrong = 0, covered = 0;
    int threads = shk_pool_threads(p);
    *l = (loop){ .n = n, .grain = grain, .threads = threads };
    shk_pool_run(p, visit, l, n, grain);
    for (size_t i = 0; i < ITEMS; i++) wrong += l->visits[i] != (i < n);
    for (int t = 0; t < threads; t++) {
        wrong += l->of[t].ragged;
        covered += l->of[t].covered;
    }
    CHECK(!wrong && covered == n, "%d threads, %zu items, grain %zu: %zu wrong, %zu covered", threads, n, grain, wrong, covered);
}

static void count(void *ctx, int thread, size_t begin, size_t end) {
    size_t *sums = ctx; /* [threads], a cache line apart */
    sums[(size_t)thread * 8] += end - begin;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Many loops too small to share; a few with a pause before, so that the workers sleep. */
static void test_many(shk_pool *p) {
    enum { LOOPS = 5000 };
    size_t sums[MOST * 8] = { 0 }, total = 0;
    int threads = shk_pool_threads(p);
    double start = now();
    for (size_t i = 0; i < LOOPS; i++) shk_pool_run(p, count, sums, 7, 1);
    double took = now() - start;
    for (int i = 0; i < 5; i++) {
        nanosleep(&(struct timespec){ .tv_nsec = 3000000 }, NULL);
        shk_pool_run(p, count, sums, 7, 1);
    }
    for (size_t t = 0; t < MOST; t++) total += sums[t * 8];
    CHECK(total == 7 * (LOOPS + 5), "%d threads: %zu items", threads, total);
    printf("%d threads: %.2f us a loop\n", threads, took / LOOPS * 1e6);
    /* a spinning pool with more threads than CPUs takes a scheduler's slice, milliseconds, for each loop */
    CHECK(took < LOOPS * 1e-3, "%d threads: %g s for %d loops", threads, took, LOOPS);
}

static void test_threads(int threads) {
    static loop l;
    shk_error err;
    shk_pool *p;
    NEED(shk_pool_new(&p, threads, &err) == SHK_OK, "%s", err.message);
    CHECK(shk_pool_threads(p) == threads, "%d", shk_pool_threads(p));
    for (size_t n = 0; n < 40; n++)
        for (size_t grain = 1; grain < 10; grain++) check_loop(p, &l, n, grain);
    check_loop(p, &l, ITEMS, 1);
    check_loop(p, &l, ITEMS, 16);
    check_loop(p, &l, ITEMS - 1, ITEMS);
    test_many(p);
    shk_pool_free(p);
}

/* More threads than CPUs: the loops end, and take no scheduler's slice each. */
static void test_one_cpu(void) {
    cpu_set_t old, one;
    shk_pool *p;
    NEED(!sched_getaffinity(0, sizeof old, &old), "affinity");
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++)
        if (CPU_ISSET(i, &old)) CPU_SET(i, &one);
    NEED(!sched_setaffinity(0, sizeof one, &one), "affinity");
    CHECK(shk_cpu_count() == 1, "%d CPUs", shk_cpu_count());
    NEED(shk_pool_new(&p, 4, NULL) == SHK_OK, "no pool");
    test_many(p);
    shk_pool_free(p);
    sched_setaffinity(0, sizeof old, &old);
    CHECK(shk_cpu_count() == CPU_COUNT(&old), "%d CPUs", shk_cpu_count());
}

int main(void) {
    shk_error err;
    shk_pool *p;
    for (int threads = 1; threads <= MOST; threads++) test_threads(threads);
    test_one_cpu();
    CHECK(shk_pool_new(&p, 0, &err) == SHK_E_ARGUMENT && !p, "no threads");
    CHECK(shk_pool_new(&p, -1, &err) == SHK_E_ARGUMENT && !p, "fewer");
    CHECK(shk_pool_new(&p, 1 << 30, NULL) == SHK_E_ARGUMENT && !p, "a billion");
    shk_pool_free(NULL);
    for (int i = 0; i < 50; i++) { /* freed before its threads have run */
        NEED(shk_pool_new(&p, 4, NULL) == SHK_OK, "no pool");
        shk_pool_free(p);
    }
    return test_done();
}
