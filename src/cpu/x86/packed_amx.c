/* dot_packed on AMX: the same integers as everywhere (cpu/packed.h), so the same bits, 16 tokens at a time. Fewer are left to
 * AVX-512. A tile product takes one block (or half of one), whose sums then become f32 and meet their scales. */
#include "cpu/x86/vec_avx512.h"

#include "cpu/x86/amx.h"

#undef FN
#define FN(name) shk_##name##_amx

#define PACKED_GROUPS 1
enum { BIAS_8 = 0 };
INLINE vi vi_dot(vi s, vu w, vu q) { return (vi)_mm512_dpbusd_epi32((__m512i)s, (__m512i)w, (__m512i)q); }
INLINE vi vi_dot8(vi s, vu w, vu q) { return vi_dot(s, w, q); }
#include "cpu/vec/packed.h"

enum { CHUNK = 32 }; /* blocks that are unpacked at a time: with their activations they fill the first-level cache */

/* A group's rows, unpacked for some tiles of tokens. */
typedef struct unpacked {
    int8_t values[CHUNK * SHK_PACK_BLOCK * SHK_PACK_ROWS]; /* words of four values of each row, the offset taken off */
    float scale[CHUNK][2][SHK_PACK_ROWS], min[CHUNK][SHK_PACK_ROWS];
} unpacked;

/* n blocks from `at` on, which is moved behind them. */
INLINE void unpack(const shk_packing p, unpacked *u, const uint8_t **at, size_t n) {
    const vu offset = (vu){ 0 } + 0x01010101u * p.offset;
    for (size_t b = 0; b < n; b += p.blocks) {
        vf d = vf_f16(*at), dmin = p.min ? vf_f16(*at + 2 * SHK_PACK_ROWS) : d;
        *at += shk_packing_head(p);
        for (size_t g = b; g < b + p.blocks; g++, *at += shk_packing_block(p)) {
            const uint8_t *words = *at + (p.blocks > 1 ? 2 * SHK_PACK_ROWS : 0);
            vf_store(u->scale[g][0], p.blocks > 1 ? d * bytes_to_f(*at, p.halves) : d);
            if (p.halves) vf_store(u->scale[g][1], d * bytes_to_f(*at + SHK_PACK_ROWS, true));
            if (p.min) vf_store(u->min[g], -(dmin * bytes_to_f(*at + SHK_PACK_ROWS, false)));
            UNROLL for (size_t j = 0; j < 8; j++) {
                __m512i v = _mm512_sub_epi8((__m512i)values(p, words, j), (__m512i)offset);
                _mm512_storeu_si512(u->values + (8 * g + j) * 64, v);
            }
        }
    }
}

typedef int32_t product[TILE_ROWS][SHK_PACK_ROWS];

/* Tile registers 0 to 3 take turns as sums, 4 and 5 as activations, 6 and 7 as weights: no product waits for the one before. */
#define MULTIPLY(c, a, b, i)                                                                                       \
    _tile_zero(c);                                                                                                 \
    _tile_loadd(a, x[(i) / spans].q + (i) % spans * 16, ldx * sizeof *x);                                          \
    _tile_loadd(b, values + (i) * step, 64);                                                                       \
    _tile_dpbssd(c, a, b);                                                                                         \
    _tile_stored(c, out[i], 64);

/* The sums of n products, n a multiple of `spans`, for 16 tokens. */
INLINE void multiply(const shk_packing p, product *out, size_t n, const int8_t *values, const shk_xblock *x, size_t ldx) {
    size_t spans = p.halves ? 2 : 1, step = 8 / spans * 64, i = 0; /* bytes of weights that a product takes */
    tiles_will_read();
    for (; i + 4 <= n; i += 4) {
        MULTIPLY(0, 4, 6, i)
        MULTIPLY(1, 5, 7, i + 1)
        MULTIPLY(2, 4, 6, i + 2)
        MULTIPLY(3, 5, 7, i + 3)
    }
    for (; i < n; i++) { MULTIPLY(0, 4, 6, i) }
}

/* 16 tokens, n rows, `blocks` blocks of k from x on: y += their products (or =, if first). Who reads what a tile has just stored
 * waits until it has reached the cache: a batch of products is stored before the first is read. */
INLINE void tile_16(const shk_packing p, float *y, size_t ldy, size_t n, const unpacked *u, size_t blocks, const shk_xblock *x,
                    size_t ldx, bool first) {
    enum { BATCH = 16 };
    _Alignas(64) product products[BATCH];
    size_t spans = p.halves ? 2 : 1, each = BATCH / spans;
    vf acc[TILE_ROWS];
    UNROLL for (size_t t = 0; t < TILE_ROWS; t++) acc[t] = first ? vf_set(0) : vf_get(y + t * ldy, n);
    for (size_t b0 = 0; b0 < blocks; b0 += each) {
        size_t some = blocks - b0 < each ? blocks - b0 : each;
        multiply(p, products, some * spans, u->values + b0 * SHK_PACK_BLOCK * SHK_PACK_ROWS, x + b0, ldx);
        for (size_t i = 0; i < some * spans; i++) {
            const shk_xblock *xb = x + b0 + i / spans;
            vf scale = vf_load(u->scale[b0 + i / spans][i % spans]), min = p.min ? vf_load(u->min[b0 + i]) : scale;
            UNROLL for (size_t t = 0; t < TILE_ROWS; t++) {
                vf sum = _mm512_cvtepi32_ps(_mm512_load_si512(products[i][t]));
                acc[t] = vf_fma(sum * vf_set(xb[t * ldx].d), scale, acc[t]);
                if (p.min) acc[t] = vf_fma(vf_set(xb[t * ldx].ds), min, acc[t]);
            }
        }
    }
    UNROLL for (size_t t = 0; t < TILE_ROWS; t++) vf_put(y + t * ldy, acc[t], n);
}

