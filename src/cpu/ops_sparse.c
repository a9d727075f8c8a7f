/* Statistical top-k and the matrices that it makes sparse; the small ops of Gemma 3n. */
#include <math.h>
#include <string.h>

#include "cpu/device.h"

float shk_cpu_threshold(const shk_cpu *cpu, const float *x, size_t n, double k, unsigned ddof) {
    double mean, std;
    if ((double)n <= k || n <= ddof) return -INFINITY;
    cpu->k.moments(x, n, ddof, &mean, &std);
    return (float)(mean + std * shk_normal_quantile(1.0 - k / (double)n));
}

typedef struct sparse_args {
    shk_cpu *cpu;
    shk_active *active;
    const float *s;
    size_t n;
    const shk_sparsity *how;
    float *y, *u;
    const float *x;
    size_t ldx;
    const shk_mat *U, *Vt;
} sparse_args;

static void sparsify_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const sparse_args *a = ctx;
    for (size_t t = begin; t < end; t++) {
        const float *s = a->s + t * a->n;
        uint32_t *ids = a->active->ids + t * a->active->max;
        float *value = a->active->value + t * a->active->max;
        float theta = shk_cpu_threshold(a->cpu, s, a->n, a->how->k, a->how->ddof);
        /* n <= k keeps every entry as it is: the soft form has nothing to subtract; a NaN keeps them too, so that it is seen */
        float shift = theta == -INFINITY ? 0.0f : theta;
        bool all = !(theta > -INFINITY);
        size_t n;
        if (a->how->dense || all) {
            for (n = 0; n < a->n; n++) ids[n] = (uint32_t)n;
            for (size_t j = 0; j < n; j++) value[j] = all || s[j] > theta ? s[j] - shift : 0.0f;
        } else {
            n = a->cpu->k.select(ids, s, a->n, theta);
            for (size_t j = 0; j < n; j++) value[j] = s[ids[j]] - shift;
        }
        a->active->n[t] = (uint32_t)n;
    }
}

void shk_cpu_sparsify(void *dev, shk_active *out, const float *s, size_t T, size_t n, const shk_sparsity *how) {
    shk_cpu *cpu = dev;
    sparse_args args = { .cpu = cpu, .active = out, .s = s, .n = n, .how = how };
    shk_pool_run(cpu->pool, sparsify_range, &args, T, 1);
}

/* value[j] = gelu(value[j]) * (U[ids[j]] . x) for the active j in [begin, end) of token t; u is scratch of their number. */
static void up(const sparse_args *a, size_t t, float *u, size_t begin, size_t end) {
    const uint32_t *ids = a->active->ids + t * a->active->max + begin;
    float *value = a->active->value + t * a->active->max + begin;
    a->cpu->k.dot_rows[a->U->type](u, a->U->data, a->U->stride, ids, end - begin, a->x + t * a->ldx, a->U->cols);
    a->cpu->k.gelu_mul(value, value, u, end - begin);
}

static void down(const sparse_args *a, size_t t, size_t begin, size_t end) {
    const shk_type_info *type = shk_type_of(a->Vt->type);
    float *y = a->y + t * a->Vt->cols + begin;
    memset(y, 0, (end - begin) * sizeof *y);
    a->cpu->k.axpy_rows[a->Vt->type](y, (const char *)a->Vt->data + begin / type->block * type->bytes, a->Vt->stride,
                                     a->active->ids + t * a->active->max, a->active->value + t * a->active->max, a->active->n[t],
                                     end - begin);
}

/* One token: threads share its active neurons, then its output columns. */
static void up_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const sparse_args *a = ctx;
    up(a, 0, a->u + begin, begin, end);
}

static void down_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    down(ctx, 0, begin, end);
}

/* Several tokens: each thread takes whole ones. */
static void tokens_range(void *ctx, int thread, size_t begin, size_t end) {
    const sparse_args *a = ctx;
    for (size_t t = begin; t < end; t++) {
        up(a, t, a->cpu->scratch + (size_t)thread * SHK_CPU_SCRATCH, 0, a->active->n[t]);
        if (a->Vt) down(a, t, 0, a->Vt->cols);
    }
}

/* Each token reads its own rows. */
static void count(shk_cpu *cpu, const shk_active *active, const shk_mat *m, size_t T) {
    for (size_t t = 0; t < T; t++) shk_cpu_note(cpu, m, active->n[t], 1);
}

enum { DOWN_COLUMNS = 256 }; /* a multiple of every type's block */

