#include "file/types.h"

#include <string.h>
#include <strings.h>

#include "file/blocks.h"
#include "mem.h"

static const shk_type_info infos[SHK_TYPE_COUNT] = {
    [SHK_F32] = { "f32", 1, 4 },
    [SHK_F16] = { "f16", 1, 2 },
    [SHK_BF16] = { "bf16", 1, 2 },
    [SHK_F64] = { "f64", 1, 8 },
    [SHK_I8] = { "i8", 1, 1 },
    [SHK_I16] = { "i16", 1, 2 },
    [SHK_I32] = { "i32", 1, 4 },
    [SHK_I64] = { "i64", 1, 8 },
    [SHK_Q4_0] = { "q4_0", SHK_BLOCK, sizeof(shk_block_q4_0) },
    [SHK_Q4_1] = { "q4_1", SHK_BLOCK, sizeof(shk_block_q4_1) },
    [SHK_Q5_0] = { "q5_0", SHK_BLOCK, sizeof(shk_block_q5_0) },
    [SHK_Q5_1] = { "q5_1", SHK_BLOCK, sizeof(shk_block_q5_1) },
    [SHK_Q8_0] = { "q8_0", SHK_BLOCK, sizeof(shk_block_q8_0) },
    [SHK_IQ4_NL] = { "iq4_nl", SHK_BLOCK, sizeof(shk_block_iq4_nl) },
    [SHK_Q2_K] = { "q2_k", SHK_SUPERBLOCK, sizeof(shk_block_q2_k) },
    [SHK_Q3_K] = { "q3_k", SHK_SUPERBLOCK, sizeof(shk_block_q3_k) },
    [SHK_Q4_K] = { "q4_k", SHK_SUPERBLOCK, sizeof(shk_block_q4_k) },
    [SHK_Q5_K] = { "q5_k", SHK_SUPERBLOCK, sizeof(shk_block_q5_k) },
    [SHK_Q6_K] = { "q6_k", SHK_SUPERBLOCK, sizeof(shk_block_q6_k) },
};

const shk_type_info *shk_type_of(unsigned type) {
    static const shk_type_info unknown = { NULL, 1, 0 };
    return type < SHK_TYPE_COUNT && infos[type].name ? &infos[type] : &unknown;
}

bool shk_type_parse(const char *name, shk_type *out) {
    for (unsigned type = 0; type < SHK_TYPE_COUNT; type++) {
        if (!infos[type].name || strcasecmp(infos[type].name, name)) continue;
        *out = (shk_type)type;
        return true;
    }
    return false;
}

bool shk_row_bytes(shk_type type, size_t n, size_t *out) {
    const shk_type_info *info = shk_type_of(type);
    return info->name && n % info->block == 0 && shk_mul(out, n / info->block, info->bytes);
}

/* ---- half precision ---- */

typedef union bits32 {
    float f;
    uint32_t u;
} bits32;

float shk_f16_to_f32(uint16_t h) {
    uint32_t magnitude = h & 0x7fff;
    bits32 v;
    if (magnitude < 0x0400) v.f = (float)magnitude * 0x1p-24f;                  /* subnormal */
    else if (magnitude < 0x7c00) v.u = (magnitude << 13) + ((127u - 15u) << 23); /* another exponent bias */
    else v.u = 0x7f800000u | (magnitude & 0x3ff) << 13;
    v.u |= (uint32_t)(h & 0x8000) << 16;
    return v.f;
}

uint16_t shk_f32_to_f16(float f) {
    bits32 v = { f };
    uint32_t sign = v.u >> 16 & 0x8000, half;
    v.u &= 0x7fffffff;
    if (v.u > 0x7f800000) {
        half = 0x7e00 | (v.u >> 13 & 0x3ff); /* a quiet NaN */
    } else if (v.f >= 65520) {
        half = 0x7c00; /* from half a step above the largest value */
    } else if (v.f >= 0x1p-14f) {
        half = (v.u - ((127u - 15u) << 23) + 0xfff + (v.u >> 13 & 1)) >> 13;
    } else {
        v.f += 0.5f; /* the addition rounds to a multiple of 2^-24, the step of subnormals */
        half = v.u - 0x3f000000;
    }
    return (uint16_t)(sign | half);
}
