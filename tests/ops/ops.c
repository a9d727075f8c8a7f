/* Every op of a device against its formula in double. The list of cases is the same for every device; buffers are the device's.
 * Bounds: an op that sums k products may be off by k roundings of the sum of their magnitudes; an elementwise one by a few ulp. */
#include <math.h>

#include "file/types.h"
#include "../device.h"

static const shk_ops *ops;
static void *dev;
static unsigned long long seed = 12345;
static const double EPS = 0x1p-24; /* half an ulp of 1 in f32 */
static double split; /* what linear may be off for taking activations as two bf16 values: 2^-18 of them */

enum { MAX = 1 << 18, BUFFERS = 12, LAYERS = 2 };
static float *device[BUFFERS], host[BUFFERS][MAX];

/* Buffer b gets n random values, on both sides. */
static float *fill(int b, size_t n, double scale) {
    for (size_t i = 0; i < n; i++) host[b][i] = (float)((test_uniform(&seed) - 0.5) * 2 * scale);
    ops->upload(dev, device[b], host[b], n * sizeof(float));
    return device[b];
}

static const float *fetch(int b, size_t n) {
    ops->download(dev, host[b], device[b], n * sizeof(float));
    return host[b];
}

/* |have - want| <= bound, a bound of `ulps` roundings of the magnitude. CASE counts a call as passed if no value was off. */
static size_t off;
static void near(const char *op, size_t i, double have, double want, double magnitude, double ulps) {
    if (fabs(have - want) <= ulps * EPS * magnitude + 1e-37) return;
    if (off++ < 3) fprintf(stderr, "%s[%zu]: %.9g, want %.9g (magnitude %g)\n", op, i, have, want, magnitude);
}
#define CASE(call) (off = 0, call, verdict(#call))
static void verdict(const char *call) { CHECK(off == 0, "%s: %zu values are off", call, off); }