void shk_cpu_sparse_glu(void *dev, float *y, shk_active *active, const float *x, size_t ldx, const shk_mat *U, const shk_mat *Vt,
                        size_t T) {
    shk_cpu *cpu = dev;
    sparse_args args = { .cpu = cpu, .active = active, .y = y, .u = cpu->scratch, .x = x, .ldx = ldx, .U = U, .Vt = Vt };
    if (T > 1) {
        shk_pool_run(cpu->pool, tokens_range, &args, T, 1);
    } else {
        shk_pool_run(cpu->pool, up_range, &args, active->n[0], 16);
        shk_pool_run(cpu->pool, down_range, &args, Vt->cols, DOWN_COLUMNS);
    }
    count(cpu, active, U, T);
    count(cpu, active, Vt, T);
}

void shk_cpu_sparse_up(void *dev, float *h, shk_active *active, const float *x, size_t ldx, const shk_mat *U, size_t T) {
    shk_cpu *cpu = dev;
    sparse_args args = { .cpu = cpu, .active = active, .u = cpu->scratch, .x = x, .ldx = ldx, .U = U };
    if (T > 1) shk_pool_run(cpu->pool, tokens_range, &args, T, 1);
    else shk_pool_run(cpu->pool, up_range, &args, active->n[0], 16);
    count(cpu, active, U, T);
    memset(h, 0, T * U->rows * sizeof *h);
    for (size_t t = 0; t < T; t++)
        for (size_t j = 0; j < active->n[t]; j++)
            h[t * U->rows + active->ids[t * active->max + j]] = active->value[t * active->max + j];
}

/* ---- Gemma 3n ---- */

void shk_cpu_altup_predict(void *dev, float *y, const float *x, const float *coef, size_t n, size_t T, size_t d) {
    (void)dev;
    for (size_t j = 0; j < n; j++)
        for (size_t t = 0; t < T; t++) {
            float *out = y + (j * T + t) * d;
            memcpy(out, x + (j * T + t) * d, d * sizeof *out);
            for (size_t i = 0; i < n; i++) {
                const float *in = x + (i * T + t) * d;
                float c = coef[(t * n + j) * n + i];
                for (size_t e = 0; e < d; e++) out[e] += c * in[e];
            }
        }
}

void shk_cpu_altup_correct(void *dev, float *x, const float *activated, const float *coef, size_t active, size_t n, size_t T,
                           size_t d) {
    (void)dev;
    for (size_t t = 0; t < T; t++)
        for (size_t e = 0; e < d; e++) {
            float innovation = activated[t * d + e] - x[(active * T + t) * d + e];
            for (size_t j = 0; j < n; j++) x[(j * T + t) * d + e] += (1.0f + coef[t * n + j]) * innovation;
        }
}

static double mean_square(const float *x, size_t d) {
    double sum = 0;
    for (size_t i = 0; i < d; i++) sum += (double)x[i] * x[i];
    return sum / (double)d;
}

void shk_cpu_match_rms(void *dev, float *y, const float *x, size_t T, size_t d) {
    (void)dev;
    for (size_t t = 0; t < T; t++) {
        double to = mean_square(x + t * d, d), from = mean_square(y + t * d, d);
        float s = (float)sqrt(to / (from > 1e-5 ? from : 1e-5));
        for (size_t i = 0; i < d; i++) y[t * d + i] *= s;
    }
}

/* A rational first guess, made exact by Halley steps on erfc. */
double shk_normal_quantile(double p) {
    if (!(p > 0)) return -INFINITY;
    if (p >= 1) return INFINITY;
    double tail = p < 0.5 ? p : 1 - p; /* solve for the lower tail, where erfc keeps its relative precision */
    double t = sqrt(-2 * log(tail));
    double x = -(t - (2.30753 + 0.27061 * t) / (1 + 0.99229 * t + 0.04481 * t * t)); /* Abramowitz and Stegun 26.2.22 */
    for (int i = 0; i < 8; i++) {
        double cdf = 0.5 * erfc(-x * M_SQRT1_2), pdf = exp(-0.5 * x * x) * M_SQRT1_2 * M_2_SQRTPI * 0.5;
        double step = (cdf - tail) / pdf;
        step /= 1 + 0.5 * x * step; /* Halley: the second derivative is -x * pdf */
        x -= step;
        if (fabs(step) < 1e-15 * (1 + fabs(x))) break;
    }
    return p < 0.5 ? x : -x;
}
