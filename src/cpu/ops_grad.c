/* The training ops of the CPU: rows and elements here, the rest in ops_*_grad.c. */
#include "cpu/ops_grad.h"

#include <math.h>
#include <string.h>

enum { GRAIN = 16384 }; /* values worth waking a thread for */

static size_t begin(void *dev, shk_type compute) {
    shk_cpu *cpu = dev;
    cpu->bf16 = compute == SHK_BF16;
    return compute == SHK_F32 || compute == SHK_BF16 ? sizeof(float) : 0;
}

/* Products read the parameters themselves. */
static void refresh(void *dev, const float *w, size_t n) { (void)dev, (void)w, (void)n; }

static void zero(void *dev, void *p, size_t bytes) {
    (void)dev;
    memset(p, 0, bytes);
}

/* ---- rows ---- */

typedef struct rows_args {
    const shk_cpu *cpu;
    float *y, *dw;
    const float *x, *dy, *w, *cos;
    const int32_t *tokens;
    shk_threshold *th;
    const shk_threshold *found;
    const float *s, *u;
    float *ds, *du;
    const shk_batch *batch;
    const shk_sparsity *how;
    size_t rows, n, heads, half;
    float eps, scale;
    bool back, add;
} rows_args;

static void embed_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const rows_args *a = ctx;
    for (size_t i = begin; i < end; i++) {
        const float *e = a->x + (size_t)a->tokens[i] * a->n;
        for (size_t j = 0; j < a->n; j++) a->y[i * a->n + j] = a->scale * e[j];
    }
}

static void embed(void *dev, float *x, const shk_mat *E, const int32_t *tokens, size_t N, float scale) {
    shk_cpu *cpu = dev;
    rows_args args = { .cpu = cpu, .y = x, .x = E->data, .tokens = tokens, .n = E->cols, .scale = scale };
    shk_pool_run(cpu->pool, embed_range, &args, N, GRAIN / E->cols + 1);
}

static void embed_grad_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const rows_args *a = ctx;
    for (size_t i = 0; i < a->rows; i++) {
        float *to = a->y + (size_t)a->tokens[i] * a->n;
        for (size_t j = begin; j < end; j++) to[j] += a->scale * a->x[i * a->n + j];
    }
}

static void embed_grad(void *dev, float *dE, const float *dx, const int32_t *tokens, size_t N, size_t d, float scale) {
    shk_cpu *cpu = dev;
    rows_args args = { .cpu = cpu, .y = dE, .x = dx, .tokens = tokens, .rows = N, .n = d, .scale = scale };
    shk_pool_run(cpu->pool, embed_grad_range, &args, d, SHK_CPU_COLUMNS);
}

enum { NORM_ROWS = 256 };

static void rmsnorm_dx_range(void *ctx, int thread, size_t begin, size_t end) {
    const rows_args *a = ctx;
    float *apart = a->cpu->scratch + (size_t)thread * SHK_CPU_SCRATCH;
    for (size_t i = begin; i < end; i++) {
        float *y = a->y + i * a->n;
        a->ds[i] = a->cpu->k.rmsnorm_grad(a->add ? apart : y, a->dy + i * a->n, a->x + i * a->n, a->w, a->n, a->eps);
        if (a->add) a->cpu->k.add(y, apart, a->n);
    }
}

static void rmsnorm_dw_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const rows_args *a = ctx;
    for (size_t i = 0; i < a->rows; i++)
        for (size_t j = begin; j < end; j++) a->dw[j] += a->dy[i * a->n + j] * a->x[i * a->n + j] * a->ds[i];
}

static void rmsnorm(void *dev, float *y, const float *x, const float *w, const float *to, size_t rows, size_t n, float eps) {
    shk_cpu_rmsnorm(dev, y, x, w, rows, n, eps);
    if (to) shk_cpu_add(dev, y, to, rows * n);
}

static void rmsnorm_grad(void *dev, float *dx, float *dw, const float *dy, const float *x, const float *w, size_t rows, size_t n,
                         float eps, bool add) {
    shk_cpu *cpu = dev;
    float scales[NORM_ROWS];
    for (size_t i = 0; i < rows; i += NORM_ROWS) {
        rows_args args = { .cpu = cpu, .y = dx + i * n, .dw = dw, .dy = dy + i * n, .x = x + i * n, .w = w, .n = n, .eps = eps,
                           .rows = rows - i < NORM_ROWS ? rows - i : NORM_ROWS, .ds = scales, .add = add };
        shk_pool_run(cpu->pool, rmsnorm_dx_range, &args, args.rows, GRAIN / n + 1);
        if (dw) shk_pool_run(cpu->pool, rmsnorm_dw_range, &args, n, SHK_CPU_COLUMNS);
    }
}

static void rope_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const rows_args *a = ctx;
    for (size_t i = begin; i < end; i++) {
        const float *cos = a->cos + (i % a->batch->T - (size_t)a->batch->first[i]) * 2 * a->half, *sin = cos + a->half;
        for (size_t h = 0; h < a->heads; h++) {
            float *x = a->y + (i * a->heads + h) * a->n;
            for (size_t j = 0; j < a->half; j++) {
                float p = x[j], q = x[j + a->half], s = a->back ? -sin[j] : sin[j];
                x[j] = p * cos[j] - q * s;
                x[j + a->half] = q * cos[j] + p * s;
            }
        }
    }
}

