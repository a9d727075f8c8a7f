/* What the GPU's training ops along a sequence reach: attention, convolution, RG-LRU and rotation, forward and backward, the median
 * of REPEATS. Bytes are those of the arguments, each once; operations are those of the visible pairs, 4 head_dim forward and 10
 * head_dim backward, whatever is computed again. "of" is the share of the ceiling, as `sparkhawk bench` measures it.
 *
 *   bench/train_ops [WORD]...     only lines whose name contains one of the words */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"
#include "timing.h"

enum { REPEATS = 7, CALLS = 4, ARRAYS = 10, TOKENS = 1 << 16 };

typedef struct bench {
    const shk_ops *ops;
    const shk_train_ops *t;
    void *dev, *work;
    size_t act;
    void *x[ARRAYS]; /* [N, widest] activations */
    float *param, *dparam, *lse, *table;
    shk_threshold *th;
    shk_batch b;
    shk_attention a;
    size_t w;
    shk_ceilings ceilings;
} bench;

enum { WIDEST = 2560, TAPS = 4 };

static void attention(bench *s) {
    s->t->attention(s->dev, s->x[4], s->lse, s->th, s->x[0], s->x[1], s->x[2], &s->b, &s->a, s->work);
}
static void attention_grad(bench *s) {
    s->t->attention_grad(s->dev, s->x[5], s->x[6], s->x[7], s->x[3], s->x[4], s->lse, s->th, s->x[0], s->x[1], s->x[2], &s->b,
                         &s->a, s->work);
}
static void rope(bench *s) { s->t->rope(s->dev, s->x[5], s->table, &s->b, s->a.head_dim / 2, s->a.heads, s->a.head_dim, 0, true); }
static void conv1d(bench *s) { s->t->conv1d(s->dev, s->x[4], s->x[0], s->param, s->param, &s->b, s->w, TAPS); }
static void conv1d_grad(bench *s) {
    s->t->conv1d_grad(s->dev, s->x[5], s->dparam, s->dparam + TAPS * s->w, s->x[3], s->x[0], s->param, &s->b, s->w, TAPS);
}
static void rglru(bench *s) { s->t->rglru(s->dev, s->x[4], s->x[0], s->x[1], s->x[2], s->param, &s->b, s->w); }
static void rglru_grad(bench *s) {
    s->t->rglru_grad(s->dev, s->x[5], s->x[6], s->x[7], s->dparam, s->x[3], s->x[4], s->x[0], s->x[1], s->x[2], s->param, &s->b,
                     s->w);
}

static int n_words;
static char **words;

static void line(bench *s, const char *name, void (*f)(bench *), double bytes, double flops) {
    double seconds[REPEATS];
    shk_error err = { 0 };
    int wanted = !n_words;
    for (int i = 0; i < n_words; i++) wanted |= strstr(name, words[i]) != NULL;
    if (!wanted) return;
    for (int i = -1; i < REPEATS; i++) {
        double begin = now();
        for (int j = 0; j < CALLS; j++) f(s);
        if (s->ops->end(s->dev, true, &err)) {
            printf("%s: %s\n", name, err.message);
            exit(1);
        }
        if (i >= 0) seconds[i] = (now() - begin) / CALLS;
    }
    qsort(seconds, REPEATS, sizeof *seconds, by_value);
    double median = seconds[REPEATS / 2], spread = (seconds[REPEATS - 1] - seconds[0]) / 2 / median * 100;
    double rate = flops > 0 ? flops : bytes, most = flops > 0 ? s->ceilings.flops_per_s : s->ceilings.bytes_per_s;
    printf("%-44s %9.1f us +-%2.0f%%  %8.1f %s  %3.0f%% of\n", name, median * 1e6, spread, rate / median / (flops > 0 ? 1e12 : 1e9),
           flops > 0 ? "TFLOP/s" : "GB/s   ", rate / median / most * 100);
    fflush(stdout);
}

static double pairs(const bench *s) {
    double n = 0;
    for (size_t t = 0; t < s->b.T; t++) n += (double)(s->a.window && t + 1 > s->a.window ? s->a.window : t + 1);
    return n * (double)(s->b.B * s->a.heads);
}

