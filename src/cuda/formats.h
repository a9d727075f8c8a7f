/* How matrices lie in the GPU's memory. Rows are padded with zeros to whole groups of 64 values, and stay rows, so that sparse
 * layers can read single ones.
 *
 * f32, f16, bf16: the values in order. q8, q4: all of a row's quants, then its scales (f16, one for 32 values); within a group of
 * 64 values the order is that in which the lanes of a warp use them: value i of a group, with block b = i / 32, lane t = i % 32 / 8
 * and j = i % 8, is
 *   q8: byte t * 16 + b * 8 + j, signed;
 *   q4: in the 32-bit word t * 2 + b, the nibble at bit 4 * (j / 2) + 16 * (j % 2), less 8.
 *
 * Where no single rows are wanted, bf16, q8 and q4 are in tiles of 16 rows by 64 values, those of the same rows one after the
 * other, so that a warp reads memory in order. In a tile, lane 4 * (r % 8) + t has 16 bytes of row r (8 of q4) in each 32 * 16 (32
 * * 8) that follow each other: for bf16 those of h = 0 and r < 8, h = 0 and r >= 8, h = 1 and r < 8, h = 1 and r >= 8, with h = i
 * / 32; for q8 and q4 those of r < 8 and r >= 8, and then the 16 rows' pairs of scales. */
#ifndef SHK_CUDA_FORMATS_H
#define SHK_CUDA_FORMATS_H

#include "file/types.h"

typedef enum shk_cuda_format {
    SHK_CUDA_F32,
    SHK_CUDA_F16,
    SHK_CUDA_BF16,
    SHK_CUDA_Q8,
    SHK_CUDA_Q4,
    SHK_CUDA_FORMATS
} shk_cuda_format;

enum { SHK_CUDA_GROUP = 64 };

static inline size_t shk_cuda_padded(size_t cols) { return (cols + SHK_CUDA_GROUP - 1) / SHK_CUDA_GROUP * SHK_CUDA_GROUP; }

/* Bytes of a tile; 0: the format has none. */
#ifdef __CUDACC__
__host__ __device__
#endif
    static inline size_t
    shk_cuda_tile_bytes(shk_cuda_format format) {
    return format == SHK_CUDA_BF16 ? 2048 : format == SHK_CUDA_Q8 ? 1024 + 64 : format == SHK_CUDA_Q4 ? 512 + 64 : 0;
}

/* The format that keeps a type's values exactly. */
shk_cuda_format shk_cuda_format_of(shk_type type);
/* Bytes of a row; a multiple of 16. */
size_t shk_cuda_row_bytes(shk_cuda_format format, size_t cols);
/* Writes a row [shk_cuda_row_bytes] from a file's row of `cols` values. `space` [cols] is for types that have no format of their
 * own. */
void shk_cuda_pack_row(void *out, const void *row, shk_type type, size_t cols, float *space);

#endif
