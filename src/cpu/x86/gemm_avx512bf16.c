/* Products of factors in bf16, and the form that AMX and AVX-512 want them in. */
#include "cpu/x86/vec_avx512.h"

#include "cpu/tiers.h"

enum { ROWS = SHK_GEMM_BF16_ROWS, COLS = SHK_GEMM_BF16_COLS, VECTORS = COLS / LANES, SUB_ROWS = 8 };
_Static_assert(ROWS % SUB_ROWS == 0 && COLS % LANES == 0 && SHK_GEMM_BF16_DEEP % (2 * LANES) == 0, "whole parts make up a panel");

/* ---- packing: squares of 16 lines by 16 words ---- */

typedef __m512i square[LANES];

/* t[i][j] = s[j][i], in two rounds within quarters and two across */
INLINE void transpose(square s) {
    __m512i t[LANES];
    UNROLL for (int i = 0; i < LANES; i += 4) {
        __m512i a = _mm512_unpacklo_epi32(s[i], s[i + 1]), b = _mm512_unpackhi_epi32(s[i], s[i + 1]);
        __m512i c = _mm512_unpacklo_epi32(s[i + 2], s[i + 3]), d = _mm512_unpackhi_epi32(s[i + 2], s[i + 3]);
        t[i] = _mm512_unpacklo_epi64(a, c), t[i + 1] = _mm512_unpackhi_epi64(a, c);
        t[i + 2] = _mm512_unpacklo_epi64(b, d), t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    UNROLL for (int i = 0; i < 4; i++) { /* t[4g + i] has column i of each quarter, for lines 4g to 4g + 3 */
        __m512i a = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88);
        __m512i c = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd), d = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
        s[i] = _mm512_shuffle_i32x4(a, b, 0x88), s[i + 8] = _mm512_shuffle_i32x4(a, b, 0xdd);
        s[i + 4] = _mm512_shuffle_i32x4(c, d, 0x88), s[i + 12] = _mm512_shuffle_i32x4(c, d, 0xdd);
    }
}

INLINE vf part_of(const float *p, size_t have, size_t at) {
    size_t n = have <= at ? 0 : have - at < LANES ? have - at : LANES;
    return vf_load_part(n ? p + at : p, n);
}

/* Values that lie beside each other along k: s[line] = its words. */
INLINE void along_lines(square s, const float *from, size_t lines, size_t k, size_t line) {
    UNROLL for (size_t l = 0; l < LANES; l++) {
        size_t have = l < lines ? k : 0;
        const float *p = from + (l < lines ? l : 0) * line;
        s[l] = (__m512i)_mm512_cvtne2ps_pbh(part_of(p, have, LANES), part_of(p, have, 0));
    }
}

/* ... along the lines: s[word] = that of each line. */
INLINE void along_words(square s, const float *from, size_t lines, size_t k, size_t deep) {
    const __m512i halves = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i pairs = _mm512_or_si512(_mm512_slli_epi32(halves, 16), _mm512_add_epi32(halves, _mm512_set1_epi32(16 << 16)));
    UNROLL for (size_t i = 0; i < LANES; i++) {
        vf low = part_of(from + (2 * i < k ? 2 * i : 0) * deep, 2 * i < k ? lines : 0, 0);
        vf high = part_of(from + (2 * i + 1 < k ? 2 * i + 1 : 0) * deep, 2 * i + 1 < k ? lines : 0, 0);
        s[i] = _mm512_permutexvar_epi16(pairs, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

/* ... neither. */
INLINE void gathered(square s, const float *from, size_t lines, size_t k, size_t line, size_t deep) {
    float values[LANES][2 * LANES] = { 0 };
    for (size_t l = 0; l < lines && l < LANES; l++)
        for (size_t i = 0; i < k && i < 2 * LANES; i++) values[l][i] = from[l * line + i * deep];
    along_lines(s, values[0], LANES, 2 * LANES, 2 * LANES);
}

void shk_gemm_pack_bf16_avx512bf16(uint32_t *to, const float *from, size_t lines, size_t k, size_t line, size_t deep,
                                   int across) {
    size_t words = (k + SHK_GEMM_BF16_DEEP - 1) / SHK_GEMM_BF16_DEEP * SHK_GEMM_BF16_DEEP / 2;
    size_t step_l = across ? 1 : words, step_w = across ? COLS : 1;
    _Static_assert(ROWS == COLS, "panels of both factors have as many lines");
    for (size_t l = 0; l < ROWS; l += LANES)
        for (size_t w = 0; w < words; w += LANES) {
            square s;
            bool empty = l >= lines || 2 * w >= k;
            const float *at = empty ? from : from + l * line + 2 * w * deep;
            size_t some = empty ? 0 : lines - l, left = empty ? 0 : k - 2 * w;
            if (deep == 1) along_lines(s, at, some, left, line);
            else if (line == 1) along_words(s, at, some, left, deep);
            else gathered(s, at, some, left, line, deep);
            if ((deep != 1 && line == 1) != (across != 0)) transpose(s);
            uint32_t *put = to + l * step_l + w * step_w;
            UNROLL for (size_t i = 0; i < LANES; i++) _mm512_storeu_si512(put + i * (across ? step_w : step_l), s[i]);
        }
}

/* ---- products ---- */

INLINE void part(float *c, size_t ldc, const uint32_t *a, const uint32_t *b, size_t words, size_t rows, size_t cols) {
    vf sum[SUB_ROWS][VECTORS];
    UNROLL for (size_t r = 0; r < SUB_ROWS; r++)
        UNROLL for (size_t v = 0; v < VECTORS; v++) sum[r][v] = vf_set(0);
    for (size_t i = 0; i < words; i++) {
        __m512bh x[VECTORS];
        UNROLL for (size_t v = 0; v < VECTORS; v++) x[v] = (__m512bh)_mm512_loadu_si512(b + i * COLS + v * LANES);
        UNROLL for (size_t r = 0; r < SUB_ROWS; r++) {
            __m512bh w = (__m512bh)_mm512_set1_epi32((int32_t)a[r * words + i]);
            UNROLL for (size_t v = 0; v < VECTORS; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], w, x[v]);
        }
    }
    UNROLL for (size_t r = 0; r < SUB_ROWS; r++)
        UNROLL for (size_t v = 0; v < VECTORS; v++) {
            if (r >= rows || v * LANES >= cols) continue;
            size_t n = cols - v * LANES < LANES ? cols - v * LANES : LANES;
            float *put = c + r * ldc + v * LANES;
            vf_put(put, vf_get(put, n) + sum[r][v], n);
        }
}

void shk_gemm_panel_bf16_avx512bf16(float *c, size_t ldc, const uint32_t *a, const uint32_t *b, size_t k, size_t rows,
                                    size_t cols) {
    size_t words = k / 2;
    for (size_t j = 0; j < cols; j += COLS, b += words * COLS)
        for (size_t r = 0; r < rows; r += SUB_ROWS) part(c + r * ldc + j, ldc, a + r * words, b, words, rows - r, cols - j);
}
