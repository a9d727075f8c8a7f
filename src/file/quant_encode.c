/* The encoders. Those of 4 bits search for the smallest weighted squared error; sums are kept in a fixed order, so that a file is
 * the same whatever made it. Layouts: file/blocks.h. */
#include <math.h>
#include <string.h>

#include "file/blocks.h"
#include "file/types.h"

static const float f16_max = 65504;
static const uint16_t f16_nan = 0x7e00;

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

/* ---- 32 values and how much an error of each counts ---- */

typedef struct group {
    float v[SHK_BLOCK], w[SHK_BLOCK];
} group;

static const float ones[SHK_BLOCK] = { [0 ... SHK_BLOCK - 1] = 1 };

typedef float f32x4 __attribute__((vector_size(16), aligned(4), may_alias));

/* The sum of w * a * b over 32, in eight lanes for the sake of speed. */
static float dot(const float *w, const float *a, const float *b) {
    f32x4 even = { 0 }, odd = { 0 };
    for (unsigned i = 0; i < SHK_BLOCK; i += 8) {
        even += *(const f32x4 *)(w + i) * *(const f32x4 *)(a + i) * *(const f32x4 *)(b + i);
        odd += *(const f32x4 *)(w + i + 4) * *(const f32x4 *)(a + i + 4) * *(const f32x4 *)(b + i + 4);
    }
    even += odd;
    return (even[0] + even[1]) + (even[2] + even[3]);
}

/* Takes 32 values, cut to [-limit, limit], which is as far as the type can reach (NaN becomes -limit). false if one is not
 * finite: its block will then have a NaN for a scale. */
static bool load(group *g, const float *x, float limit) {
    bool finite = true;
    for (unsigned i = 0; i < SHK_BLOCK; i++) {
        finite = finite && isfinite(x[i]);
        g->v[i] = x[i] > limit ? limit : x[i] > -limit ? x[i] : -limit;
    }
    return finite;
}

/* The weights of errors. Large values matter more than least squares would have it: on Gemma 3 270M these weights leave 11 % less
 * Kullback-Leibler divergence in q4_0, and 2 % less in q4_k, than equal ones do. */
static void weigh(group *g) {
    float inverse_rms = inverse(sqrtf(dot(ones, g->v, g->v) / SHK_BLOCK));
    for (unsigned i = 0; i < SHK_BLOCK; i++) g->w[i] = 1 + fabsf(g->v[i]) * inverse_rms;
}

/* The value that is farthest from 0. */
static float largest(const group *g) {
    float max = 0;
    for (unsigned i = 0; i < SHK_BLOCK; i++) max = fabsf(g->v[i]) > fabsf(max) ? g->v[i] : max;
    return max;
}

/* ---- types without a search ---- */

static void encode_f32(void *w, const float *x, size_t n) { memcpy(w, x, n * sizeof *x); }

#define HALF(type)                                                                        \
    static void encode_##type(void *w, const float *x, size_t n) {                        \
        struct SHK_PACKED { uint16_t v; } *h = w;                                         \
        for (size_t i = 0; i < n; i++) h[i].v = shk_f32_to_##type(x[i]);                  \
    }
HALF(f16)
HALF(bf16)

static void encode_q8_0(void *w, const float *x, size_t n) {
    for (shk_block_q8_0 *b = w, *end = b + n / SHK_BLOCK; b < end; b++, x += SHK_BLOCK) {
        group g;
        bool finite = load(&g, x, 127 * f16_max);
        b->d = finite ? to_f16(fabsf(largest(&g)) / 127) : f16_nan;
        float inv = finite ? inverse(shk_f16_to_f32(b->d)) : 0;
        for (unsigned i = 0; i < SHK_BLOCK; i++) b->qs[i] = (int8_t)nearest(g.v[i] * inv, -127, 127);
    }
}

/* ---- q4_0: value = d * q, q in [-8, 7] ---- */