static double gelu(double x) { return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

/* A random matrix of a type, on the device, and its values as f32 in buffer b of the host. */
static shk_mat matrix(int b, shk_type type, size_t rows, size_t cols, bool by_rows) {
    shk_mat m = { .type = type, .rows = rows, .cols = cols, .by_rows = by_rows };
    NEED(shk_row_bytes(type, cols, &m.stride), "row of %zu", cols);
    char *packed = calloc(rows, m.stride);
    for (size_t i = 0; i < rows * cols; i++) host[b][i] = (float)(test_uniform(&seed) - 0.5);
    for (size_t r = 0; r < rows; r++) {
        shk_quant_row(type, packed + r * m.stride, host[b] + r * cols, cols);
        shk_dequant_row(type, host[b] + r * cols, packed + r * m.stride, cols);
    }
    ops->upload(dev, device[b], packed, rows * m.stride);
    m.data = device[b];
    if (ops->place) { /* the device has memory of its own, and a form */
        shk_error err;
        m.data = packed;
        NEED(!ops->prepare(dev, &m, &err), "%s", err.message);
    }
    free(packed);
    return m;
}

/* Tells the device of a pass; what is under way is done. */
static void begin(const shk_pass *pass) {
    CHECK(!ops->begin(dev, pass, LAYERS, false), "a pass was replayed");
}

static void test_elements(size_t n) {
    float a[MAX], b[MAX];
    float *x = fill(0, n, 4), *y = fill(1, n, 4);
    memcpy(a, host[0], n * sizeof *a);
    memcpy(b, host[1], n * sizeof *b);
    ops->add(dev, y, x, n);
    fetch(1, n);
    for (size_t i = 0; i < n; i++) near("add", i, host[1][i], (double)a[i] + b[i], fabs(a[i]) + fabs(b[i]), 1);
    memcpy(b, host[1], n * sizeof *b);
    ops->scale(dev, y, n, 0.3f);
    fetch(1, n);
    for (size_t i = 0; i < n; i++) near("scale", i, host[1][i], (double)b[i] * 0.3f, fabs(b[i]), 1);
    ops->gelu_mul(dev, device[2], x, NULL, n);
    fetch(2, n);
    for (size_t i = 0; i < n; i++) near("gelu", i, host[2][i], gelu(a[i]), fabs(a[i]), 8);
    ops->gelu_mul(dev, device[2], x, y, n);
    fetch(2, n);
    for (size_t i = 0; i < n; i++) near("gelu_mul", i, host[2][i], gelu(a[i]) * host[1][i], fabs((double)a[i] * host[1][i]), 9);
    ops->tanh(dev, device[2], x, n);
    fetch(2, n);
    for (size_t i = 0; i < n; i++) near("tanh", i, host[2][i], tanh(a[i]), 1, 8);
    fill(2, n, 100);
    memcpy(b, host[2], n * sizeof *b);
    ops->softcap(dev, device[2], n, 30);
    fetch(2, n);
    for (size_t i = 0; i < n; i++) near("softcap", i, host[2][i], 30 * tanh(b[i] / 30.0), 30, 8);
}

static void test_rows(size_t T, size_t n) {
    float *x = fill(0, T * n, 3), *w = fill(1, n, 1);
    ops->rmsnorm(dev, device[2], x, w, T, n, 1e-6f);
    ops->mul_rows(dev, device[3], x, w, T, n);
    fetch(2, T * n), fetch(3, T * n);
    for (size_t t = 0; t < T; t++) {
        double ss = 0;
        for (size_t i = 0; i < n; i++) ss += (double)host[0][t * n + i] * host[0][t * n + i];
        double s = 1 / sqrt(ss / (double)n + 1e-6f);
        for (size_t i = 0; i < n; i++) {
            double v = (double)host[0][t * n + i] * host[1][i];
            near("rmsnorm", t * n + i, host[2][t * n + i], v * s, fabs(v * s), 8);
            near("mul_rows", t * n + i, host[3][t * n + i], v, fabs(v), 1);
        }
    }
    fill(4, T * n, 0.7);
    float y[MAX];
    memcpy(y, host[4], T * n * sizeof *y);
    ops->match_rms(dev, device[4], x, T, n);
    fetch(4, T * n);
    for (size_t t = 0; t < T; t++) {
        double a = 0, b = 0;
        for (size_t i = 0; i < n; i++)
            a += (double)host[0][t * n + i] * host[0][t * n + i], b += (double)y[t * n + i] * y[t * n + i];
        for (size_t i = 0; i < n; i++) {
            double want = y[t * n + i] * sqrt(a / b);
            near("match_rms", t * n + i, host[4][t * n + i], want, fabs(want), 4 + (double)n);
        }
    }
    uint32_t order[] = { 7, (uint32_t)T - 1, 0, (uint32_t)T / 2 };
    shk_pass pass = { .T = T, .seqs = &(shk_seq){ .n = T }, .n_seqs = 1, .outputs = order, .n_outputs = 4 };
    begin(&pass);
    ops->gather(dev, device[5], x, &pass, 1, 3, n);
    fetch(5, 3 * n);
    for (size_t i = 0; i < 3; i++)
        CHECK(memcmp(host[5] + i * n, host[0] + order[1 + i] * n, n * sizeof(float)) == 0, "gather %zu", i);
    size_t at = n / 3, k = n - at - n / 4;
    ops->slice(dev, device[5], x, T, n, at, k);
    fetch(5, T * k);
    for (size_t t = 0; t < T; t++) CHECK(memcmp(host[5] + t * k, host[0] + t * n + at, k * sizeof(float)) == 0, "slice %zu", t);
}

/* `prepared`: in the device's own form, if it has one for the type. Then each activation may be half a step off: a bf16's, or of a
 * block of 8-bit integers, where a step is the largest magnitude / 127. */
static void test_linear(shk_type type, size_t T, size_t rows, size_t cols, bool bias, bool prepared) {
    enum { BLOCK = 32 };
    size_t ldx = cols + 5;
    shk_error err;
    shk_mat W = matrix(0, type, rows, cols, false);
    float *x = fill(1, T * ldx, 2), *b = fill(2, rows, 1);
    if (prepared) NEED(!ops->prepare(dev, &W, &err), "%s", err.message);
    bool rounds = W.packed && !ops->place;
    ops->linear(dev, device[3], x, ldx, &W, bias ? b : NULL, T);
    fetch(3, T * rows);
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < rows; i++) {
            double sum = bias ? host[2][i] : 0, magnitude = fabs(sum), most = 0;
            for (size_t j = 0; j < cols; j++) {
                double term = (double)host[0][i * cols + j] * host[1][t * ldx + j];
                sum += term, magnitude += fabs(term);
                if (rounds && type == SHK_BF16) magnitude += fabs(term) * 0x1p-9 / EPS / ((double)cols + 2);
                if (!rounds || type == SHK_BF16) continue;
                if (j % BLOCK == 0) most = 0;
                for (size_t l = j; j % BLOCK == 0 && l < j + BLOCK; l++) most = fmax(most, fabs((double)host[1][t * ldx + l]));
                magnitude += fabs((double)host[0][i * cols + j]) * most / 127 * 0.5 / EPS / ((double)cols + 2);
            }
            near("linear", t * rows + i, host[3][t * rows + i], sum, magnitude, (double)cols + 2 + split);
        }
    int32_t tokens[] = { 0, (int32_t)rows - 1, (int32_t)rows / 2, (int32_t)rows };
    shk_pass pass = { .T = 4, .tokens = tokens, .seqs = &(shk_seq){ .n = 4 }, .n_seqs = 1 };
    begin(&pass);
    ops->embed(dev, device[3], &W, &pass, 1.5f);
    fetch(3, 4 * cols);
    for (size_t t = 0; t < 4; t++)
        for (size_t j = 0; j < cols; j++) {
            double want = 1.5 * host[0][t < 3 ? (size_t)tokens[t] * cols + j : j]; /* past the end: row 0 */
            near("embed", t * cols + j, host[3][t * cols + j], want, fabs(want), 1);
        }
}

