/* Random rows of every type that has rows. */
#ifndef TESTS_KERNELS_BLOCKS_H
#define TESTS_KERNELS_BLOCKS_H

#include "file/blocks.h"
#include "tiers.h"

typedef struct format { shk_type type; size_t f16_at[2]; } format; /* where a block has f16 scales; 0 twice: it has none */
static const format formats[] = {
    { SHK_F32, { 0 } }, { SHK_F16, { 0 } }, { SHK_BF16, { 0 } },
#define AT(T, type, first, second) { SHK_##T, { offsetof(shk_block_##type, first), offsetof(shk_block_##type, second) } }
    AT(Q8_0, q8_0, d, d), AT(Q4_0, q4_0, d, d), AT(Q4_1, q4_1, d, m), AT(Q5_0, q5_0, d, d), AT(Q5_1, q5_1, d, m),
    AT(IQ4_NL, iq4_nl, d, d), AT(Q2_K, q2_k, d, dmin), AT(Q3_K, q3_k, d, d), AT(Q4_K, q4_k, d, dmin), AT(Q5_K, q5_k, d, dmin),
    AT(Q6_K, q6_k, d, d),
};
enum { FORMATS = sizeof formats / sizeof *formats };

static inline size_t row_bytes(shk_type type, size_t k) {
    size_t n = 0;
    NEED(shk_row_bytes(type, k, &n), "%zu values of %s", k, shk_type_of(type)->name);
    return n;
}

/* A random row: any bits in the quants, any finite scales (denormals too if `wide`), plain values of moderate size. */
static inline void random_row(const format *f, uint8_t *w, size_t k, bool wide) {
    const shk_type_info *info = shk_type_of(f->type);
    for (size_t b = 0; b < k / info->block; b++, w += info->bytes) {
        float v = (float)uniform(-1, 1);
        uint16_t half = shk_f32_to_f16(v), brain = shk_f32_to_bf16(v);
        if (f->type == SHK_F32) memcpy(w, &v, 4);
        else if (f->type == SHK_F16) memcpy(w, &half, 2);
        else if (f->type == SHK_BF16) memcpy(w, &brain, 2);
        else {
            for (size_t i = 0; i < info->bytes; i++) w[i] = (uint8_t)test_random(&seed);
            for (size_t i = 0; i < 2; i++) {
                half = wide ? (uint16_t)(test_random(&seed) & 0xfbff) : shk_f32_to_f16((float)uniform(-0.01, 0.01));
                if ((half & 0x7c00) == 0x7c00) half &= 0x83ff; /* no infinity, no NaN */
                memcpy(w + f->f16_at[i], &half, 2);
            }
        }
    }
}

static inline bool same_bits(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], 4) && !(isnan(a[i]) && isnan(b[i]))) return false;
    return true;
}

#endif
