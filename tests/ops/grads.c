/* Every training op of a device: its gradient against differences of its forward twin, along random directions; the ops that have
 * no twin against their formulas in double. */
#include <math.h>

#include "../device.h"

static const shk_ops *ops;
static const shk_train_ops *t;
static void *dev;
static unsigned long long seed = 4711;
static const double EPS = 0x1p-24;

enum { MAX = 1 << 15, INPUTS = 6, B = 2, T = 20, N = B * T };

/* The inputs of an op, the gradients with respect to them, its output and the gradient of that: device memory. */
static struct input {
    size_t n;
    float *x, *d;
    float values[MAX];
} in[INPUTS];
static size_t n_in;
static float *out, *dout, *again, *lse, *table;
static size_t n_out;
static float weights[MAX];
static shk_threshold *th;
static shk_batch batch;
static void *work;

static double uniform(double scale) { return (test_uniform(&seed) - 0.5) * 2 * scale; }

static void input(size_t n, double scale) {
    struct input *i = &in[n_in++];
    i->n = n;
    for (size_t j = 0; j < n; j++) i->values[j] = (float)uniform(scale);
    ops->upload(dev, i->x, i->values, n * sizeof(float));
}

static void output(size_t n) {
    n_out = n;
    for (size_t j = 0; j < n; j++) weights[j] = (float)uniform(1);
    ops->upload(dev, dout, weights, n * sizeof(float));
}

/* sum of weights * output, with input k moved by h along v; *noise: its size, f32 rounded */
static double loss(void (*forward)(void), size_t k, const double *v, double h, double *noise) {
    static float moved[MAX], y[MAX];
    double sum = 0, squares = 0;
    for (size_t j = 0; j < in[k].n; j++) moved[j] = (float)(in[k].values[j] + h * v[j]);
    ops->upload(dev, in[k].x, moved, in[k].n * sizeof(float));
    forward();
    ops->upload(dev, in[k].x, in[k].values, in[k].n * sizeof(float));
    ops->download(dev, y, out, n_out * sizeof(float));
    for (size_t j = 0; j < n_out; j++) sum += (double)weights[j] * y[j], squares += pow((double)weights[j] * y[j], 2);
    *noise = 16 * EPS * sqrt(squares);
    return sum;
}

/* How many are active in each row: where that changes, a step has crossed a threshold. */
static double active(size_t rows) {
    static shk_threshold host[N * 8];
    double sum = 0;
    ops->download(dev, host, th, rows * sizeof *host);
    for (size_t i = 0; i < rows; i++) sum += (double)(i + 1) * host[i].active;
    return sum;
}

/* Differences at two steps: how they differ says how far the finer one is off. `rows` of thresholds may not change. */
static void against_differences(const char *op, size_t k, void (*forward)(void), size_t rows) {
    static double v[MAX];
    static float g[MAX];
    double slope[2], noise = 0, slack, dot = 0, size = 0, base = 0, h = rows ? 1e-3 : 1e-2;
    ops->download(dev, g, in[k].d, in[k].n * sizeof(float));
    if (rows) forward(), base = active(rows);
    for (int tries = 0;; tries++) {
        bool crossed = false;
        dot = size = 0;
        for (size_t j = 0; j < in[k].n; j++) v[j] = uniform(1), dot += v[j] * g[j], size += (double)g[j] * g[j];
        for (int fine = 0; fine < 2; fine++) {
            double step = fine ? h / 2 : h, up = loss(forward, k, v, step, &noise);
            crossed |= rows && active(rows) != base;
            slope[fine] = (up - loss(forward, k, v, -step, &noise)) / (2 * step);
            crossed |= rows && active(rows) != base;
        }
        if (!crossed || tries == 1000) break;
    }
    slack = fabs(slope[0] - slope[1]) + 4 * noise / h + 1e-5 * sqrt(size);
    CHECK(fabs((4 * slope[1] - slope[0]) / 3 - dot) <= slack && slack < 0.1 * sqrt(size),
          "%s, input %zu: slope %g, gradient %g, slack %g", op, k, slope[1], dot, slack);
}