static void test_block_linear(size_t T, size_t blocks, size_t n) {
    shk_mat W = matrix(0, SHK_BF16, blocks * n, n, true);
    float *x = fill(1, T * blocks * n, 2), *b = fill(2, blocks * n, 1);
    ops->block_linear(dev, device[3], x, &W, b, blocks, T);
    fetch(3, T * blocks * n);
    for (size_t t = 0; t < T; t++)
        for (size_t o = 0; o < blocks * n; o++) {
            double sum = host[2][o], magnitude = fabs(sum);
            for (size_t i = 0; i < n; i++) {
                double term = (double)host[1][(t * blocks + o / n) * n + i] * host[0][(o / n * n + i) * n + o % n];
                sum += term, magnitude += fabs(term);
            }
            near("block_linear", t * blocks * n + o, host[3][t * blocks * n + o], sum, magnitude, (double)n + 2);
        }
}

/* ---- ops on sequences: two of them, in uneven passes, against the whole history ---- */

enum { HEADS = 4, KV = 2, MOST_D = 64, STEPS = 400 };
static size_t D = MOST_D; /* values of a head */
#define KVD (KV * D)
#define QD (HEADS * D)

static double dot(const float *a, const float *b, size_t n) {
    double s = 0;
    for (size_t i = 0; i < n; i++) s += (double)a[i] * b[i];
    return s;
}

/* Roundings that a product of two vectors, soft cap included, may be off by. */
static double dot_roundings(const float *a, const float *b, size_t n) {
    double s = 0;
    for (size_t i = 0; i < n; i++) s += fabs((double)a[i] * b[i]);
    return s * (double)(n + 8);
}

static double threshold(const double *s, size_t n, double k) {
    double mean = 0, var = 0;
    if ((double)n <= k) return -INFINITY;
    for (size_t i = 0; i < n; i++) mean += s[i] / (double)n;
    for (size_t i = 0; i < n; i++) var += (s[i] - mean) * (s[i] - mean) / (double)n;
    return mean + sqrt(var) * shk_normal_quantile(1 - k / (double)n);
}

typedef struct attended {
    double o[MOST_D], magnitude, ulps; /* the bound on o's error */
    int kept;                     /* how many positions o is made of; negative if one is within rounding of the threshold */
} attended;

/* The attention of one query by its definition. A score that is off by e changes a weight by a factor e^e, a normalised one by
 * e^2e; the sum over n positions and the folding of chunks (an exp each) add their roundings; values are at most 1. */
static void attend(attended *out, const float *q, const float *K, const float *V, size_t pos, size_t kv, const shk_attention *a) {
    double s[STEPS], w[STEPS], theta = -INFINITY, top = -INFINITY, total = 0, off_by = 0, off_by_2 = 0, most = 1;
    size_t lo = a->window && pos + 1 > a->window ? pos + 1 - a->window : 0, n = pos + 1 - lo, r = a->rank ? a->rank : D;
    *out = (attended){ .magnitude = 1 };
    for (size_t j = 0; j < n; j++) {
        const float *key = K + (lo + j) * KVD + kv * D;
        s[j] = dot(q, key, r);
        if (a->softcap > 0) s[j] = a->softcap * tanh(s[j] / a->softcap);
        off_by = fmax(off_by, dot_roundings(q, key, r));
        off_by_2 = fmax(off_by_2, dot_roundings(q + r, key + r, D - r));
    }
    if (a->rank) theta = threshold(s, n, a->k);
    for (size_t j = 0; j < n; j++) top = fmax(top, s[j]);
    for (size_t j = 0; j < n; j++) {
        if (fabs(s[j] - theta) < 3 * off_by * EPS) out->kept = -STEPS;
        w[j] = s[j] > theta ? exp(s[j] - top) : 0;
        out->kept += s[j] > theta;
        total += w[j];
    }
    for (size_t j = 0; j < n; j++) {
        double weight = total > 0 ? w[j] / total : 0, second = 1;
        if (a->rank) second = log1p(exp(dot(q + r, K + (lo + j) * KVD + kv * D + r, D - r)));
        for (size_t i = 0; i < D; i++) out->o[i] += weight * second * V[(lo + j) * KVD + kv * D + i];
        if (weight > 0) most = fmax(most, second);
    }
    out->magnitude = most;
    out->ulps = 2 * off_by + off_by_2 + (double)n + 16 + 8 * (double)(n / SHK_ATTENTION_CHUNK);
}

