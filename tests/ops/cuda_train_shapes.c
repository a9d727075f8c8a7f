/* The GPU's training ops that go along a sequence, at odd shapes: documents of all lengths, sequences that end inside a tile, heads
 * that tensor cores take and others, windows, groups, caps and thresholds. Against the CPU in f32, from inputs that bf16 has. */
#include <math.h>

#include "../device.h"

enum { MOST = 8 };

/* By norm. Of f32: two orders of summing at most 700 terms, at 2^-24 each, and functions to some units. Of bf16: results, what
 * backward reads of them, probabilities and their gradients are rounded, 2^-9 at most each. */
static const double F32 = 1e-5, BF16 = 0x1p-7;

typedef struct shape {
    size_t B, T;
    shk_attention a;
} shape;

typedef struct device {
    const shk_ops *ops;
    const shk_train_ops *t;
    void *dev;
    size_t act;
} device;

/* An array of an op, on the host in f32: what it is before, or after. */
typedef struct array {
    float *values;
    size_t n;
    bool wide; /* f32 on the device always */
    bool out;
} array;

static unsigned long long seed = 2024;

static void *to_device(const device *d, const array *a) {
    size_t each = a->wide ? sizeof(float) : d->act;
    uint16_t *rounded = malloc(a->n * sizeof *rounded);
    for (size_t i = 0; i < a->n; i++) rounded[i] = shk_f32_to_bf16(a->values[i]);
    void *p = d->ops->alloc(d->dev, a->n * each);
    NEED(p, "%zu values", a->n);
    d->ops->upload(d->dev, p, each == 2 ? (const void *)rounded : a->values, a->n * each);
    free(rounded);
    return p;
}

static float *from_device(const device *d, const array *a, void *p) {
    size_t each = a->wide ? sizeof(float) : d->act;
    float *values = malloc(a->n * sizeof *values);
    uint16_t *rounded = malloc(a->n * sizeof *rounded);
    d->ops->download(d->dev, each == 2 ? (void *)rounded : values, p, a->n * each);
    for (size_t i = 0; each == 2 && i < a->n; i++) values[i] = shk_bf16_to_f32(rounded[i]);
    free(rounded);
    d->ops->release(d->dev, p, a->n * each);
    return values;
}

/* n values at most `scale`: of 8 steps each way, so that sums of products of them are exact, or of as many as bf16 has. */
static array values_of(size_t n, double scale, bool steps) {
    array a = { malloc((n + 1) * sizeof(float)), n, false, false };
    for (size_t i = 0; i < n; i++) {
        double u = test_uniform(&seed);
        double v = steps ? ((int)(u * 17) - 8) * scale / 8 : (2 * u - 1) * scale;
        a.values[i] = shk_bf16_to_f32(shk_f32_to_bf16((float)v));
    }
    return a;
}
static array output_of(size_t n) {
    array a = { malloc((n + 1) * sizeof(float)), n, false, true };
    for (size_t i = 0; i < n; i++) a.values[i] = NAN;
    return a;
}
static array parameter_of(size_t n, double scale) {
    array a = values_of(n, scale, false);
    a.wide = true;
    return a;
}
static array added_to(size_t n) { /* what a gradient of parameters is added to */
    array a = parameter_of(n, 1);
    a.out = true;
    return a;
}

/* Documents of random lengths, many of them short. */
static int32_t *documents(size_t B, size_t T) {
    int32_t *first = malloc(B * T * sizeof *first);
    for (size_t b = 0; b < B; b++)
        for (size_t t = 0, next = 0, from = 0; t < T; t++) {
            if (t == next) {
                double u = test_uniform(&seed);
                from = t, next = t + 1 + (size_t)(u * u * (double)T);
            }
            first[b * T + t] = (int32_t)from;
        }
    return first;
}

typedef void op(const device *d, const shape *s, const shk_batch *b, void *const *p);

/* One call of an op and its gradient on a device; out[i] is NULL where arrays[i] is an input. */
static void run(const device *d, const shape *s, const int32_t *first, op *f, const array *arrays, size_t n, float **out) {
    void *p[16];
    shk_error err = { 0 };
    size_t bytes = s->B * s->T * sizeof *first;
    int32_t *at = d->ops->alloc(d->dev, bytes);
    d->ops->upload(d->dev, at, first, bytes);
    const shk_batch b = { .B = s->B, .T = s->T, .first = at };
    for (size_t i = 0; i < n; i++) p[i] = to_device(d, &arrays[i]);
    f(d, s, &b, p);
    NEED(!d->ops->end(d->dev, true, &err), "%s", err.message);
    for (size_t i = 0; i < n; i++) {
        out[i] = from_device(d, &arrays[i], p[i]);
        if (!arrays[i].out) free(out[i]), out[i] = NULL;
    }
    d->ops->release(d->dev, at, bytes);
}

