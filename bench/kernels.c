/* What the CPU kernels reach, one thread, each tier of this machine: the median of REPEATS, and half the range as a percentage.
 *
 *   bench/kernels [WORD]...     only kernels whose name (tier first) contains one of the words
 *
 * "cached": a matrix in the second-level cache, which shows the arithmetic; "streamed": one of 128 MB, past most caches;
 * "gathered": 8 % of that one's rows, ascending at random, others each time. dot_f32, streamed, is about the memory's rate. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/detect.h"
#include "cpu/kernels.h"
#include "cpu/pool.h"
#include "mem.h"
#include "timing.h"

enum { REPEATS = 7, K = 2304, WIDTH = 9216, STREAM_BYTES = 128 << 20, CACHED_ROWS = 32 };

static int n_words;
static char **words;

static int wanted(const char *name) {
    for (int i = 0; i < n_words; i++)
        if (strstr(name, words[i])) return 1;
    return !n_words;
}

static double spread; /* of the last measurement: half the range, in percent of the median */

/* Seconds of one call: the median of REPEATS runs, each of as many calls as take 10 ms. */
static double seconds(void (*call)(void *), void *arg) {
    double t[REPEATS], start = now();
    size_t calls = 0;
    do call(arg), calls++;
    while (now() - start < 0.01);
    for (int r = 0; r < REPEATS; r++) {
        start = now();
        for (size_t i = 0; i < calls; i++) call(arg);
        t[r] = (now() - start) / (double)calls;
    }
    qsort(t, REPEATS, sizeof *t, by_value);
    spread = 50 * (t[REPEATS - 1] - t[0]) / t[REPEATS / 2];
    return t[REPEATS / 2];
}

/* ---- rows ---- */

static struct {
    const shk_kernels *k;
    shk_type type;
    uint8_t *w;
    size_t stride, n, turn;
    const uint32_t *ids;
    float *x, *y, *c;
} rows;

/* Gathered rows move on by one at each call: a cache that held the last ones has few of the next. */
static const uint8_t *matrix(void) { return rows.w + (rows.ids ? rows.turn++ % 12 * rows.stride : 0); }

static void dot(void *arg) {
    (void)arg;
    rows.k->dot_rows[rows.type](rows.y, matrix(), rows.stride, rows.ids, rows.n, rows.x, K);
}
static void axpy(void *arg) {
    (void)arg;
    rows.k->axpy_rows[rows.type](rows.x, matrix(), rows.stride, rows.ids, rows.c, rows.n, K);
}
static void dequant(void *arg) {
    (void)arg;
    for (size_t i = 0; i < rows.n; i++) rows.k->dequant[rows.type](rows.y, rows.w + i * rows.stride, K);
}

static void print_rows(const char *what, void (*call)(void *)) {
    double s = seconds(call, NULL), weights = (double)rows.n * K;
    printf("  %s %5.1f G/s %5.1f GB/s +-%2.0f%%", what, weights / s * 1e-9, (double)(rows.n * rows.stride) / s * 1e-9, spread);
}

static void bench_rows(const shk_kernels *k, shk_type type, uint32_t *ids) {
    const char *name = shk_type_of(type)->name;
    char title[64];
    shk_row_bytes(type, K, &rows.stride);
    size_t all = STREAM_BYTES / rows.stride, some = 0;
    for (size_t i = 0; i + 12 < all; i++)
        if (rand() % 100 < 8) ids[some++] = (uint32_t)i;
    rows.k = k, rows.type = type;
    struct { const char *name; void (*call)(void *); } ops[] = { { "dot", dot }, { "axpy", axpy }, { "dequant", dequant } };
    for (size_t i = 0; i < 3; i++) {
        snprintf(title, sizeof title, "%-6s %s_%s", k->tier, ops[i].name, name);
        if (!wanted(title)) continue;
        printf("%-22s", title);
        rows.n = CACHED_ROWS, rows.ids = NULL;
        print_rows("cached", ops[i].call);
        rows.n = all;
        if (i < 2) print_rows("streamed", ops[i].call);
        rows.n = some, rows.ids = ids;
        if (i < 2) print_rows("gathered", ops[i].call);
        printf("\n");
    }
}

