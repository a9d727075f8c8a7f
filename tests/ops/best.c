/* linear_best against linear: what it gives has linear's bits, and no row that is wanted is ever left out, on matrices made to
 * break the bounds. */
#include <math.h>

#include "file/types.h"
#include "ops.h"
#include "../test.h"

static const shk_ops *ops;
static void *dev;
static unsigned long long seed = 99;
static shk_error err;

static double uniform(void) { return 2 * test_uniform(&seed) - 1; }

/* A random f32 of random size up to `top`, over a range of 2^span. */
static float wide(double top, int span) { return (float)(uniform() * ldexp(top, -(int)(test_random(&seed) % (unsigned)span))); }

static const char *const kinds[] = { "random", "nearly equal", "zero", "huge", "denormal", "of all sizes", "one of them large" };
enum { KINDS = sizeof kinds / sizeof *kinds };

static void fill(size_t kind, float *w, size_t rows, size_t cols) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) {
            float *v = &w[i * cols + j];
            switch (kind) {
            case 0: *v = (float)uniform(); break;
            case 1: *v = i ? w[j] : (float)uniform(); break;
            case 2: *v = i % 2 ? 0 : (float)uniform(); break;
            case 3: *v = (float)(uniform() * 5e6); break; /* q8_0 ends at 127 times 65504 */
            case 4: *v = (float)(uniform() * 1e-40); break;
            case 5: *v = wide(i % 3 ? 1 : 1e6, 60); break;
            default: *v = (float)(uniform() * (j % 40 == i % 40 ? 100 : 1e-3));
            }
        }
    for (size_t i = 1; i < rows && kind == 1; i++) w[i * cols + i % cols] *= 1 + (float)i * 0x1p-22f; /* an ulp or a few apart */
}

typedef struct result {
    size_t given, other, lost;
    bool known;
} result;

static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* T rows at once; W is coarse. */
static result compare(const shk_mat *W, const float *x, float cap, const shk_wanted *wanted, size_t T) {
    size_t n = W->rows;
    float *whole = malloc(T * n * sizeof *whole), *best = malloc(T * n * sizeof *best), *sorted = malloc(n * sizeof *sorted);
    result r = { 0 };
    ops->linear(dev, whole, x, W->cols, W, NULL, T);
    if (cap > 0) ops->softcap(dev, whole, T * n, cap);
    r.known = ops->linear_best(dev, best, x, W, cap, wanted, T);
    for (size_t t = 0; t < T && r.known; t++) {
        memcpy(sorted, whole + t * n, n * sizeof *sorted);
        qsort(sorted, n, sizeof *sorted, descending);
        double least = (double)sorted[wanted[t].k - 1] - wanted[t].drop;
        for (size_t i = t * n; i < (t + 1) * n; i++) {
            bool given = best[i] != -INFINITY;
            r.given += given;
            r.other += given && memcmp(&best[i], &whole[i], sizeof *best);
            r.lost += !given && (double)whole[i] >= least;
        }
    }
    free(whole);
    free(best);
    free(sorted);
    return r;
}

static shk_mat matrix(shk_type type, size_t rows, size_t cols, const float *w) {
    shk_mat m = { .type = type, .rows = rows, .cols = cols };
    NEED(shk_row_bytes(type, cols, &m.stride), "rows of %zu", cols);
    char *data = malloc(rows * m.stride);
    for (size_t i = 0; i < rows; i++) shk_quant_row(type, data + i * m.stride, w + i * cols, cols);
    m.data = data;
    return m;
}

/* A state that leans towards some row, as those of models do, with one value far larger than the others. */
static void lean(float *x, const float *w, size_t rows, size_t cols, double scale) {
    const float *row = w + test_random(&seed) % rows * cols;
    double most = 0;
    for (size_t j = 0; j < cols; j++) most = fmax(most, fabs((double)row[j]));
    for (size_t j = 0; j < cols; j++) x[j] = (float)(scale * (uniform() + (most > 0 ? (double)row[j] / most : 0)));
    x[test_random(&seed) % cols] *= 30;
}

/* A state that rounding to 8 bits does not change, so that the copy's error stands alone. */
static void whole_numbers(float *x, size_t cols) {
    for (size_t j = 0; j < cols; j++) x[j] = j % 32 ? (float)(int)(uniform() * 127) : 127;
}

