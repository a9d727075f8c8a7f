/* The op table of the CPU: threads over kernels. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/detect.h"
#include "cpu/device.h"
#include "error.h"
#include "mem.h"

/* Elementwise ops of fewer values than this are not worth waking a thread for. */
enum { ELEMENT_GRAIN = 16384 };

#define ROUNDED_BYTES ((size_t)SHK_PASS_ROWS * SHK_CPU_ROUNDED)

static void *cpu_alloc(void *dev, size_t bytes) {
    (void)dev;
    return shk_reserve(bytes);
}

static void cpu_release(void *dev, void *p, size_t bytes) {
    (void)dev;
    shk_release(p, bytes);
}

static void cpu_download(void *dev, void *host, const void *p, size_t bytes) {
    (void)dev;
    memcpy(host, p, bytes);
}

static void cpu_upload(void *dev, void *p, const void *host, size_t bytes) {
    (void)dev;
    memcpy(p, host, bytes);
}

static shk_work cpu_work(const void *dev) { return ((const shk_cpu *)dev)->work; }

static const char *mat_row(const shk_mat *m, size_t i) { return (const char *)m->data + i * m->stride; }

/* ---- packed matrices ---- */

typedef struct pack_args {
    const shk_mat *from;
    char *to;
} pack_args;

static size_t group_bytes(const shk_mat *m) { return shk_packed_bytes(m->type, m->cols); }

static void pack_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const pack_args *p = ctx;
    const shk_mat *m = p->from;
    for (size_t i = begin; i < end; i++) {
        size_t row = i * SHK_PACK_ROWS, n = m->rows - row < SHK_PACK_ROWS ? m->rows - row : SHK_PACK_ROWS;
        shk_pack_group(m->type, p->to + i * group_bytes(m), mat_row(m, row), m->stride, n, m->cols);
    }
    size_t first = begin * SHK_PACK_ROWS, n = (end - begin) * SHK_PACK_ROWS;
    shk_map_forget(mat_row(m, first), (n < m->rows - first ? n : m->rows - first) * m->stride);
}

static shk_status prepare(void *dev, shk_mat *W, shk_error *err) {
    shk_cpu *cpu = dev;
    if (W->packed || !cpu->k.dot_packed[W->type] || W->cols % SHK_PACK_BLOCK) return SHK_OK;
    size_t groups = (W->rows + SHK_PACK_ROWS - 1) / SHK_PACK_ROWS;
    pack_args args = { W, shk_arena_alloc(cpu->packed, groups, group_bytes(W)) };
    if (!args.to) return shk_fail(err, SHK_E_MEMORY, "no memory to pack a matrix of %zu x %zu", W->rows, W->cols);
    shk_want_huge(args.to, groups * group_bytes(W));
    shk_pool_run(cpu->pool, pack_range, &args, groups, 1);
    shk_map_forget(W->data, W->rows * W->stride); /* the pages that two groups shared */
    *W = (shk_mat){ args.to, W->type, W->rows, W->cols, group_bytes(W) / SHK_PACK_ROWS, .packed = true };
    return SHK_OK;
}

static void unpack_row(float *y, const shk_mat *m, size_t row) {
    shk_unpack_row(m->type, y, (const char *)m->data + row / SHK_PACK_ROWS * group_bytes(m), row % SHK_PACK_ROWS, m->cols);
}

/* Every pass is its ops. */
static bool cpu_begin(void *dev, const shk_pass *pass, size_t n_layers, bool replay) {
    (void)dev, (void)pass, (void)n_layers, (void)replay;
    return false;
}

static shk_status cpu_end(void *dev, bool wait, shk_error *err) {
    (void)dev, (void)wait, (void)err;
    return SHK_OK;
}

static void embed(void *dev, float *x, const shk_mat *E, const shk_pass *pass, float scale) {
    shk_cpu *cpu = dev;
    cpu->work.weight_bytes += (double)pass->T * (double)E->stride;
    for (size_t t = 0; t < pass->T; t++) {
        float *row = x + t * E->cols;
        size_t token = (size_t)pass->tokens[t] < E->rows ? (size_t)pass->tokens[t] : 0;
        if (E->packed) unpack_row(row, E, token);
        else cpu->k.dequant[E->type](row, mat_row(E, token), E->cols);
        for (size_t i = 0; i < E->cols; i++) row[i] *= scale;
    }
}

