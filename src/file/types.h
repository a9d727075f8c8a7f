/* Element and block types of tensors. The numbers are GGUF's. */
#ifndef SHK_FILE_TYPES_H
#define SHK_FILE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum shk_type {
    SHK_F32 = 0, SHK_F16 = 1, SHK_Q4_0 = 2, SHK_Q4_1 = 3, SHK_Q5_0 = 6, SHK_Q5_1 = 7, SHK_Q8_0 = 8,
    SHK_Q2_K = 10, SHK_Q3_K = 11, SHK_Q4_K = 12, SHK_Q5_K = 13, SHK_Q6_K = 14, SHK_IQ4_NL = 20,
    SHK_I8 = 24, SHK_I16 = 25, SHK_I32 = 26, SHK_I64 = 27, SHK_F64 = 28, SHK_BF16 = 30,
    SHK_TYPE_COUNT = 31
} shk_type;

typedef struct shk_type_info {
    const char *name; /* "f32", "q4_k", ...; NULL: no such type */
    uint16_t block;   /* values in a block */
    uint16_t bytes;   /* of a block */
} shk_type_info;

/* Total: an unknown number gives an info whose name is NULL. */
const shk_type_info *shk_type_of(unsigned type);
bool shk_type_parse(const char *name, shk_type *out); /* case-insensitive */

/* Bytes of a row of n values; false if n is no multiple of the block or the size overflows. */
bool shk_row_bytes(shk_type type, size_t n, size_t *out);

/* y[0..n) as f32: the reference decoder of every type in the list above (integers and f64 are rounded). n a multiple of the
 * block; w any alignment. Cannot fail. */
void shk_dequant_row(shk_type type, float *y, const void *w, size_t n);

/* The encoder for f32, bf16, f16 (round to nearest even), q8_0, q4_0, q4_k (which search for the least error): n a multiple of
 * the block. false: the type has no encoder. Deterministic. A block type turns all of a block that holds a NaN or an infinity
 * into NaN, and cuts what is larger than it can say. */
bool shk_quant_row(shk_type type, void *w, const float *x, size_t n);

float shk_f16_to_f32(uint16_t h);
uint16_t shk_f32_to_f16(float f); /* nearest even; overflow gives infinity */
static inline float shk_bf16_to_f32(uint16_t h) {
    union { uint32_t u; float f; } v = { (uint32_t)h << 16 };
    return v.f;
}
static inline uint16_t shk_f32_to_bf16(float f) { /* nearest even; a NaN stays a NaN */
    union { float f; uint32_t u; } v = { f };
    uint32_t nearest = v.u + 0x7fff + (v.u >> 16 & 1), quiet = v.u | 0x400000;
    return (uint16_t)((f != f ? quiet : nearest) >> 16);
}

#endif
