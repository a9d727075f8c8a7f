/* The encoders. All search for the smallest squared error; sums are kept in a fixed order, so that a file is the same whatever
 * made it. Layouts: file/blocks.h. */
#include <math.h>
#include <string.h>

#include "file/blocks.h"
#include "file/types.h"

static const float f16_max = 65504;
static const uint16_t f16_nan = 0x7e00;

/* Copies n values, cut to [-limit, limit], which is as far as the type can reach (NaN becomes -limit). false if one is not
 * finite: its block will then have a NaN for a scale. */
static bool load(float *to, const float *x, unsigned n, float limit) {
    bool finite = true;
    for (unsigned i = 0; i < n; i++) {
        finite = finite && isfinite(x[i]);
        to[i] = x[i] > limit ? limit : x[i] > -limit ? x[i] : -limit;
    }
    return finite;
}

/* The integer nearest to v, cut to [low, high]. At 1.5 * 2^23 the step of floats is 1, so that the addition rounds: this needs
 * no branch and becomes vector instructions. */
static float nearest(float v, float low, float high) {
    v = v < low ? low : v;
    v = v > high ? high : v;
    return (v + 0x1.8p23f) - 0x1.8p23f;
}

/* 1 / v; 0 for a v so small that the quotient could overflow: f16 scales are 0 long before. */
static float inverse(float v) { return fabsf(v) > 1e-30f ? 1 / v : 0; }

static uint16_t to_f16(float v) { return shk_f32_to_f16(v > f16_max ? f16_max : v < -f16_max ? -f16_max : v); }
static float as_f16(float v) { return shk_f16_to_f32(to_f16(v)); }

typedef float f32x4 __attribute__((vector_size(16), aligned(4), may_alias));

/* The sum of 32 products, in eight lanes for the sake of speed. */
static float dot32(const float *a, const float *b) {
    f32x4 even = { 0 }, odd = { 0 };
    for (unsigned i = 0; i < SHK_BLOCK; i += 8) {
        even += *(const f32x4 *)(a + i) * *(const f32x4 *)(b + i);
        odd += *(const f32x4 *)(a + i + 4) * *(const f32x4 *)(b + i + 4);
    }
    even += odd;
    return (even[0] + even[1]) + (even[2] + even[3]);
}

static void encode_f32(void *w, const float *x, size_t n) { memcpy(w, x, n * sizeof *x); }

#define HALF(type)                                                                        \
    static void encode_##type(void *w, const float *x, size_t n) {                        \
        struct SHK_PACKED { uint16_t v; } *h = w;                                         \
        for (size_t i = 0; i < n; i++) h[i].v = shk_f32_to_##type(x[i]);                  \
    }
HALF(f16)
HALF(bf16)

static float largest(const float *x) {
    float max = 0;
    for (unsigned i = 0; i < SHK_BLOCK; i++) max = fabsf(x[i]) > fabsf(max) ? x[i] : max;
    return max;
}

static void encode_q8_0(void *w, const float *x, size_t n) {
    for (shk_block_q8_0 *b = w, *end = b + n / SHK_BLOCK; b < end; b++, x += SHK_BLOCK) {
        float v[SHK_BLOCK];
        bool finite = load(v, x, SHK_BLOCK, 127 * f16_max);
        b->d = finite ? to_f16(fabsf(largest(v)) / 127) : f16_nan;
        float inv = finite ? inverse(shk_f16_to_f32(b->d)) : 0;
        for (unsigned i = 0; i < SHK_BLOCK; i++) b->qs[i] = (int8_t)nearest(v[i] * inv, -127, 127);
    }
}

/* ---- q4_0: value = d * q, q in [-8, 7] ---- */

static void round_q4_0(float *restrict q, const float *restrict v, float d) {
    float inv = inverse(d);
    for (unsigned i = 0; i < SHK_BLOCK; i++) q[i] = nearest(v[i] * inv, -8, 7);
}

/* For given q the best d is v.q / q.q, and it explains (v.q)^2 / q.q of v.v. Starts that put the largest value between 7 and 9
 * steps on the side of -8 are each improved once that way. */
