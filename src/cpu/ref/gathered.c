#include "cpu/gathered.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "cpu/tiers.h"
#include "file/blocks.h"

/* Where a block has d and m (or dmin; d again: it has none), and bytes of the quants that mean q = 1 throughout. */
typedef struct anatomy {
    size_t bytes, d, m;
    struct { size_t at, n; uint8_t one; } quants[2];
} anatomy;

#define FIELD(type, field) offsetof(shk_block_##type, field), sizeof((shk_block_##type *)NULL)->field
#define ANATOMY(T, type, m, ...) \
    [SHK_##T] = { sizeof(shk_block_##type), offsetof(shk_block_##type, d), offsetof(shk_block_##type, m), { __VA_ARGS__ } }
static const anatomy anatomies[SHK_TYPE_COUNT] = {
    ANATOMY(Q8_0, q8_0, d, { FIELD(q8_0, qs), 1 }),
    ANATOMY(Q4_0, q4_0, d, { FIELD(q4_0, qs), 0x99 }),
    ANATOMY(Q4_1, q4_1, m, { FIELD(q4_1, qs), 0x11 }),
    ANATOMY(Q5_0, q5_0, d, { FIELD(q5_0, qs), 0x11 }, { FIELD(q5_0, qh), 0xff }),
    ANATOMY(Q5_1, q5_1, m, { FIELD(q5_1, qs), 0x11 }, { FIELD(q5_1, qh), 0 }),
    ANATOMY(IQ4_NL, iq4_nl, d, { FIELD(iq4_nl, qs), 0x88 }),
    ANATOMY(Q2_K, q2_k, dmin, { FIELD(q2_k, qs), 0x55 }),
    ANATOMY(Q3_K, q3_k, d, { FIELD(q3_k, qs), 0x55 }, { FIELD(q3_k, hmask), 0xff }),
    ANATOMY(Q4_K, q4_k, dmin, { FIELD(q4_k, qs), 0x11 }),
    ANATOMY(Q5_K, q5_k, dmin, { FIELD(q5_k, qs), 0x11 }, { FIELD(q5_k, qh), 0 }),
    ANATOMY(Q6_K, q6_k, d, { FIELD(q6_k, ql), 0x11 }, { FIELD(q6_k, qh), 0xaa }),
};

/* For each value of a block */
typedef struct parts {
    float d[SHK_SUPERBLOCK], m[SHK_SUPERBLOCK];
    int q[SHK_SUPERBLOCK];
} parts;

static void decode(shk_type type, float *y, const void *block, bool with_d, bool with_m, bool ones) {
    const anatomy *a = &anatomies[type];
    const uint16_t one = 0x3c00, zero = 0;
    uint8_t copy[sizeof(shk_block_q6_k)];
    memcpy(copy, block, a->bytes);
    if (!with_m && a->m != a->d) memcpy(copy + a->m, &zero, 2);
    if (!with_d) memcpy(copy + a->d, with_m ? &zero : &one, 2);
    for (size_t i = 0; ones && i < 2; i++) memset(copy + a->quants[i].at, a->quants[i].one, a->quants[i].n);
    shk_dequant_row(type, y, copy, shk_type_of(type)->block);
}

/* Taken apart by asking the decoder for blocks like it: d q where every q is 1; m where d is 0; q and its scale where d is 1. */
static void take(shk_type type, parts *p, const void *block) {
    size_t n = shk_type_of(type)->block;
    float values[SHK_SUPERBLOCK], scales[SHK_SUPERBLOCK];
    decode(type, p->d, block, true, false, true);
    memset(p->m, 0, sizeof p->m);
    if (anatomies[type].m != anatomies[type].d) decode(type, p->m, block, false, true, false);
    decode(type, values, block, false, false, false);
    decode(type, scales, block, false, false, true);
    for (size_t i = 0; i < n; i++) p->q[i] = scales[i] != 0 ? (int)(values[i] / scales[i]) : 0;
}

static float dot(shk_type type, size_t group, bool min, const uint8_t *w, const shk_xblock *x, size_t k) {
    size_t block = shk_type_of(type)->block;
    float a[8] = { 0 }, b = 0;
    parts p;
    for (size_t i = 0; i < k; i += 32, x++) {
        size_t at = i % block;
        if (at == 0) take(type, &p, w + i / block * anatomies[type].bytes);
        for (size_t j = 0; j < 32; j += 4) {
            int sum = 0;
            for (size_t c = j; c < j + 4; c++) sum += p.q[at + c] * x->q[c];
            a[j / 4] = fmaf((float)sum, p.d[at + j] * x->d, a[j / 4]);
        }
        for (size_t g = 0; min && g < 32 / group; g++)
            b = fmaf(p.m[at + g * group], group == 32 ? x->ds : x->d * (float)x->half[g], b);
    }
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7])) + b;
}