static void attend(bench *s, size_t T, shk_attention a, const char *kind) {
    char name[100];
    s->b.T = T, s->b.B = TOKENS / (a.head_dim / 128) / T, s->a = a;
    double flops = pairs(s) * (double)a.head_dim;
    snprintf(name, sizeof name, "attention%s %zux%zu, %zu/%zu heads of %zu", kind, s->b.B, T, a.heads, a.kv_heads, a.head_dim);
    line(s, name, attention, 0, 4 * flops);
    snprintf(name, sizeof name, "attention_grad%s %zux%zu, %zu/%zu heads of %zu", kind, s->b.B, T, a.heads, a.kv_heads, a.head_dim);
    line(s, name, attention_grad, 0, 10 * flops);
}

static void along(bench *s, size_t B, size_t T, size_t w) {
    char name[100];
    double each = (double)(B * T * w * s->act);
    s->b.B = B, s->b.T = T, s->w = w;
    s->a = (shk_attention){ .heads = w / 128, .kv_heads = 1, .head_dim = 128 };
#define LINE(op, arrays) snprintf(name, sizeof name, #op " %zux%zu, %zu wide", B, T, w), line(s, name, op, (arrays) * each, 0)
    LINE(rope, 2);
    LINE(conv1d, 2);
    LINE(conv1d_grad, 3);
    LINE(rglru, 4);
    LINE(rglru_grad, 8);
}

static void fill(bench *s) {
    size_t n = (size_t)TOKENS * WIDEST;
    uint16_t *values = malloc(n * s->act);
    unsigned state = 1;
    for (int i = 0; i < ARRAYS; i++) {
        s->x[i] = s->ops->alloc(s->dev, n * s->act);
        if (i > 3) continue;
        for (size_t j = 0; j < n * s->act / 2; j++) { /* from 2^-4 to 1 in size, of either sign: the high half of an f32, too */
            state = state * 1664525 + 1013904223;
            values[j] = (uint16_t)(0x3d80 + (state >> 23)) ^ (uint16_t)(state & 0x8000);
        }
        s->ops->upload(s->dev, s->x[i], values, n * s->act);
    }
    free(values);
    s->param = s->ops->alloc(s->dev, n), s->dparam = s->ops->alloc(s->dev, n), s->table = s->ops->alloc(s->dev, n);
    s->lse = s->ops->alloc(s->dev, (size_t)TOKENS * 64), s->th = s->ops->alloc(s->dev, (size_t)TOKENS * 16 * sizeof *s->th);
    s->work = s->ops->alloc(s->dev, (size_t)TOKENS * 64);
    s->b.first = s->ops->alloc(s->dev, TOKENS * sizeof(int32_t));
}

int main(int argc, char **argv) {
    bench s = { 0 };
    shk_error err;
    n_words = argc - 1, words = argv + 1;
    if (shk_cuda_probe(&s.ceilings, &err) || shk_cuda_open(&s.ops, &s.dev, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    s.t = s.ops->train;
    printf("ceilings: %.0f GB/s, %.0f TFLOP/s in bf16\n", s.ceilings.bytes_per_s / 1e9, s.ceilings.flops_per_s / 1e12);
    s.act = s.t->begin(s.dev, SHK_BF16);
    fill(&s);
    for (size_t T = 512; T <= 1024; T *= 2) {
        attend(&s, T, (shk_attention){ .heads = 4, .kv_heads = 1, .head_dim = 128 }, "");
        attend(&s, T, (shk_attention){ .heads = 4, .kv_heads = 1, .head_dim = 128, .window = T / 4 }, " in a window");
        attend(&s, T, (shk_attention){ .heads = 4, .kv_heads = 1, .head_dim = 128, .rank = 64, .k = 64 }, " of spark");
        attend(&s, T, (shk_attention){ .heads = 4, .kv_heads = 1, .head_dim = 256 }, "");
    }
    along(&s, 128, 512, 512);
    along(&s, 64, 1024, 1024);
    along(&s, 4, 1024, 1024);
    s.ops->close(s.dev);
    return 0;
}
