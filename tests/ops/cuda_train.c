/* The training ops of the GPU at the sizes of real models, in f32 and in bf16, against those of the CPU in f32. The inputs are bf16
 * values, so that all three have the same ones. */
#include <math.h>

#include "../device.h"

enum { B = 2, T = 192, N = B * T, D = 512, F = 2304, V = 4096, H = 4, KV = 1, HD = 128, W = 640, BLOCKS = 8, TAPS = 4 };
enum { INPUTS = 7, OUTPUTS = 5 };

/* By norm. Of f32: two orders of summing up to 2304 terms, at 2^-24 each. Of bf16: a rounding of the result, 2^-8 at most; an
 * attention rounds its probabilities and their gradients, and what it reads of its own output, as well. */
static const double F32 = 1e-5, BF16 = 0x1p-8, ATTENTION = 0x1p-7;
/* Spark attention: a score at the threshold may be on either side of it. One such position is about 1/k of one of N H rows. */
static const double SPARK = 2e-3;

typedef struct device {
    const shk_ops *ops;
    const shk_train_ops *t;
    void *dev;
    size_t act;
    void *in[INPUTS], *out[OUTPUTS];
    float *lse, *table;
    shk_threshold *th;
    int32_t *targets;
    shk_batch b;
} device;

/* Values of a buffer: activations, or f32 as parameters and their gradients are. */
typedef struct buffer {
    size_t n;
    double scale;
    bool param;
} buffer;

typedef struct test_case {
    const char *name;
    void (*call)(device *d);
    buffer in[INPUTS], out[OUTPUTS];
    double f32, bf16;
} test_case;

static shk_mat matrix(const device *d, int i, size_t rows, size_t cols) {
    return (shk_mat){ d->in[i], SHK_F32, rows, cols, cols * sizeof(float) };
}

/* ---- the ops: inputs in order, then outputs ---- */

enum { SKIP_COLS = 224 }; /* the second part of each row is what the matrix sees */

static void linear(device *d) {
    shk_mat m = matrix(d, 1, F, D - SKIP_COLS);
    shk_act *x = (shk_act *)(void *)((char *)d->in[0] + SKIP_COLS * d->act);
    shk_act *dx = (shk_act *)(void *)((char *)d->out[1] + SKIP_COLS * d->act);
    d->t->linear(d->dev, d->out[0], x, D, &m, d->in[2], N);
    d->t->zero(d->dev, d->out[1], N * D * d->act);
    d->t->linear_grad_x(d->dev, dx, D, d->in[3], &m, N, false);
    d->t->linear_grad_x(d->dev, dx, D, d->in[3], &m, N, true);
    d->t->linear_grad_w(d->dev, d->out[2], d->out[3], d->in[3], x, D, F, D - SKIP_COLS, N);
}

static void block_linear(device *d) {
    shk_mat m = matrix(d, 1, W, W / BLOCKS);
    d->t->block_linear(d->dev, d->out[0], d->in[0], &m, d->in[2], BLOCKS, N);
    d->t->block_linear_grad(d->dev, d->out[1], d->out[2], d->out[3], d->in[3], d->in[0], &m, BLOCKS, N, false);
}

static void rmsnorm(device *d) {
    d->t->rmsnorm(d->dev, d->out[0], d->in[0], d->in[1], d->in[2], N, D, 1e-6f);
    d->t->rmsnorm_grad(d->dev, d->out[1], d->out[2], d->in[2], d->in[0], d->in[1], N, D, 1e-6f, false);
    d->t->rmsnorm_grad(d->dev, d->out[1], NULL, d->in[2], d->in[0], d->in[1], N, D, 1e-6f, true);
}

static void long_rmsnorm(device *d) { /* rows of several packs for each of many threads */
    d->t->rmsnorm(d->dev, d->out[0], d->in[0], d->in[1], NULL, N / 4, 4 * F, 1e-6f);
    d->t->rmsnorm_grad(d->dev, d->out[1], d->out[2], d->in[2], d->in[0], d->in[1], N / 4, 4 * F, 1e-6f, false);
}

static void elements(device *d) {
    d->t->gelu_mul(d->dev, d->out[0], d->in[0], d->in[1], N * F);
    d->t->gelu_mul_grad(d->dev, d->out[1], d->out[2], d->out[3], d->in[2], d->in[0], d->in[1], N * F);
    d->t->scale(d->dev, d->out[0], N * F, 0.3f);
    d->t->add(d->dev, d->out[0], d->in[2], N * F);
}

static void topk(device *d) {
    const shk_sparsity how = { 0.08 * F, 0, false };
    d->t->topk_gelu_mul(d->dev, d->out[0], d->th, d->in[0], d->in[1], N, F, &how);
    d->t->topk_gelu_mul_grad(d->dev, d->out[1], d->out[2], d->out[3], d->in[2], d->th, d->in[0], d->in[1], N, F, &how);
}