/* As a session keeps them: rounded to a type. */
static void keep(float *to, shk_type type, const float *x, size_t rows) {
    char packed[4 * MOST_D];
    for (size_t r = 0; r < rows; r++) {
        shk_quant_row(type, packed, x + r * D, D);
        shk_dequant_row(type, to + r * D, packed, D);
    }
}

static void test_attention(shk_type type, size_t window, float softcap, size_t rank, double k) {
    size_t ring = window ? (window + SHK_PASS_ROWS - 1) / SHK_ATTENTION_CHUNK * SHK_ATTENTION_CHUNK + SHK_ATTENTION_CHUNK : STEPS;
    size_t span = KV * ring * D * 4, state_bytes = 256 + 3 * span, compared = 0;
    shk_state_layer layers[LAYERS] = { { 0 }, { .type = type, .ring = ring, .k = 256, .k2 = 256 + span, .v = 256 + 2 * span } };
    shk_attention a = { HEADS, KV, D, window, softcap, rank, k, 0, 1, true };
    char *state[2] = { ops->alloc(dev, state_bytes), ops->alloc(dev, state_bytes) };
    static float K[2][STEPS * KV * MOST_D], V[2][STEPS * KV * MOST_D];
    size_t done[2] = { 0, 0 };
    for (size_t turn = 0; done[0] < STEPS || done[1] < STEPS; turn++) { /* passes of a few tokens and of many */
        size_t take[2] = { turn % 3 ? turn * 17 % 41 + 1 : 1, turn % 3 ? turn * 23 % 81 + 1 : 1 }, n[2];
        shk_seq seqs[2];
        shk_pass pass = { .seqs = seqs };
        for (size_t i = 0; i < 2; i++) {
            n[i] = take[i] < STEPS - done[i] ? take[i] : STEPS - done[i];
            if (n[i]) seqs[pass.n_seqs++] = (shk_seq){ pass.T, n[i], done[i], state[i], layers };
            pass.T += n[i];
        }
        fill(0, pass.T * QD, 1), fill(1, pass.T * KVD, 1), fill(2, pass.T * KVD, 1);
        for (size_t i = 0; i < 2; i++) {
            keep(K[i] + done[i] * KVD, type, host[1] + (i ? n[0] : 0) * KVD, n[i] * KV);
            keep(V[i] + done[i] * KVD, type, host[2] + (i ? n[0] : 0) * KVD, n[i] * KV);
        }
        begin(&pass);
        if (rank) ops->spark_attention(dev, device[3], (uint32_t *)(void *)device[4], device[0], device[1], device[2], &pass, &a);
        else ops->attention(dev, device[3], device[0], device[1], device[2], &pass, &a);
        fetch(3, pass.T * QD);
        uint32_t counts[SHK_PASS_ROWS * HEADS];
        if (rank) ops->download(dev, counts, device[4], pass.T * HEADS * sizeof *counts);
        for (size_t t = 0; t < pass.T; t++)
            for (size_t h = 0; h < HEADS; h++) {
                size_t i = t >= n[0], pos = done[i] + t - (i ? n[0] : 0);
                attended want;
                attend(&want, host[0] + t * QD + h * D, K[i], V[i], pos, h / (HEADS / KV), &a);
                if (want.kept < 0) continue; /* may fall either way */
                compared++;
                int kept = rank ? (int)counts[t * HEADS + h] : want.kept;
                CHECK(kept == want.kept, "position %zu: %d kept, want %d", pos, kept, want.kept);
                for (size_t e = 0; e < D; e++)
                    near("attention", e, host[3][t * QD + h * D + e], want.o[e], want.magnitude, want.ulps);
            }
        done[0] += n[0], done[1] += n[1];
    }
    CHECK(compared > STEPS * HEADS, "only %zu of %d queries were clear of the threshold", compared, 2 * STEPS * HEADS);
    ops->release(dev, state[0], state_bytes);
    ops->release(dev, state[1], state_bytes);
}