/* Gradients of parameters are added to: those from input `first_added` on start at 1. */
static void check(const char *op, void (*forward)(void), void (*backward)(void), size_t first_added, size_t rows) {
    static float ones[MAX];
    for (size_t k = 0; k < n_in; k++) {
        for (size_t j = 0; j < in[k].n; j++) ones[j] = k >= first_added;
        ops->upload(dev, in[k].d, ones, in[k].n * sizeof(float));
    }
    forward();
    backward();
    for (size_t k = first_added; k < n_in; k++) {
        ops->download(dev, ones, in[k].d, in[k].n * sizeof(float));
        for (size_t j = 0; j < in[k].n; j++) ones[j] -= 1;
        ops->upload(dev, in[k].d, ones, in[k].n * sizeof(float));
    }
    for (size_t k = 0; k < n_in; k++)
        for (int repeat = 0; repeat < 3; repeat++) against_differences(op, k, forward, rows);
    n_in = 0;
}

/* What a gradient has made again is what the forward gave. */
static void same_output(const char *op, void (*forward)(void), size_t n) {
    static float want[MAX], have[MAX];
    forward();
    ops->download(dev, want, out, n * sizeof(float));
    ops->download(dev, have, again, n * sizeof(float));
    CHECK(memcmp(want, have, n * sizeof(float)) == 0, "%s: its gradient gives another output", op);
}

/* ---- the ops ---- */

enum { ROWS = 13, COLS = 21, LDX = COLS + 2 };
static shk_mat W(size_t k, size_t rows, size_t cols) { return (shk_mat){ in[k].x, SHK_F32, rows, cols, cols * sizeof(float) }; }

static void linear(void) {
    shk_mat m = W(1, ROWS, COLS);
    t->linear(dev, out, in[0].x, LDX, &m, in[2].x, N);
}
static void linear_grad(void) {
    shk_mat m = W(1, ROWS, COLS);
    t->linear_grad_x(dev, in[0].d, LDX, dout, &m, N, false);
    t->linear_grad_w(dev, in[1].d, in[2].d, dout, in[0].x, LDX, ROWS, COLS, N);
}

enum { BLOCKS = 3, BLOCK = 7, WIDTH = BLOCKS * BLOCK };
static void block_linear(void) {
    shk_mat m = W(1, WIDTH, BLOCK);
    t->block_linear(dev, out, in[0].x, &m, in[2].x, BLOCKS, N);
}
static void block_linear_grad(void) {
    shk_mat m = W(1, WIDTH, BLOCK);
    t->block_linear_grad(dev, in[0].d, in[1].d, in[2].d, dout, in[0].x, &m, BLOCKS, N, false);
}

/* y = x2 + norm(x0); the gradient of x0 in two halves, of which the second is added to the first */
static void rmsnorm(void) { t->rmsnorm(dev, out, in[0].x, in[1].x, in[2].x, N, COLS, 1e-6f); }
static void rmsnorm_grad(void) {
    t->scale(dev, dout, N * COLS, 0.5f);
    t->rmsnorm_grad(dev, in[0].d, in[1].d, dout, in[0].x, in[1].x, N, COLS, 1e-6f, false);
    t->rmsnorm_grad(dev, in[0].d, in[1].d, dout, in[0].x, in[1].x, N, COLS, 1e-6f, true);
    t->add(dev, dout, dout, N * COLS);
    t->add(dev, in[2].d, dout, N * COLS);
}

static void gelu_mul(void) { t->gelu_mul(dev, out, in[0].x, in[1].x, N * COLS); }
static void gelu_mul_grad(void) { t->gelu_mul_grad(dev, in[0].d, in[1].d, again, dout, in[0].x, in[1].x, N * COLS); }

enum { NEURONS = 100 };
static shk_sparsity sparsity;
static void topk(void) { t->topk_gelu_mul(dev, out, th, in[0].x, in[1].x, N, NEURONS, &sparsity); }
static void topk_grad(void) {
    t->topk_gelu_mul_grad(dev, in[0].d, in[1].d, again, dout, th, in[0].x, in[1].x, N, NEURONS, &sparsity);
}

static void copy_in(void) {
    static float host[MAX];
    ops->download(dev, host, in[0].x, in[0].n * sizeof *host);
    ops->upload(dev, out, host, in[0].n * sizeof *host);
}
enum { HEADS = 4, KV = 2, DIM = 8, HALF = 3 };
static void rope(void) {
    copy_in();
    t->rope(dev, out, table, &batch, HALF, HEADS, DIM, 1, false);
}
static void rope_grad(void) {
    ops->upload(dev, in[0].d, weights, n_out * sizeof(float));
    t->rope(dev, in[0].d, table, &batch, HALF, HEADS, DIM, 1, true);
}

