/* AVX2 with FMA and F16C; the list of what this must define is in vec/types.h. */
#include <immintrin.h>

#define LANES 8
#define TILE_TOKENS 3 /* of matmul's tiles: 4 rows x 3 tokens of sums, 3 + 1 operands: all 16 registers */
#define FN(name) shk_##name##_avx2
#include "cpu/vec/types.h"

INLINE __m256i mask_of(size_t n) {
    static const int32_t ones_then_zeros[16] = { -1, -1, -1, -1, -1, -1, -1, -1 };
    return _mm256_loadu_si256((const void *)(ones_then_zeros + 8 - n));
}

INLINE vf vf_load_part(const void *p, size_t n) { return _mm256_maskload_ps(p, mask_of(n)); }
INLINE void vf_store_part(void *p, vf v, size_t n) { _mm256_maskstore_ps(p, mask_of(n), v); }

INLINE __m128i load_shorts(const void *p, size_t n) {
    uint16_t v[8] = { 0 };
    memcpy(v, p, 2 * n);
    return _mm_loadu_si128((const void *)v);
}
INLINE vf vf_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
INLINE vf vf_f16_part(const void *p, size_t n) { return _mm256_cvtph_ps(load_shorts(p, n)); }
INLINE vf widen_bf16(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
INLINE vf vf_bf16(const void *p) { return widen_bf16(_mm_loadu_si128(p)); }
INLINE vf vf_bf16_part(const void *p, size_t n) { return widen_bf16(load_shorts(p, n)); }
INLINE vf vf_i8(const void *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p))); }
INLINE vf vf_u8(const void *p) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p))); }

INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }

INLINE float vf_sum(vf a) {
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

INLINE vd vd_low(vf a) { return _mm256_cvtps_pd(_mm256_castps256_ps128(a)); }
INLINE vd vd_high(vf a) { return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)); }
INLINE vd vd_fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }

INLINE size_t vf_append_gt(uint32_t *out, vf a, vf b, size_t i) {
    size_t count = 0;
    for (unsigned mask = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); mask; mask &= mask - 1)
        out[count++] = (uint32_t)(i + (size_t)__builtin_ctz(mask));
    return count;
}

INLINE vf vf_bytes(bytes32 a, size_t v) {
    __m256i q = (__m256i)a;
    __m128i half = v & 2 ? _mm256_extracti128_si256(q, 1) : _mm256_castsi256_si128(q);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v & 1 ? _mm_unpackhi_epi64(half, half) : half));
}

INLINE bytes32 bytes32_bits(uint32_t u) {
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ull);
    return (bytes32)_mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)u), byte), bit), bit);
}
#include "cpu/x86/vec_bytes.h"
#include "cpu/vec/math.h"