static void round_q4_0(float *restrict q, const group *g, float d) {
    float inv = inverse(d);
    for (unsigned i = 0; i < SHK_BLOCK; i++) q[i] = nearest(g->v[i] * inv, -8, 7);
}

/* For given q the best d is v.q / q.q, and it explains (v.q)^2 / q.q of v.v (weighted products all). Starts that put the largest
 * value between 7 and 9 steps on the side of -8 are each improved once that way. */
static uint16_t search_q4_0(const group *g) {
    float q[SHK_BLOCK], max = largest(g), best = 0, best_d = 0;
    for (int k = 0; k <= 7; k++) {
        round_q4_0(q, g, max / -(7 + 0.3f * (float)k));
        round_q4_0(q, g, dot(g->w, g->v, q) * inverse(dot(g->w, q, q)));
        float vq = dot(g->w, g->v, q), d = vq * inverse(dot(g->w, q, q));
        if (vq * d > best) best = vq * d, best_d = d;
    }
    return to_f16(best_d);
}

static void encode_q4_0(void *w, const float *x, size_t n) {
    for (shk_block_q4_0 *b = w, *end = b + n / SHK_BLOCK; b < end; b++, x += SHK_BLOCK) {
        group g;
        float q[SHK_BLOCK];
        bool finite = load(&g, x, 8 * f16_max);
        weigh(&g);
        b->d = finite ? search_q4_0(&g) : f16_nan;
        round_q4_0(q, &g, finite ? shk_f16_to_f32(b->d) : 0);
        for (unsigned i = 0; i < 16; i++) b->qs[i] = (uint8_t)((int)q[i] + 8 + ((int)q[i + 16] + 8) * 16);
    }
}

/* ---- q4_k ---- */

enum { GROUPS = 8, STEPS = 15, SCALE_MAX = 63 };

typedef struct line {
    float scale, min; /* value = scale * q - min, both >= 0 */
} line;

/* q for the values on a line, and the error. */
static float round_to_line(float *restrict q, const group *g, line l) {
    float inv = inverse(l.scale), e[SHK_BLOCK];
    for (unsigned i = 0; i < SHK_BLOCK; i++) {
        q[i] = nearest((g->v[i] + l.min) * inv, 0, STEPS);
        e[i] = l.scale * q[i] - l.min - g->v[i];
    }
    return dot(g->w, e, e);
}

/* The line of least squares through (q, v); one through the origin where it would cross above it. */
static line fit_line(const float *q, const group *g) {
    float sum = dot(g->w, ones, ones), sum_q = dot(g->w, q, ones), sum_v = dot(g->w, g->v, ones);
    float qq = dot(g->w, q, q), qv = dot(g->w, q, g->v);
    float scale = (sum * qv - sum_q * sum_v) * inverse(sum * qq - sum_q * sum_q), min = (scale * sum_q - sum_v) * inverse(sum);
    if (min < 0) min = 0, scale = qv * inverse(qq);
    return (line){ scale > 0 ? scale : 0, min };
}

/* The best line for a group, scale and min not yet rounded. */
static line search_line(const group *g) {
    float q[SHK_BLOCK], low = 0, high = g->v[0], best_error = INFINITY;
    for (unsigned i = 0; i < SHK_BLOCK; i++) {
        low = g->v[i] < low ? g->v[i] : low;
        high = g->v[i] > high ? g->v[i] : high;
    }
    line best = { 0, -low };
    for (int k = 0; k <= 7; k++) {
        round_to_line(q, g, (line){ (high - low) / (STEPS - 1 + 0.3f * (float)k), -low });
        line l = fit_line(q, g);
        float error = round_to_line(q, g, l);
        if (error < best_error) best_error = error, best = l;
    }
    return best;
}

typedef struct plan {
    float d, dmin; /* as f16 has them */
    uint8_t scale[GROUPS], min[GROUPS];
    float q[GROUPS][SHK_BLOCK];
    float error;
} plan;