static shk_attention attention_args;
static void attention(void) { t->attention(dev, out, lse, th, in[0].x, in[1].x, in[2].x, &batch, &attention_args, work); }
static void attention_grad(void) {
    t->attention_grad(dev, in[0].d, in[1].d, in[2].d, dout, out, lse, th, in[0].x, in[1].x, in[2].x, &batch, &attention_args, work);
}

enum { TAPS = 4 };
static void conv1d(void) { t->conv1d(dev, out, in[0].x, in[1].x, in[2].x, &batch, WIDTH, TAPS); }
static void conv1d_grad(void) {
    t->conv1d_grad(dev, in[0].d, in[1].d, in[2].d, dout, in[0].x, in[1].x, &batch, WIDTH, TAPS);
}

static void rglru(void) { t->rglru(dev, out, in[0].x, in[1].x, in[2].x, in[3].x, &batch, WIDTH); }
static void rglru_grad(void) {
    t->rglru_grad(dev, in[0].d, in[1].d, in[2].d, in[3].d, dout, out, in[0].x, in[1].x, in[2].x, in[3].x, &batch, WIDTH);
}

static void test_differences(void) {
    input(N * LDX, 1), input(ROWS * COLS, 1), input(ROWS, 1), output(N * ROWS);
    check("linear", linear, linear_grad, 1, 0);
    input(N * WIDTH, 1), input(WIDTH * BLOCK, 1), input(WIDTH, 1), output(N * WIDTH);
    check("block_linear", block_linear, block_linear_grad, 1, 0);
    input(N * COLS, 2), input(COLS, 1), input(N * COLS, 1), output(N * COLS);
    check("rmsnorm", rmsnorm, rmsnorm_grad, 1, 0);
    input(N * COLS, 4), input(N * COLS, 1), output(N * COLS);
    check("gelu_mul", gelu_mul, gelu_mul_grad, 9, 0);
    same_output("gelu_mul", gelu_mul, N * COLS);
    input(N * HEADS * DIM, 1), output(N * HEADS * DIM);
    check("rope", rope, rope_grad, 9, 0);
    input(N * WIDTH, 1), input(TAPS * WIDTH, 1), input(WIDTH, 1), output(N * WIDTH);
    check("conv1d", conv1d, conv1d_grad, 1, 0);
    input(N * WIDTH, 1), input(N * WIDTH, 2), input(N * WIDTH, 2), input(WIDTH, 2), output(N * WIDTH);
    check("rglru", rglru, rglru_grad, 3, 0);
    for (unsigned ddof = 0; ddof < 2; ddof++) {
        sparsity = (shk_sparsity){ ddof ? 30 : 8, ddof, false };
        input(N * NEURONS, 3), input(N * NEURONS, 1), output(N * NEURONS);
        check("topk_gelu_mul", topk, topk_grad, 9, N);
        same_output("topk_gelu_mul", topk, N * NEURONS);
    }
    sparsity.k = NEURONS;
    input(N * NEURONS, 3), input(N * NEURONS, 1), output(N * NEURONS);
    check("topk_gelu_mul of all", topk, topk_grad, 9, N);
}

static void test_attention(void) {
    static const shk_attention kinds[] = {
        { .heads = HEADS, .kv_heads = KV, .head_dim = DIM },
        { .heads = HEADS, .kv_heads = KV, .head_dim = DIM, .window = 5 },
        { .heads = HEADS, .kv_heads = 1, .head_dim = DIM, .softcap = 2 },
        { .heads = HEADS, .kv_heads = KV, .head_dim = DIM, .rank = 5, .k = 4 },
        { .heads = HEADS, .kv_heads = HEADS, .head_dim = DIM, .rank = 3, .k = 3, .ddof = 1 },
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        attention_args = kinds[i];
        size_t bytes = t->attention_work(dev, &batch, &kinds[i]), kv = N * kinds[i].kv_heads * DIM;
        work = ops->alloc(dev, bytes);
        input(N * HEADS * DIM, 1), input(kv, 1), input(kv, 1), output(N * HEADS * DIM);
        check(kinds[i].rank ? "spark attention" : "attention", attention, attention_grad, 9, kinds[i].rank ? N * HEADS : 0);
        ops->release(dev, work, bytes);
    }
}

/* ---- by their formulas ---- */

static size_t off;
static void near(double have, double want, double bound) { off += !(fabs(have - want) <= bound + 1e-37); }
#define CASE(call) (off = 0, call, verdict(#call))
static void verdict(const char *call) { CHECK(off == 0, "%s: %zu values are off", call, off); }