/* ---- packed rows ---- */

static struct {
    const shk_kernels *k;
    shk_type type;
    size_t n, tokens;
    void *x;
} packed;

static void dot_packed(void *arg) {
    (void)arg;
    packed.k->dot_packed[packed.type](rows.y, packed.n, rows.w, packed.n, packed.x, packed.tokens, K);
}
static void quantize_x(void *arg) { (void)arg, packed.k->round_x[SHK_Q8_0](packed.x, rows.x, K); }

static void bench_packed(const shk_kernels *k, shk_type type) {
    char title[64];
    size_t bytes = shk_packed_bytes(type, K);
    snprintf(title, sizeof title, "%-10s packed_%s", k->tier, shk_type_of(type)->name);
    if (!wanted(title)) return;
    packed.k = k, packed.type = type;
    printf("%-22s", title);
    for (packed.tokens = 1; packed.tokens <= 128; packed.tokens *= packed.tokens < 8 ? 8 : 16) {
        packed.n = 2 * SHK_PACK_ROWS;
        double s = seconds(dot_packed, NULL);
        printf("  %3zu tokens %6.1f G/s", packed.tokens, (double)(packed.n * K * packed.tokens) / s * 1e-9);
    }
    packed.tokens = 1, packed.n = STREAM_BYTES / bytes * SHK_PACK_ROWS;
    double s = seconds(dot_packed, NULL);
    printf("  streamed %5.1f G/s %5.1f GB/s +-%2.0f%%\n", (double)(packed.n * K) / s * 1e-9, STREAM_BYTES / s * 1e-9, spread);
}

/* ---- the others ---- */

static struct {
    const shk_kernels *k;
    float *a, *b, *c, *d, *e, *f;
    uint32_t *ids;
} v;

static void matmul(void *arg) { v.k->matmul_f32(v.a, 64, v.b, K, v.c, K, 64, *(size_t *)arg, K); }
static void rmsnorm(void *arg) { (void)arg, v.k->rmsnorm(v.a, v.b, v.c, K, 1e-6f); }
static void moments(void *arg) { double m, s; (void)arg, v.k->moments(v.b, WIDTH, 1, &m, &s); }
static void gelu_mul(void *arg) { (void)arg, v.k->gelu_mul(v.a, v.b, v.c, WIDTH); }
static void softmax(void *arg) { (void)arg, memcpy(v.a, v.b, WIDTH * sizeof(float)), v.k->softmax(v.a, WIDTH); }
static void softplus(void *arg) { (void)arg, v.k->softplus(v.a, v.b, WIDTH); }
static void softcap(void *arg) { (void)arg, v.k->softcap(v.a, WIDTH, 50); }
static void add(void *arg) { (void)arg, v.k->add(v.a, v.b, WIDTH); }
static void mul(void *arg) { (void)arg, v.k->mul(v.a, v.b, v.c, WIDTH); }
static void selection(void *arg) { (void)arg, v.k->select(v.ids, v.b, WIDTH, 0.84f); }
static void rope(void *arg) { (void)arg, v.k->rope(v.a, v.b, v.c, 128); }
static void conv1d_step(void *arg) { (void)arg, v.k->conv1d_step(v.a, v.d, v.b, v.e, v.c, 2560, 4); }
static void rglru_step(void *arg) { (void)arg, v.k->rglru_step(v.a, v.d, v.b, v.c, v.e, v.f, 2560, 0); }