/* One group of columns, from value `at` of the rows on. */
static void axpy(shk_type type, size_t group, bool min, float *y, const shk_gathered_row *rows, const float *c, size_t n, size_t at,
                 size_t k) {
    size_t block = shk_type_of(type)->block, g = at / group;
    float most = 0, nothing = 0, offset = 0;
    int32_t sum[32] = { 0 };
    for (size_t r = 0; r < n; r++) {
        float f = c[r] * rows[r].scales[g];
        most = fabsf(f) > most ? fabsf(f) : most;
        nothing += f * 0.0f;
        if (min) offset = fmaf(rows[r].scales[k / group + g], c[r], offset);
    }
    float inverse = most >= SHK_GATHER_LEAST && nothing == 0 ? SHK_GATHER_MAX / most : 0;
    for (size_t r = 0; r < n && nothing == 0; r++) {
        parts p;
        take(type, &p, (const uint8_t *)rows[r].w + at / block * anatomies[type].bytes);
        int32_t e = (int32_t)nearbyint((double)(c[r] * rows[r].scales[g]) * (double)inverse);
        for (size_t i = 0; i < group; i++) sum[i] += e * p.q[at % block + i];
    }
    float scale = (most >= SHK_GATHER_LEAST ? most / SHK_GATHER_MAX : 0) + nothing;
    for (size_t i = 0; i < group; i++) y[at + i] = fmaf((float)sum[i], scale, min ? y[at + i] + offset : y[at + i]);
}

static void row_scales(shk_type type, size_t group, bool min, float *scales, const uint8_t *w, size_t k) {
    size_t block = shk_type_of(type)->block;
    parts p;
    for (size_t i = 0; i < k; i += group) {
        if (i % block == 0) take(type, &p, w + i / block * anatomies[type].bytes);
        scales[i / group] = p.d[i % block];
        if (min) scales[(k + i) / group] = p.m[i % block];
    }
}

#define GATHERED(T, type, tier, block, group, min)                                                                 \
    void shk_row_scales_##type##_##tier(float *scales, const void *w, size_t k) {                                  \
        row_scales(SHK_##T, group, min, scales, w, k);                                                             \
    }                                                                                                              \
    void shk_dot_gathered_##type##_##tier(float *y, const void *w, size_t stride, const uint32_t *ids, size_t n,   \
                                          const shk_xblock *x, size_t k) {                                         \
        for (size_t i = 0; i < n; i++) y[i] = dot(SHK_##T, group, min, (const uint8_t *)w + ids[i] * stride, x, k); \
    }                                                                                                              \
    void shk_axpy_gathered_##type##_##tier(float *y, const shk_gathered_row *rows, const float *c, size_t n, size_t k, \
                                           const void *const *ahead, size_t n_ahead) {                             \
        (void)ahead, (void)n_ahead;                                                                                \
        for (size_t at = 0; n && at < k; at += group) axpy(SHK_##T, group, min, y, rows, c, n, at, k);             \
    }
SHK_GATHERED_TYPES(GATHERED, ref)