static void gather(void *dev, float *y, const float *x, const shk_pass *pass, size_t from, size_t n, size_t d) {
    (void)dev;
    for (size_t i = 0; i < n; i++) memcpy(y + i * d, x + pass->outputs[from + i] * d, d * sizeof *y);
}

static void slice(void *dev, float *y, const float *x, size_t T, size_t ldx, size_t at, size_t n) {
    (void)dev;
    for (size_t t = 0; t < T; t++) memcpy(y + t * n, x + t * ldx + at, n * sizeof *y);
}

/* ---- rows ---- */

typedef struct rows_args {
    shk_cpu *cpu;
    float *y;
    const float *a, *w;
    size_t n;
    float eps;
} rows_args;

static void rmsnorm_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const rows_args *r = ctx;
    for (size_t i = begin; i < end; i++) r->cpu->k.rmsnorm(r->y + i * r->n, r->a + i * r->n, r->w, r->n, r->eps);
}

void shk_cpu_rmsnorm(void *dev, float *y, const float *x, const float *w, size_t rows, size_t n, float eps) {
    shk_cpu *cpu = dev;
    rows_args args = { cpu, y, x, w, n, eps };
    shk_pool_run(cpu->pool, rmsnorm_range, &args, rows, ELEMENT_GRAIN / n + 1);
}

static void mul_rows_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const rows_args *r = ctx;
    for (size_t i = begin; i < end; i++) r->cpu->k.mul(r->y + i * r->n, r->a + i * r->n, r->w, r->n);
}

static void mul_rows(void *dev, float *y, const float *a, const float *w, size_t rows, size_t n) {
    shk_cpu *cpu = dev;
    rows_args args = { cpu, y, a, w, n, 0 };
    shk_pool_run(cpu->pool, mul_rows_range, &args, rows, ELEMENT_GRAIN / n + 1);
}

/* ---- matrices ---- */

typedef struct linear_args {
    shk_cpu *cpu;
    float *y;
    const float *x;
    size_t ldx;
    const shk_mat *W;
    const float *b;
    size_t T;
} linear_args;

static void add_bias(const linear_args *l, size_t begin, size_t end) {
    if (l->b)
        for (size_t t = 0; t < l->T; t++) l->cpu->k.add(l->y + t * l->W->rows + begin, l->b + begin, end - begin);
}

/* One token: the weights are read where they lie. */
static void matvec_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const linear_args *l = ctx;
    l->cpu->k.dot_rows[l->W->type](l->y + begin, mat_row(l->W, begin), l->W->stride, NULL, end - begin, l->x, l->W->cols);
    add_bias(l, begin, end);
}

/* Several tokens: a few rows at a time become f32 and serve all tokens. */
static void matmul_range(void *ctx, int thread, size_t begin, size_t end) {
    const linear_args *l = ctx;
    const shk_mat *W = l->W;
    size_t k = W->cols, step = SHK_CPU_SCRATCH / k;
    bool direct = W->type == SHK_F32 && W->stride % sizeof(float) == 0 && (uintptr_t)W->data % _Alignof(float) == 0;
    if (direct) step = end - begin;
    else if (step > 32) step = 32;
    for (size_t i = begin; i < end; i += step) {
        size_t n = end - i < step ? end - i : step;
        const float *w = (const float *)(const void *)mat_row(W, i);
        size_t ldw = W->stride / sizeof(float);
        if (!direct) {
            float *rows = l->cpu->scratch + (size_t)thread * SHK_CPU_SCRATCH;
            for (size_t r = 0; r < n; r++) l->cpu->k.dequant[W->type](rows + r * k, mat_row(W, i + r), k);
            w = rows;
            ldw = k;
        }
        l->cpu->k.matmul_f32(l->y + i, W->rows, w, ldw, l->x, l->ldx, n, l->T, k);
    }
    add_bias(l, begin, end);
}

