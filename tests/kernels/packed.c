/* The packed form keeps a file's rows to the bit; its products are one and the same number in every tier, for any number of
 * tokens and rows at once, and near the exact product of the weights with the rounded activations. */
#include "blocks.h"
#include "cpu/packed.h"

enum { TOKENS = 37, ROWS_MAX = 35 };

/* n rows of k values in place 0, packed in place 1. */
static void random_packed(const format *f, size_t n, size_t k) {
    size_t stride = row_bytes(f->type, k), group = shk_packed_bytes(f->type, k);
    uint8_t *rows = place(0, n * stride, 0), *packed = place(1, (n + 15) / 16 * group, 0);
    memset(packed, 0, (n + 15) / 16 * group);
    for (size_t i = 0; i < n; i++) random_row(f, rows + i * stride, k, false);
    for (size_t i = 0; i < n; i += 16)
        shk_pack_group(f->type, packed + i / 16 * group, rows + i * stride, stride, n - i < 16 ? n - i : 16, k);
}

static void test_unpack(const format *f, size_t n, size_t k) {
    float *y = floats(2, k), *expected = floats(3, k);
    for (size_t i = 0; i < n; i++) {
        shk_dequant_row(f->type, expected, places[0].data + i * row_bytes(f->type, k), k);
        shk_unpack_row(f->type, y, places[1].data + i / 16 * shk_packed_bytes(f->type, k), i % 16, k);
        CHECK(same_bits(y, expected, k) && marks_intact(), "%s: row %zu of %zu x %zu is not the file's",
              shk_type_of(f->type)->name, i, n, k);
    }
}

/* Near sum_j w[j] d q[j]: y is a chain of fused multiply-adds over at most 2 k / 32 terms whose factors were rounded once or
 * twice. */
static void test_dot(const shk_kernels *k, const shk_kernels *ref, const format *f, size_t n, size_t width) {
    size_t blocks = width / SHK_PACK_BLOCK;
    const char *name = shk_type_of(f->type)->name;
    float *x = fill(floats(2, TOKENS * width), TOKENS * width, -1, 1), *w = floats(3, width);
    shk_xblock *q = place(4, TOKENS * blocks * sizeof *q, 0);
    float *y = floats(5, TOKENS * n), *expected = floats(6, TOKENS * n), *single = floats(7, n);
    for (size_t t = 0; t < TOKENS; t++) k->round_x[SHK_Q8_0](q + t * blocks, x + t * width, width);
    ref->dot_packed[f->type](expected, n, places[1].data, n, q, TOKENS, width);
    for (size_t tokens = 1; tokens <= TOKENS; tokens++) {
        memset(y, 0, TOKENS * n * sizeof *y);
        k->dot_packed[f->type](y, n, places[1].data, n, q, tokens, width);
        CHECK(same_bits(y, expected, tokens * n), "%s %s: %zu tokens, %zu x %zu: not the reference", k->tier, name, tokens, n,
              width);
    }
    k->dot_packed[f->type](single, n, places[1].data, n, q + (TOKENS - 1) * blocks, 1, width);
    CHECK(same_bits(single, expected + (TOKENS - 1) * n, n) && marks_intact(), "%s %s: a token alone, %zu x %zu", k->tier, name,
          n, width);
    for (size_t i = 0; i < n; i++) {
        double sum = 0, size = 0;
        shk_dequant_row(f->type, w, places[0].data + i * row_bytes(f->type, width), width);
        for (size_t j = 0; j < width; j++) {
            const shk_xblock *b = &q[j / SHK_PACK_BLOCK];
            sum += (double)w[j] * (double)b->d * b->q[j % SHK_PACK_BLOCK];
            size += (fabs((double)w[j]) + 64 * 0.01 * 64) * (double)b->d * 127; /* mins are taken off after the products */
        }
        CHECK(fabs((double)expected[i] - sum) <= (double)(2 * blocks + 4) * u * size, "%s %s: %g for %g", k->tier, name,
              (double)expected[i], sum);
    }
}

