/* The largest products of a vector with a matrix of floats, without reading all of it.
 *
 * A q8_0 copy of W, half its size or less, is multiplied first, by integers. With w' a row of the copy and x' the activations
 * rounded to 8 bits (packed.h),
 *
 *   |w.x - w'.x'|  =  |(w - w').x + w'.(x - x')|  <=  |w - w'| |x| + |w'| |x - x'|                          (Cauchy-Schwarz)
 *
 * whose norms of rows are known beforehand. That bounds every product from both sides: a row whose upper bound is below the k-th
 * largest of the lower ones is not among the k best. The others, a few of a thousand, are read from W itself, by the kernel that
 * linear uses, so that their values are linear's to the bit.
 *
 * Rounding. Any sum of n products in f32, in any order, fused or not, is within g sum|w_i x_i| <= g |w| |x| of the true one, with
 * g = n u / (1 - n u) and u = 2^-24 (Higham, Accuracy and Stability, sec. 3.1), and a denormal's ulp for each operation. This
 * holds for w.x (n the row's length) and, with room to spare, for w'.x', so that with |w| <= |w - w'| + |w'| a row's radius is
 *
 *   |w - w'| |x| (1 + g) + |w'| (|x - x'| + 2 g (|x| + |x - x'|))
 *
 * A third g there stands for the few roundings of the radius and of the two bounds themselves: of values of the size of |w'| |x'|.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "cpu/device.h"
#include "error.h"
#include "file/blocks.h"

typedef struct shk_coarse {
    shk_mat copy;        /* q8_0, packed */
    float *error, *norm; /* [rows] |w - w'| and |w'|, rounded up */
    double most;         /* the largest |w| */
    float *lower;        /* [rows] for linear_best: lower bounds, then values */
    uint32_t *ids;       /* [rows] and the rows that they belong to */
} shk_coarse;

/* ---- the copy ---- */

/* Scratch for a block of 32 columns: a row as f32, rounded, and f32 again; 16 rows as q8_0. */
enum { SCRATCH_BLOCK = 2 * SHK_PACK_BLOCK * sizeof(float) + sizeof(shk_xblock) + SHK_PACK_ROWS * sizeof(shk_block_q8_0) };

/* Matrices of quantized types are as small as a copy, or scanned no faster by one of fewer bits. */
static bool suits(const shk_mat *W) {
    bool floats = W->type == SHK_F32 || W->type == SHK_F16 || W->type == SHK_BF16;
    return floats && !W->packed && W->cols % SHK_PACK_BLOCK == 0 &&
           SCRATCH_BLOCK * (W->cols / SHK_PACK_BLOCK) <= SHK_CPU_SCRATCH * sizeof(float);
}

static size_t groups_of(const shk_mat *W) { return (W->rows + SHK_PACK_ROWS - 1) / SHK_PACK_ROWS; }
static size_t group_bytes(const shk_mat *W) { return shk_packed_bytes(SHK_Q8_0, W->cols); }

size_t shk_cpu_coarse_bytes(void *dev, const shk_mat *W) {
    (void)dev;
    return suits(W) ? groups_of(W) * group_bytes(W) + W->rows * (3 * sizeof(float) + sizeof(uint32_t)) : 0;
}

/* Sums in double are better than a billionth. */
static float rounded_up(double x) { return nextafterf((float)(x * (1 + 1e-9)), INFINITY); }

typedef struct coarsen_args {
    shk_cpu *cpu;
    const shk_mat *W;
    const shk_coarse *c;
} coarsen_args;

/* Whatever the rounding to integers and of their scale to f16 does, the norm of the error is of what comes back. */
static void coarsen_row(const coarsen_args *a, size_t row, float *w, float *back, shk_xblock *rounded, shk_block_q8_0 *q8_0) {
    const shk_kernels *k = &a->cpu->k;
    size_t cols = a->W->cols;
    double error[4] = { 0 }, norm[4] = { 0 }; /* four sums: a processor adds as many at once */
    k->dequant[a->W->type](w, (const char *)a->W->data + row * a->W->stride, cols);
    k->round_x[SHK_Q8_0](rounded, w, cols);
    for (size_t b = 0; b < cols / SHK_PACK_BLOCK; b++) {
        q8_0[b].d = shk_f32_to_f16(rounded[b].d);
        memcpy(q8_0[b].qs, rounded[b].q, sizeof q8_0[b].qs);
    }
    k->dequant[SHK_Q8_0](back, q8_0, cols);
    for (size_t j = 0; j < cols; j += 4)
        for (size_t l = 0; l < 4; l++) {
            double v = (double)back[j + l], e = (double)w[j + l] - v;
            norm[l] += v * v;
            error[l] += e * e;
        }
    a->c->error[row] = rounded_up(sqrt(error[0] + error[1] + error[2] + error[3]));
    a->c->norm[row] = rounded_up(sqrt(norm[0] + norm[1] + norm[2] + norm[3]));
}