static void test_recurrence(size_t w, size_t taps) {
    enum { N = 40 };
    shk_state_layer layers[LAYERS] = { { .h = 64, .conv = 64 + w * 4 } };
    size_t state_bytes = 64 + w * 4 * taps;
    char *state = ops->alloc(dev, state_bytes);
    double h[256] = { 0 }, past[N][256];
    fill(0, taps * w, 1), fill(1, w, 0.5), fill(2, w, 1);
    for (size_t i = 0; i < w; i++) host[2][i] = 0.05f + 0.2f * (float)i / (float)w; /* softplus(lambda) > 0 */
    ops->upload(dev, device[2], host[2], w * sizeof(float));
    for (size_t round = 0; round < 2; round++) /* the second starts a new document in a used state */
        for (size_t at = 0, n = 1; at < N; at += n, n = n * 5 % 7 + 2) {
            if (n > N - at) n = N - at;
            shk_seq seq = { 0, n, at, state, layers };
            shk_pass pass = { .T = n, .seqs = &seq, .n_seqs = 1 };
            fill(3, n * w, 2), fill(4, n * w, 3), fill(5, n * w, 3);
            begin(&pass);
            ops->conv1d(dev, device[6], device[3], device[0], device[1], &pass, 0, w, taps);
            ops->rglru(dev, device[7], device[6], device[4], device[5], device[2], &pass, 0, w);
            fetch(6, n * w), fetch(7, n * w);
            for (size_t t = 0; t < n; t++)
                for (size_t i = 0; i < w; i++) {
                    double sum = host[1][i], magnitude = fabs(sum);
                    past[at + t][i] = host[3][t * w + i];
                    for (size_t k = 0; k < taps; k++) {
                        double x = at + t + k >= taps - 1 ? past[at + t + k - (taps - 1)][i] : 0, term = x * host[0][k * w + i];
                        sum += term, magnitude += fabs(term);
                    }
                    near("conv1d", i, host[6][t * w + i], sum, magnitude, (double)taps + 2);
                    double x = host[6][t * w + i], gi = 1 / (1 + exp(-host[4][t * w + i])), gr = 1 / (1 + exp(-host[5][t * w + i]));
                    double log_a = -8 * gr * host[2][i], a = exp(log_a), m = sqrt(-expm1(2 * log_a));
                    if (at + t == 0) h[i] = gi * x;
                    else h[i] = a * h[i] + m * gi * x;
                    near("rglru", i, host[7][t * w + i], h[i], 8, 40); /* errors of earlier steps fade with a < 1 */
                }
        }
    ops->release(dev, state, state_bytes);
}

static void test_rope(void) {
    enum { T = 3, HALF = 3, OFFSET = 1 };
    double freq[HALF] = { 1, 0.1, 0.003 };
    shk_seq seqs[] = { { 0, 2, 1000000, NULL, NULL }, { 2, 1, 7, NULL, NULL } };
    shk_pass pass = { .T = T, .seqs = seqs, .n_seqs = 2 };
    fill(0, T * HEADS * D, 1);
    float x[T * HEADS * MOST_D];
    memcpy(x, host[0], sizeof x);
    begin(&pass);
    ops->rope_table(dev, device[1], freq, HALF, &pass);
    ops->rope(dev, device[0], device[1], HALF, T, HEADS, D, OFFSET);
    fetch(0, T * HEADS * D);
    for (size_t t = 0; t < T; t++)
        for (size_t h = 0; h < HEADS; h++)
            for (size_t i = 0; i < D; i++) {
                const float *in = x + (t * HEADS + h) * D + OFFSET;
                double want = x[(t * HEADS + h) * D + i], angle;
                size_t j = i - OFFSET;
                if (i >= OFFSET && j < 2 * HALF) {
                    angle = (t < 2 ? 1000000.0 + (double)t : 7.0) * freq[j % HALF];
                    want =
                        j < HALF ? in[j] * cos(angle) - in[j + HALF] * sin(angle) : in[j] * cos(angle) + in[j - HALF] * sin(angle);
                }
                near("rope", i, host[0][(t * HEADS + h) * D + i], want, 2, 4);
            }
}

/* How far the rounding of x to 8 bits moves a product with row w: half a step, a 254th of a block's largest, for each value. */
static double rounding_of_dot(const float *w, const float *x, size_t n) {
    double sum = 0, most = 0;
    for (size_t i = 0; i < n; i++) {
        if (i % 32 == 0) most = 0;
        for (size_t j = i; i % 32 == 0 && j < i + 32; j++) most = fmax(most, fabs((double)x[j]));
        sum += fabs((double)w[i]) * most / 254;
    }
    return sum;
}

/* `rounded`: blocks may meet rounded activations. A coefficient of Vt is then off by 2^-16 of the largest of its group, whose
 * integers are below 128. */
