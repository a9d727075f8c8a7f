/* Products of packed matrices: cpu/packed.h says what they compute. A group's rows are a vector's lanes, or those of several
 * vectors in turn. The file that includes this one defines
 *
 *   PACKED_GROUPS    of a tile, as registers allow
 *   vi_dot(s, w, q)  s + the products of each lane's four bytes of w with the four signed bytes of q; w < 128
 *   vi_dot8(s, w, q) the same for any byte w, taken as w - BIAS_8 */
#include "cpu/packed.h"

#include "cpu/tiers.h"

INLINE vu vu_load(const void *p) { return (vu)vf_load(p); }
INLINE vi vi_set(int32_t x) { return (vi){ 0 } + x; }
/* The same four bytes in each lane. */
INLINE vu vu_four(const int8_t *q) {
    uint32_t four;
    memcpy(&four, q, sizeof four);
    return (vu){ 0 } + four;
}

/* Word j of a block's values, for the rows of this part: bytes from 0 to 2^bits - 1. */
INLINE vu values(const shk_packing p, const uint8_t *words, size_t j) {
    if (p.bits == 8) return vu_load(words + 64 * j);
    vu low = vu_load(words + 64 * (j % 4));
    low = (j < 4 ? low : low >> 4) & 0x0f0f0f0f;
    if (p.bits == 4) return low;
    size_t bit = p.bits == 5 ? j : j % 4 * 2; /* of the high bits, which belong at bit 4 */
    vu high = vu_load(words + 64 * (p.bits == 5 ? 4 : 4 + j / 4));
    high = bit < 4 ? high << (uint32_t)(4 - bit) : high >> (uint32_t)(bit - 4);
    return low | (high & (p.bits == 5 ? 0x10101010u : 0x30303030u));
}

INLINE vf bytes_to_f(const uint8_t *p, bool is_signed) { return is_signed ? vf_i8(p) : vf_u8(p); }

enum { TOKENS = 4 };

/* A tile: `groups` groups of rows, `bytes` apart, and `tokens` tokens, ldx blocks apart. Each byte of the weights that is loaded
 * serves all tokens, each activation all groups. */
typedef struct tile {
    size_t groups, tokens, bytes, ldx;
} tile;

typedef vf tile_sums[PACKED_GROUPS][TOKENS];

/* One block of 32; w: where it begins in the first group, x: in the first token. */
INLINE void block(const shk_packing p, const tile t, tile_sums acc, const vf *d, const vf *dmin, const uint8_t *w, size_t part,
                  const shk_xblock *x) {
    const uint8_t *words = w + (p.blocks > 1 ? 2 * SHK_PACK_ROWS : 0) + 4 * LANES * part, *scale = w + LANES * part;
    size_t spans = p.halves ? 2 : 1;
    const int32_t offset = p.bits == 8 ? p.offset - BIAS_8 : p.offset;
    UNROLL for (size_t h = 0; h < spans; h++) {
        vi sum[PACKED_GROUPS][TOKENS];
        UNROLL for (size_t i = 0; i < t.tokens; i++) {
            const shk_xblock *b = x + i * t.ldx;
            int32_t s = p.halves ? b->half[h] : b->half[0] + b->half[1];
            UNROLL for (size_t g = 0; g < t.groups; g++) sum[g][i] = vi_set(-offset * s);
        }
        UNROLL for (size_t j = h * 4; j < h * 4 + 8 / spans; j++) {
            vu v[PACKED_GROUPS];
            UNROLL for (size_t g = 0; g < t.groups; g++) v[g] = values(p, words + g * t.bytes, j);
            UNROLL for (size_t i = 0; i < t.tokens; i++) {
                vu q = vu_four(x[i * t.ldx].q + 4 * j);
                UNROLL for (size_t g = 0; g < t.groups; g++)
                    sum[g][i] = p.bits == 8 ? vi_dot8(sum[g][i], v[g], q) : vi_dot(sum[g][i], v[g], q);
            }
        }
        UNROLL for (size_t g = 0; g < t.groups; g++) {
            vf s = p.blocks > 1 ? d[g] * bytes_to_f(scale + g * t.bytes + h * SHK_PACK_ROWS, p.halves) : d[g];
            UNROLL for (size_t i = 0; i < t.tokens; i++)
                acc[g][i] = vf_fma(__builtin_convertvector(sum[g][i], vf) * vf_set(x[i * t.ldx].d), s, acc[g][i]);
        }
    }
    if (!p.min) return;
    UNROLL for (size_t g = 0; g < t.groups; g++) {
        vf m = dmin[g] * bytes_to_f(scale + g * t.bytes + SHK_PACK_ROWS, false);
        UNROLL for (size_t i = 0; i < t.tokens; i++) acc[g][i] = vf_fma(vf_set(x[i * t.ldx].ds), -m, acc[g][i]);
    }
}