static void bench_others(const shk_kernels *k) {
    static const struct { const char *name; void (*call)(void *); size_t n; } ops[] = {
        { "rmsnorm", rmsnorm, K },           { "moments", moments, WIDTH }, { "gelu_mul", gelu_mul, WIDTH },
        { "softmax", softmax, WIDTH },       { "softplus", softplus, WIDTH }, { "softcap", softcap, WIDTH },
        { "add", add, WIDTH },               { "mul", mul, WIDTH }, { "select 8%", selection, WIDTH }, { "rope", rope, 256 },
        { "quantize_x", quantize_x, K },     { "conv1d_step", conv1d_step, 2560 }, { "rglru_step", rglru_step, 2560 },
    };
    v.k = packed.k = k;
    for (size_t tokens = 1; tokens <= 128; tokens *= tokens < 32 ? 32 : 4) {
        char title[64];
        snprintf(title, sizeof title, "%-6s matmul_f32", k->tier);
        if (!wanted(title)) continue;
        double s = seconds(matmul, &tokens);
        printf("%s 64 x %d, %3zu tokens  %6.1f GFLOP/s +-%2.0f%%\n", title, K, tokens, 2e-9 * 64 * K * (double)tokens / s, spread);
    }
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        char title[64];
        snprintf(title, sizeof title, "%-6s %s", k->tier, ops[i].name);
        if (!wanted(title)) continue;
        double s = seconds(ops[i].call, NULL);
        printf("%-22s n %5zu  %7.3f us  %6.2f G/s +-%2.0f%%\n", title, ops[i].n, s * 1e6, (double)ops[i].n / s * 1e-9, spread);
    }
}

/* ---- the machine ---- */

static void nothing(void *ctx, int thread, size_t begin, size_t end) { (void)ctx, (void)thread, (void)begin, (void)end; }
static void loop(void *pool) { shk_pool_run(pool, nothing, NULL, 1024, 1); }

static void bench_pool(void) {
    for (int threads = 1; threads <= 8; threads++) {
        shk_pool *p;
        if (!wanted("pool") || shk_pool_new(&p, threads, NULL) != SHK_OK) return;
        double s = seconds(loop, p);
        printf("pool   %d threads on %d CPUs: %7.3f us for an empty loop +-%2.0f%%\n", threads, shk_cpu_count(), s * 1e6, spread);
        shk_pool_free(p);
    }
}

static float *random_floats(size_t n) {
    float *x = shk_calloc(n, sizeof *x);
    if (!x) exit(1);
    for (size_t i = 0; i < n; i++) x[i] = (float)rand() / (float)RAND_MAX * 2 - 1;
    return x;
}

int main(int argc, char **argv) {
    enum { AVX512 = SHK_CPU_AVX2 | SHK_CPU_AVX512, VNNI = AVX512 | SHK_CPU_AVX512VNNI };
    static const unsigned tiers[] = { 0, SHK_CPU_AVX2, AVX512, VNNI,
                                      VNNI | SHK_CPU_AVX512BF16, VNNI | SHK_CPU_AMX, SHK_CPU_NEON };
    shk_error err;
    unsigned machine;
    n_words = argc - 1, words = argv + 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (shk_cpu_detect(&machine, &err) != SHK_OK) return fprintf(stderr, "%s\n", err.message), 1;
    size_t most_rows = STREAM_BYTES / 512;
    uint32_t *ids = shk_calloc(most_rows, sizeof *ids);
    rows.w = shk_calloc(STREAM_BYTES, 1), rows.x = random_floats(K), rows.y = random_floats(most_rows);
    rows.c = random_floats(most_rows), packed.x = shk_calloc(128 * K, sizeof(uint16_t));
    if (!ids || !rows.w || !packed.x) return 1;
    for (size_t i = 0; i < STREAM_BYTES / 4; i++) ((uint32_t *)rows.w)[i] = (uint32_t)rand() & 0x3bff3bff; /* below 1 as any type */
    v.a = random_floats(WIDTH), v.b = random_floats(64 * K), v.c = random_floats(128 * K), v.d = random_floats(WIDTH * 4);
    v.e = random_floats(WIDTH * 4), v.f = random_floats(WIDTH), v.ids = ids;
    for (size_t i = 0; i < WIDTH; i++) v.f[i] = fabsf(v.f[i]);

    bench_pool();
    for (size_t t = 0; t < sizeof tiers / sizeof *tiers; t++) {
        shk_kernels k;
        if (tiers[t] & ~machine) continue;
        shk_cpu_kernels(&k, tiers[t]);
        if (!tiers[t] && !n_words) continue; /* ref is slow: only when asked for */
        for (int type = 0; type < SHK_TYPE_COUNT; type++)
            if (k.dot_rows[type]) bench_rows(&k, (shk_type)type, ids);
        for (int type = 0; type < SHK_TYPE_COUNT; type++)
            if (k.dot_packed[type]) bench_packed(&k, (shk_type)type);
        bench_others(&k);
    }
    return 0;
}