INLINE void dot_amx(const shk_packing p, shk_dot_packed_fn *few, float *y, size_t ldy, const uint8_t *w, size_t n,
                    const shk_xblock *x, size_t tokens, size_t k) {
    unpacked u;
    size_t spans = p.halves ? 2 : 1, blocks = k / SHK_PACK_BLOCK, whole = tokens / TILE_ROWS * TILE_ROWS;
    if (whole) {
        const uint8_t *at = w;
        shapes s = { .palette = 1 };
        for (int i = 0; i < 8; i++) s.bytes[i] = i / 2 == 2 ? 32 / spans : 64, s.rows[i] = i / 2 == 3 ? 8 / spans : TILE_ROWS;
        configure(&s);
        for (size_t i = 0; i < n; i += SHK_PACK_ROWS)
            for (size_t b = 0; b < blocks; b += CHUNK) {
                size_t some = blocks - b < CHUNK ? blocks - b : CHUNK, rows = n - i < SHK_PACK_ROWS ? n - i : SHK_PACK_ROWS;
                unpack(p, &u, &at, some);
                for (size_t t = 0; t < whole; t += TILE_ROWS)
                    tile_16(p, y + t * ldy + i, ldy, rows, &u, some, x + t * blocks + b, blocks, b == 0);
            }
        _tile_release();
    }
    if (whole < tokens) few(y + whole * ldy, ldy, w, n, x + whole * blocks, tokens - whole, k);
}

#define DOT(T, type, tier)                                                                                         \
    void FN(dot_packed_##type)(float *y, size_t ldy, const void *w, size_t n, const void *x, size_t tokens,  \
                               size_t k) {                                                                         \
        dot_amx(shk_packing_##type, shk_dot_packed_##type##_avx512vnni, y, ldy, w, n, x, tokens, k);               \
    }
SHK_PACKED_TYPES(DOT, )

/* Packed bf16: 32 rows by 32 tokens at a time, four sums that do not wait for each other: tile registers 0 to 3, [token tile]
 * [group]; 4 and 5 activations, 6 and 7 weights. One order of summation for any number of tokens: tiles are whole, and what is past
 * the last token is not stored. */
INLINE void bf16_tiles(size_t groups, size_t tiles, float *y, size_t ldy, size_t n, size_t tokens, const char *w, const char *x,
                       size_t k) {
    _Alignas(64) float sums[2][2][TILE_ROWS][SHK_PACK_ROWS];
    const char *second = w + SHK_PACK_ROWS * k * 2;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t j = 0; j < k; j += 32, w += 1024, second += 1024) {
        _tile_loadd(4, x + j * 2, k * 2);
        _tile_loadd(6, w, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (groups > 1) {
            _tile_loadd(7, second, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (tiles > 1) {
            _tile_loadd(5, x + (TILE_ROWS * k + j) * 2, k * 2);
            _tile_dpbf16ps(2, 5, 6);
            if (groups > 1) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0][0], 64);
    _tile_stored(1, sums[0][1], 64);
    _tile_stored(2, sums[1][0], 64);
    _tile_stored(3, sums[1][1], 64);
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < n; i += SHK_PACK_ROWS)
            vf_put(y + t * ldy + i, vf_load(sums[t / TILE_ROWS][i / SHK_PACK_ROWS][t % TILE_ROWS]), n - i < LANES ? n - i : LANES);
}

void shk_dot_packed_bf16_amx(float *y, size_t ldy, const void *w, size_t n, const void *x, size_t tokens, size_t k) {
    enum { ROWS = 2 * SHK_PACK_ROWS, TOKENS_MOST = 2 * TILE_ROWS };
    configure_whole();
    for (size_t i = 0; i < n; i += ROWS)
        for (size_t t = 0; t < tokens; t += TOKENS_MOST) {
            size_t rows = n - i < ROWS ? n - i : ROWS, some = tokens - t < TOKENS_MOST ? tokens - t : TOKENS_MOST;
            float *to = y + t * ldy + i;
            const char *from = (const char *)w + i * k * 2, *with = (const char *)x + t * k * 2;
            if (rows > SHK_PACK_ROWS && some > TILE_ROWS) bf16_tiles(2, 2, to, ldy, rows, some, from, with, k);
            else if (rows > SHK_PACK_ROWS) bf16_tiles(2, 1, to, ldy, rows, some, from, with, k);
            else if (some > TILE_ROWS) bf16_tiles(1, 2, to, ldy, rows, some, from, with, k);
            else bf16_tiles(1, 1, to, ldy, rows, some, from, with, k);
        }
    _tile_release();
}