static uint16_t search_q4_0(const float *v) {
    float q[SHK_BLOCK], max = largest(v), best = 0, best_d = 0;
    for (int k = 0; k <= 7; k++) {
        round_q4_0(q, v, max / -(7 + 0.3f * (float)k));
        float d = dot32(v, q) * inverse(dot32(q, q));
        round_q4_0(q, v, d);
        float vq = dot32(v, q), explained = vq * vq * inverse(dot32(q, q));
        if (explained > best) best = explained, best_d = vq * inverse(dot32(q, q));
    }
    return to_f16(best_d);
}

static void encode_q4_0(void *w, const float *x, size_t n) {
    for (shk_block_q4_0 *b = w, *end = b + n / SHK_BLOCK; b < end; b++, x += SHK_BLOCK) {
        float v[SHK_BLOCK], q[SHK_BLOCK];
        bool finite = load(v, x, SHK_BLOCK, 8 * f16_max);
        b->d = finite ? search_q4_0(v) : f16_nan;
        round_q4_0(q, v, finite ? shk_f16_to_f32(b->d) : 0);
        for (unsigned i = 0; i < 16; i++) b->qs[i] = (uint8_t)((int)q[i] + 8 + ((int)q[i + 16] + 8) * 16);
    }
}

/* ---- q4_k ---- */

enum { GROUPS = 8, STEPS = 15, SCALE_MAX = 63 };

typedef struct line {
    float scale, min; /* value = scale * q - min, both >= 0 */
} line;

/* q for 32 values on a line, and the squared error. */
static float round_to_line(float *restrict q, const float *restrict v, line l) {
    float inv = inverse(l.scale), e[SHK_BLOCK];
    for (unsigned i = 0; i < SHK_BLOCK; i++) {
        q[i] = nearest((v[i] + l.min) * inv, 0, STEPS);
        e[i] = l.scale * q[i] - l.min - v[i];
    }
    return dot32(e, e);
}

/* The line of least squares through (q, v); one through the origin where it would cross above it. */
static line fit_line(const float *q, const float *v) {
    static const float ones[SHK_BLOCK] = { [0 ... SHK_BLOCK - 1] = 1 };
    float sum_q = dot32(q, ones), sum_v = dot32(v, ones), qq = dot32(q, q), qv = dot32(q, v);
    float det = SHK_BLOCK * qq - sum_q * sum_q;
    float scale = (SHK_BLOCK * qv - sum_q * sum_v) * inverse(det), min = (scale * sum_q - sum_v) / SHK_BLOCK;
    if (min < 0) min = 0, scale = qv * inverse(qq);
    return (line){ scale > 0 ? scale : 0, min };
}

/* The best line for a group of 32, scale and min not yet rounded. */
static line search_line(const float *v) {
    float q[SHK_BLOCK], low = 0, high = v[0], best_error = INFINITY;
    for (unsigned i = 0; i < SHK_BLOCK; i++) {
        low = v[i] < low ? v[i] : low;
        high = v[i] > high ? v[i] : high;
    }
    line best = { 0, -low };
    for (int k = 0; k <= 7; k++) {
        round_to_line(q, v, (line){ (high - low) / (STEPS - 1 + 0.3f * (float)k), -low });
        line l = fit_line(q, v);
        float error = round_to_line(q, v, l);
        if (error < best_error) best_error = error, best = l;
    }
    return best;
}

typedef struct plan {
    float d, dmin; /* as f16 has them */
    uint8_t scale[GROUPS], min[GROUPS];
    float q[SHK_SUPERBLOCK];
    float error;
} plan;

/* Given d and dmin, picks each group's scale and min near to its line, and its q. */
static void choose_scales(plan *p, const float *v, const line *lines) {
    p->error = 0;
    for (unsigned g = 0; g < GROUPS; g++) {
        const float *group = v + g * SHK_BLOCK;
        int scale0 = (int)nearest(lines[g].scale * inverse(p->d), 0, SCALE_MAX);
        int min0 = (int)nearest(lines[g].min * inverse(p->dmin), 0, SCALE_MAX);
        float best = INFINITY;
        for (int scale = scale0 - 1; scale <= scale0 + 1; scale++) {
            for (int min = min0 - 1; min <= min0 + 1; min++) {
                float q[SHK_BLOCK];
                if (scale < 0 || scale > SCALE_MAX || min < 0 || min > SCALE_MAX) continue;
                float error = round_to_line(q, group, (line){ p->d * (float)scale, p->dmin * (float)min });
                if (error >= best) continue;
                best = error;
                p->scale[g] = (uint8_t)scale, p->min[g] = (uint8_t)min;
                memcpy(p->q + g * SHK_BLOCK, q, sizeof q);
            }
        }
        p->error += best;
    }
}