static void test_cross_entropy(double cap, double z_weight) {
    enum { V = 50 };
    int32_t targets[N];
    float have[MAX], losses[N];
    for (int32_t i = 0; i < N; i++) targets[i] = i % 7 == 3 ? -1 : i * 11 % V;
    int32_t *at = ops->alloc(dev, sizeof targets);
    ops->upload(dev, at, targets, sizeof targets);
    input(N * V, 20);
    ops->upload(dev, out, in[0].values, N * V * sizeof(float));
    t->cross_entropy(dev, lse, out, at, N, V, (float)cap, (float)z_weight, 0.25f);
    ops->download(dev, have, out, N * V * sizeof(float));
    ops->download(dev, losses, lse, N * sizeof(float));
    for (size_t i = 0; i < N; i++) {
        double z[V], sum = 0;
        for (size_t j = 0; j < V; j++) {
            z[j] = (double)in[0].values[i * V + j];
            if (cap > 0) z[j] = cap * tanh(z[j] / cap);
            sum += exp(z[j]);
        }
        double l = log(sum);
        bool counts = targets[i] >= 0;
        near(losses[i], counts ? l - z[targets[i]] : 0, 16 * EPS * 40);
        for (size_t j = 0; j < V; j++) {
            double p = exp(z[j] - l), slope = cap > 0 ? 1 - z[j] * z[j] / (cap * cap) : 1;
            double want = counts ? 0.25 * slope * (p * (1 + 2 * (double)(float)z_weight * l) - ((int32_t)j == targets[i])) : 0;
            /* p: an exponent of up to 40 is rounded */
            near(have[i * V + j], want, (p * 80 + ((int32_t)j == targets[i])) * 16 * EPS);
        }
    }
    n_in = 0;
    ops->release(dev, at, sizeof targets);
}

static void test_embed(void) {
    enum { V = 11, D = 9 };
    int32_t ids[N];
    float host[MAX];
    for (int32_t i = 0; i < N; i++) ids[i] = i * 5 % V;
    int32_t *at = ops->alloc(dev, sizeof ids);
    ops->upload(dev, at, ids, sizeof ids);
    input(V * D, 1), output(N * D);
    shk_mat E = W(0, V, D);
    t->embed(dev, out, &E, at, N, 3);
    ops->download(dev, host, out, N * D * sizeof(float));
    for (size_t i = 0; i < N * D; i++) near(host[i], 3 * (double)in[0].values[(size_t)ids[i / D] * D + i % D], 4 * EPS);
    t->zero(dev, in[0].d, V * D * sizeof(float));
    t->embed_grad(dev, in[0].d, dout, at, N, D, 3);
    ops->download(dev, host, in[0].d, V * D * sizeof(float));
    for (size_t v = 0; v < V; v++)
        for (size_t j = 0; j < D; j++) {
            double sum = 0;
            for (size_t i = 0; i < N; i++) sum += (size_t)ids[i] == v ? 3 * (double)weights[i * D + j] : 0;
            near(host[v * D + j], sum, 3 * N * EPS * 2);
        }
    n_in = 0;
    ops->release(dev, at, sizeof ids);
}

static void test_adamw(size_t n) {
    const shk_adamw a = { .rate = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .decay = 0.1f, .correct1 = 0.19f,
                          .correct2 = 0.0975f, .scale = 0.5f };
    float have[3][MAX];
    input(n, 1), input(n, 1), input(n, 1), input(n, 1);
    for (size_t i = 0; i < n; i++) in[2].values[i] = fabsf(in[2].values[i]);
    ops->upload(dev, in[2].x, in[2].values, n * sizeof(float));
    double squares = 0;
    for (size_t i = 0; i < n; i++) squares += (double)in[3].values[i] * in[3].values[i];
    near(t->sum_squares(dev, in[3].x, n), squares, 1e-12 * squares);
    t->adamw(dev, in[0].x, in[1].x, in[2].x, in[3].x, n, &a);
    for (int k = 0; k < 3; k++) ops->download(dev, have[k], in[k].x, n * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        double w = in[0].values[i], g = 0.5 * in[3].values[i], b1 = a.beta1, b2 = a.beta2;
        double m = b1 * in[1].values[i] + (1 - b1) * g, v = b2 * in[2].values[i] + (1 - b2) * g * g;
        double step = m / a.correct1 / (sqrt(v / a.correct2) + a.eps);
        near(have[1][i], m, 4 * EPS * 2);
        near(have[2][i], v, 4 * EPS * 2);
        near(have[0][i], w - a.rate * (step + a.decay * w), 2 * EPS * fabs(w) + a.rate * (16 * EPS * (fabs(step) + 10)));
    }
    n_in = 0;
}

