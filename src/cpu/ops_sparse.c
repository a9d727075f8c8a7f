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
    float *y;
    const float *x;
    size_t ldx, T;
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

/* ---- gathered rows ----
 * Neurons are the outer loop and tokens the inner one: each token of a pass wants other rows, but the rows in play stay in the
 * second-level cache until all tokens have had theirs, so that the union of what they want is read once. */

enum { TILE_BYTES = 640 << 10, COLUMNS = 64, TOGETHER = 1152 };

/* Rows that all tokens want together, those that several want as often, but at most as many as there are. */
static size_t wanted(const shk_active *active, size_t rows, size_t T) {
    size_t n = 0;
    for (size_t t = 0; t < T; t++) n += active->n[t];
    return n < rows ? n : rows;
}

/* So many rows that those wanted share the cache; one token shares with nobody. */
static size_t tile_rows(const sparse_args *a, size_t row_bytes) {
    return a->T > 1 ? TILE_BYTES / row_bytes * a->U->rows / (wanted(a->active, a->U->rows, a->T) + 1) + 1 : SIZE_MAX;
}

/* Each token's place in its list, ascending. */
typedef struct cursor {
    uint32_t at[SHK_PASS_ROWS];
} cursor;

static void seek(cursor *c, const sparse_args *a, size_t neuron) {
    for (size_t t = 0; t < a->T; t++) {
        const uint32_t *ids = a->active->ids + t * a->active->max;
        size_t low = 0, high = a->active->n[t];
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (ids[middle] < neuron) low = middle + 1;
            else high = middle;
        }
        c->at[t] = (uint32_t)low;
    }
}

/* Token t's active neurons before `end`, from where the last call stopped: the first, as a place in `active`, and their number. */
static size_t advance(cursor *c, const sparse_args *a, size_t t, size_t end, size_t *n) {
    size_t first = t * a->active->max + c->at[t], i = 0, left = a->active->n[t] - c->at[t];
    while (i < left && a->active->ids[first + i] < end) i++;
    c->at[t] += (uint32_t)i;
    *n = i;
    return first;
}

/* Products with a matrix of integers may round what they multiply. */
static bool rounded(const shk_cpu *cpu, const shk_mat *m) { return m->rounded && cpu->k.dot_gathered[m->type]; }

static shk_xblock *rounded_x(const sparse_args *a, size_t t) {
    return (shk_xblock *)(void *)a->cpu->rounded + t * (a->U->cols / SHK_PACK_BLOCK);
}

/* What comes before the gathered rows: vectors of a token's whole list are fuller than those of a tile's part. */
static void prepare_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const sparse_args *a = ctx;
    for (size_t t = begin; t < end; t++) {
        float *value = a->active->value + t * a->active->max;
        a->cpu->k.gelu_mul(value, value, NULL, a->active->n[t]);
        if (rounded(a->cpu, a->U)) a->cpu->k.round_x[SHK_Q8_0](rounded_x(a, t), a->x + t * a->ldx, a->U->cols);
    }
}

/* value *= U[id] . x for the active neurons in [begin, end) of every token. */
static void up_range(void *ctx, int thread, size_t begin, size_t end) {
    const sparse_args *a = ctx;
    const shk_mat *U = a->U;
    const shk_kernels *k = &a->cpu->k;
    float *u = a->cpu->scratch + (size_t)thread * SHK_CPU_SCRATCH;
    bool integer = rounded(a->cpu, U);
    size_t tile = tile_rows(a, U->stride);
    cursor c;
    seek(&c, a, begin);
    for (size_t j = begin, next; j < end; j = next) {
        next = end - j < tile ? end : j + tile;
        for (size_t t = 0, n; t < a->T; t++) {
            size_t first = advance(&c, a, t, next, &n);
            const uint32_t *ids = a->active->ids + first;
            float *value = a->active->value + first;
            const shk_xblock *x = rounded_x(a, t);
            if (integer) k->dot_gathered[U->type](u, U->data, U->stride, ids, n, x, U->cols);
            else k->dot_rows[U->type](u, U->data, U->stride, ids, n, a->x + t * a->ldx, U->cols);
            k->mul(value, value, u, n);
        }
    }
}

/* y = sum of value * Vt[id], `width` columns from `column` on of every token. */
static void down_float(const sparse_args *a, size_t column, size_t width) {
    const shk_mat *Vt = a->Vt;
    const shk_type_info *type = shk_type_of(Vt->type);
    const char *w = (const char *)Vt->data + column / type->block * type->bytes;
    size_t tile = tile_rows(a, width / type->block * type->bytes + 1);
    cursor c = { { 0 } };
    for (size_t j = 0, next; j < Vt->rows; j = next) {
        next = Vt->rows - j < tile ? Vt->rows : j + tile;
        for (size_t t = 0, n; t < a->T; t++) {
            size_t first = advance(&c, a, t, next, &n);
            a->cpu->k.axpy_rows[Vt->type](a->y + t * Vt->cols + column, w, Vt->stride, a->active->ids + first,
                                          a->active->value + first, n, width);
        }
    }
}

