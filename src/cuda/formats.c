#include "cuda/formats.h"

#include <string.h>

#include "file/blocks.h"

shk_cuda_format shk_cuda_format_of(shk_type type) {
    switch (type) {
    case SHK_F16: return SHK_CUDA_F16;
    case SHK_BF16: return SHK_CUDA_BF16;
    case SHK_Q8_0:
    case SHK_Q5_0:
    case SHK_IQ4_NL: return SHK_CUDA_Q8; /* a scale times a number of at most 8 bits */
    case SHK_Q4_0: return SHK_CUDA_Q4;
    default: return SHK_CUDA_F32;
    }
}

size_t shk_cuda_row_bytes(shk_cuda_format format, size_t cols) {
    size_t n = shk_cuda_padded(cols), scales = n / SHK_BLOCK * sizeof(uint16_t);
    static const size_t quarters[SHK_CUDA_FORMATS] = { 16, 8, 8, 4, 2 }; /* of a byte, a value */
    size_t bytes = n * quarters[format] / 4 + (format >= SHK_CUDA_Q8 ? scales : 0);
    return (bytes + 15) & ~(size_t)15;
}

static void pack_q8(char *out, const void *row, shk_type type, size_t cols) {
    uint16_t *scales = (uint16_t *)(void *)(out + shk_cuda_padded(cols));
    for (size_t b = 0; b < cols / SHK_BLOCK; b++) {
        int8_t q[SHK_BLOCK];
        if (type == SHK_Q8_0) {
            const shk_block_q8_0 *x = (const shk_block_q8_0 *)row + b;
            memcpy(q, x->qs, sizeof q);
            scales[b] = x->d;
        } else if (type == SHK_Q5_0) {
            const shk_block_q5_0 *x = (const shk_block_q5_0 *)row + b;
            for (unsigned i = 0; i < SHK_BLOCK; i++)
                q[i] = (int8_t)(((x->qs[i % 16] >> (i / 16 * 4) & 15) | (x->qh >> i & 1) << 4) - 16);
            scales[b] = x->d;
        } else {
            const shk_block_iq4_nl *x = (const shk_block_iq4_nl *)row + b;
            for (unsigned i = 0; i < SHK_BLOCK; i++) q[i] = shk_iq4_nl_values[x->qs[i % 16] >> (i / 16 * 4) & 15];
            scales[b] = x->d;
        }
        char *group = out + b / 2 * SHK_CUDA_GROUP + b % 2 * 8;
        for (unsigned t = 0; t < 4; t++) memcpy(group + t * 16, q + t * 8, 8);
    }
}

static void pack_q4(char *out, const shk_block_q4_0 *row, size_t cols) {
    uint16_t *scales = (uint16_t *)(void *)(out + shk_cuda_padded(cols) / 2);
    for (size_t b = 0; b < cols / SHK_BLOCK; b++) {
        uint32_t *group = (uint32_t *)(void *)(out + b / 2 * (SHK_CUDA_GROUP / 2));
        for (unsigned t = 0; t < 4; t++) {
            uint32_t w = 0;
            for (unsigned j = 0; j < 8; j++) {
                unsigned i = t * 8 + j;
                w |= (uint32_t)(row[b].qs[i % 16] >> (i / 16 * 4) & 15) << (4 * (j / 2) + 16 * (j % 2));
            }
            group[t * 2 + b % 2] = w;
        }
        scales[b] = row[b].d;
    }
}

void shk_cuda_pack_row(void *out, const void *row, shk_type type, size_t cols, float *space) {
    shk_cuda_format format = shk_cuda_format_of(type);
    memset(out, 0, shk_cuda_row_bytes(format, cols)); /* quants of the padding have no scale: its 0 makes them 0 */
    switch (format) {
    case SHK_CUDA_F16:
    case SHK_CUDA_BF16: memcpy(out, row, cols * 2); break;
    case SHK_CUDA_Q8: pack_q8(out, row, type, cols); break;
    case SHK_CUDA_Q4: pack_q4(out, row, cols); break;
    default: shk_dequant_row(type, space, row, cols); memcpy(out, space, cols * sizeof *space);
    }
}