/* The d and dmin of least squares for the plan's scales, mins and q: v = d * (scale * q) - dmin * min. */
static void refit(plan *p, const float *v) {
    static const float ones[SHK_BLOCK] = { [0 ... SHK_BLOCK - 1] = 1 };
    double aa = 0, ab = 0, bb = 0, av = 0, bv = 0;
    for (unsigned g = 0; g < GROUPS; g++) {
        const float *q = p->q + g * SHK_BLOCK, *group = v + g * SHK_BLOCK;
        double s = p->scale[g], m = -(double)p->min[g];
        aa += s * s * dot32(q, q), ab += s * m * dot32(q, ones), bb += m * m * SHK_BLOCK;
        av += s * dot32(q, group), bv += m * dot32(group, ones);
    }
    double det = aa * bb - ab * ab;
    if (det <= 0) return;
    double d = (av * bb - bv * ab) / det, dmin = (bv * aa - av * ab) / det;
    if (d > 0 && dmin > 0) p->d = as_f16((float)d), p->dmin = as_f16((float)dmin);
}

static void store_q4_k(shk_block_q4_k *b, const plan *p) {
    memset(b->scales, 0, sizeof b->scales);
    for (unsigned g = 0; g < 4; g++) {
        b->scales[g] = (uint8_t)(p->scale[g] | p->scale[g + 4] >> 4 << 6);
        b->scales[g + 4] = (uint8_t)(p->min[g] | p->min[g + 4] >> 4 << 6);
        b->scales[g + 8] = (uint8_t)((p->scale[g + 4] & 15) | (p->min[g + 4] & 15) << 4);
    }
    for (unsigned i = 0; i < SHK_SUPERBLOCK; i++) {
        uint8_t *qs = &b->qs[i / 64 * 32 + i % 32], q = (uint8_t)p->q[i];
        *qs = i % 64 < 32 ? q : (uint8_t)(*qs | q << 4);
    }
    b->d = to_f16(p->d), b->dmin = to_f16(p->dmin);
}

static void encode_q4_k(void *w, const float *x, size_t n) {
    for (shk_block_q4_k *b = w, *end = b + n / SHK_SUPERBLOCK; b < end; b++, x += SHK_SUPERBLOCK) {
        float v[SHK_SUPERBLOCK];
        if (!load(v, x, SHK_SUPERBLOCK, STEPS * SCALE_MAX * f16_max)) {
            *b = (shk_block_q4_k){ .d = f16_nan };
            continue;
        }
        line lines[GROUPS];
        float max_scale = 0, max_min = 0;
        for (unsigned g = 0; g < GROUPS; g++) {
            lines[g] = search_line(v + g * SHK_BLOCK);
            max_scale = fmaxf(max_scale, lines[g].scale), max_min = fmaxf(max_min, lines[g].min);
        }
        plan p = { .d = as_f16(max_scale / SCALE_MAX), .dmin = as_f16(max_min / SCALE_MAX) };
        choose_scales(&p, v, lines);
        plan better = p;
        refit(&better, v);
        choose_scales(&better, v, lines);
        store_q4_k(b, better.error < p.error ? &better : &p);
    }
}

typedef void encoder(void *w, const float *x, size_t n);

static encoder *const encoders[SHK_TYPE_COUNT] = {
    [SHK_F32] = encode_f32,   [SHK_F16] = encode_f16,   [SHK_BF16] = encode_bf16,
    [SHK_Q8_0] = encode_q8_0, [SHK_Q4_0] = encode_q4_0, [SHK_Q4_K] = encode_q4_k,
};

bool shk_quant_row(shk_type type, void *w, const float *x, size_t n) {
    if (!encoders[type]) return false;
    encoders[type](w, x, n);
    return true;
}