static void coarsen_range(void *ctx, int thread, size_t begin, size_t end) {
    const coarsen_args *a = ctx;
    size_t cols = a->W->cols, blocks = cols / SHK_PACK_BLOCK;
    float *w = a->cpu->scratch + (size_t)thread * SHK_CPU_SCRATCH, *back = w + cols;
    shk_xblock *rounded = (shk_xblock *)(void *)(back + cols);
    shk_block_q8_0 *q8_0 = (shk_block_q8_0 *)(void *)(rounded + blocks);
    for (size_t g = begin; g < end; g++) {
        size_t first = g * SHK_PACK_ROWS, n = a->W->rows - first < SHK_PACK_ROWS ? a->W->rows - first : SHK_PACK_ROWS;
        for (size_t r = 0; r < n; r++) coarsen_row(a, first + r, w, back, rounded, q8_0 + r * blocks);
        shk_pack_group(SHK_Q8_0, (char *)(uintptr_t)a->c->copy.data + g * group_bytes(a->W), q8_0, blocks * sizeof *q8_0, n, cols);
    }
}

shk_status shk_cpu_coarsen(void *dev, shk_mat *W, shk_error *err) {
    shk_cpu *cpu = dev;
    if (W->coarse || !suits(W)) return SHK_OK;
    size_t groups = groups_of(W), bytes = group_bytes(W);
    shk_coarse *c = shk_arena_alloc(cpu->packed, 1, sizeof *c);
    char *data = shk_arena_alloc(cpu->packed, groups, bytes);
    float *rows = shk_arena_alloc(cpu->packed, W->rows, 4 * sizeof *rows);
    if (!c || !data || !rows) return shk_fail(err, SHK_E_MEMORY, "no memory for a copy of a matrix of %zu x %zu", W->rows, W->cols);
    shk_want_huge(data, groups * bytes);
    c->copy = (shk_mat){ data, SHK_Q8_0, W->rows, W->cols, bytes / SHK_PACK_ROWS, .packed = true };
    c->error = rows;
    c->norm = rows + W->rows;
    c->lower = rows + 2 * W->rows;
    c->ids = (uint32_t *)(rows + 3 * W->rows);
    coarsen_args args = { cpu, W, c };
    shk_pool_run(cpu->pool, coarsen_range, &args, groups, 1);
    for (size_t i = 0; i < W->rows; i++) {
        double norm = (double)c->norm[i] + (double)c->error[i];
        if (!isfinite(norm)) return SHK_OK; /* so are W's products with anything: linear will show it */
        if (norm > c->most) c->most = norm;
    }
    W->coarse = c;
    return SHK_OK;
}

/* ---- bounds ---- */

typedef struct best_args {
    shk_cpu *cpu;
    const shk_mat *W;
    const float *x;
    float *y;           /* [rows] w'.x', then upper bounds */
    float *value;       /* [candidates] */
    float per_error, per_norm; /* what a row's two norms count in its radius */
} best_args;

static void bounds_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const best_args *a = ctx;
    const shk_coarse *c = a->W->coarse;
    for (size_t i = begin; i < end; i++) {
        float radius = (c->error[i] * a->per_error + c->norm[i] * a->per_norm) + 0x1p-120f; /* and 2^29 ulps of denormals */
        c->lower[i] = a->y[i] - radius;
        a->y[i] += radius;
    }
}

/* What the norms of a row count; x' is what linear has just rounded. */
static void set_radius(best_args *a, const shk_xblock *rounded) {
    size_t n = a->W->cols;
    double x = 0, error = 0, g = ((double)n + 16) * 0x1.1p-24;
    for (size_t i = 0; i < n; i++) {
        const shk_xblock *b = &rounded[i / SHK_PACK_BLOCK];
        double v = (double)a->x[i], e = v - (double)b->d * b->q[i % SHK_PACK_BLOCK];
        x += v * v;
        error += e * e;
    }
    x = sqrt(x), error = sqrt(error);
    a->per_error = rounded_up(x * (1 + 3 * g));
    a->per_norm = rounded_up(error + 3 * g * (x + error));
}