/* Factors rounded to bf16, the sum as before. Where activations are bf16, so are the bias, the result, and perhaps what it is added
 * to. */
static void test_bf16(void) {
    float host[MAX];
    uint16_t rounded[MAX];
    size_t act = t->begin(dev, SHK_BF16);
    NEED(act > 0, "bf16");
    input(N * LDX, 1), input(ROWS * COLS, 1), input(ROWS, 1), output(N * ROWS);
    for (size_t i = 0; i < N * LDX; i++) rounded[i] = shk_f32_to_bf16(in[0].values[i]);
    if (act == 2) ops->upload(dev, in[0].x, rounded, N * LDX * act);
    linear();
    ops->download(dev, act == 2 ? (void *)rounded : host, out, n_out * act);
    for (size_t i = 0; act == 2 && i < n_out; i++) host[i] = shk_bf16_to_f32(rounded[i]);
    for (size_t i = 0; i < N; i++)
        for (size_t r = 0; r < ROWS; r++) {
            double sum = in[2].values[r], magnitude = fabs(sum);
            for (size_t j = 0; j < COLS; j++) {
                double x = shk_bf16_to_f32(shk_f32_to_bf16(in[0].values[i * LDX + j]));
                double term = x * shk_bf16_to_f32(shk_f32_to_bf16(in[1].values[r * COLS + j]));
                sum += term, magnitude += fabs(term);
            }
            double b = in[2].values[r], rounding = act == 2 ? 0x1p-8 * (fabs(sum) + fabs(b) + fabs(sum - b)) * (1 + 0x1p-7) : 0;
            near(host[i * ROWS + r], sum, (COLS + 2) * EPS * magnitude + rounding);
        }
    n_in = 0;
    NEED(t->begin(dev, SHK_F32) > 0 && t->begin(dev, SHK_Q8_0) == 0, "f32, and no q8_0");
    t->begin(dev, SHK_F32);
}

/* Two sequences: documents of 7, 1 and 12 tokens, and one of 20. */
static void make_batch(void) {
    int32_t first[N] = { 0 };
    for (int32_t i = 7; i < T; i++) first[i] = i < 8 ? 7 : 8;
    int32_t *at = ops->alloc(dev, sizeof first);
    ops->upload(dev, at, first, sizeof first);
    batch = (shk_batch){ B, T, NULL, NULL, at };
    float angles[T * 2 * HALF];
    for (int i = 0; i < T * HALF; i++) {
        double angle = i / HALF * pow(0.3, i % HALF);
        angles[i / HALF * 2 * HALF + i % HALF] = (float)cos(angle);
        angles[i / HALF * 2 * HALF + HALF + i % HALF] = (float)sin(angle);
    }
    ops->upload(dev, table, angles, sizeof angles);
}

static void test_device(void) {
    t = ops->train;
    NEED(t, "%s cannot train", ops->name);
    for (int i = 0; i < INPUTS; i++) in[i].x = ops->alloc(dev, MAX * sizeof(float)), in[i].d = ops->alloc(dev, MAX * sizeof(float));
    out = ops->alloc(dev, MAX * sizeof(float)), dout = ops->alloc(dev, MAX * sizeof(float));
    again = ops->alloc(dev, MAX * sizeof(float));
    lse = ops->alloc(dev, MAX * sizeof(float)), table = ops->alloc(dev, MAX * sizeof(float));
    th = ops->alloc(dev, N * 8 * sizeof *th);
    NEED(t->begin(dev, SHK_F32) == sizeof(float), "activations of this test are f32");
    make_batch();
    test_differences();
    test_attention();
    CASE(test_cross_entropy(0, 0));
    CASE(test_cross_entropy(15, 1e-2));
    CASE(test_embed());
    CASE(test_adamw(1000));
    CASE(test_adamw(1));
    CASE(test_bf16());
    ops->close(dev);
}

int main(void) {
    shk_error err;
    NEED(shk_cpu_open(&ops, &dev, 2, &err) == SHK_OK, "no device: %s", err.message);
    test_device();
    if ((ops = test_gpu(&dev))) test_device();
    return test_done();
}
