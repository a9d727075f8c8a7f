/* What the AVX2 and AVX-512 tiers share: quantized values are taken apart 32 bytes at a time in both. */
INLINE float f16_scalar(uint16_t h) { return _cvtsh_ss(h); }

INLINE bytes32 bytes32_nibbles(const uint8_t *qs) {
    __m128i q = _mm_loadu_si128((const void *)qs);
    return (bytes32)_mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(q, 4), q), _mm256_set1_epi8(15));
}

INLINE bytes32 bytes32_lookup(const int8_t table[16], bytes32 a) {
    return (bytes32)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table)), (__m256i)a);
}