static void rope(void *dev, float *x, const float *table, const shk_batch *b, size_t half, size_t heads, size_t head_dim,
                 size_t offset, bool back) {
    shk_cpu *cpu = dev;
    rows_args args = { .cpu = cpu, .y = x + offset, .cos = table, .batch = b, .half = half, .heads = heads, .n = head_dim,
                       .back = back };
    shk_pool_run(cpu->pool, rope_range, &args, b->B * b->T, GRAIN / (heads * head_dim) + 1);
}

/* ---- GELU, with a threshold or without ---- */

static void gelu_mul_grad_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const rows_args *a = ctx;
    a->cpu->k.gelu_mul(a->y + begin, a->s + begin, a->u + begin, end - begin);
    a->cpu->k.gelu_mul_grad(a->ds + begin, a->du + begin, a->dy + begin, a->s + begin, a->u + begin, end - begin);
}

static void gelu_mul_grad(void *dev, float *dg, float *du, float *y, const float *dy, const float *g, const float *u, size_t n) {
    shk_cpu *cpu = dev;
    rows_args args = { .cpu = cpu, .y = y, .ds = dg, .du = du, .dy = dy, .s = g, .u = u };
    shk_pool_run(cpu->pool, gelu_mul_grad_range, &args, n, GRAIN);
}

static void topk_gelu_mul_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const rows_args *a = ctx;
    size_t n = a->n;
    bool all = (double)n <= a->how->k || n <= a->how->ddof;
    double mean = 0, std = 0, q = all ? 0 : shk_normal_quantile(1 - a->how->k / (double)n);
    for (size_t i = begin; i < end; i++) {
        float *y = a->y + i * n;
        if (!all) a->cpu->k.moments(a->s + i * n, n, a->how->ddof, &mean, &std);
        float theta = all ? -INFINITY : (float)(mean + std * q);
        a->th[i] = (shk_threshold){ (float)mean, (float)std, theta, (float)a->cpu->k.subtract(y, a->s + i * n, theta, n) };
        a->cpu->k.gelu_mul(y, y, a->u + i * n, n);
    }
}

static void topk_gelu_mul(void *dev, float *y, shk_threshold *th, const float *s, const float *u, size_t N, size_t n,
                          const shk_sparsity *how) {
    shk_cpu *cpu = dev;
    rows_args args = { .cpu = cpu, .y = y, .th = th, .s = s, .u = u, .n = n, .how = how };
    shk_pool_run(cpu->pool, topk_gelu_mul_range, &args, N, GRAIN / n + 1);
}

static void topk_gelu_mul_grad_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const rows_args *a = ctx;
    size_t n = a->n;
    double q = (double)n <= a->how->k ? 0 : shk_normal_quantile(1 - a->how->k / (double)n);
    for (size_t i = begin; i < end; i++) {
        const shk_threshold *th = &a->found[i];
        const float *s = a->s + i * n;
        float *ds = a->ds + i * n;
        a->cpu->k.subtract(ds, s, th->theta, n);
        a->cpu->k.gelu_mul(a->y + i * n, ds, a->u + i * n, n);
        a->cpu->k.gelu_mul_grad(ds, a->du + i * n, a->dy + i * n, ds, a->u + i * n, n);
        if (th->theta == -INFINITY) continue;
        double sum = 0; /* what theta gets: less the sum over the active */
        for (size_t j = 0; j < n; j++) {
            if (s[j] <= th->theta) ds[j] = 0;
            sum += (double)ds[j];
        }
        float each = (float)(sum / (double)n);
        float slope = th->std > 0 ? (float)(sum * q / ((double)(n - a->how->ddof) * (double)th->std)) : 0;
        for (size_t j = 0; j < n; j++) ds[j] -= each + slope * (s[j] - th->mean);
    }
}

static void topk_gelu_mul_grad(void *dev, float *ds, float *du, float *y, const float *dy, const shk_threshold *th, const float *s,
                               const float *u, size_t N, size_t n, const shk_sparsity *how) {
    shk_cpu *cpu = dev;
    rows_args args = { .cpu = cpu, .y = y, .ds = ds, .du = du, .dy = dy, .found = th, .s = s, .u = u, .n = n, .how = how };
    shk_pool_run(cpu->pool, topk_gelu_mul_grad_range, &args, N, GRAIN / n + 1);
}

/* ---- loss ---- */

typedef struct loss_args {
    const shk_cpu *cpu;
    float *loss, *z;
    const int32_t *targets;
    size_t V;
    float cap, z_weight, scale;
} loss_args;