static void test_sparse(shk_type type, size_t T, bool dense, bool rounded) {
    enum { F = 96, IN = 64, OUT = 64, K = 9 };
    const double LARGEST_SCALE = 0.5 / 7; /* of weights up to 0.5 in 4 bits */
    shk_sparsity how = { K, 0, dense };
    shk_active active = { ops->alloc(dev, T * F * 4), ops->alloc(dev, T * F * 4), ops->alloc(dev, T * 4), F };
    shk_mat U = matrix(0, type, F, IN, true), Vt = matrix(1, type, F, OUT, true);
    bool blocks = rounded && !ops->place && shk_type_of(type)->block > 1;
    U.rounded = Vt.rounded = rounded;
    fill(2, T * F, 1), fill(3, T * IN, 1);
    for (int down = 0; down < 2; down++) {
        ops->sparsify(dev, &active, device[2], T, F, &how);
        if (down) ops->sparse_glu(dev, device[4], &active, device[3], IN, &U, &Vt, T);
        else ops->sparse_up(dev, device[4], &active, device[3], IN, &U, T);
        size_t width = down ? OUT : F;
        fetch(4, T * width);
        uint32_t counts[64];
        ops->download(dev, counts, active.n, T * sizeof *counts);
        for (size_t t = 0; t < T; t++) {
            double s[F], h[F], moved[F], kept = 0, near_theta = 0, largest = 0;
            for (size_t j = 0; j < F; j++) s[j] = host[2][t * F + j];
            double theta = threshold(s, F, K);
            for (size_t j = 0; j < F; j++) {
                double g = gelu(fmax(s[j] - theta, 0));
                h[j] = g * dot(host[0] + j * IN, host[3] + t * IN, IN);
                moved[j] = blocks ? fabs(g) * rounding_of_dot(host[0] + j * IN, host[3] + t * IN, IN) : 0;
                kept += s[j] > theta, near_theta += fabs(s[j] - theta) < 1e-5, largest = fmax(largest, fabs(h[j]) + moved[j]);
                if (!down) near("sparse_up", j, host[4][t * F + j], h[j], IN + moved[j] / EPS / (IN + 16), IN + 16);
            }
            CHECK(dense ? counts[t] == F : fabs(counts[t] - kept) <= near_theta, "row %zu: %u active, want %g", t, counts[t], kept);
            for (size_t e = 0; down && e < OUT; e++) {
                double sum = 0, error = blocks ? kept * 0x1p-16 * 128 * largest * LARGEST_SCALE : 0;
                for (size_t j = 0; j < F; j++) {
                    sum += h[j] * host[1][j * OUT + e];
                    error += moved[j] * fabs((double)host[1][j * OUT + e]);
                }
                near("sparse_glu", e, host[4][t * OUT + e], sum, IN * kept + error / EPS / (IN + 16 + kept), IN + 16 + kept);
            }
        }
    }
    ops->release(dev, active.ids, T * F * 4);
    ops->release(dev, active.value, T * F * 4);
    ops->release(dev, active.n, T * 4);
}

/* Many rows of a pass share tiles and prefetches, few are computed in turn; each must come out as if it were alone, to the bit. */
static void test_sparse_tiles(shk_type type, bool rounded, size_t T) {
    enum { F = 1300, IN = 64, OUT = 160, K = 100 };
    shk_sparsity how = { K, 0, false };
    shk_active active = { ops->alloc(dev, T * F * 4), ops->alloc(dev, T * F * 4), ops->alloc(dev, T * 4), F };
    shk_mat U = matrix(0, type, F, IN, true), Vt = matrix(1, type, F, OUT, true);
    U.rounded = Vt.rounded = rounded;
    fill(2, T * F, 1), fill(3, T * IN, 1);
    ops->sparsify(dev, &active, device[2], T, F, &how);
    ops->sparse_glu(dev, device[4], &active, device[3], IN, &U, &Vt, T);
    fetch(4, T * OUT);
    for (size_t t = 0; t < T; t++) {
        ops->sparsify(dev, &active, device[2] + t * F, 1, F, &how);
        ops->sparse_glu(dev, device[5], &active, device[3] + t * IN, IN, &U, &Vt, 1);
        fetch(5, OUT);
        CHECK(memcmp(host[5], host[4] + t * OUT, OUT * sizeof(float)) == 0, "%s: row %zu of a pass of %zu",
              shk_type_of(type)->name, t, T);
    }
    ops->release(dev, active.ids, T * F * 4);
    ops->release(dev, active.value, T * F * 4);
    ops->release(dev, active.n, T * 4);
}

