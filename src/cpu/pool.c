#include "cpu/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/detect.h"
#include "mem.h"

/* A step makes hundreds of loops a few microseconds apart: waking a sleeper costs more than most of them. The spin (some tens of
 * microseconds) bridges the gaps inside a step, not those between steps. */
enum { SPINS = 2000, CACHE_LINE = 64, MAX_THREADS = 4096 };

/* A loop is cut into this many pieces for each thread, taken as threads become free: one whose CPU does something else for a while
 * then holds the others up by a piece, not by its whole share. */
enum { PIECES = 4 };

/* What one side writes and the other polls is a cache line away from the rest. */
struct shk_pool {
    int threads, spins;
    shk_range_fn *fn; /* of the loop in progress: written before `round` is, read after */
    void *ctx;
    size_t n, piece;
    pthread_mutex_t mutex; /* for sleeping only */
    pthread_cond_t posted, finished;
    char apart_from_loop[CACHE_LINE];
    _Atomic unsigned round; /* counts loops */
    _Atomic int sleepers;   /* workers that wait for `posted` */
    _Atomic bool stop;
    char apart_from_round[CACHE_LINE];
    _Atomic int pending; /* workers that have not finished the loop */
    _Atomic bool owner_sleeps;
    char apart_from_pending[CACHE_LINE];
    _Atomic size_t next; /* piece to take */
    char apart_from_next[CACHE_LINE];
    struct worker {
        shk_pool *pool;
        int thread;
        pthread_t id;
    } workers[];
};

static inline void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void run_pieces(shk_pool *p, int thread) {
    for (;;) {
        size_t begin = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed) * p->piece;
        if (begin >= p->n) return;
        p->fn(p->ctx, thread, begin, p->n - begin < p->piece ? p->n : begin + p->piece);
    }
}

/* Sleep here is Dekker's handshake: the sleeper says so and looks again, the waker writes and looks for sleepers, all of it
 * sequentially consistent, so one of the two sees the other. Each side writes by a read-modify-write: QEMU, running AArch64's
 * release store before an acquire load on x86, lets the load pass the store, and then both sides sleep. */
static void await_round(shk_pool *p, unsigned seen) {
    for (int i = 0; i < p->spins; i++, pause_cpu())
        if (atomic_load_explicit(&p->round, memory_order_acquire) != seen) return;
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->round) == seen) pthread_cond_wait(&p->posted, &p->mutex);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->mutex);
}

static void await_workers(shk_pool *p) {
    for (int i = 0; i < p->spins; i++, pause_cpu())
        if (!atomic_load_explicit(&p->pending, memory_order_acquire)) return;
    pthread_mutex_lock(&p->mutex);
    atomic_exchange(&p->owner_sleeps, true);
    while (atomic_load(&p->pending)) pthread_cond_wait(&p->finished, &p->mutex);
    atomic_store(&p->owner_sleeps, false);
    pthread_mutex_unlock(&p->mutex);
}

static void post(shk_pool *p) {
    atomic_fetch_add(&p->round, 1);
    if (!atomic_load(&p->sleepers)) return;
    pthread_mutex_lock(&p->mutex);
    pthread_cond_broadcast(&p->posted);
    pthread_mutex_unlock(&p->mutex);
}

static void *work(void *arg) {
    struct worker *w = arg;
    shk_pool *p = w->pool;
    for (unsigned seen = 0;; seen++) {
        await_round(p, seen);
        if (atomic_load(&p->stop)) return NULL;
        run_pieces(p, w->thread);
        if (atomic_fetch_sub(&p->pending, 1) == 1 && atomic_load(&p->owner_sleeps)) {
            pthread_mutex_lock(&p->mutex);
            pthread_cond_signal(&p->finished);
            pthread_mutex_unlock(&p->mutex);
        }
    }
}

void shk_pool_run(shk_pool *p, shk_range_fn *fn, void *ctx, size_t n, size_t grain) {
    if (!grain) grain = 1;
    if (p->threads == 1 || n <= grain) { /* the caller's alone */
        if (n) fn(ctx, 0, 0, n);
        return;
    }
    size_t pieces = (size_t)p->threads * PIECES, share = n / pieces + (n % pieces != 0);
    p->fn = fn, p->ctx = ctx, p->n = n, p->piece = (share + grain - 1) / grain * grain;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->pending, p->threads - 1, memory_order_relaxed);
    post(p);
    run_pieces(p, 0);
    await_workers(p);
}

static void pool_stop(shk_pool *p, int started) {
    atomic_store(&p->stop, true);
    post(p);
    for (int i = 0; i < started; i++) pthread_join(p->workers[i].id, NULL);
    pthread_cond_destroy(&p->finished);
    pthread_cond_destroy(&p->posted);
    pthread_mutex_destroy(&p->mutex);
    free(p);
}

shk_status shk_pool_new(shk_pool **out, int threads, shk_error *err) {
    *out = NULL;
    if (threads < 1 || threads > MAX_THREADS)
        return shk_fail(err, SHK_E_ARGUMENT, "%d threads: must be 1 to %d", threads, MAX_THREADS);
    size_t size = sizeof(shk_pool) + (size_t)threads * sizeof(struct worker);
    shk_pool *p = shk_calloc(1, size);
    if (!p) return shk_fail(err, SHK_E_MEMORY, "no memory for a pool of %d threads", threads);
    p->threads = threads;
    p->spins = threads <= shk_cpu_count() ? SPINS : 0; /* else the one waited for may need this CPU */
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->posted, NULL);
    pthread_cond_init(&p->finished, NULL);

    sigset_t all, old; /* signals are the host program's: its own threads take them */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int started = 0, failure = 0;
    for (; started < threads - 1 && !failure; started += !failure) {
        struct worker *w = &p->workers[started];
        *w = (struct worker){ .pool = p, .thread = started + 1 };
        failure = pthread_create(&w->id, NULL, work, w);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (failure) {
        pool_stop(p, started);
        return shk_fail(err, SHK_E_MEMORY, "cannot start thread %d of %d: %s", started + 2, threads, strerror(failure));
    }
    *out = p;
    return SHK_OK;
}

void shk_pool_free(shk_pool *p) {
    if (p) pool_stop(p, p->threads - 1);
}

int shk_pool_threads(const shk_pool *p) { return p->threads; }
