#include "cpu/x86/gathered_avx2.c"

enum { X_TOKENS = 1 };
typedef shk_xblock x_tile;
typedef bytes32 w_row;

INLINE void x_put(x_tile *out, size_t t, const shk_xblock *x) { (void)t, *out = *x; }
INLINE w_row w_take(bytes32 q) { return q; }
INLINE vf x_dot(w_row w, const x_tile *x, float d, vf sum) {
    return vf_fma(__builtin_convertvector(i8_dot(w, x->q), vf), vf_set(d * x->d), sum);
}

/* Pairs of rows as 16 bits each. */
enum { MIX_ROWS = 4, MIX_SUMS = SUMS };
typedef struct mix {
    __m256i pairs[2][4];
} mix;

INLINE mix mix_rows(const bytes32 q[4]) {
    mix m;
    UNROLL for (size_t i = 0; i < 2; i++) {
        __m256i low = _mm256_unpacklo_epi8((__m256i)q[2 * i], (__m256i)q[2 * i + 1]);
        __m256i high = _mm256_unpackhi_epi8((__m256i)q[2 * i], (__m256i)q[2 * i + 1]);
        m.pairs[i][0] = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(low));
        m.pairs[i][1] = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(high));
        m.pairs[i][2] = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(low, 1));
        m.pairs[i][3] = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(high, 1));
    }
    return m;
}

INLINE void mix_add(vi *sum, const mix *m, const coefficients *k, size_t r, size_t g) {
    UNROLL for (size_t i = 0; i < 2; i++) {
        __m256i e = _mm256_set1_epi32((int32_t)k->words[r / 4][i][g]);
        UNROLL for (size_t v = 0; v < 4; v++) sum[v] += (vi)_mm256_madd_epi16(m->pairs[i][v], e);
    }
}

INLINE void mix_sums(i8 *out, const vi *sum) {
    UNROLL for (size_t v = 0; v < SUMS; v++) out[v] = sum[v];
}

#include "union.inc"
const union_kernels union_avx2 = UNION_KERNELS;