/* A NaN among the scores must come out again: no threshold may turn it into "nothing is active". */
static void test_nan(void) {
    enum { T = 3, F = 96, IN = 64, N = 20 };
    shk_sparsity how = { 9, 0, false };
    shk_active active = { ops->alloc(dev, T * F * 4), ops->alloc(dev, T * F * 4), ops->alloc(dev, T * 4), F };
    shk_mat U = matrix(0, SHK_F32, F, IN, true), Vt = matrix(1, SHK_F32, F, IN, true);
    fill(2, T * F, 1), fill(3, T * IN, 1);
    host[2][F + 5] = NAN; /* of the second row */
    ops->upload(dev, device[2], host[2], T * F * sizeof(float));
    ops->sparsify(dev, &active, device[2], T, F, &how);
    ops->sparse_glu(dev, device[4], &active, device[3], IN, &U, &Vt, T);
    fetch(4, T * IN);
    for (size_t i = 0; i < T * IN; i++) CHECK(isnan(host[4][i]) == (i / IN == 1), "sparse_glu[%zu] is %g", i, host[4][i]);
    ops->release(dev, active.ids, T * F * 4);
    ops->release(dev, active.value, T * F * 4);
    ops->release(dev, active.n, T * 4);

    shk_state_layer layers[LAYERS] = { { .ring = N, .k = 0, .k2 = KV * N * D * 4, .v = 2 * KV * N * D * 4 } };
    shk_attention a = { HEADS, KV, D, 0, 0, D / 2, 2, 0, 0, true };
    char *state = ops->alloc(dev, 3 * KV * N * D * 4);
    shk_seq seq = { 0, N, 0, state, layers };
    shk_pass pass = { .T = N, .seqs = &seq, .n_seqs = 1 };
    fill(0, N * QD, 1), fill(1, N * KVD, 1), fill(2, N * KVD, 1);
    host[0][(N - 1) * QD] = NAN; /* the last query's first head */
    ops->upload(dev, device[0], host[0], N * QD * sizeof(float));
    begin(&pass);
    ops->spark_attention(dev, device[3], (uint32_t *)(void *)device[4], device[0], device[1], device[2], &pass, &a);
    fetch(3, N * QD);
    for (size_t i = 0; i < N * QD; i++)
        CHECK(isnan(host[3][i]) == (i / D == (N - 1) * HEADS), "spark_attention[%zu] is %g", i, host[3][i]);
    ops->release(dev, state, 3 * KV * N * D * 4);
}

static void test_altup(void) {
    enum { N = 4, T = 3, W = 37, ACTIVE = 1 };
    fill(0, N * T * W, 1), fill(1, T * N * N, 1), fill(2, T * N, 1), fill(3, T * W, 1);
    ops->altup_predict(dev, device[4], device[0], device[1], N, T, W);
    fetch(4, N * T * W);
    float predicted[N * T * W];
    memcpy(predicted, host[4], sizeof predicted);
    ops->altup_correct(dev, device[4], device[3], device[2], ACTIVE, N, T, W);
    fetch(4, N * T * W);
    for (size_t j = 0; j < N; j++)
        for (size_t t = 0; t < T; t++)
            for (size_t e = 0; e < W; e++) {
                size_t at = (j * T + t) * W + e;
                double sum = host[0][at];
                for (size_t i = 0; i < N; i++) sum += (double)host[1][(t * N + j) * N + i] * host[0][(i * T + t) * W + e];
                near("altup_predict", at, predicted[at], sum, N + 1, N + 2);
                double want =
                    predicted[at] + (1.0 + host[2][t * N + j]) * ((double)host[3][t * W + e] - predicted[(ACTIVE * T + t) * W + e]);
                near("altup_correct", at, host[4][at], want, 16, 4);
            }
}

/* Without draws it is the largest that is chosen; what else there is, sample.c tests. */
static void test_sample(void) {
    enum { N = 5000 };
    const uint32_t rows[4] = { 0 };
    const shk_pass pass = { .T = 1, .outputs = rows, .n_outputs = 4 };
    fill(0, 4 * N, 1);
    host[0][17] = host[0][4321] = 3; /* the first of equals */
    host[0][2 * N - 1] = 3;          /* the last */
    host[0][2 * N + 99] = NAN;
    host[0][3 * N] = -INFINITY;
    ops->upload(dev, device[0], host[0], 4 * N * sizeof(float));
    shk_choice choice[4];
    begin(&pass);
    ops->sample(dev, (shk_choice *)(void *)device[1], device[0], &pass, 0, 4, N);
    ops->download(dev, choice, device[1], sizeof choice);
    for (int i = 0; i < 4; i++) CHECK(!!choice[i].finite == (i < 2), "row %d: finite %d", i, choice[i].finite);
    CHECK(choice[0].id == 17 && choice[1].id == N - 1, "%d and %d", choice[0].id, choice[1].id);
    CHECK(choice[2].id == -1, "a NaN does not stop %d", choice[2].id);
}