/* The distance by norm; infinite values must be equal. */
static double distance(const float *have, const float *want, size_t n) {
    double off = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        if (have[i] == want[i]) {
            if (isfinite(want[i])) size += (double)want[i] * want[i];
            continue;
        }
        double e = (double)have[i] - want[i];
        off += e * e, size += (double)want[i] * want[i];
    }
    return off == 0 ? 0 : sqrt(off / size);
}

static void compare(const char *name, const shape *s, device *cpu, device *gpu, op *f, array *arrays, size_t n) {
    int32_t *first = documents(s->B, s->T);
    float *want[16], *have[16], *again[16];
    run(cpu, s, first, f, arrays, n, want);
    for (int wide = 1; wide >= 0; wide--) {
        gpu->act = gpu->t->begin(gpu->dev, wide ? SHK_F32 : SHK_BF16);
        if (!gpu->act) continue;
        run(gpu, s, first, f, arrays, n, have);
        run(gpu, s, first, f, arrays, n, again);
        for (size_t i = 0; i < n; i++) {
            if (!want[i]) continue;
            double e = distance(have[i], want[i], arrays[i].n);
            CHECK(e <= (wide ? F32 : BF16),
                  "%s of B %zu T %zu, %zu/%zu heads of %zu, window %zu, rank %zu, %s: array %zu is off by %.3g", name, s->B, s->T,
                  s->a.heads, s->a.kv_heads, s->a.head_dim, s->a.window, s->a.rank, wide ? "f32" : "bf16", i, e);
            CHECK(!memcmp(have[i], again[i], arrays[i].n * sizeof(float)), "%s: array %zu is another each time", name, i);
            free(have[i]), free(again[i]);
        }
    }
    for (size_t i = 0; i < n; i++) free(want[i]), free(arrays[i].values);
    free(first);
}

/* ---- attention ---- */

static void attention(const device *d, const shape *s, const shk_batch *b, void *const *p) {
    size_t bytes = d->t->attention_work(d->dev, b, &s->a);
    void *work = d->ops->alloc(d->dev, bytes);
    shk_threshold *th = s->a.rank ? (shk_threshold *)p[9] : NULL;
    d->t->attention(d->dev, p[4], p[5], th, p[0], p[1], p[2], b, &s->a, work);
    d->t->attention_grad(d->dev, p[6], p[7], p[8], p[3], p[4], p[5], th, p[0], p[1], p[2], b, &s->a, work);
    d->ops->end(d->dev, true, &(shk_error){ 0 });
    d->ops->release(d->dev, work, bytes);
}

#define HEADS(h, kv, dim) .heads = h, .kv_heads = kv, .head_dim = dim
static const shape shapes[] = {
    { 3, 5, { HEADS(1, 1, 16) } },
    { 2, 65, { HEADS(1, 1, 64) } },
    { 2, 150, { HEADS(4, 1, 128) } },
    { 2, 150, { HEADS(4, 2, 96), .window = 40, .softcap = 2 } },
    { 1, 130, { HEADS(2, 1, 256), .window = 100 } },
    { 1, 150, { HEADS(2, 2, 192), .softcap = 1 } },
    { 1, 300, { HEADS(2, 1, 64), .window = 65 } },
    { 1, 70, { HEADS(2, 1, 32), .window = 2 } },
    { 1, 150, { HEADS(2, 1, 256), .rank = 128, .k = 20 } },
    { 2, 150, { HEADS(4, 1, 128), .rank = 64, .k = 12 } },
    { 2, 140, { HEADS(2, 1, 64), .rank = 16, .k = 8, .ddof = 1, .window = 70 } },
    { 1, 100, { HEADS(2, 1, 160), .rank = 144, .k = 5.5 } },
    { 2, 33, { HEADS(3, 3, 8), .rank = 5, .k = 3 } }, /* the rest is not for tensor cores */
    { 2, 90, { HEADS(2, 1, 40), .window = 30, .softcap = 3 } },
    { 1, 70, { HEADS(2, 1, 264), .rank = 136, .k = 9 } },
};

static void test_attention(const shape *s, device *cpu, device *gpu) {
    size_t N = s->B * s->T, q = N * s->a.heads * s->a.head_dim, k = N * s->a.kv_heads * s->a.head_dim;
    array lse = output_of(N * s->a.heads), th = output_of(N * s->a.heads * (s->a.rank ? 4 : 1));
    lse.wide = th.wide = true;
    th.out = s->a.rank > 0;
    array arrays[] = { values_of(q, 0.25, true), values_of(k, 1, true), values_of(k, 1, false), values_of(q, 1, false),
                       output_of(q), lse, output_of(q), output_of(k), output_of(k), th };
    compare("attention", s, cpu, gpu, attention, arrays, sizeof arrays / sizeof *arrays);
}

