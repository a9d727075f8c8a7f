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
static shk_mat matrix(shk_type type, float *values, size_t rows, size_t cols, bool by_rows) {
    shk_mat m = { .type = type, .rows = rows, .cols = cols, .by_rows = by_rows };
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
    shk_mat W = matrix(type, w, rows, cols, false);
    float *dx = on_device(x, TOKENS * cols), *db = on_device(bias, rows), *dy = on_device(NULL, TOKENS * rows);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t T = lengths[i], from = i ? TOKENS - T : 0;
        memset(part, 0xff, T * rows * sizeof *part);
        ops->upload(dev, dy, part, T * rows * sizeof *part);
        ops->linear(dev, dy, dx + from * cols, cols, &W, db, T);
        ops->download(dev, i ? part : whole, dy, T * rows * sizeof *part);
        if (i)
            CHECK(!memcmp(part, whole + from * rows, T * rows * sizeof *part), "%s %zu x %zu: %zu tokens differ from %d",
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
        W[i] = matrix(SHK_BF16, w, rows[i], COLS, false);
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

static double gelu(double x) { return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

typedef struct layer {
    size_t n, in, out;
    const float *u, *v; /* [n, in], [n, out] */
    double k;
} layer;

/* A token's y by its definition, every third value of it. Besides the roundings of the two sums (compare), theta and the score may
 * each be half a rounding off, which gelu makes at most 1.13 times as much, and gelu eight of its argument. Scores that close to
 * theta count as chosen: what they add is as small as the error. */
static size_t compare_sparse(const layer *l, const float *y, const float *s, const float *x, uint32_t count) {
    const double EPS = 0x1p-24;
    double mean = 0, var = 0, *sum = calloc(2 * l->out, sizeof *sum), *error = sum + l->out;
    size_t wrong = 0, least = 0, most = 0;
    for (size_t j = 0; j < l->n; j++) mean += s[j] / (double)l->n;
    for (size_t j = 0; j < l->n; j++) var += (s[j] - mean) * (s[j] - mean) / (double)l->n;
    double theta = mean + sqrt(var) * shk_normal_quantile(1 - l->k / (double)l->n);
    for (size_t j = 0; j < l->n; j++) {
        double value = s[j] - theta, off = 2 * EPS * (fabs((double)s[j]) + fabs(theta)), dot = 0, magnitude = 0;
        least += value > off, most += value >= -off;
        if (value < -off) continue;
        double g = gelu(fmax(value, 0)), g_off = 1.13 * off + 8 * EPS * fabs(value);
        for (size_t i = 0; i < l->in; i++) {
            double term = (double)l->u[j * l->in + i] * x[i];
            dot += term, magnitude += fabs(term);
        }
        double h_off = magnitude * (g * (((double)l->in + 3) * EPS + 0x1p-18) + g_off);
        for (size_t o = 0; o < l->out; o += 3) {
            double v = l->v[j * l->out + o];
            sum[o] += g * dot * v;
            error[o] += fabs(v) * (h_off + g * fabs(dot) * ((l->k + 128) * EPS + 0x1p-18));
        }
    }
    for (size_t o = 0; o < l->out; o += 3) wrong += !(fabs(y[o] - sum[o]) <= error[o]);
    free(sum);
    return wrong + (count < least || count > most);
}

/* Rows are read that any token of a pass wants, or all: neither may show. */
static void test_sparse(shk_type type, shk_type type_v, size_t n, size_t in, size_t out) {
    static const size_t lengths[] = { TOKENS, 1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 65 };
    size_t ldx = in + 4;
    float *u = random_values(n * in), *v = random_values(n * out), *s = random_values(TOKENS * n), *x = random_values(TOKENS * ldx);
    float *whole = malloc(TOKENS * out * sizeof *whole), *part = malloc(TOKENS * out * sizeof *part);
    shk_mat U = matrix(type, u, n, in, true), V = matrix(type_v, v, n, out, true);
    float *ds = on_device(s, TOKENS * n), *dx = on_device(x, TOKENS * ldx), *dy = on_device(NULL, TOKENS * out);
    shk_active active = { ops->alloc(dev, TOKENS * n * 4), ops->alloc(dev, TOKENS * n * 4), ops->alloc(dev, TOKENS * 4), n };
    layer l = { n, in, out, u, v, 0.08 * (double)n };
    for (int dense = 0; dense < 2; dense++)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            shk_sparsity how = { l.k, 0, dense };
            size_t T = lengths[i], from = i ? (TOKENS - T) / 3 : 0;
            bool first = !i && !dense;
            memset(part, 0xff, T * out * sizeof *part);
            ops->upload(dev, dy, part, T * out * sizeof *part);
            ops->sparsify(dev, &active, ds + from * n, T, n, &how);
            ops->sparse_glu(dev, dy, &active, dx + from * ldx, ldx, &U, &V, T);
            ops->download(dev, first ? whole : part, dy, T * out * sizeof *part);
            if (!first)
                CHECK(!memcmp(part, whole + from * out, T * out * sizeof *part), "sparse %s %zu: %zu tokens%s differ from %d",
                      shk_type_of(type)->name, n, T, dense ? ", dense," : "", TOKENS);
            uint32_t counts[TOKENS];
            ops->download(dev, counts, active.n, T * sizeof *counts);
            for (size_t t = 0; t < T && dense; t++) CHECK(counts[t] == n, "%u active of %zu", counts[t], n);
            for (size_t t = 0; t < 9 && first; t++) {
                size_t wrong = compare_sparse(&l, whole + t * out, s + t * n, x + t * ldx, counts[t]);
                CHECK(!wrong, "sparse %s %zu, token %zu: %zu values are off", shk_type_of(type)->name, n, t, wrong);
            }
        }
    ops->release(dev, active.ids, 0), ops->release(dev, active.value, 0), ops->release(dev, active.n, 0);
    ops->release(dev, ds, 0), ops->release(dev, dx, 0), ops->release(dev, dy, 0);
    free(u), free(v), free(s), free(x), free(whole), free(part);
}

/* The same without the last matrix: a row of h that is alone against the whole pass's, and 0 where nothing is active. */
static void test_sparse_up(shk_type type, size_t n, size_t in) {
    static const size_t lengths[] = { TOKENS, 1, 5, 8, 9, 20, 33, 65 };
    float *u = random_values(n * in), *s = random_values(TOKENS * n), *x = random_values(TOKENS * in);
    float *whole = malloc(TOKENS * n * sizeof *whole), *part = malloc(TOKENS * n * sizeof *part);
    shk_mat U = matrix(type, u, n, in, true);
    float *ds = on_device(s, TOKENS * n), *dx = on_device(x, TOKENS * in), *dy = on_device(NULL, TOKENS * n);
    shk_active active = { ops->alloc(dev, TOKENS * n * 4), ops->alloc(dev, TOKENS * n * 4), ops->alloc(dev, TOKENS * 4), n };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t T = lengths[i], from = i ? (TOKENS - T) / 3 : 0;
        memset(part, 0xff, T * n * sizeof *part);
        ops->upload(dev, dy, part, T * n * sizeof *part);
        ops->sparsify(dev, &active, ds + from * n, T, n, &(shk_sparsity){ 0.05 * (double)n, 0, false });
        ops->sparse_up(dev, dy, &active, dx + from * in, in, &U, T);
        ops->download(dev, i ? part : whole, dy, T * n * sizeof *part);
        if (i)
            CHECK(!memcmp(part, whole + from * n, T * n * sizeof *part), "sparse_up %s %zu: %zu tokens differ from %d",
                  shk_type_of(type)->name, n, T, TOKENS);
    }
    uint32_t counts[TOKENS];
    size_t wrong = 0, T = lengths[sizeof lengths / sizeof *lengths - 1], from = (TOKENS - T) / 3;
    ops->download(dev, counts, active.n, T * sizeof *counts);
    for (size_t t = 0; t < 9; t++) {
        double mean = 0, var = 0;
        const float *row = s + (from + t) * n, *xt = x + (from + t) * in;
        for (size_t j = 0; j < n; j++) mean += row[j] / (double)n;
        for (size_t j = 0; j < n; j++) var += (row[j] - mean) * (row[j] - mean) / (double)n;
        double theta = mean + sqrt(var) * shk_normal_quantile(0.95);
        size_t nonzero = 0;
        for (size_t j = 0; j < n; j++) { /* bounds as in compare_sparse */
            double value = row[j] - theta, off = 0x1p-23 * (fabs((double)row[j]) + fabs(theta)), dot = 0, magnitude = 0;
            float h = part[t * n + j];
            nonzero += h != 0;
            for (size_t k = 0; k < in; k++) {
                double term = (double)u[j * in + k] * xt[k];
                dot += term, magnitude += fabs(term);
            }
            double g = gelu(fmax(value, 0)), g_off = value < -off ? 0 : 1.13 * off + 0x1p-21 * fabs(value);
            wrong += !(fabs(h - g * dot) <= magnitude * (g * (((double)in + 3) * 0x1p-24 + 0x1p-18) + g_off));
        }
        wrong += nonzero > counts[t] || nonzero + 2 < counts[t]; /* a dot or gelu may be 0 */
    }
    CHECK(!wrong, "sparse_up %s %zu: %zu values are off", shk_type_of(type)->name, n, wrong);
    ops->release(dev, active.ids, 0), ops->release(dev, active.value, 0), ops->release(dev, active.n, 0);
    ops->release(dev, ds, 0), ops->release(dev, dx, 0), ops->release(dev, dy, 0);
    free(u), free(s), free(x), free(whole), free(part);
}

/* A token whose scores are not numbers shows it; the others notice nothing. */
static void test_sparse_nan(void) {
    enum { N = 200, IN = 64, OUT = 96, T = 20, BAD = 3 };
    float *u = random_values(N * IN), *v = random_values(N * OUT), *s = random_values(T * N), *x = random_values(T * IN);
    shk_mat U = matrix(SHK_BF16, u, N, IN, true), V = matrix(SHK_BF16, v, N, OUT, true);
    float *ds = on_device(s, T * N), *dx = on_device(x, T * IN), *dy = on_device(NULL, T * OUT), y[2][T * OUT];
    shk_active active = { ops->alloc(dev, T * N * 4), ops->alloc(dev, T * N * 4), ops->alloc(dev, T * 4), N };
    for (size_t n = 6; n <= T; n += 14) {
        for (int bad = 0; bad < 2; bad++) {
            s[BAD * N + 7] = bad ? NAN : 0;
            ops->upload(dev, ds, s, T * N * sizeof *s);
            ops->sparsify(dev, &active, ds, n, N, &(shk_sparsity){ 20, 0, false });
            ops->sparse_glu(dev, dy, &active, dx, IN, &U, &V, n);
            ops->download(dev, y[bad], dy, n * OUT * sizeof **y);
        }
        size_t wrong = 0;
        for (size_t i = 0; i < n * OUT; i++)
            wrong += i / OUT == BAD ? !isnan(y[1][i]) : memcmp(&y[0][i], &y[1][i], sizeof **y) != 0;
        CHECK(!wrong, "%zu values of %zu tokens, one of them not a number", wrong, n);
    }
    ops->release(dev, active.ids, 0), ops->release(dev, active.value, 0), ops->release(dev, active.n, 0);
    ops->release(dev, ds, 0), ops->release(dev, dx, 0), ops->release(dev, dy, 0);
    free(u), free(v), free(s), free(x);
}

int main(void) {
    static const shk_type types[] = { SHK_BF16, SHK_Q8_0, SHK_Q4_0, SHK_F16, SHK_F32 };
    static const size_t shapes[][2] = { { 17, 160 }, { 1000, 2048 }, { 300, 9216 }, { 9216, 512 }, { 20000, 256 }, { 2304, 2304 } };
    size_t n_shapes = test_short() ? 3 : sizeof shapes / sizeof *shapes;
    if (!(ops = test_gpu(&dev))) return test_done();
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (size_t j = 0; j < n_shapes; j++) test_linear(types[i], shapes[j][0], shapes[j][1]);
    test_together();
    for (size_t i = 0; i < 3; i++) {
        if (!test_short()) test_sparse(types[i], types[i], 13824, 1280, 2304);
        test_sparse(types[i], types[i], 1003, 96, 160);
        test_sparse(types[i], types[(i + 1) % 3], 203, 64, 2304); /* few tokens want more rows than a block has room for */
    }
    for (size_t i = 0; i < 3; i++) test_sparse_up(types[i], 2048, test_short() ? 256 : 2048);
    test_sparse_nan();
    ops->close(dev);
    return test_done();
}
