/* Norms, elementwise ops, gathers and rotary embedding. */
#include "cuda/residual.cuh"
#include "cuda/weights.cuh"

/* ---- rows: a block each ---- */

/* One for each row; the weights are there before the kernel before is done. */
__global__ void __launch_bounds__(ROW_THREADS) residual(residual_args r, row_parts parts) {
    __shared__ float space[32];
    held_row hy;
    let_next_start();
    residual_weights w = get_weights(r);
    touch(parts);
    wait_for_previous();
    if (parts.at) add_row(&hy, parts, r.n);
    else get_row(&hy, r.y + blockIdx.x * r.n, r.n);
    finish_residual(r, w, blockIdx.x, hy, r.before || parts.at, space);
}

/* y = x * rsqrt(mean x^2 + eps) * w; x and y may be one. A sum has the order of `residual`, in whose place this may come. */
__global__ void __launch_bounds__(ROW_THREADS) rmsnorm(float *y, const float *x, const float *w, size_t n, float eps) {
    __shared__ float space[32];
    in_turn();
    y += blockIdx.x * n, x += blockIdx.x * n;
    float squares = 0;
    for (size_t i = threadIdx.x; i < n; i += ROW_THREADS) squares = fmaf(x[i], x[i], squares);
    float scale = rsqrtf(block_sum(squares, space) / (float)n + eps);
    for (size_t i = threadIdx.x; i < n; i += ROW_THREADS) y[i] = x[i] * scale * (w ? w[i] : 1.0f);
}

/* y *= rms(x) / rms(y) */
__global__ void __launch_bounds__(ROW_THREADS) match_rms(float *y, const float *x, size_t n) {
    __shared__ double space[32];
    in_turn();
    y += blockIdx.x * n, x += blockIdx.x * n;
    double to = 0, from = 0;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) to += (double)x[i] * (double)x[i], from += (double)y[i] * (double)y[i];
    to = block_sum(to, space) / (double)n, from = block_sum(from, space) / (double)n;
    float scale = (float)sqrt(to / (from > 1e-5 ? from : 1e-5));
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) y[i] *= scale;
}

template <format F, bool TILED>
__global__ void embed(float *y, const char *E, size_t stride, size_t rows, size_t cols, size_t padded, const pass_info *pass,
                      float scale, device_work *work) {
    in_turn();
    size_t token = (size_t)pass->rows[blockIdx.x].token;
    if (token >= rows) token = 0;
    for (size_t k = threadIdx.x * 8; k < cols; k += blockDim.x * 8) {
        float v[8];
        load8_of<F, TILED>(v, E, stride, padded, token, k);
        for (size_t i = 0; i < 8 && k + i < cols; i++) y[blockIdx.x * cols + k + i] = v[i] * scale;
    }
    if (!threadIdx.x) atomicAdd(&work->weight_bytes, (unsigned long long)stride);
}

__global__ void gather(float *y, const float *x, const pass_info *pass, size_t from, size_t d) {
    in_turn();
    const float *row = x + pass->out[from + blockIdx.x] * d;
    for (size_t i = threadIdx.x; i < d; i += blockDim.x) y[blockIdx.x * d + i] = row[i];
}

__global__ void slice(float *y, const float *x, size_t ldx, size_t at, size_t n) {
    in_turn();
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) y[blockIdx.x * n + i] = x[blockIdx.x * ldx + at + i];
}

/* ---- elements ---- */

struct add_f {
    __device__ float operator()(float y, float x, float, float) const { return y + x; }
};
struct mul_f {
    __device__ float operator()(float, float a, float b, float) const { return a * b; }
};
struct scale_f {
    __device__ float operator()(float y, float, float, float s) const { return y * s; }
};
struct gelu_f {
    __device__ float operator()(float, float g, float, float) const { return gelu(g); }
};
struct gelu_mul_f {
    __device__ float operator()(float, float g, float u, float) const { return gelu(g) * u; }
};
struct softcap_f {
    __device__ float operator()(float y, float, float, float cap) const { return cap * tanhf(y / cap); }
};
struct tanh_f {
    __device__ float operator()(float, float x, float, float) const { return tanhf(x); }
};

