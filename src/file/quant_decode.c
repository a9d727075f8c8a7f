/* The reference decoders. Layouts and formulas: file/blocks.h. */
#include "file/blocks.h"
#include "file/types.h"

#define PLAIN(name, ctype, value)                                                         \
    static void name(float *restrict y, const void *restrict w, size_t n) {               \
        typedef struct SHK_PACKED { ctype v; } item; /* at any alignment */               \
        for (const item *x = w, *end = x + n; x < end; x++) *y++ = value;                 \
    }

PLAIN(f32, float, x->v)
PLAIN(f64, double, (float)x->v)
PLAIN(f16, uint16_t, shk_f16_to_f32(x->v))
PLAIN(bf16, uint16_t, shk_bf16_to_f32(x->v))
PLAIN(i8, int8_t, (float)x->v)
PLAIN(i16, int16_t, (float)x->v)
PLAIN(i32, int32_t, (float)x->v)
PLAIN(i64, int64_t, (float)x->v)

static unsigned nibble(const uint8_t *qs, unsigned i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }

#define BLOCKS_OF_32(name, value)                                                         \
    static void name(float *restrict y, const void *restrict w, size_t n) {               \
        for (const shk_block_##name *b = w, *end = b + n / SHK_BLOCK; b < end; b++)       \
            for (unsigned i = 0; i < SHK_BLOCK; i++) *y++ = value;                        \
    }

BLOCKS_OF_32(q4_0, shk_f16_to_f32(b->d) * (float)((int)nibble(b->qs, i) - 8))
BLOCKS_OF_32(q4_1, shk_f16_to_f32(b->d) * (float)nibble(b->qs, i) + shk_f16_to_f32(b->m))
BLOCKS_OF_32(q5_0, shk_f16_to_f32(b->d) * (float)((int)(nibble(b->qs, i) | (b->qh >> i & 1) << 4) - 16))
BLOCKS_OF_32(q5_1, shk_f16_to_f32(b->d) * (float)(nibble(b->qs, i) | (b->qh >> i & 1) << 4) + shk_f16_to_f32(b->m))
BLOCKS_OF_32(q8_0, shk_f16_to_f32(b->d) * (float)b->qs[i])
BLOCKS_OF_32(iq4_nl, shk_f16_to_f32(b->d) * (float)shk_iq4_nl_values[nibble(b->qs, i)])

const int8_t shk_iq4_nl_values[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };

#define BLOCKS_OF_256(name)                                                               \
    static void name(float *restrict y, const void *restrict w, size_t n) {               \
        for (const shk_block_##name *b = w, *end = b + n / SHK_SUPERBLOCK; b < end; b++, y += SHK_SUPERBLOCK) block_##name(y, b); \
    }

static unsigned two_bits(const uint8_t qs[64], unsigned i) { return qs[i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3; }

static void block_q2_k(float *y, const shk_block_q2_k *b) {
    float d = shk_f16_to_f32(b->d), dmin = shk_f16_to_f32(b->dmin);
    for (unsigned i = 0; i < SHK_SUPERBLOCK; i++) {
        uint8_t scale = b->scales[i / 16];
        y[i] = d * (float)(scale & 15) * (float)two_bits(b->qs, i) - dmin * (float)(scale >> 4);
    }
}

static void block_q3_k(float *y, const shk_block_q3_k *b) {
    float d = shk_f16_to_f32(b->d);
    for (unsigned i = 0; i < SHK_SUPERBLOCK; i++) {
        unsigned g = i / 16;
        int scale = (int)((b->scales[g % 8] >> (4 * (g / 8)) & 15) | (b->scales[8 + g % 4] >> (2 * (g / 4)) & 3) << 4) - 32;
        int q = (int)(two_bits(b->qs, i) | (b->hmask[i % 32] >> (i / 32) & 1u) << 2) - 4;
        y[i] = d * (float)scale * (float)q;
    }
}

static void block_q4_k(float *y, const shk_block_q4_k *b) {
    for (unsigned g = 0; g < 8; g++) {
        uint8_t scale, min;
        shk_k4_scale(b->scales, g, &scale, &min);
        float d = shk_f16_to_f32(b->d) * (float)scale, m = shk_f16_to_f32(b->dmin) * (float)min;
        for (unsigned i = 0; i < 32; i++) *y++ = d * (float)(b->qs[g / 2 * 32 + i] >> (4 * (g % 2)) & 15) - m;
    }
}

static void block_q5_k(float *y, const shk_block_q5_k *b) {
    for (unsigned g = 0; g < 8; g++) {
        uint8_t scale, min;
        shk_k4_scale(b->scales, g, &scale, &min);
        float d = shk_f16_to_f32(b->d) * (float)scale, m = shk_f16_to_f32(b->dmin) * (float)min;
        for (unsigned i = 0; i < 32; i++) {
            unsigned q = (b->qs[g / 2 * 32 + i] >> (4 * (g % 2)) & 15) | (b->qh[i] >> g & 1u) << 4;
            *y++ = d * (float)q - m;
        }
    }
}

static void block_q6_k(float *y, const shk_block_q6_k *b) {
    float d = shk_f16_to_f32(b->d);
    for (unsigned i = 0; i < SHK_SUPERBLOCK; i++) {
        unsigned h = i / 128, r = i % 128;
        unsigned low = b->ql[64 * h + r % 64] >> (4 * (r / 64)) & 15, high = b->qh[32 * h + r % 32] >> (2 * (r / 32)) & 3;
        y[i] = d * (float)b->scales[i / 16] * (float)((int)(low | high << 4) - 32);
    }
}

BLOCKS_OF_256(q2_k)
BLOCKS_OF_256(q3_k)
BLOCKS_OF_256(q4_k)
BLOCKS_OF_256(q5_k)
BLOCKS_OF_256(q6_k)

typedef void decoder(float *restrict y, const void *restrict w, size_t n);

static decoder *const decoders[SHK_TYPE_COUNT] = {
    [SHK_F32] = f32,   [SHK_F16] = f16,   [SHK_BF16] = bf16, [SHK_F64] = f64,   [SHK_I8] = i8,     [SHK_I16] = i16,
    [SHK_I32] = i32,   [SHK_I64] = i64,   [SHK_Q4_0] = q4_0, [SHK_Q4_1] = q4_1, [SHK_Q5_0] = q5_0, [SHK_Q5_1] = q5_1,
    [SHK_Q8_0] = q8_0, [SHK_Q2_K] = q2_k, [SHK_Q3_K] = q3_k, [SHK_Q4_K] = q4_k, [SHK_Q5_K] = q5_k, [SHK_Q6_K] = q6_k,
    [SHK_IQ4_NL] = iq4_nl,
};

void shk_dequant_row(shk_type type, float *y, const void *w, size_t n) { decoders[type](y, w, n); }