static void cross_entropy_range(void *ctx, int thread, size_t begin, size_t end) {
    const loss_args *a = ctx;
    size_t V = a->V;
    for (size_t i = begin; i < end; i++) {
        float *z = a->z + i * V;
        a->loss[i] = 0;
        if (a->targets[i] < 0) {
            memset(z, 0, V * sizeof *z);
            continue;
        }
        if (a->cap > 0) a->cpu->k.softcap(z, V, a->cap);
        float most = z[0], target = z[a->targets[i]];
        for (size_t j = 1; j < V; j++) most = z[j] > most ? z[j] : most;
        double sum = 0;
        enum { PIECE = 1024 };
        float e[PIECE];
        for (size_t j = 0; j < V; j += PIECE) {
            size_t n = V - j < PIECE ? V - j : PIECE;
            float part = 0;
            a->cpu->k.exp(e, z + j, most, n);
            for (size_t k = 0; k < n; k++) part += e[k];
            sum += (double)part;
        }
        float lse = (float)((double)most + log(sum));
        a->loss[i] = lse - target;
        float factor = a->scale * (1 + 2 * a->z_weight * lse);
        for (size_t j = 0; j < V; j += PIECE) {
            size_t n = V - j < PIECE ? V - j : PIECE;
            a->cpu->k.exp(e, z + j, lse, n);
            for (size_t k = 0; k < n; k++) {
                float capped = a->cap > 0 ? z[j + k] / a->cap : 0;
                e[k] = factor * e[k] - (j + k == (size_t)a->targets[i] ? a->scale : 0);
                z[j + k] = e[k] * (1 - capped * capped);
            }
        }
    }
    (void)thread;
}

static void cross_entropy(void *dev, float *loss, float *z, const int32_t *targets, size_t N, size_t V, float cap, float z_weight,
                          float scale) {
    shk_cpu *cpu = dev;
    loss_args args = { cpu, loss, z, targets, V, cap, z_weight, scale };
    shk_pool_run(cpu->pool, cross_entropy_range, &args, N, 1);
}

/* ---- the step ---- */

typedef struct step_args {
    const shk_cpu *cpu;
    float *w, *m, *v;
    const float *g;
    double *sums;
    size_t n;
    const shk_adamw *a;
} step_args;

enum { CHUNK = 1 << 16, CHUNKS = 256 }; /* sums of fixed pieces, added in order */

static void sum_squares_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const step_args *s = ctx;
    for (size_t c = begin; c < end; c++) {
        double sum[4] = { 0 };
        size_t last = (c + 1) * CHUNK < s->n ? (c + 1) * CHUNK : s->n;
        for (size_t i = c * CHUNK; i < last; i++) sum[i % 4] += (double)s->g[i] * (double)s->g[i];
        s->sums[c] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
}

static double sum_squares(void *dev, const float *x, size_t n) {
    shk_cpu *cpu = dev;
    double sums[CHUNKS], total = 0;
    for (size_t at = 0; at < n; at += (size_t)CHUNKS * CHUNK) {
        step_args args = { .g = x + at, .n = n - at < (size_t)CHUNKS * CHUNK ? n - at : (size_t)CHUNKS * CHUNK, .sums = sums };
        size_t chunks = (args.n + CHUNK - 1) / CHUNK;
        shk_pool_run(cpu->pool, sum_squares_range, &args, chunks, 1);
        for (size_t c = 0; c < chunks; c++) total += sums[c];
    }
    return total;
}

static void adamw_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const step_args *s = ctx;
    s->cpu->k.adamw(s->w + begin, s->m + begin, s->v + begin, s->g + begin, end - begin, s->a);
}

static void adamw(void *dev, float *w, float *m, float *v, const float *g, size_t n, const shk_adamw *a) {
    shk_cpu *cpu = dev;
    step_args args = { .cpu = cpu, .w = w, .m = m, .v = v, .g = g, .a = a };
    shk_pool_run(cpu->pool, adamw_range, &args, n, GRAIN);
}

const shk_train_ops shk_cpu_train_ops = {
    .logits = 1 << 24,
    .begin = begin,
    .refresh = refresh,
    .zero = zero,
    .embed = embed,
    .embed_grad = embed_grad,
    .linear = shk_cpu_linear_rows,
    .linear_grad_x = shk_cpu_linear_grad_x,
    .linear_grad_w = shk_cpu_linear_grad_w,
    .block_linear = shk_cpu_block_linear_rows,
    .block_linear_grad = shk_cpu_block_linear_grad,
    .rmsnorm = rmsnorm,
    .add = shk_cpu_add,
    .scale = shk_cpu_scale,
    .gelu_mul = shk_cpu_gelu_mul,
    .rmsnorm_grad = rmsnorm_grad,
    .gelu_mul_grad = gelu_mul_grad,
    .topk_gelu_mul = topk_gelu_mul,
    .topk_gelu_mul_grad = topk_gelu_mul_grad,
    .rope = rope,
    .attention_work = shk_cpu_attention_work,
    .attention = shk_cpu_attention_rows,
    .attention_grad = shk_cpu_attention_grad,
    .conv1d = shk_cpu_conv1d_rows,
    .conv1d_grad = shk_cpu_conv1d_grad,
    .rglru = shk_cpu_rglru_rows,
    .rglru_grad = shk_cpu_rglru_grad,
    .cross_entropy = cross_entropy,
    .sum_squares = sum_squares,
    .adamw = adamw,
};