/* y = f(y, a, b, s); what f does not use may be y. b is `wrap` values long, and begins again after them. */
template <typename F>
__global__ void __launch_bounds__(256) elements(float *y, const float *a, const float *b, size_t n, size_t wrap, float s) {
    in_turn();
    for (size_t i = blockIdx.x * (size_t)256 + threadIdx.x; i < n; i += (size_t)gridDim.x * 256)
        y[i] = F()(y[i], a[i], b[wrap < n ? i % wrap : i], s);
}

template <typename F>
static void run_elements(shk_cuda *cu, float *y, const float *a, const float *b, size_t n, size_t wrap, float s) {
    launch(cu, elements<F>, dim3((unsigned)smaller(blocks_for(n, 256), 2048)), 256, 0, y, a, b, n, wrap, s);
}

/* ---- positions ---- */

/* In double: in f32 a position of a million would be off by a tenth of a radian. */
__global__ void rope_table(float *table, const double *freq, size_t half, const pass_info *pass) {
    in_turn();
    double pos = (double)pass->rows[blockIdx.x].pos;
    for (size_t i = threadIdx.x; i < half; i += blockDim.x) {
        double c, s;
        sincos(pos * freq[i], &s, &c);
        table[blockIdx.x * 2 * half + i] = (float)c;
        table[blockIdx.x * 2 * half + half + i] = (float)s;
    }
}

__global__ void rope(float *x, const float *table, size_t half, size_t heads, size_t head_dim, size_t offset) {
    in_turn();
    const float *c = table + blockIdx.x * 2 * half;
    for (size_t i = threadIdx.x; i < heads * half; i += blockDim.x) {
        size_t h = i / half, j = i % half;
        float *p = x + (blockIdx.x * heads + h) * head_dim + offset + j, a = p[0], b = p[half];
        p[0] = a * c[j] - b * c[half + j];
        p[half] = b * c[j] + a * c[half + j];
    }
}

/* ---- on the host ---- */

/* [norm] add [norm]: x += y, around it the norms of both, where they follow each other on the tape. */
typedef struct residual_ops {
    const cuda_op *before, *add, *after; /* norms: NULL if there are none */
    size_t n, used;
} residual_ops;

static residual_ops residual_of(const cuda_op *op, size_t left) {
    residual_ops r = {};
    r.before = left && op->kind == OP_RMSNORM && op->a ? op : NULL;
    r.add = r.before ? op + 1 : op;
    size_t used = r.before ? 2 : 1;
    if (left < used || r.add->kind != OP_ADD) return r;
    if (r.before && (r.before->y != r.before->x || r.add->x != r.before->y)) return r;
    const cuda_op *add = r.add, *after = add + 1;
    bool follows = left > used && after->kind == OP_RMSNORM && after->x == add->y && after->y != add->y && after->y != add->x &&
                   after->n[0] * after->n[1] == add->n[0];
    if (!r.before && !follows) return r;
    r.n = r.before ? r.before->n[1] : after->n[1];
    if (r.n > ROW_THREADS * ROW_HELD || add->n[0] % r.n || (r.before && r.before->n[0] * r.n != add->n[0])) return r;
    if (follows && after->n[1] != r.n) return r;
    r.after = follows ? after : NULL;
    r.used = used + follows;
    return r;
}

size_t cuda_is_residual(const cuda_op *op, size_t left, const float *y, size_t n) {
    residual_ops r = residual_of(op, left);
    return r.used && r.add->x == y && r.n == n ? r.used : 0;
}

residual_args cuda_residual_of(const cuda_op *op, size_t left) {
    residual_ops r = residual_of(op, left);
    const cuda_op none = {}, *before = r.before ? r.before : &none, *after = r.after ? r.after : &none;
    return residual_args{ (float *)r.add->x, before->a, r.add->y, after->y, after->a, r.n, before->f, after->f };
}

size_t cuda_run_residual(shk_cuda *cu, const cuda_op *op, size_t left, row_parts parts) {
    residual_ops r = residual_of(op, left);
    if (!r.used) return 0;
    launch(cu, residual, dim3((unsigned)(r.add->n[0] / r.n)), ROW_THREADS, 0, cuda_residual_of(op, left), parts);
    return r.used;
}

