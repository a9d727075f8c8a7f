/* dot_rows, axpy_rows, dequant: against the reference and, within a tier, against each other to the bit. */
#include "blocks.h"

enum { ROWS_MAX = 9 };

/* A matrix of n random rows in place 0, `gap` bytes off alignment, and where its rows are: all in a row, or through ids. */
typedef struct matrix {
    const uint8_t *w;
    size_t n, k, stride;
    uint32_t ids[ROWS_MAX];
    const uint32_t *by; /* ids or NULL */
} matrix;

static matrix random_matrix(const format *f, size_t n, size_t k, bool gather, size_t gap) {
    size_t bytes = row_bytes(f->type, k), stored = gather ? ROWS_MAX : n;
    matrix m = { .n = n, .k = k, .stride = bytes + (gather ? 5 : 0) };
    uint8_t *w = place(0, stored ? (stored - 1) * m.stride + bytes : 0, gap);
    for (size_t i = 0; i < stored; i++) random_row(f, w + i * m.stride, k, false);
    for (size_t i = 0; i < n; i++) m.ids[i] = (uint32_t)(test_random(&seed) % ROWS_MAX);
    m.w = w, m.by = gather ? place(9, n * 4, 0) : NULL;
    if (gather) memcpy((void *)m.by, m.ids, n * 4);
    return m;
}

static const uint8_t *row_of(const matrix *m, size_t i) { return m->w + (m->by ? m->by[i] : i) * m->stride; }

/* dequant + matmul_f32 gives the same bits as dot_rows, for each of several tokens; and both are near the exact sum. */
static void test_dot(const shk_kernels *k, const struct tier *t, const format *f, const matrix *m) {
    enum { TOKENS = 3 };
    const char *name = shk_type_of(f->type)->name;
    float *x = fill(floats(1, TOKENS * m->k), TOKENS * m->k, -1, 1), *y = floats(2, m->n);
    float *w = floats(3, m->n * m->k), *product = floats(4, TOKENS * m->n);
    for (size_t i = 0; i < m->n; i++) k->dequant[f->type](w + i * m->k, row_of(m, i), m->k);
    k->matmul_f32(product, m->n, w, m->k, x, m->k, m->n, TOKENS, m->k);
    for (size_t token = 0; token < TOKENS; token++) {
        const float *in = x + token * m->k;
        k->dot_rows[f->type](y, m->w, m->stride, m->by, m->n, in, m->k);
        CHECK(same_bits(y, product + token * m->n, m->n), "%s %s %zu x %zu: dot_rows is not matmul", k->tier, name, m->n, m->k);
        for (size_t i = 0; i < m->n; i++) {
            double sum = 0, size = 0;
            for (size_t j = 0; j < m->k; j++) {
                double term = (double)w[i * m->k + j] * (double)in[j];
                sum += term, size += fabs(term);
            }
            CHECK(fabs((double)y[i] - sum) <= sum_roundings(t, m->k) * u * size, "%s %s %zu x %zu: %g for %g", k->tier, name,
                  m->n, m->k, (double)y[i], sum);
        }
    }
    CHECK(marks_intact(), "%s %s %zu x %zu: wrote outside", k->tier, name, m->n, m->k);
}

/* One fused multiply-add a row, in order: one answer, to the bit. */
static void test_axpy(const shk_kernels *k, const format *f, const matrix *m) {
    float *c = fill(floats(1, m->n), m->n, -2, 2), *y = fill(floats(2, m->k), m->k, -1, 1);
    float *w = floats(3, m->k), *expected = floats(4, m->k);
    memcpy(expected, y, m->k * sizeof *y);
    for (size_t i = 0; i < m->n; i++) {
        shk_dequant_row(f->type, w, row_of(m, i), m->k);
        for (size_t j = 0; j < m->k; j++) expected[j] = fmaf(c[i], w[j], expected[j]);
    }
    k->axpy_rows[f->type](y, m->w, m->stride, m->by, c, m->n, m->k);
    CHECK(same_bits(y, expected, m->k), "%s %s: %zu rows of %zu", k->tier, shk_type_of(f->type)->name, m->n, m->k);
    CHECK(marks_intact(), "%s %s %zu x %zu: wrote outside", k->tier, shk_type_of(f->type)->name, m->n, m->k);
}

static void test_dequant(const shk_kernels *k, const format *f) {
    size_t block = shk_type_of(f->type)->block;
    for (size_t i = 0; i < LENGTHS; i++) {
        size_t n = block > 1 && i < 68 ? i * block : length_of(i), bytes;
        if (!shk_row_bytes(f->type, n, &bytes)) continue; /* a width that is no multiple of the block */
        uint8_t *w = place(0, bytes, i % 4);
        random_row(f, w, n, true);
        float *y = floats(1, n), *expected = floats(2, n);
        k->dequant[f->type](y, w, n);
        shk_dequant_row(f->type, expected, w, n);
        CHECK(same_bits(y, expected, n) && marks_intact(), "%s %s: %zu values", k->tier, shk_type_of(f->type)->name, n);
    }
}

/* All there are. */
static void test_halves(const shk_kernels *k, shk_type type) {
    enum { ALL = 65536 };
    uint16_t *w = place(0, ALL * 2, 1);
    float *y = floats(1, ALL), *expected = floats(2, ALL);
    for (size_t i = 0; i < ALL; i++) memcpy((char *)w + 2 * i, &(uint16_t){ (uint16_t)i }, 2);
    k->dequant[type](y, w, ALL);
    shk_dequant_row(type, expected, w, ALL);
    CHECK(same_bits(y, expected, ALL), "%s %s: every value", k->tier, shk_type_of(type)->name);
}

static void test(const shk_kernels *k, const struct tier *t) {
    for (int type = 0; type < SHK_TYPE_COUNT; type++) {
        bool known = false;
        for (size_t i = 0; i < FORMATS; i++) known |= (int)formats[i].type == type;
        CHECK(!k->dot_rows[type] == !known, "%s: dot_rows of type %d", k->tier, type);
        CHECK(!k->axpy_rows[type] == !known, "%s: axpy_rows of type %d", k->tier, type);
        CHECK(!k->dequant[type] == !known, "%s: dequant of type %d", k->tier, type);
    }
    for (const format *f = formats; f < formats + FORMATS; f++) {
        size_t block = shk_type_of(f->type)->block, longest = block == 1 ? LENGTHS : 10;
        for (size_t i = 0; i < longest; i++) {
            size_t width = block == 1 ? length_of(i) : i < 8 ? i * block : i == 8 ? 2304 : 2560;
            size_t n = width > 600 ? 5 : test_random(&seed) % (ROWS_MAX + 1);
            matrix m = random_matrix(f, n, width, i % 2, i % 4);
            test_dot(k, t, f, &m);
            test_axpy(k, f, &m);
        }
        for (size_t n = 0; n <= ROWS_MAX; n++) {
            matrix m = random_matrix(f, n, 256, n % 2, 1);
            test_dot(k, t, f, &m);
            test_axpy(k, f, &m);
        }
        test_dequant(k, f);
    }
    test_halves(k, SHK_F16);
    test_halves(k, SHK_BF16);
}

int main(void) {
    each_tier(test);
    return test_done();
}