/* Picks group i's scale and min near to its line, and its q. */
static void choose_scale(plan *p, unsigned i, const group *g, line l) {
    int scale0 = (int)nearest(l.scale * inverse(p->d), 0, SCALE_MAX), min0 = (int)nearest(l.min * inverse(p->dmin), 0, SCALE_MAX);
    float best = INFINITY;
    for (int scale = scale0 - 1; scale <= scale0 + 1; scale++) {
        for (int min = min0 - 1; min <= min0 + 1; min++) {
            float q[SHK_BLOCK];
            if (scale < 0 || scale > SCALE_MAX || min < 0 || min > SCALE_MAX) continue;
            float error = round_to_line(q, g, (line){ p->d * (float)scale, p->dmin * (float)min });
            if (error >= best) continue;
            best = error;
            p->scale[i] = (uint8_t)scale, p->min[i] = (uint8_t)min;
            memcpy(p->q[i], q, sizeof q);
        }
    }
    p->error += best;
}

static void choose_scales(plan *p, const group *groups, const line *lines) {
    p->error = 0;
    for (unsigned i = 0; i < GROUPS; i++) choose_scale(p, i, &groups[i], lines[i]);
}

/* The d and dmin of least squares for the plan's scales, mins and q: v = d * (scale * q) - dmin * min. */
static void refit(plan *p, const group *groups) {
    double aa = 0, ab = 0, bb = 0, av = 0, bv = 0;
    for (unsigned i = 0; i < GROUPS; i++) {
        const group *g = &groups[i];
        const float *q = p->q[i];
        double s = p->scale[i], m = -(double)p->min[i];
        aa += s * s * dot(g->w, q, q), ab += s * m * dot(g->w, q, ones), bb += m * m * dot(g->w, ones, ones);
        av += s * dot(g->w, q, g->v), bv += m * dot(g->w, g->v, ones);
    }
    double det = aa * bb - ab * ab;
    if (det <= 0) return;
    double d = (av * bb - bv * ab) / det, dmin = (bv * aa - av * ab) / det;
    if (d > 0 && dmin > 0) p->d = as_f16((float)d), p->dmin = as_f16((float)dmin);
}

static void store(shk_block_q4_k *b, const plan *p) {
    b->d = to_f16(p->d), b->dmin = to_f16(p->dmin);
    for (unsigned g = 0; g < 4; g++) {
        b->scales[g] = (uint8_t)(p->scale[g] | p->scale[g + 4] >> 4 << 6);
        b->scales[g + 4] = (uint8_t)(p->min[g] | p->min[g + 4] >> 4 << 6);
        b->scales[g + 8] = (uint8_t)((p->scale[g + 4] & 15) | (p->min[g + 4] & 15) << 4);
    }
    for (unsigned g = 0; g < GROUPS; g += 2)
        for (unsigned i = 0; i < SHK_BLOCK; i++) b->qs[g / 2 * 32 + i] = (uint8_t)((int)p->q[g][i] | (int)p->q[g + 1][i] << 4);
}

static void encode_q4_k(void *w, const float *x, size_t n) {
    for (shk_block_q4_k *b = w, *end = b + n / SHK_SUPERBLOCK; b < end; b++) {
        group groups[GROUPS];
        line lines[GROUPS];
        float max_scale = 0, max_min = 0;
        bool finite = true;
        for (unsigned i = 0; i < GROUPS; i++, x += SHK_BLOCK) {
            finite = load(&groups[i], x, STEPS * SCALE_MAX * f16_max) && finite;
            weigh(&groups[i]);
            lines[i] = search_line(&groups[i]);
            max_scale = fmaxf(max_scale, lines[i].scale), max_min = fmaxf(max_min, lines[i].min);
        }
        plan first = { .d = as_f16(max_scale / SCALE_MAX), .dmin = as_f16(max_min / SCALE_MAX) }, second;
        choose_scales(&first, groups, lines);
        second = first;
        refit(&second, groups);
        choose_scales(&second, groups, lines);
        store(b, second.error < first.error ? &second : &first);
        if (!finite) b->d = f16_nan;
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