/* Puts the k largest of n in front. */
static void largest_first(float *v, ptrdiff_t n, ptrdiff_t k) {
    for (ptrdiff_t lo = 0, hi = n - 1; lo < hi;) {
        float pivot = v[lo + (hi - lo) / 2];
        ptrdiff_t i = lo, j = hi;
        while (i <= j) {
            while (v[i] > pivot) i++;
            while (v[j] < pivot) j--;
            if (i > j) break;
            float t = v[i];
            v[i++] = v[j];
            v[j--] = t;
        }
        if (k - 1 <= j) hi = j;
        else if (k - 1 >= i) lo = i;
        else return;
    }
}

/* The k-th largest of v [n], which is used up: the front of v collects what is larger than k others. ids [n] is scratch. */
static float kth_largest(const shk_cpu *cpu, float *v, size_t n, size_t k, uint32_t *ids) {
    enum { PIECE = 4096 };
    float least = -INFINITY;
    size_t kept = 0;
    for (size_t i = 0; i < n; i += PIECE) {
        size_t found = cpu->k.select(ids, v + i, n - i < PIECE ? n - i : PIECE, least);
        for (size_t j = 0; j < found; j++) v[kept++] = v[i + ids[j]];
        if (kept < 2 * k && i + PIECE < n) continue;
        largest_first(v, (ptrdiff_t)kept, (ptrdiff_t)k);
        kept = k;
        least = v[0];
        for (size_t j = 1; j < k; j++) least = v[j] < least ? v[j] : least;
    }
    return least;
}

/* Products below this are not wanted if the k-th largest is at least `kth`. softcap is monotonic but for rounding, at most 2^-21
 * of the cap for each of two values, and makes equal what is far beyond the cap. */
static float threshold(double kth, double drop, double cap) {
    double t = kth - drop;
    if (cap > 0) {
        double capped = tanh(kth / cap) - drop / cap - 0x1p-20;
        t = capped > -1 ? cap * (atanh(capped) - 1e-9) : -INFINITY;
    }
    return (float)t;
}

static void values_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const best_args *a = ctx;
    const shk_mat *W = a->W;
    a->cpu->k.dot_rows[W->type](a->value + begin, W->data, W->stride, W->coarse->ids + begin, end - begin, a->x, W->cols);
}

/* One row of y, from w'.x' to what is wanted. */
static void best(best_args *a, const shk_xblock *rounded, float cap, const shk_wanted *wanted) {
    enum { GRAIN = 16384, CANDIDATES = 32 };
    shk_cpu *cpu = a->cpu;
    const shk_coarse *c = a->W->coarse;
    size_t rows = a->W->rows;
    set_radius(a, rounded);
    shk_pool_run(cpu->pool, bounds_range, a, rows, GRAIN);
    float least = threshold((double)kth_largest(cpu, c->lower, rows, wanted->k, c->ids), wanted->drop, (double)cap);
    size_t n = cpu->k.select(c->ids, a->y, rows, nextafterf(least, -INFINITY)); /* what is equal stays */
    a->value = c->lower;
    shk_pool_run(cpu->pool, values_range, a, n, CANDIDATES);
    if (cap > 0) cpu->k.softcap(a->value, n, cap);
    for (size_t i = 0; i < rows; i++) a->y[i] = -INFINITY;
    for (size_t i = 0; i < n; i++) a->y[c->ids[i]] = a->value[i];
    shk_cpu_note(cpu, a->W, n, 1);
}

/* No partial sum of a product with x leaves the range of f32. */
static bool within_range(const float *x, size_t n, double most) {
    double squares = 0;
    for (size_t i = 0; i < n; i++) squares += (double)x[i] * (double)x[i];
    return sqrt(squares) * most < 0.25 * (double)FLT_MAX; /* false for a NaN */
}

bool shk_cpu_linear_best(void *dev, float *y, const float *x, const shk_mat *W, float cap, const shk_wanted *wanted, size_t T) {
    shk_cpu *cpu = dev;
    size_t cols = W->cols;
    for (size_t t = 0; t < T; t++)
        if (wanted[t].k > W->rows || !within_range(x + t * cols, cols, W->coarse->most)) return false;
    shk_cpu_linear(cpu, y, x, cols, &W->coarse->copy, NULL, T);
    for (size_t t = 0; t < T; t++) {
        best_args args = { cpu, W, x + t * cols, y + t * W->rows };
        best(&args, (const shk_xblock *)(void *)cpu->rounded + t * (cols / SHK_PACK_BLOCK), cap, &wanted[t]);
    }
    return true;
}