/* The rows from `next` on that a token's turn prefetches: its own, or, where most are wanted, its share of those that follow. */
static size_t look_ahead(const sparse_args *a, const cursor *c, size_t t, bool most, size_t next, const char *w,
                         const void **rows) {
    const uint32_t *ids = a->active->ids + t * a->active->max;
    size_t n = 0, end = next + SHK_GATHER_ROWS < a->Vt->rows ? next + SHK_GATHER_ROWS : a->Vt->rows;
    if (most)
        for (size_t i = next + t * SHK_GATHER_ROWS / a->T; i < next + (t + 1) * SHK_GATHER_ROWS / a->T && i < end; i++)
            rows[n++] = w + i * a->Vt->stride;
    else
        for (size_t i = c->at[t]; i < a->active->n[t] && ids[i] < end; i++) rows[n++] = w + ids[i] * a->Vt->stride;
    return n;
}

/* The same with coefficients as integers, relative to the largest of SHK_GATHER_ROWS neurons. Scales are taken out of the rows
 * once for all tokens, into `scales`. */
static void down_integer(const sparse_args *a, size_t column, size_t width, float *scales) {
    const shk_mat *Vt = a->Vt;
    const shk_kernels *k = &a->cpu->k;
    const shk_type_info *type = shk_type_of(Vt->type);
    size_t each = 2 * shk_scale_groups(Vt->type, width);
    const char *w = (const char *)Vt->data + column / type->block * type->bytes;
    shk_gathered_row rows[SHK_GATHER_ROWS];
    const void *ahead[SHK_GATHER_ROWS];
    bool most = a->T > 1 && wanted(a->active, Vt->rows, a->T) == Vt->rows;
    cursor c = { { 0 } };
    for (size_t j = 0; j < Vt->rows; j += SHK_GATHER_ROWS) {
        bool known[SHK_GATHER_ROWS] = { false };
        for (size_t t = 0, n; t < a->T; t++) {
            size_t first = advance(&c, a, t, j + SHK_GATHER_ROWS, &n);
            const uint32_t *ids = a->active->ids + first;
            for (size_t i = 0; i < n; i++) {
                size_t r = a->T == 1 ? i : ids[i] - j;
                rows[i] = (shk_gathered_row){ w + ids[i] * Vt->stride, scales + r * each };
                if (!known[r]) k->row_scales[Vt->type](scales + r * each, rows[i].w, width);
                known[r] = true;
            }
            size_t n_ahead = look_ahead(a, &c, t, most, j + SHK_GATHER_ROWS, w, ahead);
            k->axpy_gathered[Vt->type](a->y + t * Vt->cols + column, rows, a->active->value + first, n, width, ahead, n_ahead);
        }
    }
}

/* Columns [begin, end) times COLUMNS or a block. */
static void down_range(void *ctx, int thread, size_t begin, size_t end) {
    const sparse_args *a = ctx;
    size_t unit = shk_type_of(a->Vt->type)->block > COLUMNS ? shk_type_of(a->Vt->type)->block : COLUMNS, cols = a->Vt->cols;
    float *scales = a->cpu->scratch + (size_t)thread * SHK_CPU_SCRATCH;
    for (size_t column = begin * unit, width; column < cols && column < end * unit; column += width) {
        size_t most = SHK_CPU_SCRATCH / SHK_GATHER_ROWS / 2 * 16; /* so many that their scales have room, one for 16 at the least */
        width = (end * unit < cols ? end * unit : cols) - column;
        if (width > most) width = most;
        for (size_t t = 0; t < a->T; t++) memset(a->y + t * cols + column, 0, width * sizeof *a->y);
        if (rounded(a->cpu, a->Vt)) down_integer(a, column, width, scales);
        else down_float(a, column, width);
    }
}

static void up(const sparse_args *a) {
    shk_pool_run(a->cpu->pool, prepare_range, (void *)a, a->T, 4);
    shk_pool_run(a->cpu->pool, up_range, (void *)a, a->U->rows, 64);
}

static void down(const sparse_args *a) {
    size_t unit = shk_type_of(a->Vt->type)->block > COLUMNS ? shk_type_of(a->Vt->type)->block : COLUMNS;
    size_t units = (a->Vt->cols + unit - 1) / unit, threads = (size_t)a->cpu->threads;
    /* One token's rows are read once: in pieces as long as can be. Several tokens' sums stay in the cache, beside pieces of about
     * TOGETHER columns; shorter ones would be slow to fetch. Threads have as many of them, as far as the pool's pieces
     * allow; one thread alone takes all columns at once, which is no slower. */
    size_t most = a->T > 1 ? TOGETHER / unit : units, turns = (units + threads * most - 1) / (threads * most);
    shk_pool_run(a->cpu->pool, down_range, (void *)a, units, (units + threads * turns - 1) / (threads * turns));
}

/* Each token reads its own rows. */
static void count(shk_cpu *cpu, const shk_active *active, const shk_mat *m, size_t T) {
    for (size_t t = 0; t < T; t++) shk_cpu_note(cpu, m, active->n[t], 1);
}

void shk_cpu_sparse_glu(void *dev, float *y, shk_active *active, const float *x, size_t ldx, const shk_mat *U, const shk_mat *Vt,
                        size_t T) {
    shk_cpu *cpu = dev;
    sparse_args args = { .cpu = cpu, .active = active, .y = y, .x = x, .ldx = ldx, .T = T, .U = U, .Vt = Vt };
    up(&args);
    down(&args);
    count(cpu, active, U, T);
    count(cpu, active, Vt, T);
}

void shk_cpu_sparse_up(void *dev, float *h, shk_active *active, const float *x, size_t ldx, const shk_mat *U, size_t T) {
    shk_cpu *cpu = dev;
    up(&(sparse_args){ .cpu = cpu, .active = active, .x = x, .ldx = ldx, .T = T, .U = U });
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