static void round_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const linear_args *l = ctx;
    size_t k = l->W->cols, bytes = shk_rounded_bytes(l->W->type, k);
    for (size_t t = begin; t < end; t++) l->cpu->k.round_x[l->W->type](l->cpu->rounded + t * bytes, l->x + t * l->ldx, k);
}

static void packed_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const linear_args *l = ctx;
    const shk_mat *W = l->W;
    const char *w = (const char *)W->data + begin / SHK_PACK_ROWS * group_bytes(W);
    l->cpu->k.dot_packed[W->type](l->y + begin, W->rows, w, end - begin, l->cpu->rounded, l->T, W->cols);
    add_bias(l, begin, end);
}

void shk_cpu_linear(void *dev, float *y, const float *x, size_t ldx, const shk_mat *W, const float *b, size_t T) {
    shk_cpu *cpu = dev;
    linear_args args = { cpu, y, x, ldx, W, b, T };
    size_t grain = (ELEMENT_GRAIN / W->cols / T + SHK_PACK_ROWS) / SHK_PACK_ROWS * SHK_PACK_ROWS;
    if (W->packed) shk_pool_run(cpu->pool, round_range, &args, T, ELEMENT_GRAIN / W->cols + 1);
    shk_pool_run(cpu->pool, W->packed ? packed_range : T == 1 ? matvec_range : matmul_range, &args, W->rows, grain);
    shk_cpu_note(cpu, W, W->rows, T);
}

/* ---- elements ---- */

typedef struct element_args {
    shk_cpu *cpu;
    float *y;
    const float *a, *b;
    float s;
} element_args;

static void add_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const element_args *e = ctx;
    e->cpu->k.add(e->y + begin, e->a + begin, end - begin);
}

static void scale_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const element_args *e = ctx;
    for (size_t i = begin; i < end; i++) e->y[i] *= e->s;
}

static void gelu_mul_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const element_args *e = ctx;
    e->cpu->k.gelu_mul(e->y + begin, e->a + begin, e->b ? e->b + begin : NULL, end - begin);
}

static void softcap_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const element_args *e = ctx;
    e->cpu->k.softcap(e->y + begin, end - begin, e->s);
}

static void element_op(void *dev, shk_range_fn *fn, float *y, const float *a, const float *b, size_t n, float s) {
    shk_cpu *cpu = dev;
    element_args args = { cpu, y, a, b, s };
    shk_pool_run(cpu->pool, fn, &args, n, ELEMENT_GRAIN);
}

void shk_cpu_add(void *dev, float *y, const float *x, size_t n) { element_op(dev, add_range, y, x, NULL, n, 0); }
void shk_cpu_scale(void *dev, float *x, size_t n, float s) { element_op(dev, scale_range, x, NULL, NULL, n, s); }
void shk_cpu_gelu_mul(void *dev, float *y, const float *g, const float *u, size_t n) {
    element_op(dev, gelu_mul_range, y, g, u, n, 0);
}
static void softcap(void *dev, float *x, size_t n, float cap) { element_op(dev, softcap_range, x, NULL, NULL, n, cap); }

static void tanh_op(void *dev, float *y, const float *x, size_t n) {
    (void)dev;
    for (size_t i = 0; i < n; i++) y[i] = tanhf(x[i]);
}

/* ---- positions ---- */

/* Angles in double: in f32 a position of a million would be off by a tenth of a radian. */
static void rope_table(void *dev, float *table, const double *freq, size_t half, const shk_pass *pass) {
    (void)dev;
    for (size_t s = 0; s < pass->n_seqs; s++)
        for (size_t j = 0; j < pass->seqs[s].n; j++) {
            float *row = table + (pass->seqs[s].row + j) * 2 * half;
            for (size_t i = 0; i < half; i++) {
                double angle = (double)(pass->seqs[s].pos + j) * freq[i];
                row[i] = (float)cos(angle);
                row[half + i] = (float)sin(angle);
            }
        }
}

