/* The GPU's products at the sizes of real models, where its kernels differ from those of small ones: against sums in double, and a
 * token's result against itself in passes of other lengths, to the bit. */
#include <math.h>

#include "../device.h"

static const shk_ops *ops;
static void *dev;
static shk_error err;
static unsigned long long seed = 99;

enum { TOKENS = 128 };

static float *random_values(size_t n) {
    float *v = malloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = (float)(test_uniform(&seed) - 0.5);
    return v;
}

static float *on_device(const float *v, size_t n) {
    float *p = ops->alloc(dev, n * sizeof *v);
    NEED(p, "%zu values", n);
    if (v) ops->upload(dev, p, v, n * sizeof *v);
    return p;
}

/* A matrix, prepared; `values` [rows, cols] gets what its type makes of them. */
static shk_mat matrix(shk_type type, float *values, size_t rows, size_t cols) {
    shk_mat m = { .type = type, .rows = rows, .cols = cols };
    NEED(shk_row_bytes(type, cols, &m.stride), "rows of %zu", cols);
    char *packed = malloc(rows * m.stride);
    for (size_t r = 0; r < rows; r++) {
        shk_quant_row(type, packed + r * m.stride, values + r * cols, cols);
        shk_dequant_row(type, values + r * cols, packed + r * m.stride, cols);
    }
    m.data = packed;
    NEED(!ops->prepare(dev, &m, &err), "%s", err.message);
    free(packed);
    return m;
}

/* Every second row against double: half a rounding for each of the k additions, and 2^-18 of each activation. */
static size_t compare(const float *y, const float *w, const float *x, const float *bias, size_t T, size_t rows, size_t cols) {
    size_t wrong = 0;
    for (size_t t = 0; t < T; t++)
        for (size_t r = t % 2; r < rows; r += 2) {
            double sum = bias[r], magnitude = fabs(sum);
            for (size_t k = 0; k < cols; k++) {
                double term = (double)w[r * cols + k] * x[t * cols + k];
                sum += term, magnitude += fabs(term);
            }
            wrong += !(fabs(y[t * rows + r] - sum) <= magnitude * (((double)cols + 2) * 0x1p-24 + 0x1p-18));
        }
    return wrong;
}

static void test_linear(shk_type type, size_t rows, size_t cols) {
    static const size_t lengths[] = { TOKENS, 1, 2, 8, 9, 16, 17, 33, 64, 65 };
    float *w = random_values(rows * cols), *x = random_values(TOKENS * cols), *bias = random_values(rows);
    float *whole = malloc(TOKENS * rows * sizeof *whole), *part = malloc(TOKENS * rows * sizeof *part);
    shk_mat W = matrix(type, w, rows, cols);
    float *dx = on_device(x, TOKENS * cols), *db = on_device(bias, rows), *dy = on_device(NULL, TOKENS * rows);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t T = lengths[i], from = i ? TOKENS - T : 0;
        memset(part, 0xff, T * rows * sizeof *part);
        ops->upload(dev, dy, part, T * rows * sizeof *part);
        ops->linear(dev, dy, dx + from * cols, cols, &W, db, T);
        ops->download(dev, i ? part : whole, dy, T * rows * sizeof *part);
        if (i) CHECK(!memcmp(part, whole + from * rows, T * rows * sizeof *part), "%s %zu x %zu: %zu tokens differ from %d",
                     shk_type_of(type)->name, rows, cols, T, TOKENS);
    }
    size_t wrong = compare(whole, w, x, bias, 9, rows, cols);
    CHECK(!wrong, "%s %zu x %zu: %zu values are off", shk_type_of(type)->name, rows, cols, wrong);
    ops->release(dev, dx, 0), ops->release(dev, db, 0), ops->release(dev, dy, 0);
    free(w), free(x), free(bias), free(whole), free(part);
}

/* Several products of one x become one launch; what they give must not notice. */
static void test_together(void) {
    enum { COLS = 640, N = 3, T = 5 };
    static const size_t rows[N] = { 512, 100, 256 };
    float *x = random_values(T * COLS), *dx = on_device(x, T * COLS), *alone = malloc(T * 512 * sizeof *alone), *dy[N], *y[N];
    shk_mat W[N];
    for (int i = 0; i < N; i++) {
        float *w = random_values(rows[i] * COLS);
        W[i] = matrix(SHK_BF16, w, rows[i], COLS);
        dy[i] = on_device(NULL, T * rows[i]);
        y[i] = malloc(T * rows[i] * sizeof *y[i]);
        free(w);
    }
    for (int i = 0; i < N; i++) ops->linear(dev, dy[i], dx, COLS, &W[i], NULL, T);
    for (int i = 0; i < N; i++) ops->download(dev, y[i], dy[i], T * rows[i] * sizeof *y[i]);
    for (int i = 0; i < N; i++) {
        ops->linear(dev, dy[i], dx, COLS, &W[i], NULL, T);
        ops->download(dev, alone, dy[i], T * rows[i] * sizeof *alone);
        CHECK(!memcmp(alone, y[i], T * rows[i] * sizeof *alone), "matrix %d of %d", i, N);
        ops->release(dev, dy[i], 0);
        free(y[i]);
    }
    ops->release(dev, dx, 0);
    free(x), free(alone);
}

int main(void) {
    static const shk_type types[] = { SHK_BF16, SHK_Q8_0, SHK_Q4_0, SHK_F16, SHK_F32 };
    static const size_t shapes[][2] = { { 2304, 2304 }, { 300, 9216 }, { 9216, 512 }, { 20000, 256 }, { 1000, 2048 }, { 17, 160 } };
    if (!(ops = test_gpu(&dev))) return test_done();
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++) test_linear(types[i], shapes[j][0], shapes[j][1]);
    test_together();
    ops->close(dev);
    return test_done();
}
