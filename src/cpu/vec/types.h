/* Kernel bodies (the .inc files here) are written once, over vectors of LANES floats. A header for each instruction set
 * (x86/vec_avx2.h, x86/vec_avx512.h, arm/vec_neon.h) defines LANES, TILE_TOKENS and FN, includes this file, and adds what the
 * compilers' vector types lack:
 *
 *   vf_load_part(p, n)  vf_store_part(p, v, n)  n < LANES values; lanes past them are zero; no other memory is touched
 *   vf_f16(p)  vf_f16_part(p, n)  vf_bf16(p)  vf_bf16_part(p, n)  vf_i8(p)  vf_u8(p)   LANES (or n) values of that type as f32
 *   vf_fma(a, b, c)  a*b + c, rounded once      vf_sqrt(a)
 *   vf_max(a, b)  vf_min(a, b)  b where it is NaN
 *   vf_sum(a)     the tier's `reduce`: a fixed tree
 *   vd_low(a)  vd_high(a)  the halves as doubles;  vd_fma
 *   vf_append_gt(out, a, b, i)  appends i + lane for each lane with a > b, returns how many; may write LANES values
 *   vf_bytes(a, v)  the LANES signed bytes from v * LANES on as f32
 *   vu_u8(p)  vf_lookup(table, i)  where LANES is 16: LANES bytes; table[i % 16]
 *   f16_scalar(h)
 *   bytes32_nibbles(qs)  the low nibbles of 16 bytes, then the high ones;  bytes32_bits(u)  255 where the bit is set
 *   bytes32_lookup(table, a)  table[a], a < 16
 *
 * One such header a translation unit: nothing here has a name outside it. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16") /* arrays of vectors stay in registers only if their loops go */
#endif

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef double vd __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes32 __attribute__((vector_size(32)));
typedef uint16_t shorts16 __attribute__((vector_size(32)));

/* Any address. */
typedef struct __attribute__((packed, may_alias)) { vf v; } vf_memory;
typedef struct __attribute__((packed, may_alias)) { bytes32 v; } bytes32_memory;

INLINE vf vf_set(float x) { return x - (vf){ 0 }; } /* not +: that would lose the sign of -0 */
INLINE vf vf_load(const void *p) { return ((const vf_memory *)p)->v; }
INLINE void vf_store(void *p, vf v) { ((vf_memory *)p)->v = v; }
INLINE bytes32 bytes32_load(const void *p) { return ((const bytes32_memory *)p)->v; }

INLINE double vd_sum(vd a) {
    double s = 0;
    for (int i = 0; i < LANES / 2; i++) s += a[i];
    return s;
}

/* for (VECTORS(i, m, n)): a vector of m <= LANES values at i; m is LANES but for the last. */
#define VECTORS(i, m, n) size_t i = 0, m = LANES; i < (n) && (m = (n) - i < LANES ? (n) - i : LANES); i += LANES