static void test_kind(shk_type type, size_t kind, size_t rows, size_t cols) {
    enum { ROUNDS = 12, T = 2 };
    static const float caps[] = { 0, 30, 0.01f };
    static const size_t ks[] = { 1, 2, 17, 64 };
    float *w = malloc(rows * cols * sizeof *w), *x = malloc(T * cols * sizeof *x);
    result all = { 0 };
    size_t known = 0, tried = 0;
    fill(kind, w, rows, cols);
    shk_mat W = matrix(type, rows, cols, w);
    NEED(!ops->coarsen(dev, &W, &err), "%s", err.message);
    bool too_large = type == SHK_F16 && (kind == 3 || kind == 5); /* infinities */
    CHECK(!W.coarse == too_large, "%s %s: coarse", shk_type_of(type)->name, kinds[kind]);
    for (int round = 0; round < ROUNDS && W.coarse; round++) {
        shk_wanted wanted[T];
        for (size_t t = 0; t < T; t++) {
            lean(x + t * cols, w, rows, cols, round % 4 == 3 ? 1e-30 : 1);
            if (round % 4 == 1) whole_numbers(x + t * cols, cols);
            wanted[t] = (shk_wanted){ ks[test_random(&seed) % 4], round % 3 ? 0 : test_uniform(&seed) };
        }
        result r = compare(&W, x, caps[round % 3], wanted, T);
        known += r.known, tried++;
        all.given += r.given, all.other += r.other, all.lost += r.lost;
    }
    CHECK(!all.lost && !all.other, "%s %s of %zu x %zu: %zu lost, %zu others", shk_type_of(type)->name, kinds[kind], rows, cols,
          all.lost, all.other);
    CHECK(known == tried, "%s %s: bounds known %zu times of %zu", shk_type_of(type)->name, kinds[kind], known, tried);
    if (kind == 0 && rows > 500) CHECK(all.given < T * ROUNDS * rows / 2, "%zu of %zu rows", all.given, T * ROUNDS * rows);
    free((void *)(uintptr_t)W.data);
    free(w);
    free(x);
}

/* What is not finite, or may not stay so, is left to linear. */
static void test_not_finite(void) {
    enum { ROWS = 100, COLS = 64 };
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    static const shk_wanted one = { 1, 0 }, too_many = { ROWS + 1, 0 };
    float w[ROWS * COLS], x[COLS];
    for (size_t b = 0; b < 3; b++) {
        fill(0, w, ROWS, COLS);
        lean(x, w, ROWS, COLS, 1);
        shk_mat W = matrix(SHK_F32, ROWS, COLS, w);
        NEED(!ops->coarsen(dev, &W, &err) && W.coarse, "%s", err.message);
        CHECK(compare(&W, x, 0, &one, 1).known, "it is known at first");
        CHECK(!compare(&W, x, 0, &too_many, 1).known, "more rows than there are");
        x[b * 20] = bad[b];
        CHECK(!compare(&W, x, 0, &one, 1).known, "x with %g", (double)bad[b]);
        free((void *)(uintptr_t)W.data);
        w[test_random(&seed) % (ROWS * COLS)] = bad[b];
        W = matrix(SHK_F32, ROWS, COLS, w);
        NEED(!ops->coarsen(dev, &W, &err), "%s", err.message);
        CHECK(!W.coarse, "W with %g", (double)bad[b]);
        free((void *)(uintptr_t)W.data);
    }
    fill(3, w, ROWS, COLS);
    shk_mat W = matrix(SHK_F32, ROWS, COLS, w), V = W;
    NEED(!ops->coarsen(dev, &W, &err) && W.coarse, "%s", err.message);
    lean(x, w, ROWS, COLS, 1e32);
    CHECK(!compare(&W, x, 0, &one, 1).known, "products beyond f32");
    memcpy((void *)(uintptr_t)V.data, &(float){ 1e20f }, sizeof(float));
    NEED(!ops->coarsen(dev, &V, &err), "%s", err.message);
    CHECK(!V.coarse, "weights beyond q8_0");
    free((void *)(uintptr_t)W.data);
}

/* Types and shapes that have no coarse form. */
static void test_unsuited(void) {
    float w[64 * 64];
    fill(0, w, 64, 64);
    shk_mat quantized = matrix(SHK_Q8_0, 64, 64, w), uneven = matrix(SHK_F32, 64, 40, w);
    CHECK(!ops->coarse_bytes(dev, &quantized) && !ops->coarse_bytes(dev, &uneven), "bytes");
    NEED(!ops->coarsen(dev, &quantized, &err) && !ops->coarsen(dev, &uneven, &err), "%s", err.message);
    CHECK(!quantized.coarse && !uneven.coarse, "coarse");
    free((void *)(uintptr_t)quantized.data);
    free((void *)(uintptr_t)uneven.data);
}

int main(void) {
    /* a machine without one of them has a lower one */
    static const char *const tiers[] = { "ref", "avx2", "avx512", "avx512vnni", "neon" };
    static const shk_type types[] = { SHK_F32, SHK_BF16, SHK_F16 };
    for (size_t i = 0; i < sizeof tiers / sizeof *tiers; i++) {
        setenv("SHK_CPU", tiers[i], 1);
        NEED(shk_cpu_open(&ops, &dev, 1 + (int)i % 3, &err) == SHK_OK, "%s", err.message);
        for (size_t t = 0; t < 3; t++)
            for (size_t kind = 0; kind < KINDS; kind++) {
                test_kind(types[t], kind, 64, 32);
                test_kind(types[t], kind, 333, 96);
                test_kind(types[t], kind, 5000, 64);
            }
        test_not_finite();
        test_unsuited();
        ops->close(dev);
    }
    return test_done();
}
