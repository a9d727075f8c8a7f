/* The CPU's own form of quantized matrices, and of the activations that meet them.
 *
 * A file's rows lie one after the other, which makes every dot product end in a sum across lanes and fetch its scales one by one.
 * Packed, SHK_PACK_ROWS rows lie side by side: a vector's lanes are rows, all values and scales are loaded whole, and one stream
 * of memory serves a thread. Nothing is lost: the integers and scales are the file's.
 *
 * Activations are rounded to 8 bits in blocks of 32, each with its own scale. A product is then integers within a block, exact in
 * any order, and f32 over the blocks in ascending order:
 *
 *   y += (float)(sum_i u[i] q[i] - offset * sum_i q[i]) * x.d * scale            w = scale * (u - offset)
 *   y += x.ds * -min                                                             w = scale * u - min
 *
 * with one rounding after each of: the product with x.d, and the fused multiply-add with the scale (or the min). So all tiers give
 * the same bits, for any number of tokens and rows at once.
 *
 * bf16 is packed too where a CPU multiplies it faster than f32: a group is words of two values of each of its 16 rows, and
 * activations are rounded to bf16. Sums are f32, in an order that is the tier's own. */
#ifndef SHK_CPU_PACKED_H
#define SHK_CPU_PACKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "file/types.h"

enum { SHK_PACK_ROWS = 16, SHK_PACK_BLOCK = 32 };

/* 32 activations: x = d * q, |q| <= 127. Where one is not finite, d is a NaN. Where all are below SHK_XBLOCK_LEAST, whose inverse
 * times 127 is still in the range of f32, q is 0. */
#define SHK_XBLOCK_LEAST 0x1p-120f
typedef struct shk_xblock {
    int8_t q[SHK_PACK_BLOCK];
    float d;
    int32_t half[2]; /* the sums of q[0..16) and of q[16..32) */
    float ds;        /* d * (half[0] + half[1]) */
} shk_xblock;

/* How a type is packed. For each group of 16 rows and each of the type's blocks along them:
 *
 *   d [16] f16      dmin [16] f16, if min
 *   for each block of 32 values:
 *     if blocks > 1:  scale [16] u8, min [16] u8 (if min), or scale [2][16] i8, one for each half of the 32 (if halves)
 *     values: the low 4 bits, then the higher ones. Word j [16] of u32 has in byte c the value i = 4 j + c of each row:
 *       8 bits:      words 0..7, whole values
 *       4, 5, 6:     words 0..3, value i in the low nibble and i + 16 in the high one
 *       5:           1 word more, bit j of byte c is the fifth of value 4 j + c
 *       6:           2 words more, bits 2 (j % 4) and up of byte c of word j / 4 are the high two of value 4 j + c */
typedef struct shk_packing {
    uint8_t blocks; /* of 32 in the type's own */
    uint8_t bits, offset;
    bool min, halves;
} shk_packing;

#define SHK_PACKED_TYPES(X, tier)                                                                                  \
    X(Q8_0, q8_0, tier) X(Q4_0, q4_0, tier) X(Q5_0, q5_0, tier) X(Q4_K, q4_k, tier) X(Q5_K, q5_k, tier) X(Q6_K, q6_k, tier)
static const shk_packing shk_packing_q8_0 = { 1, 8, 128, false, false };
static const shk_packing shk_packing_q4_0 = { 1, 4, 8, false, false };
static const shk_packing shk_packing_q5_0 = { 1, 5, 16, false, false };
static const shk_packing shk_packing_q4_k = { 8, 4, 0, true, false };
static const shk_packing shk_packing_q5_k = { 8, 5, 0, true, false };
static const shk_packing shk_packing_q6_k = { 8, 6, 32, false, true };

static inline size_t shk_packing_head(shk_packing p) { return SHK_PACK_ROWS * (p.min ? 4 : 2); }
static inline size_t shk_packing_block(shk_packing p) { return (p.blocks > 1 ? 2 * SHK_PACK_ROWS : 0) + 64u * p.bits; }

/* NULL: the type is not quantized, or has no packed form. */
const shk_packing *shk_packing_of(shk_type type);

/* Bytes of a group of 16 rows of k values, k a multiple of the type's block and of 32; and of k activations that meet them. */
size_t shk_packed_bytes(shk_type type, size_t k);
size_t shk_rounded_bytes(shk_type type, size_t k);

/* The 32 values of row r, before the offset is taken off;  the f16 of row r of d, of row 16 + r of dmin. */
void shk_packed_values(const shk_packing *p, uint8_t u[SHK_PACK_BLOCK], const uint8_t *words, size_t r);
float shk_packed_f16(const uint8_t *head, size_t r);

/* Packs n <= 16 rows of k values, `stride` bytes apart in the file's form, into one group, which is zeroed memory. */
void shk_pack_group(shk_type type, void *group, const void *rows, size_t stride, size_t n, size_t k);

/* y[0..k) = row r of a group as f32: the file's decoder to the bit. */
void shk_unpack_row(shk_type type, float *y, const void *group, size_t r, size_t k);

#endif