static void embed(device *d) {
    shk_mat m = matrix(d, 0, V, D);
    d->t->embed(d->dev, d->out[0], &m, d->b.tokens, N, 3);
    d->t->embed_grad(d->dev, d->out[1], d->in[1], d->b.tokens, N, D, 3);
}

static void rope(device *d) {
    d->t->zero(d->dev, d->out[0], N * H * HD * d->act);
    d->t->add(d->dev, d->out[0], d->in[0], N * H * HD);
    d->t->rope(d->dev, d->out[0], d->table, &d->b, 32, H, HD, 64, false);
    d->t->zero(d->dev, d->out[1], N * H * HD * d->act);
    d->t->add(d->dev, d->out[1], d->in[0], N * H * HD);
    d->t->rope(d->dev, d->out[1], d->table, &d->b, 32, H, HD, 0, true);
}

static void attend(device *d, const shk_attention *a) {
    size_t bytes = d->t->attention_work(d->dev, &d->b, a);
    void *work = d->ops->alloc(d->dev, bytes);
    d->t->attention(d->dev, d->out[0], d->lse, d->th, d->in[0], d->in[1], d->in[2], &d->b, a, work);
    d->t->attention_grad(d->dev, d->out[1], d->out[2], d->out[3], d->in[3], d->out[0], d->lse, d->th, d->in[0], d->in[1], d->in[2],
                         &d->b, a, work);
    d->ops->end(d->dev, true, &(shk_error){ 0 });
    d->ops->release(d->dev, work, bytes);
}
static void global(device *d) { attend(d, &(shk_attention){ .heads = H, .kv_heads = KV, .head_dim = HD }); }
static void grouped(device *d) { attend(d, &(shk_attention){ .heads = 8, .kv_heads = 4, .head_dim = 64, .softcap = 3 }); }
static void local(device *d) { attend(d, &(shk_attention){ .heads = H, .kv_heads = KV, .head_dim = HD, .window = 50 }); }
static void wide(device *d) { attend(d, &(shk_attention){ .heads = 2, .kv_heads = 1, .head_dim = 256 }); }
static void spark(device *d) {
    attend(d, &(shk_attention){ .heads = H, .kv_heads = KV, .head_dim = HD, .rank = 64, .k = 32 });
}

static void conv1d(device *d) {
    d->t->conv1d(d->dev, d->out[0], d->in[0], d->in[1], d->in[2], &d->b, W, TAPS);
    d->t->conv1d_grad(d->dev, d->out[1], d->out[2], d->out[3], d->in[3], d->in[0], d->in[1], &d->b, W, TAPS);
}

static void rglru(device *d) {
    d->t->rglru(d->dev, d->out[0], d->in[0], d->in[1], d->in[2], d->in[3], &d->b, W);
    d->t->rglru_grad(d->dev, d->out[1], d->out[2], d->out[3], d->out[4], d->in[4], d->out[0], d->in[0], d->in[1], d->in[2],
                     d->in[3], &d->b, W);
}

static void cross_entropy(device *d) {
    d->t->zero(d->dev, d->out[0], N * V * d->act);
    d->t->add(d->dev, d->out[0], d->in[0], N * V);
    d->t->cross_entropy(d->dev, d->out[1], d->out[0], d->targets, N, V, 30, 1e-3f, 0.5f);
}

#define QKV(heads, kv, dim, scale) \
    { { N * heads * dim, scale }, { N * kv * dim, scale }, { N * kv * dim, 1 }, { N * heads * dim, 1 } }
#define DQKV(heads, kv, dim) { { N * heads * dim }, { N * heads * dim }, { N * kv * dim }, { N * kv * dim } }
#define PARAM(n, scale) { n, scale, true }

