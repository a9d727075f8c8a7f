/* row_scales, dot_gathered, axpy_gathered: every tier gives the bits of ref; ref is near the exact products; how rows and columns
 * are divided does not matter. */
#include "blocks.h"

enum { ROWS = 41, STORED = 50 };

static shk_kernels ref;

/* Places: 0 the rows, 1 and 2 results, 3 and 4 activations, 5 coefficients, 6 scales, 7 an f32 row, 8 ids. */
typedef struct input {
    const format *f;
    uint8_t *w;
    size_t n, k, stride, groups;
    uint32_t *ids;
    float *c, *scales;
    shk_xblock *x;
    shk_gathered_row rows[SHK_GATHER_ROWS];
} input;

static input random_input(const format *f, size_t n, size_t k, size_t gap) {
    input in = { .f = f, .n = n, .k = k, .stride = row_bytes(f->type, k) + 3, .groups = shk_scale_groups(f->type, k) };
    float *x = fill(floats(3, k), k, -1, 1);
    in.w = place(0, STORED * in.stride, gap);
    in.ids = place(8, n * 4, 0), in.x = place(4, k / 32 * sizeof *in.x, 0);
    in.scales = floats(6, n * 2 * in.groups), in.c = fill(floats(5, n), n, -2, 2);
    for (size_t i = 0; i < STORED; i++) random_row(f, in.w + i * in.stride, k, false);
    ref.round_x[SHK_Q8_0](in.x, x, k);
    for (size_t i = 0; i < n; i++) {
        in.ids[i] = (uint32_t)(test_random(&seed) % STORED);
        in.rows[i] = (shk_gathered_row){ in.w + in.ids[i] * in.stride, in.scales + i * 2 * in.groups };
        ref.row_scales[f->type](in.scales + i * 2 * in.groups, in.rows[i].w, k);
    }
    return in;
}

/* Against exact sums, with what the rounding of coefficients adds. */
static void test_meaning(const input *in) {
    const char *name = shk_type_of(in->f->type)->name;
    size_t k = in->k, n = in->n, width = k / in->groups;
    float *y = floats(1, n), *w = floats(7, k), *sum = floats(2, k);
    ref.dot_gathered[in->f->type](y, in->w, in->stride, in->ids, n, in->x, k);
    memset(sum, 0, k * sizeof *sum);
    ref.axpy_gathered[in->f->type](sum, in->rows, in->c, n, k, NULL, 0);
    double *want = calloc(k, sizeof *want), *size = calloc(k, sizeof *size), *most = calloc(in->groups, sizeof *most);
    for (size_t i = 0; i < n; i++) {
        const float *d = in->rows[i].scales, *m = d + in->groups;
        double dot = 0, terms = 0;
        bool min = ref.row_scales[in->f->type] && (in->f->f16_at[0] != in->f->f16_at[1]);
        shk_dequant_row(in->f->type, w, in->rows[i].w, k);
        for (size_t j = 0; j < k; j++) {
            double x = (double)in->x[j / 32].d * in->x[j / 32].q[j % 32], m_j = min ? (double)m[j / width] : 0;
            double part = fabs((double)w[j] - m_j) + fabs(m_j); /* d q and m are added up apart */
            dot += (double)w[j] * x, terms += part * fabs(x) + fabs(m_j) * (double)in->x[j / 32].d * 127;
            want[j] += (double)in->c[i] * (double)w[j], size[j] += fabs((double)in->c[i]) * part;
            if (j % width == 0) most[j / width] = fmax(most[j / width], fabs((double)in->c[i] * (double)d[j / width]));
        }
        CHECK(fabs((double)y[i] - dot) <= (double)(k / 32 + 8) * u * terms, "%s %zu: %g for %g", name, k, (double)y[i], dot);
    }
    for (size_t j = 0; j < k; j++) {
        double rounding = (double)n * 128 * most[j / width] / SHK_GATHER_MAX * (0.5 + 0x1p-7); /* of each coefficient; * inverse */
        CHECK(fabs((double)sum[j] - want[j]) <= rounding + (double)(n + 6) * u * size[j] + SHK_GATHER_LEAST * 128 * (double)n,
              "%s %zu rows, column %zu: %g for %g", name, n, j, (double)sum[j], want[j]);
    }
    free(want), free(size), free(most);
}