/* n rows: the last group may be a part of one. */
INLINE void dot_tile(const shk_packing p, const tile t, float *y, size_t ldy, size_t n, const uint8_t *w, const shk_xblock *x) {
    for (size_t part = 0; part < SHK_PACK_ROWS / LANES; part++) {
        const uint8_t *at = w;
        tile_sums acc = { 0 };
        for (size_t b = 0; b < t.ldx; b += p.blocks) {
            vf d[PACKED_GROUPS], dmin[PACKED_GROUPS];
            UNROLL for (size_t g = 0; g < t.groups; g++) {
                d[g] = vf_f16(at + g * t.bytes + 2 * LANES * part);
                if (p.min) dmin[g] = vf_f16(at + g * t.bytes + 2 * (SHK_PACK_ROWS + LANES * part));
            }
            at += shk_packing_head(p);
            for (size_t s = 0; s < p.blocks; s++, at += shk_packing_block(p)) block(p, t, acc, d, dmin, at, part, x + b + s);
        }
        UNROLL for (size_t g = 0; g < t.groups; g++) {
            size_t row = g * SHK_PACK_ROWS + part * LANES;
            if (row >= n) break;
            size_t some = n - row < LANES ? n - row : LANES;
            UNROLL for (size_t i = 0; i < t.tokens; i++) vf_put(y + i * ldy + row, acc[g][i], some);
        }
    }
}

/* All tokens with as many groups as a tile has. */
INLINE void dot_groups(const shk_packing p, tile t, float *y, size_t ldy, size_t n, const uint8_t *w, const shk_xblock *x,
                       size_t tokens) {
    size_t tiles = (tokens + TOKENS - 1) / TOKENS, each = (tokens + tiles - 1) / tiles; /* 5 of 4: 3 + 2, not 4 + 1 */
    for (size_t i = 0; i < tokens; i += t.tokens) {
        t.tokens = tokens - i < each ? tokens - i : each;
#define CASE(c) case c: dot_tile(p, (tile){ t.groups, c, t.bytes, t.ldx }, y + i * ldy, ldy, n, w, x + i * t.ldx); break;
        switch (t.tokens) { /* a tile's size must be a constant */
            CASE(1) CASE(2) CASE(3) CASE(4)
        }
#undef CASE
    }
}

INLINE void dot(const shk_packing p, float *y, size_t ldy, const uint8_t *w, size_t n, const shk_xblock *x, size_t tokens,
                size_t k) {
    size_t ldx = k / SHK_PACK_BLOCK, i = 0;
    size_t bytes = ldx / p.blocks * (shk_packing_head(p) + p.blocks * shk_packing_block(p)); /* of a group */
    enum { ROWS = PACKED_GROUPS * SHK_PACK_ROWS };
    for (; i + (ROWS - SHK_PACK_ROWS) < n; i += ROWS, w += PACKED_GROUPS * bytes)
        dot_groups(p, (tile){ PACKED_GROUPS, 0, bytes, ldx }, y + i, ldy, n - i < ROWS ? n - i : ROWS, w, x, tokens);
    for (; i < n; i += SHK_PACK_ROWS, w += bytes) dot_groups(p, (tile){ 1, 0, bytes, ldx }, y + i, ldy, n - i, w, x, tokens);
}