/* ---- the recurrence: width is heads * head_dim, taps is the window ---- */

static size_t width_of(const shape *s) { return s->a.heads * s->a.head_dim; }

static void conv1d(const device *d, const shape *s, const shk_batch *b, void *const *p) {
    d->t->conv1d(d->dev, p[4], p[0], p[1], p[2], b, width_of(s), s->a.window);
    d->t->conv1d_grad(d->dev, p[5], p[6], p[7], p[3], p[0], p[1], b, width_of(s), s->a.window);
}

static void rglru(const device *d, const shape *s, const shk_batch *b, void *const *p) {
    d->t->rglru(d->dev, p[5], p[0], p[1], p[2], p[3], b, width_of(s));
    d->t->rglru_grad(d->dev, p[6], p[7], p[8], p[9], p[4], p[5], p[0], p[1], p[2], p[3], b, width_of(s));
}

static const shape widths[] = {
    { 1, 1, { HEADS(1, 1, 5), .window = 2 } },     { 2, 77, { HEADS(1, 1, 40), .window = 4 } },
    { 3, 70, { HEADS(1, 1, 33), .window = 7 } },   { 2, 130, { HEADS(2, 1, 64), .window = 64 } },
    { 5, 64, { HEADS(1, 1, 72), .window = 3 } },   { 1, 333, { HEADS(1, 1, 8), .window = 5 } },
};

static void test_recurrence(const shape *s, device *cpu, device *gpu) {
    size_t w = width_of(s), n = s->B * s->T * w, taps = s->a.window;
    array conv[] = { values_of(n, 1, false), parameter_of(taps * w, 1), parameter_of(w, 1),  values_of(n, 1, false),
                     output_of(n),           output_of(n),              added_to(taps * w),  added_to(w) };
    compare("conv1d", s, cpu, gpu, conv1d, conv, sizeof conv / sizeof *conv);
    array lru[] = { values_of(n, 1, false), values_of(n, 2, false), values_of(n, 3, false), parameter_of(w, 3),
                    values_of(n, 1, false), output_of(n),           output_of(n),           output_of(n),
                    output_of(n),           added_to(w) };
    compare("rglru", s, cpu, gpu, rglru, lru, sizeof lru / sizeof *lru);
}

/* ---- rotation: forward and back again is where it was ---- */

static void rope(const device *d, const shape *s, const shk_batch *b, void *const *p) {
    d->t->rope(d->dev, p[1], p[0], b, s->a.rank, s->a.heads, s->a.head_dim, s->a.window, false);
    d->t->rope(d->dev, p[2], p[0], b, s->a.rank, s->a.heads, s->a.head_dim, s->a.window, true);
}

static const shape rotations[] = { /* half is the rank, the offset the window */
    { 2, 77, { HEADS(4, 1, 128), .rank = 64 } },
    { 2, 30, { HEADS(3, 1, 64), .rank = 16, .window = 32 } },
    { 2, 30, { HEADS(3, 1, 13), .rank = 5, .window = 2 } },
};

static void test_rope(const shape *s, device *cpu, device *gpu) {
    size_t n = s->B * s->T * s->a.heads * s->a.head_dim, half = s->a.rank;
    array arrays[] = { parameter_of(s->T * 2 * half, 1), values_of(n, 1, false), values_of(n, 1, false) };
    arrays[1].out = arrays[2].out = true;
    compare("rope", s, cpu, gpu, rope, arrays, sizeof arrays / sizeof *arrays);
}

#define LIST(name, shapes, test) { name, shapes, sizeof shapes / sizeof *shapes, test }
static const struct {
    const char *name;
    const shape *shapes;
    size_t n;
    void (*test)(const shape *s, device *cpu, device *gpu);
} lists[] = {
    LIST("attention", shapes, test_attention),
    LIST("recurrence", widths, test_recurrence),
    LIST("rope", rotations, test_rope),
};

int main(int argc, char **argv) {
    device cpu = { 0 }, gpu = { 0 };
    shk_error err;
    if (!(gpu.ops = test_gpu(&gpu.dev))) return test_done();
    NEED(shk_cpu_open(&cpu.ops, &cpu.dev, 0, &err) == SHK_OK, "%s", err.message);
    gpu.t = gpu.ops->train, cpu.t = cpu.ops->train;
    NEED(gpu.t && cpu.t, "both train");
    cpu.act = cpu.t->begin(cpu.dev, SHK_F32);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        for (size_t j = 0; j < lists[i].n && (argc < 2 || !strcmp(argv[1], lists[i].name)); j++)
            lists[i].test(&lists[i].shapes[j], &cpu, &gpu);
    gpu.ops->close(gpu.dev), cpu.ops->close(cpu.dev);
    return test_done();
}