static const test_case cases[] = {
    { "linear", linear, { { N * D, 1 }, PARAM(F * (D - SKIP_COLS), 0.1), PARAM(F, 1), { N * F, 1 } },
      { { N * F }, { N * D }, PARAM(F * (D - SKIP_COLS), 1), PARAM(F, 1) }, F32, BF16 },
    { "block_linear", block_linear, { { N * W, 1 }, PARAM(W * W / BLOCKS, 0.1), PARAM(W, 1), { N * W, 1 } },
      { { N * W }, { N * W }, PARAM(W * W / BLOCKS, 1), PARAM(W, 1) }, F32, BF16 },
    { "rmsnorm", rmsnorm, { { N * D, 2 }, PARAM(D, 1), { N * D, 1 } }, { { N * D }, { N * D }, PARAM(D, 1) }, F32, BF16 },
    { "long rmsnorm", long_rmsnorm, { { N * F, 2 }, PARAM(4 * F, 1), { N * F, 1 } },
      { { N * F }, { N * F }, PARAM(4 * F, 1) }, F32, BF16 },
    { "elements", elements, { { N * F, 3 }, { N * F, 1 }, { N * F, 1 } },
      { { N * F }, { N * F }, { N * F }, { N * F } }, F32, BF16 },
    { "topk_gelu_mul", topk, { { N * F, 2 }, { N * F, 1 }, { N * F, 1 } },
      { { N * F }, { N * F }, { N * F }, { N * F } }, F32, BF16 },
    { "embed", embed, { PARAM(V * D, 1), { N * D, 1 } }, { { N * D }, PARAM(V * D, 1) }, F32, BF16 },
    { "rope", rope, { { N * H * HD, 1 } }, { { N * H * HD }, { N * H * HD } }, F32, BF16 },
    { "attention", global, QKV(H, KV, HD, 0.3), DQKV(H, KV, HD), F32, ATTENTION },
    { "attention of groups", grouped, QKV(8, 4, 64, 0.4), DQKV(8, 4, 64), F32, ATTENTION },
    { "local attention", local, QKV(H, KV, HD, 0.3), DQKV(H, KV, HD), F32, ATTENTION },
    { "attention of wide heads", wide, QKV(2, 1, 256, 0.2), DQKV(2, 1, 256), F32, ATTENTION },
    { "spark attention", spark, QKV(H, KV, HD, 0.3), DQKV(H, KV, HD), SPARK, ATTENTION },
    { "conv1d", conv1d, { { N * W, 1 }, PARAM(TAPS * W, 1), PARAM(W, 1), { N * W, 1 } },
      { { N * W }, { N * W }, PARAM(TAPS * W, 1), PARAM(W, 1) }, F32, BF16 },
    { "rglru", rglru, { { N * W, 1 }, { N * W, 2 }, { N * W, 2 }, PARAM(W, 2), { N * W, 1 } },
      { { N * W }, { N * W }, { N * W }, { N * W }, PARAM(W, 1) }, F32, BF16 },
    { "cross_entropy", cross_entropy, { { N * V, 8 } }, { { N * V }, PARAM(N, 0) }, F32, BF16 },
};

/* ---- running them ---- */

static size_t bytes_of(const device *d, const buffer *b) { return b->n * (b->param ? sizeof(float) : d->act); }

static void put(const device *d, void *to, const buffer *b, const float *values) {
    uint16_t *rounded = malloc(b->n * sizeof *rounded);
    for (size_t i = 0; i < b->n; i++) rounded[i] = shk_f32_to_bf16(values[i]);
    d->ops->upload(d->dev, to, d->act == 2 && !b->param ? (const void *)rounded : values, bytes_of(d, b));
    free(rounded);
}

static float *fetch(const device *d, const void *from, const buffer *b) {
    float *values = malloc(b->n * sizeof *values);
    uint16_t *rounded = malloc(b->n * sizeof *rounded);
    bool wide = d->act == 4 || b->param;
    d->ops->download(d->dev, wide ? (void *)values : rounded, from, bytes_of(d, b));
    for (size_t i = 0; !wide && i < b->n; i++) values[i] = shk_bf16_to_f32(rounded[i]);
    free(rounded);
    return values;
}

/* The outputs of a case, from given inputs. What is added to starts at 0.25, the rest as what is no number. */
static void run(device *d, const test_case *c, float *const in[INPUTS], float *out[OUTPUTS]) {
    for (int i = 0; i < INPUTS; i++)
        if (c->in[i].n) put(d, d->in[i] = d->ops->alloc(d->dev, bytes_of(d, &c->in[i])), &c->in[i], in[i]);
    for (int i = 0; i < OUTPUTS; i++) {
        if (!c->out[i].n) continue;
        float *start = malloc(c->out[i].n * sizeof *start);
        for (size_t j = 0; j < c->out[i].n; j++) start[j] = c->out[i].param && c->out[i].scale > 0 ? 0.25f : NAN;
        put(d, d->out[i] = d->ops->alloc(d->dev, bytes_of(d, &c->out[i])), &c->out[i], start);
        free(start);
    }
    c->call(d);
    shk_error err = { 0 };
    NEED(!d->ops->end(d->dev, true, &err), "%s: %s", c->name, err.message);
    for (int i = 0; i < OUTPUTS; i++) out[i] = c->out[i].n ? fetch(d, d->out[i], &c->out[i]) : NULL;
    for (int i = 0; i < INPUTS; i++)
        if (c->in[i].n) d->ops->release(d->dev, d->in[i], bytes_of(d, &c->in[i]));
    for (int i = 0; i < OUTPUTS; i++)
        if (c->out[i].n) d->ops->release(d->dev, d->out[i], bytes_of(d, &c->out[i]));
}