static void test_same(const shk_kernels *k, const input *in) {
    shk_type type = in->f->type;
    const char *name = shk_type_of(type)->name;
    float *a = floats(1, in->n), *b = floats(2, in->n), *s = floats(7, 2 * in->groups);
    k->dot_gathered[type](a, in->w, in->stride, in->ids, in->n, in->x, in->k);
    ref.dot_gathered[type](b, in->w, in->stride, in->ids, in->n, in->x, in->k);
    CHECK(same_bits(a, b, in->n), "%s dot_gathered %s: %zu x %zu", k->tier, name, in->n, in->k);
    for (size_t i = 0; i < in->n; i++) {
        memcpy(s, in->rows[i].scales, 2 * in->groups * sizeof *s);
        k->row_scales[type](s, in->rows[i].w, in->k);
        bool same = true; /* as numbers: a zero's sign makes no difference to a sum */
        for (size_t g = 0; g < 2 * in->groups; g++) same &= s[g] == in->rows[i].scales[g];
        CHECK(same, "%s row_scales %s: %zu", k->tier, name, in->k);
    }
    a = fill(floats(1, in->k), in->k, -1, 1), b = floats(2, in->k);
    memcpy(b, a, in->k * sizeof *b);
    k->axpy_gathered[type](a, in->rows, in->c, in->n, in->k, (const void *const[]){ in->w }, 1);
    ref.axpy_gathered[type](b, in->rows, in->c, in->n, in->k, NULL, 0);
    CHECK(same_bits(a, b, in->k), "%s axpy_gathered %s: %zu x %zu", k->tier, name, in->n, in->k);
    CHECK(marks_intact(), "%s %s %zu x %zu: wrote outside", k->tier, name, in->n, in->k);
}

/* Extremes: the largest sums there can be, coefficients of zero and beneath notice, one that is not finite. */
static void test_extremes(const shk_kernels *k, const format *f) {
    size_t block = shk_type_of(f->type)->block, bytes = row_bytes(f->type, block);
    for (int kind = 0; kind < 5; kind++) {
        input in = random_input(f, SHK_GATHER_ROWS, block, 1);
        for (size_t i = 0; i < in.n; i++) {
            const float c[] = { 1, 0, 1e-37f, (float)ldexp(uniform(-1, 1), (int)(i % 99) - 99), i == 77 ? NAN : 1 };
            in.c[i] = c[kind];
        }
        uint16_t half = shk_f32_to_f16(0.5f);
        for (size_t i = 0; kind == 0 && i < STORED; i++) { /* every row alike, with the largest quants */
            uint8_t *row = in.w + i * in.stride;
            memset(row, f->type == SHK_Q8_0 ? 0x80 : 0xff, bytes);
            for (size_t v = 0; v < 2; v++) memcpy(row + f->f16_at[v], &half, 2);
        }
        for (size_t i = 0; i < in.n; i++) ref.row_scales[f->type](in.scales + i * 2 * in.groups, in.rows[i].w, block);
        test_same(k, &in);
        float *y = floats(1, block);
        memset(y, 0, block * sizeof *y);
        k->axpy_gathered[f->type](y, in.rows, in.c, in.n, block, NULL, 0);
        for (size_t j = 0; j < block; j++)
            CHECK(kind == 1 ? y[j] == 0 : isnan(y[j]) == (kind == 4), "%s %s, extreme %d: %g", k->tier,
                  shk_type_of(f->type)->name, kind, (double)y[j]);
    }
}

static void test(const shk_kernels *k, const struct tier *t) {
    (void)t;
    shk_cpu_kernels(&ref, 0);
    for (const format *f = formats; f < formats + FORMATS; f++) {
        size_t block = shk_type_of(f->type)->block;
        CHECK((block > 1) == !!k->dot_gathered[f->type] && (block > 1) == !!k->axpy_gathered[f->type] &&
                  (block > 1) == !!k->row_scales[f->type], "%s: what type %d has", k->tier, (int)f->type);
        if (block == 1) continue;
        for (size_t i = 0; i < 12; i++) {
            input in = random_input(f, i < 10 ? i : ROWS, (i < 9 ? i : 2304 / block) * block, i % 4);
            test_same(k, &in);
            if (in.k) test_meaning(&in);
        }
        test_extremes(k, f);
    }
}

int main(void) {
    each_tier(test);
    return test_done();
}