size_t cuda_run_rmsnorm(shk_cuda *cu, const cuda_op *op, size_t left) {
    size_t used = cuda_run_heads(cu, op, left);
    if (!used) used = cuda_run_residual(cu, op, left, row_parts{});
    if (used) return used;
    launch(cu, rmsnorm, dim3((unsigned)op->n[0]), ROW_THREADS, 0, op->y, op->x, op->a, op->n[1], op->f);
    return 1;
}

size_t cuda_run_add(shk_cuda *cu, const cuda_op *op, size_t left) {
    size_t used = cuda_run_residual(cu, op, left, row_parts{});
    if (!used) run_elements<add_f>(cu, op->y, op->x, op->x, op->n[0], op->n[0], 0);
    return used ? used : 1;
}

size_t cuda_run_mul_rows(shk_cuda *cu, const cuda_op *op, size_t) {
    run_elements<mul_f>(cu, op->y, op->a, op->b, op->n[0] * op->n[1], op->n[1], 0);
    return 1;
}

size_t cuda_run_scale(shk_cuda *cu, const cuda_op *op, size_t left) {
    size_t used = cuda_run_heads(cu, op, left);
    if (used) return used;
    run_elements<scale_f>(cu, op->y, op->y, op->y, op->n[0], op->n[0], op->f);
    return 1;
}

size_t cuda_run_gelu_mul(shk_cuda *cu, const cuda_op *op, size_t) {
    if (op->b) run_elements<gelu_mul_f>(cu, op->y, op->a, op->b, op->n[0], op->n[0], 0);
    else run_elements<gelu_f>(cu, op->y, op->a, op->a, op->n[0], op->n[0], 0);
    return 1;
}

size_t cuda_run_softcap(shk_cuda *cu, const cuda_op *op, size_t) {
    run_elements<softcap_f>(cu, op->y, op->y, op->y, op->n[0], op->n[0], op->f);
    return 1;
}

size_t cuda_run_tanh(shk_cuda *cu, const cuda_op *op, size_t) {
    run_elements<tanh_f>(cu, op->y, op->x, op->x, op->n[0], op->n[0], 0);
    return 1;
}

size_t cuda_run_match_rms(shk_cuda *cu, const cuda_op *op, size_t) {
    launch(cu, match_rms, dim3((unsigned)op->n[0]), ROW_THREADS, 0, op->y, op->x, op->n[1]);
    return 1;
}

size_t cuda_run_embed(shk_cuda *cu, const cuda_op *op, size_t) {
    dim3 grid((unsigned)op->n[0]);
    const shk_mat *E = &op->W;
    auto go = [&](auto kernel) {
        launch(cu, kernel, grid, 128, 0, op->y, (const char *)E->data, E->stride, E->rows, E->cols, shk_cuda_padded(E->cols),
               cu->pass, op->f, cu->counted);
    };
#define CALL(F) is_tiled(E) ? go(embed<F, true>) : go(embed<F, false>)
    BY_FORMAT(shk_cuda_format_of(E->type), CALL);
#undef CALL
    return 1;
}

size_t cuda_run_gather(shk_cuda *cu, const cuda_op *op, size_t) {
    launch(cu, gather, dim3((unsigned)op->n[1]), 256, 0, op->y, op->x, cu->pass, op->n[0], op->n[2]);
    return 1;
}

size_t cuda_run_slice(shk_cuda *cu, const cuda_op *op, size_t) {
    launch(cu, slice, dim3((unsigned)op->n[0]), 256, 0, op->y, op->x, op->n[1], op->n[2], op->n[3]);
    return 1;
}

size_t cuda_run_rope_table(shk_cuda *cu, const cuda_op *op, size_t) {
    launch(cu, rope_table, dim3(cu->T), 64, 0, op->y, (const double *)op->out, op->n[0], cu->pass);
    return 1;
}

size_t cuda_run_rope(shk_cuda *cu, const cuda_op *op, size_t left) {
    size_t used = cuda_run_heads(cu, op, left);
    if (used) return used;
    launch(cu, rope, dim3((unsigned)op->n[1]), 256, 0, op->y, op->x, op->n[0], op->n[2], op->n[3], op->n[4]);
    return 1;
}