typedef struct rope_args {
    shk_cpu *cpu;
    float *x;
    const float *table;
    size_t half, heads, head_dim;
} rope_args;

static void rope_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const rope_args *r = ctx;
    for (size_t i = begin; i < end; i++) {
        const float *cos = r->table + i / r->heads * 2 * r->half;
        r->cpu->k.rope(r->x + i * r->head_dim, cos, cos + r->half, r->half);
    }
}

static void rope(void *dev, float *x, const float *table, size_t half, size_t T, size_t heads, size_t head_dim, size_t offset) {
    shk_cpu *cpu = dev;
    rope_args args = { cpu, x + offset, table, half, heads, head_dim };
    shk_pool_run(cpu->pool, rope_range, &args, T * heads, ELEMENT_GRAIN / head_dim + 1);
}

static void cpu_close(void *dev) {
    shk_cpu *cpu = dev;
    if (!cpu) return;
    shk_pool_free(cpu->pool);
    shk_release(cpu->scratch, (size_t)cpu->threads * SHK_CPU_SCRATCH * sizeof(float));
    shk_release(cpu->room.memory, cpu->room.bytes);
    shk_release(cpu->rounded, ROUNDED_BYTES);
    shk_arena_free(cpu->packed);
    free(cpu);
}

static const shk_ops cpu_ops = {
    .name = "cpu",
    .logit_rows = 8,
    .work = cpu_work,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .download = cpu_download,
    .upload = cpu_upload,
    .reserve = shk_cpu_reserve,
    .begin = cpu_begin,
    .end = cpu_end,
    .close = cpu_close,
    .prepare = prepare,
    .coarse_bytes = shk_cpu_coarse_bytes,
    .coarsen = shk_cpu_coarsen,
    .linear_best = shk_cpu_linear_best,
    .embed = embed,
    .rmsnorm = shk_cpu_rmsnorm,
    .linear = shk_cpu_linear,
    .block_linear = shk_cpu_block_linear,
    .add = shk_cpu_add,
    .mul_rows = mul_rows,
    .scale = shk_cpu_scale,
    .gather = gather,
    .slice = slice,
    .gelu_mul = shk_cpu_gelu_mul,
    .softcap = softcap,
    .rope_table = rope_table,
    .rope = rope,
    .attention = shk_cpu_attention,
    .spark_attention = shk_cpu_spark_attention,
    .conv1d = shk_cpu_conv1d,
    .rglru = shk_cpu_rglru,
    .sparsify = shk_cpu_sparsify,
    .sparse_glu = shk_cpu_sparse_glu,
    .sparse_up = shk_cpu_sparse_up,
    .altup_predict = shk_cpu_altup_predict,
    .altup_correct = shk_cpu_altup_correct,
    .match_rms = shk_cpu_match_rms,
    .tanh = tanh_op,
    .train = &shk_cpu_train_ops,
};

shk_status shk_cpu_open(const shk_ops **ops, void **dev, int threads, shk_error *err) {
    unsigned isa;
    shk_status st = shk_cpu_detect(&isa, err);
    if (st) return st;
    shk_cpu *cpu = shk_calloc(1, sizeof *cpu);
    if (!cpu) return shk_fail(err, SHK_E_MEMORY, "no memory for the CPU device");
    cpu->threads = threads > 0 ? threads : shk_cpu_count();
    shk_cpu_kernels(&cpu->k, isa);
    st = shk_pool_new(&cpu->pool, cpu->threads, err);
    if (st) goto fail;
    cpu->scratch = shk_reserve((size_t)cpu->threads * SHK_CPU_SCRATCH * sizeof(float));
    cpu->rounded = shk_reserve(ROUNDED_BYTES);
    cpu->packed = shk_arena_new();
    if (!cpu->scratch || !cpu->rounded || !cpu->packed) {
        st = shk_fail(err, SHK_E_MEMORY, "no memory for the scratch of %d threads", cpu->threads);
        goto fail;
    }
    *ops = &cpu_ops;
    *dev = cpu;
    return SHK_OK;
fail:
    cpu_close(cpu);
    return st;
}
