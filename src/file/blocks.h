/* How the block types lie in memory. Packed: a block may stand at any address. The formulas give value i of a block; `d`, `m`
 * and `dmin` are f16. */
#ifndef SHK_FILE_BLOCKS_H
#define SHK_FILE_BLOCKS_H

#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are mapped as they stand: little-endian");

#define SHK_PACKED __attribute__((packed))

enum { SHK_BLOCK = 32, SHK_SUPERBLOCK = 256 };

/* ---- blocks of 32. Value i has its low 4 bits in qs[i % 16]: the low nibble for i < 16, else the high one.
 *      Bit i of qh is the fifth. ---- */

/* d * (q - 8) */
typedef struct SHK_PACKED shk_block_q4_0 {
    uint16_t d;
    uint8_t qs[16];
} shk_block_q4_0;

/* d * q + m */
typedef struct SHK_PACKED shk_block_q4_1 {
    uint16_t d, m;
    uint8_t qs[16];
} shk_block_q4_1;

/* d * (q - 16) */
typedef struct SHK_PACKED shk_block_q5_0 {
    uint16_t d;
    uint32_t qh;
    uint8_t qs[16];
} shk_block_q5_0;

/* d * q + m */
typedef struct SHK_PACKED shk_block_q5_1 {
    uint16_t d, m;
    uint32_t qh;
    uint8_t qs[16];
} shk_block_q5_1;

/* d * q */
typedef struct SHK_PACKED shk_block_q8_0 {
    uint16_t d;
    int8_t qs[32];
} shk_block_q8_0;

/* d * shk_iq4_nl_values[q] */
typedef struct SHK_PACKED shk_block_iq4_nl {
    uint16_t d;
    uint8_t qs[16];
} shk_block_iq4_nl;

extern const int8_t shk_iq4_nl_values[16];

/* ---- blocks of 256, cut into groups of 16 or 32 with a scale each ---- */

/* d * (scales[g] & 15) * q - dmin * (scales[g] >> 4), g = i / 16.
 * q: bits 2 * (i / 32 % 4) and up of qs[i / 128 * 32 + i % 32]. */
typedef struct SHK_PACKED shk_block_q2_k {
    uint8_t scales[16];
    uint8_t qs[64];
    uint16_t d, dmin;
} shk_block_q2_k;

/* d * (scale g - 32) * (q - 4), g = i / 16. The low two bits of q lie as in q2_k, the third is bit i / 32 of hmask[i % 32].
 * scale g: low 4 bits: nibble g / 8 of scales[g % 8]; high 2: bits 2 * (g / 4) and up of scales[8 + g % 4]. */
typedef struct SHK_PACKED shk_block_q3_k {
    uint8_t hmask[32];
    uint8_t qs[64];
    uint8_t scales[12];
    uint16_t d;
} shk_block_q3_k;

/* d * scale g * q - dmin * min g, g = i / 32 (shk_k4_scale below). q: nibble g % 2 of qs[g / 2 * 32 + i % 32]. */
typedef struct SHK_PACKED shk_block_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qs[128];
} shk_block_q4_k;

/* As q4_k, with a fifth bit: bit g of qh[i % 32]. */
typedef struct SHK_PACKED shk_block_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
} shk_block_q5_k;

/* d * scales[i / 16] * (q - 32). With h = i / 128 and r = i % 128, the low 4 bits of q: nibble r / 64 of ql[64 * h + r % 64];
 * the high 2: bits 2 * (r / 32) and up of qh[32 * h + r % 32]. */
typedef struct SHK_PACKED shk_block_q6_k {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    uint16_t d;
} shk_block_q6_k;

_Static_assert(sizeof(shk_block_q4_0) == 18, "q4_0");
_Static_assert(sizeof(shk_block_q4_1) == 20, "q4_1");
_Static_assert(sizeof(shk_block_q5_0) == 22, "q5_0");
_Static_assert(sizeof(shk_block_q5_1) == 24, "q5_1");
_Static_assert(sizeof(shk_block_q8_0) == 34, "q8_0");
_Static_assert(sizeof(shk_block_iq4_nl) == 18, "iq4_nl");
_Static_assert(sizeof(shk_block_q2_k) == 84, "q2_k");
_Static_assert(sizeof(shk_block_q3_k) == 110, "q3_k");
_Static_assert(sizeof(shk_block_q4_k) == 144, "q4_k");
_Static_assert(sizeof(shk_block_q5_k) == 176, "q5_k");
_Static_assert(sizeof(shk_block_q6_k) == 210, "q6_k");

/* The 6-bit scale and min of group g < 8 of q4_k and q5_k. The first four of each fill the low 6 bits of scales[0..3] and
 * [4..7]; the others have their low 4 bits in [8..11] and their high 2 in the top bits of the first eight. */
static inline void shk_k4_scale(const uint8_t scales[12], unsigned g, uint8_t *scale, uint8_t *min) {
    if (g < 4) {
        *scale = scales[g] & 63;
        *min = scales[g + 4] & 63;
    } else {
        *scale = (uint8_t)((scales[g + 4] & 15) | scales[g - 4] >> 6 << 4);
        *min = (uint8_t)(scales[g + 4] >> 4 | scales[g] >> 6 << 4);
    }
}

#endif
