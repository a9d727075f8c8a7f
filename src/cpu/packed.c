#include "cpu/packed.h"

#include <string.h>

#include "file/blocks.h"

enum { ROWS = SHK_PACK_ROWS, BLOCK = SHK_PACK_BLOCK };

const shk_packing *shk_packing_of(shk_type type) {
#define TYPE(T, type, tier) [SHK_##T] = &shk_packing_##type,
    static const shk_packing *const packings[SHK_TYPE_COUNT] = { SHK_PACKED_TYPES(TYPE, ) };
    return packings[type];
}

size_t shk_packed_bytes(shk_type type, size_t k) {
    const shk_packing *p = shk_packing_of(type);
    if (!p) return ROWS * k * sizeof(uint16_t);
    return k / (BLOCK * p->blocks) * (shk_packing_head(*p) + p->blocks * shk_packing_block(*p));
}

size_t shk_rounded_bytes(shk_type type, size_t k) {
    return shk_packing_of(type) ? k / BLOCK * sizeof(shk_xblock) : k * sizeof(uint16_t);
}

/* What a row's block is made of. */
typedef struct parts {
    uint16_t d, dmin;
    uint8_t scale[8][2]; /* of each 32: scale and min, or two scales */
    uint8_t u[8][BLOCK]; /* values before the offset is taken off */
} parts;

static void nibbles(uint8_t u[BLOCK], const uint8_t qs[16]) {
    for (int i = 0; i < 16; i++) u[i] = qs[i] & 15, u[i + 16] = qs[i] >> 4;
}

static void take_q8_0(parts *p, const void *block) {
    const shk_block_q8_0 *b = block;
    p->d = b->d;
    uint64_t eights[BLOCK / 8];
    memcpy(eights, b->qs, sizeof eights);
    for (size_t i = 0; i < BLOCK / 8; i++) eights[i] ^= 0x8080808080808080; /* q + 128 */
    memcpy(p->u[0], eights, sizeof eights);
}

static void take_q4_0(parts *p, const void *block) {
    const shk_block_q4_0 *b = block;
    p->d = b->d;
    nibbles(p->u[0], b->qs);
}

static void take_q5_0(parts *p, const void *block) {
    const shk_block_q5_0 *b = block;
    p->d = b->d;
    nibbles(p->u[0], b->qs);
    for (int i = 0; i < BLOCK; i++) p->u[0][i] |= (uint8_t)((b->qh >> i & 1) << 4);
}

static void take_k4(parts *p, const uint8_t scales[12], const uint8_t *qs) {
    for (unsigned g = 0; g < 8; g++) {
        shk_k4_scale(scales, g, &p->scale[g][0], &p->scale[g][1]);
        for (int i = 0; i < BLOCK; i++) p->u[g][i] = qs[g / 2 * BLOCK + (unsigned)i] >> g % 2 * 4 & 15;
    }
}

static void take_q4_k(parts *p, const void *block) {
    const shk_block_q4_k *b = block;
    p->d = b->d, p->dmin = b->dmin;
    take_k4(p, b->scales, b->qs);
}

static void take_q5_k(parts *p, const void *block) {
    const shk_block_q5_k *b = block;
    p->d = b->d, p->dmin = b->dmin;
    take_k4(p, b->scales, b->qs);
    for (int g = 0; g < 8; g++)
        for (int i = 0; i < BLOCK; i++) p->u[g][i] |= (uint8_t)((b->qh[i] >> g & 1) << 4);
}

static void take_q6_k(parts *p, const void *block) {
    const shk_block_q6_k *b = block;
    p->d = b->d;
    memcpy(p->scale, b->scales, sizeof b->scales);
    for (int i = 0; i < SHK_SUPERBLOCK; i++) {
        int h = i / 128, r = i % 128;
        unsigned low = b->ql[64 * h + r % 64] >> r / 64 * 4 & 15, high = b->qh[32 * h + r % 32] >> r / 32 * 2 & 3;
        p->u[i / BLOCK][i % BLOCK] = (uint8_t)(low | high << 4);
    }
}

#define TAKE(T, type, tier) [SHK_##T] = take_##type,
static void (*const take[SHK_TYPE_COUNT])(parts *, const void *) = { SHK_PACKED_TYPES(TAKE, ) };