static void compare(const test_case *c, const char *type, float *const have[OUTPUTS], float *const want[OUTPUTS], double bound) {
    for (int i = 0; i < OUTPUTS && want[i]; i++) {
        double off = 0, size = 0;
        for (size_t j = 0; j < c->out[i].n; j++) {
            double h = have[i][j], w = want[i][j];
            off += (h - w) * (h - w), size += w * w;
        }
        double e = sqrt(off / size);
        CHECK(e <= bound, "%s in %s: output %d is off by %.3g", c->name, type, i, e);
    }
}

static void drop(float *out[OUTPUTS]) {
    for (int i = 0; i < OUTPUTS; i++) free(out[i]);
}

static void test(const test_case *c, device *cpu, device *gpu, unsigned long long *seed) {
    float *in[INPUTS] = { 0 }, *want[OUTPUTS], *have[OUTPUTS], *again[OUTPUTS];
    for (int i = 0; i < INPUTS; i++) {
        in[i] = malloc((c->in[i].n + 1) * sizeof *in[i]);
        for (size_t j = 0; j < c->in[i].n; j++)
            in[i][j] = shk_bf16_to_f32(shk_f32_to_bf16((float)((test_uniform(seed) - 0.5) * 2 * c->in[i].scale)));
    }
    run(cpu, c, in, want);
    gpu->act = gpu->t->begin(gpu->dev, SHK_F32);
    run(gpu, c, in, have);
    compare(c, "f32", have, want, c->f32);
    drop(have);
    if ((gpu->act = gpu->t->begin(gpu->dev, SHK_BF16))) {
        run(gpu, c, in, have);
        run(gpu, c, in, again);
        compare(c, "bf16", have, want, c->bf16);
        for (int i = 0; i < OUTPUTS && have[i]; i++)
            CHECK(!memcmp(have[i], again[i], c->out[i].n * sizeof(float)), "%s: output %d is another each time", c->name, i);
        drop(have), drop(again);
    } else SKIP("%s: no bf16", c->name);
    drop(want);
    for (int i = 0; i < INPUTS; i++) free(in[i]);
}

/* Documents of 70, 1 and 121 tokens, and one of 192; one word is most of the text, as words are. */
static void make_batch(device *d) {
    int32_t tokens[N], targets[N], first[N] = { 0 };
    float *angles = malloc(T * 64 * sizeof *angles);
    for (int i = 0; i < N; i++) {
        tokens[i] = i % 3 ? 7 : i * 37 % V, targets[i] = i % 5 == 2 ? -1 : i * 91 % V;
        if (i >= 70 && i < T) first[i] = i == 70 ? 70 : 71;
    }
    for (int t = 0; t < T; t++)
        for (int j = 0; j < 32; j++) {
            double angle = t * pow(1e4, -j / 32.0);
            angles[t * 64 + j] = (float)cos(angle), angles[t * 64 + 32 + j] = (float)sin(angle);
        }
    const struct { void *at; const void *from; size_t bytes; } list[] = {
        { &d->b.tokens, tokens, sizeof tokens }, { &d->targets, targets, sizeof targets }, { &d->b.first, first, sizeof first },
        { &d->table, angles, T * 64 * sizeof *angles }, { &d->lse, NULL, N * 8 * sizeof(float) },
        { &d->th, NULL, N * 8 * sizeof(shk_threshold) },
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        void *p = d->ops->alloc(d->dev, list[i].bytes);
        if (list[i].from) d->ops->upload(d->dev, p, list[i].from, list[i].bytes);
        memcpy(list[i].at, &p, sizeof p);
    }
    d->b.B = B, d->b.T = T, d->b.targets = d->targets;
    free(angles);
}

int main(int argc, char **argv) {
    device cpu = { 0 }, gpu = { 0 };
    shk_error err;
    unsigned long long seed = 77;
    if (!(gpu.ops = test_gpu(&gpu.dev))) return test_done();
    NEED(shk_cpu_open(&cpu.ops, &cpu.dev, 0, &err) == SHK_OK, "%s", err.message);
    gpu.t = gpu.ops->train, cpu.t = cpu.ops->train;
    NEED(gpu.t && gpu.t->begin(gpu.dev, SHK_F32), "the GPU trains");
    cpu.act = cpu.t->begin(cpu.dev, SHK_F32);
    make_batch(&cpu), make_batch(&gpu);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (argc < 2 || !strcmp(argv[1], cases[i].name)) test(&cases[i], &cpu, &gpu, &seed);
    gpu.ops->close(gpu.dev), cpu.ops->close(cpu.dev);
    return test_done();
}
