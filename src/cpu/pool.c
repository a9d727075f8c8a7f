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

/* A loop is cut into this many pieces for each thread, taken as threads become free, and ends with its last piece: a thread whose
 * CPU does something else for a while then holds the others up by a piece that it is at, or not at all. */
enum { PIECES = 4, ROUND_SHIFT = 16, PIECES_MASK = (1 << ROUND_SHIFT) - 1 };
_Static_assert((uint64_t)MAX_THREADS * PIECES < 1u << ROUND_SHIFT, "pieces fit a ticket");

/* What one side writes and the other polls is a cache line away from the rest. */
struct shk_pool {
    int threads, spins;
    pthread_mutex_t mutex; /* for sleeping only */
    pthread_cond_t posted, finished;
    /* The loop in progress. A late worker may read these while the next loop is being written; what it has read counts only if it
     * then gets a piece of the loop that it had seen, which could not end before. */
    _Atomic(shk_range_fn *) fn;
    _Atomic(void *) ctx;
    _Atomic size_t n, piece;
    char apart_from_loop[CACHE_LINE];
    _Atomic uint64_t ticket; /* number of the loop << ROUND_SHIFT | pieces that nobody has taken */
    _Atomic int sleepers;    /* workers that wait for `posted` */
    _Atomic bool stop;
    char apart_from_ticket[CACHE_LINE];
    _Atomic size_t pending; /* pieces that are not done */
    _Atomic bool owner_sleeps;
    char apart_from_pending[CACHE_LINE];
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

/* Takes pieces of loop `round` while there are any; true: it has done the last one that was pending. */
static bool run_pieces(shk_pool *p, int thread, uint64_t round) {
    shk_range_fn *fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
    void *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);
    size_t n = atomic_load_explicit(&p->n, memory_order_relaxed), piece = atomic_load_explicit(&p->piece, memory_order_relaxed);
    uint64_t ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
    bool last = false;
    while (ticket >> ROUND_SHIFT == round && ticket & PIECES_MASK) {
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &ticket, ticket - 1, memory_order_acq_rel, memory_order_acquire))
            continue;
        size_t begin = ((ticket & PIECES_MASK) - 1) * piece;
        fn(ctx, thread, begin, n - begin < piece ? n : begin + piece);
        last = atomic_fetch_sub(&p->pending, 1) == 1;
        ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
    }
    return last;
}

static uint64_t current_round(const shk_pool *p) { return atomic_load(&p->ticket) >> ROUND_SHIFT; }

/* Sleep here is Dekker's handshake: the sleeper says so and looks again, the waker writes and looks for sleepers, all of it
 * sequentially consistent, so one of the two sees the other. Each side writes by a read-modify-write: QEMU, running AArch64's
 * release store before an acquire load on x86, lets the load pass the store, and then both sides sleep. */
static uint64_t await_round(shk_pool *p, uint64_t seen) {
    uint64_t round;
    for (int i = 0; i < p->spins; i++, pause_cpu())
        if ((round = atomic_load_explicit(&p->ticket, memory_order_acquire) >> ROUND_SHIFT) != seen) return round;
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->sleepers, 1);
    while ((round = current_round(p)) == seen) pthread_cond_wait(&p->posted, &p->mutex);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->mutex);
    return round;
}

static void await_pieces(shk_pool *p) {
    for (int i = 0; i < p->spins; i++, pause_cpu())
        if (!atomic_load_explicit(&p->pending, memory_order_acquire)) return;
    pthread_mutex_lock(&p->mutex);
    atomic_exchange(&p->owner_sleeps, true);
    while (atomic_load(&p->pending)) pthread_cond_wait(&p->finished, &p->mutex);
    atomic_store(&p->owner_sleeps, false);
    pthread_mutex_unlock(&p->mutex);
}

/* A loop of so many pieces; its number. */
static uint64_t post(shk_pool *p, size_t pieces) {
    uint64_t round = current_round(p) + 1;
    atomic_exchange(&p->ticket, round << ROUND_SHIFT | pieces);
    if (!atomic_load(&p->sleepers)) return round;
    pthread_mutex_lock(&p->mutex);
    pthread_cond_broadcast(&p->posted);
    pthread_mutex_unlock(&p->mutex);
    return round;
}

static void *work(void *arg) {
    struct worker *w = arg;
    shk_pool *p = w->pool;
    for (uint64_t seen = 0;;) {
        seen = await_round(p, seen);
        if (atomic_load(&p->stop)) return NULL;
        if (run_pieces(p, w->thread, seen) && atomic_load(&p->owner_sleeps)) {
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
    size_t most = (size_t)p->threads * PIECES, share = n / most + (n % most != 0), piece = (share + grain - 1) / grain * grain;
    size_t pieces = n / piece + (n % piece != 0);
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
    atomic_store_explicit(&p->n, n, memory_order_relaxed);
    atomic_store_explicit(&p->piece, piece, memory_order_relaxed);
    atomic_store_explicit(&p->pending, pieces, memory_order_relaxed);
    run_pieces(p, 0, post(p, pieces));
    await_pieces(p);
}

static void pool_stop(shk_pool *p, int started) {
    atomic_store(&p->stop, true);
    post(p, 0);
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