static void test_quantile(void) {
    static const double known[][2] = {
        /* p, Q(p) from tables of the normal distribution */
        { 0.5, 0 },
        { 0.92, 1.4050715603096329 },
        { 0.95, 1.6448536269514722 },
        { 0.975, 1.959963984540054 },
        { 0.001, -3.0902323061678132 },
        { 1e-10, -6.361340902404056 },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        CHECK(fabs(shk_normal_quantile(known[i][0]) - known[i][1]) < 1e-12, "Q(%g) = %.17g", known[i][0],
              shk_normal_quantile(known[i][0]));
    for (double p = 1e-300; p < 1; p = p < 1e-3 ? p * 7 : p + 0.001) {
        double x = shk_normal_quantile(p), back = 0.5 * erfc(-x * M_SQRT1_2);
        CHECK(fabs(back - p) <= 1e-12 * p, "Q(%g) leads back to %.17g", p, back);
    }
    CHECK(shk_normal_quantile(0) == -INFINITY && shk_normal_quantile(-1) == -INFINITY && shk_normal_quantile(1) == INFINITY,
          "ends");
}

static void test_device(void) {
    shk_error err;
    NEED(ops->reserve(dev, STEPS, HEADS, KV, D, &err) == SHK_OK, "%s", err.message);
    for (int i = 0; i < BUFFERS; i++) {
        device[i] = ops->alloc(dev, MAX * sizeof(float));
        NEED(device[i], "memory");
    }
    static const size_t lengths[] = { 1, 7, 64, 1000, 40000 };
    for (size_t i = 0; i < 5; i++) CASE(test_elements(lengths[i]));
    CASE(test_rows(3, 64)), CASE(test_rows(9, 250));
    static const shk_type types[] = { SHK_F32, SHK_BF16, SHK_F16, SHK_Q8_0, SHK_Q4_0 };
    for (size_t i = 0; i < 5; i++) {
        for (int prepared = 0; prepared < 2; prepared++) {
            CASE(test_linear(types[i], 1, 100, 96, true, prepared));
            CASE(test_linear(types[i], 5, 37, 64, false, prepared));
            CASE(test_linear(types[i], 40, 24, 32, true, prepared));
        }
        for (int rounded = 0; rounded < 2; rounded++) {
            CASE(test_sparse(types[i], 1, false, rounded)), CASE(test_sparse(types[i], 20, false, rounded));
            CASE(test_sparse(types[i], 2, true, rounded));
            test_sparse_tiles(types[i], rounded, 20), test_sparse_tiles(types[i], rounded, 2);
        }
    }
    CASE(test_linear(SHK_Q4_K, 3, 20, 256, false, false)), CASE(test_linear(SHK_Q4_K, 3, 20, 256, false, true));
    CASE(test_block_linear(1, 4, 16)), CASE(test_block_linear(6, 3, 20));
    static const shk_type kv_types[] = { SHK_F32, SHK_BF16, SHK_Q8_0 };
    for (size_t i = 0; i < 3; i++) {
        CASE(test_attention(kv_types[i], 0, 0, 0, 0)), CASE(test_attention(kv_types[i], 11, 0, 0, 0));
        CASE(test_attention(kv_types[i], 130, 5, 0, 0)), CASE(test_attention(kv_types[i], 0, 0, 32, 20));
    }
    CASE(test_attention(SHK_F32, 0, 0, 20, 50));
    D = 18; /* rows that begin where vectors cannot be read */
    CASE(test_attention(SHK_F32, 0, 0, 8, 20)), CASE(test_attention(SHK_BF16, 11, 0, 0, 0));
    D = MOST_D;
    CASE(test_recurrence(64, 4)), CASE(test_recurrence(37, 3));
    CASE(test_rope());
    CASE(test_altup());
    CASE(test_nan());
    if (ops->sample) CASE(test_sample());
    CASE(test_quantile());
    for (int i = 0; i < BUFFERS; i++) ops->release(dev, device[i], MAX * sizeof(float));
    ops->close(dev);
}

int main(void) {
    shk_error err;
    for (int threads = 1; threads <= 3; threads += 2) {
        NEED(shk_cpu_open(&ops, &dev, threads, &err) == SHK_OK, "%s", err.message);
        test_device();
    }
    split = 64;
    if ((ops = test_gpu(&dev))) test_device();
    return test_done();
}