static void test_quantize(const shk_kernels *k, const shk_kernels *ref) {
    enum { BLOCKS = 9, N = BLOCKS * SHK_PACK_BLOCK };
    shk_xblock *a = place(1, BLOCKS * sizeof *a, 0), *b = place(2, BLOCKS * sizeof *b, 0);
    for (int round = 0; round < 20; round++) {
        float *x = round % 2 ? fill_wide(floats(0, N), N, 100) : fill(floats(0, N), N, -3, 3);
        memset(x, 0, SHK_PACK_BLOCK * sizeof *x);
        k->round_x[SHK_Q8_0](a, x, N);
        ref->round_x[SHK_Q8_0](b, x, N);
        CHECK(!memcmp(a, b, BLOCKS * sizeof *a) && marks_intact(), "%s: quantize_x is not the reference", k->tier);
        for (size_t i = 0; i < N && round % 2 == 0; i++) { /* half a step, and what rounding the scale and its inverse may add */
            const shk_xblock *block = &a[i / SHK_PACK_BLOCK];
            double error = fabs((double)block->d * block->q[i % SHK_PACK_BLOCK] - (double)x[i]);
            CHECK(error <= (double)block->d * (0.5 + 127 * 4 * u), "%s: %g is %g steps off", k->tier, (double)x[i],
                  error / (double)block->d);
        }
    }
    float *small = fill(floats(0, N), N, -1, 1); /* blocks around the least that is rounded */
    for (size_t i = 0; i < N; i++) small[i] = ldexpf(small[i], -116 - (int)(i / SHK_PACK_BLOCK));
    k->round_x[SHK_Q8_0](a, small, N);
    ref->round_x[SHK_Q8_0](b, small, N);
    CHECK(!memcmp(a, b, BLOCKS * sizeof *a), "%s: small values: not the reference", k->tier);
    for (size_t j = 0; j < BLOCKS; j++) {
        int sum = 0;
        for (size_t i = 0; i < SHK_PACK_BLOCK; i++) sum += a[j].q[i];
        CHECK(sum == a[j].half[0] + a[j].half[1], "%s: small values: a sum of %d for %d", k->tier,
              a[j].half[0] + a[j].half[1], sum);
    }
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    for (size_t i = 0; i < N; i++) {
        float *x = fill(floats(0, N), N, -1, 1);
        for (size_t j = i / SHK_PACK_BLOCK * SHK_PACK_BLOCK; j <= i; j++) x[j] = bad[i % 3];
        k->round_x[SHK_Q8_0](a, x, N);
        for (size_t j = 0; j < BLOCKS; j++)
            CHECK(isnan(a[j].d) == (j == i / SHK_PACK_BLOCK), "%s: value %zu is %g, block %zu has d = %g", k->tier, i,
                  (double)bad[i % 3], j, (double)a[j].d);
    }
}

/* One order of summation for any number of tokens and rows; products are exact in f32, and a sum of k has k roundings at most. */
static void test_bf16(const shk_kernels *k, size_t n, size_t width) {
    enum { PADDED = 48 };
    const format *f = &formats[2];
    size_t stride = row_bytes(f->type, width), group = shk_packed_bytes(f->type, width);
    random_packed(f, n, width);
    test_unpack(f, n, width);
    float *x = fill(floats(2, TOKENS * width), TOKENS * width, -1, 1), *w = floats(3, width);
    uint16_t *b = place(4, PADDED * width * sizeof *b, 0); /* what is past the tokens may be read */
    float *y = floats(5, TOKENS * n), *all = floats(6, TOKENS * n);
    memset(b, 0xff, PADDED * width * sizeof *b);
    for (size_t t = 0; t < TOKENS; t++) k->round_x[f->type](b + t * width, x + t * width, width);
    for (size_t i = 0; i < TOKENS * width; i++)
        CHECK(b[i] == shk_f32_to_bf16(x[i]), "%s: %g is not rounded to bf16", k->tier, (double)x[i]);
    k->dot_packed[f->type](all, n, places[1].data, n, b, TOKENS, width);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t i = 0; i < n; i++) {
            double sum = 0, size = 0;
            shk_dequant_row(f->type, w, places[0].data + i * stride, width);
            for (size_t j = 0; j < width; j++) {
                double term = (double)w[j] * (double)shk_bf16_to_f32(b[t * width + j]);
                sum += term, size += fabs(term);
            }
            CHECK(fabs((double)all[t * n + i] - sum) <= (double)width * u * size, "%s bf16 %zu x %zu: %g for %g", k->tier, n, width,
                  (double)all[t * n + i], sum);
        }
    for (size_t tokens = 1; tokens < TOKENS; tokens++) {
        k->dot_packed[f->type](y, n, places[1].data, n, b, tokens, width);
        CHECK(same_bits(y, all, tokens * n) && marks_intact(), "%s bf16 %zu x %zu: %zu tokens", k->tier, n, width, tokens);
    }
    for (size_t i = 0; i < n; i += SHK_PACK_ROWS) {
        size_t some = n - i < SHK_PACK_ROWS ? n - i : SHK_PACK_ROWS;
        k->dot_packed[f->type](y, some, places[1].data + i / SHK_PACK_ROWS * group, some, b, 1, width);
        CHECK(same_bits(y, all + i, some), "%s bf16 %zu x %zu: rows from %zu", k->tier, n, width, i);
    }
}

static void test(const shk_kernels *k, const struct tier *t) {
    static const size_t blocks[] = { 1, 2, 3, 9, 70 };
    shk_kernels ref;
    (void)t;
    shk_cpu_kernels(&ref, 0);
    test_quantize(k, &ref);
    for (size_t i = 0; i < 12 && k->dot_packed[SHK_BF16]; i++)
        test_bf16(k, 1 + test_random(&seed) % ROWS_MAX, SHK_PACK_BLOCK * (1 + test_random(&seed) % (i < 8 ? 4 : 72)));
    for (const format *f = formats; f < formats + FORMATS; f++) {
        if (f->type == SHK_BF16) continue;
        CHECK(!k->dot_packed[f->type] == !shk_packing_of(f->type), "%s: %s", k->tier, shk_type_of(f->type)->name);
        if (!shk_packing_of(f->type)) continue;
        for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
            size_t n = 1 + test_random(&seed) % ROWS_MAX, width = blocks[i] * shk_type_of(f->type)->block;
            if (width > 4096) width = 4096;
            random_packed(f, n, width);
            test_unpack(f, n, width);
            test_dot(k, &ref, f, n, width);
        }
    }
}

int main(void) {
    each_tier(test);
    return test_done();
}
