#include "cpu/packed.h"

#include <math.h>

#include "cpu/tiers.h"

static float scale_of(const shk_packing *p, const uint8_t *scales, float d, size_t row, size_t half) {
    if (p->blocks == 1) return d;
    return p->halves ? d * (float)(int8_t)scales[half * SHK_PACK_ROWS + row] : d * (float)scales[row];
}

/* y += the product of row r's block `words` with x */
static float block(const shk_packing *p, float y, const uint8_t *at, size_t r, float d, float dmin, const shk_xblock *x) {
    const uint8_t *words = at + (p->blocks > 1 ? 2 * SHK_PACK_ROWS : 0);
    size_t spans = p->halves ? 2 : 1;
    uint8_t u[SHK_PACK_BLOCK];
    shk_packed_values(p, u, words, r);
    for (size_t h = 0; h < spans; h++) {
        int32_t sum = 0;
        for (size_t i = h * 16; i < h * 16 + SHK_PACK_BLOCK / spans; i++) sum += (u[i] - p->offset) * x->q[i];
        y = fmaf((float)sum * x->d, scale_of(p, at, d, r, h), y);
    }
    return p->min ? fmaf(x->ds, -(dmin * (float)at[SHK_PACK_ROWS + r]), y) : y;
}

static void dot(shk_type type, float *y, size_t ldy, const uint8_t *w, size_t n, const shk_xblock *x, size_t tokens, size_t k) {
    const shk_packing *p = shk_packing_of(type);
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < n; i++) {
            size_t r = i % SHK_PACK_ROWS;
            const uint8_t *at = w + i / SHK_PACK_ROWS * shk_packed_bytes(type, k);
            const shk_xblock *b = x + t * (k / SHK_PACK_BLOCK), *end = b + k / SHK_PACK_BLOCK;
            float sum = 0;
            while (b < end) {
                float d = shk_packed_f16(at, r), dmin = p->min ? shk_packed_f16(at, SHK_PACK_ROWS + r) : 0;
                at += shk_packing_head(*p);
                for (size_t g = 0; g < p->blocks; g++, at += shk_packing_block(*p), b++) sum = block(p, sum, at, r, d, dmin, b);
            }
            y[t * ldy + i] = sum;
        }
}

#define DOT(T, type, tier)                                                                                         \
    void shk_dot_packed_##type##_ref(float *y, size_t ldy, const void *w, size_t n, const void *x, size_t tokens, \
                                     size_t k) {                                                                   \
        dot(SHK_##T, y, ldy, w, n, x, tokens, k);                                                                  \
    }
SHK_PACKED_TYPES(DOT, )

void shk_quantize_x_ref(void *blocks, const float *x, size_t k) {
    shk_xblock *out = blocks;
    for (; k; k -= SHK_PACK_BLOCK, x += SHK_PACK_BLOCK, out++) {
        float most = 0, nothing = 0;
        for (size_t i = 0; i < SHK_PACK_BLOCK; i++) {
            most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
            nothing += x[i] * 0.0f;
        }
        float inverse = most >= SHK_XBLOCK_LEAST && nothing == 0 ? 127.0f / most : 0.0f;
        out->half[0] = out->half[1] = 0;
        for (size_t i = 0; i < SHK_PACK_BLOCK; i++) {
            out->q[i] = nothing == 0 ? (int8_t)nearbyintf(x[i] * inverse) : 0;
            out->half[i / 16] += out->q[i];
        }
        out->d = most / 127.0f + nothing;
        out->ds = out->d * (float)(out->half[0] + out->half[1]);
    }
}
