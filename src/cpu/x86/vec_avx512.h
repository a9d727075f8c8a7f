/* AVX-512 (F, BW, DQ, VL); the list of what this must define is in vec/types.h. */
#include <immintrin.h>

#define LANES 16
#define TILE_TOKENS 6 /* of matmul's tiles: 4 rows x 6 tokens of sums, 6 + 1 operands: 31 of 32 registers */
#define FN(name) shk_##name##_avx512
#include "cpu/vec/types.h"

INLINE __mmask16 mask_of(size_t n) { return (__mmask16)((1u << n) - 1); }

INLINE vf vf_load_part(const void *p, size_t n) { return _mm512_maskz_loadu_ps(mask_of(n), p); }
INLINE void vf_store_part(void *p, vf v, size_t n) { _mm512_mask_storeu_ps(p, mask_of(n), v); }

INLINE vf vf_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
INLINE vf vf_f16_part(const void *p, size_t n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask_of(n), p)); }
INLINE vf widen_bf16(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
INLINE vf vf_bf16(const void *p) { return widen_bf16(_mm256_loadu_si256(p)); }
INLINE vf vf_bf16_part(const void *p, size_t n) { return widen_bf16(_mm256_maskz_loadu_epi16(mask_of(n), p)); }
INLINE vf vf_i8(const void *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p))); }

INLINE vf vf_u8(const void *p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p))); }

INLINE vu vu_u8(const void *p) { return (vu)_mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
INLINE vf vf_lookup(vf table, vu i) { return _mm512_permutexvar_ps((__m512i)i, table); }

INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }

INLINE float vf_sum(vf a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

INLINE vd vd_low(vf a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
INLINE vd vd_high(vf a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)); }
INLINE vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }

INLINE size_t vf_append_gt(uint32_t *out, vf a, vf b, size_t i) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __mmask16 mask = _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
    /* through a register: compressing into memory is slow on some machines */
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(mask, _mm512_add_epi32(_mm512_set1_epi32((int)i), lanes)));
    return (size_t)_mm_popcnt_u32(mask);
}

INLINE vf vf_bytes(bytes32 a, size_t v) {
    __m256i q = (__m256i)a;
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(v ? _mm256_extracti128_si256(q, 1) : _mm256_castsi256_si128(q)));
}

INLINE bytes32 bytes32_bits(uint32_t u) { return (bytes32)_mm256_movm_epi8(u); }
#include "cpu/x86/vec_bytes.h"
#include "cpu/vec/math.h"
