#include "cpu/x86/vec_avx512.h"

#undef FN
#define FN(name) shk_##name##_avx512vnni

#define PACKED_GROUPS 2
enum { BIAS_8 = 0 };

INLINE vi vi_dot(vi s, vu w, vu q) { return (vi)_mm512_dpbusd_epi32((__m512i)s, (__m512i)w, (__m512i)q); }
INLINE vi vi_dot8(vi s, vu w, vu q) { return vi_dot(s, w, q); }

#include "cpu/vec/packed.inc"