/* The 32 values of row r. `at` is zeroed. */
static void put_values(uint8_t *at, unsigned bits, size_t r, const uint8_t u[BLOCK]) {
    at += 4 * r;
    if (bits == 8) {
        for (size_t j = 0; j < 8; j++) memcpy(at + 64 * j, u + 4 * j, 4);
        return;
    }
    for (size_t i = 0; i < 16; i++) at[64 * (i / 4) + i % 4] = (uint8_t)((u[i] & 15) | u[i + 16] << 4);
    for (size_t i = 0; i < BLOCK && bits > 4; i++) {
        size_t j = i / 4, word = bits == 5 ? 4 : 4 + j / 4, shift = bits == 5 ? j : j % 4 * 2;
        at[64 * word + i % 4] |= (uint8_t)(u[i] >> 4 << shift);
    }
}

void shk_packed_values(const shk_packing *p, uint8_t u[BLOCK], const uint8_t *words, size_t r) {
    const uint8_t *at = words + 4 * r;
    unsigned bits = p->bits;
    for (size_t i = 0; i < BLOCK; i++) {
        size_t j = i / 4, word = bits == 5 ? 4 : 4 + j / 4, shift = bits == 5 ? j : j % 4 * 2;
        if (bits == 8) u[i] = at[64 * j + i % 4];
        else u[i] = at[64 * (i % 16 / 4) + i % 4] >> i / 16 * 4 & 15;
        if (bits == 5 || bits == 6) u[i] |= (uint8_t)((at[64 * word + i % 4] >> shift & (bits == 5 ? 1 : 3)) << 4);
    }
}

float shk_packed_f16(const uint8_t *head, size_t r) {
    uint16_t h;
    memcpy(&h, head + 2 * r, sizeof h);
    return shk_f16_to_f32(h);
}

/* Where the pair of values j, j + 1 of row r is. */
static uint8_t *pair_at(const void *group, size_t r, size_t j) { return (uint8_t *)group + (j / 2 * ROWS + r) * 4; }

void shk_pack_group(shk_type type, void *group, const void *rows, size_t stride, size_t n, size_t k) {
    const shk_packing *p = shk_packing_of(type);
    if (!p) {
        for (size_t j = 0; j < k; j += 2)
            for (size_t r = 0; r < n; r++) memcpy(pair_at(group, r, j), (const char *)rows + r * stride + 2 * j, 4);
        return;
    }
    const shk_type_info *t = shk_type_of(type);
    uint8_t *at = group;
    for (size_t b = 0; b < k / t->block; b++) {
        for (size_t r = 0; r < n; r++) {
            parts x;
            take[type](&x, (const char *)rows + r * stride + b * t->bytes);
            memcpy(at + 2 * r, &x.d, 2);
            if (p->min) memcpy(at + 2 * (ROWS + r), &x.dmin, 2);
            uint8_t *sub = at + shk_packing_head(*p);
            for (size_t g = 0; g < p->blocks; g++, sub += shk_packing_block(*p)) {
                if (p->blocks > 1) sub[r] = x.scale[g][0], sub[ROWS + r] = x.scale[g][1];
                put_values(sub + (p->blocks > 1 ? 2 * ROWS : 0), p->bits, r, x.u[g]);
            }
        }
        at += shk_packing_head(*p) + p->blocks * shk_packing_block(*p);
    }
}

void shk_unpack_row(shk_type type, float *y, const void *group, size_t r, size_t k) {
    const shk_packing *p = shk_packing_of(type);
    const uint8_t *at = group;
    for (size_t j = 0; !p && j < k; j += 2) shk_dequant_row(type, y + j, pair_at(group, r, j), 2);
    for (size_t b = 0; p && b < k / (BLOCK * p->blocks); b++) {
        float d = shk_packed_f16(at, r), dmin = p->min ? shk_packed_f16(at, ROWS + r) : 0;
        at += shk_packing_head(*p);
        for (size_t g = 0; g < p->blocks; g++, at += shk_packing_block(*p), y += BLOCK) {
            uint8_t u[BLOCK];
            bool scaled = p->blocks > 1;
            shk_packed_values(p, u, at + (scaled ? 2 * ROWS : 0), r);
            for (size_t i = 0; i < BLOCK; i++) {
                float scale = !scaled ? d : p->halves ? d * (float)(int8_t)at[(i / 16) * ROWS + r] : d * (float)at[r];
                y[i] = scale * (float)(u[i] - p->offset) - (p->min ? dmin * (float)at[ROWS + r] : 0);
            }
        }
    }
}
