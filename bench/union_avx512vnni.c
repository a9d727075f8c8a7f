#include "cpu/x86/gathered_avx512vnni.c"

/* Two tokens in a vector. Products with q + 128 start from -128 times the sums of four of x's integers. */
enum { X_TOKENS = 2 };
typedef struct x_tile {
    int8_t q[64];
    int32_t start[16];
    float d[2], unused[14];
} x_tile;
typedef __m512i w_row;

INLINE void x_put(x_tile *out, size_t t, const shk_xblock *x) {
    memcpy(out->q + 32 * t, x->q, sizeof x->q);
    for (size_t j = 0; j < 8; j++) {
        const int8_t *q = x->q + 4 * j;
        out->start[8 * t + j] = -128 * (q[0] + q[1] + q[2] + q[3]);
    }
    out->d[t] = x->d;
}

INLINE w_row w_take(bytes32 q) { return _mm512_xor_si512(_mm512_broadcast_i64x4((__m256i)q), _mm512_set1_epi8(-128)); }

INLINE vf x_dot(w_row w, const x_tile *x, float d, vf sum) {
    __m512i s = _mm512_dpbusd_epi32(_mm512_loadu_si512(x->start), w, _mm512_loadu_si512(x->q));
    __m512 scale = _mm512_mask_broadcastss_ps(_mm512_set1_ps(x->d[0]), 0xff00, _mm_load_ss(x->d + 1));
    return vf_fma((vf)_mm512_cvtepi32_ps(s), (vf)scale * d, sum);
}

/* Rows 0 to 3 in the lower half, 4 to 7 in the upper. */
enum { MIX_ROWS = 8, MIX_SUMS = SUMS };
typedef struct mix {
    __m512i fours[4];
} mix;

INLINE mix mix_rows(const bytes32 q[8]) {
    __m512i u[4], pairs[4];
    mix m;
    UNROLL for (size_t i = 0; i < 4; i++) {
        __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)q[i]), (__m256i)q[4 + i], 1);
        u[i] = _mm512_xor_si512(both, _mm512_set1_epi8(-128));
    }
    pairs[0] = _mm512_unpacklo_epi8(u[0], u[2]), pairs[1] = _mm512_unpackhi_epi8(u[0], u[2]);
    pairs[2] = _mm512_unpacklo_epi8(u[1], u[3]), pairs[3] = _mm512_unpackhi_epi8(u[1], u[3]);
    UNROLL for (size_t i = 0; i < 2; i++) {
        m.fours[2 * i] = _mm512_unpacklo_epi16(pairs[i], pairs[i + 2]);
        m.fours[2 * i + 1] = _mm512_unpackhi_epi16(pairs[i], pairs[i + 2]);
    }
    return m;
}

INLINE void mix_add(vi *sum, const mix *m, const coefficients *k, size_t r, size_t g) {
    UNROLL for (size_t part = 0; part < 2; part++) {
        __m512i e = _mm512_mask_set1_epi32(_mm512_set1_epi32((int32_t)k->words[r / 4][part][g]), 0xff00,
                                           (int32_t)k->words[r / 4 + 1][part][g]);
        UNROLL for (size_t v = 0; v < 4; v++)
            sum[4 * part + v] = (vi)_mm512_dpbusd_epi32((__m512i)sum[4 * part + v], m->fours[v], e);
    }
}

INLINE void mix_sums(i8 *out, const vi *sum) {
    UNROLL for (size_t v = 0; v < SUMS; v++)
        out[v] = (i8)_mm512_castsi512_si256((__m512i)sum[v]) + (i8)_mm512_extracti64x4_epi64((__m512i)sum[v], 1);
}

#include "union.inc"
const union_kernels union_avx512vnni = UNION_KERNELS;
