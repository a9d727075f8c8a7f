/* Statistical top-k and the matrices that it makes sparse; AltUp. */
#include "cuda/weights.cuh"

enum { CHOOSE_THREADS = 1024, GLU_THREADS = 256, NEURONS = 8, SLICES = 160, COLUMNS = 32 };

/* theta, and what is above it, of a row; a block each, a thread a run of RUN neighbours. */
template <int RUN>
__global__ void __launch_bounds__(CHOOSE_THREADS) sparsify(uint32_t *ids, float *value, uint32_t *counts, size_t max,
                                                           const float *s, unsigned n, double q, unsigned ddof, bool dense) {
    __shared__ double space[32];
    __shared__ uint32_t uspace[32];
    in_turn();
    s += blockIdx.x * (size_t)n, ids += blockIdx.x * max, value += blockIdx.x * max;
    unsigned first = threadIdx.x * RUN, have = first >= n ? 0 : n - first < RUN ? n - first : RUN;
    float v[RUN];
    bool fours = n % 4 == 0 && (uintptr_t)s % 16 == 0;
#pragma unroll
    for (int i = 0; i < RUN; i += 4) {
        float4 f = {};
        if (fours && i < have) f = *(const float4 *)(const void *)(s + first + i);
        v[i] = f.x, v[i + 1] = f.y, v[i + 2] = f.z, v[i + 3] = f.w;
#pragma unroll
        for (int j = i; j < i + 4; j++)
            if (!fours && j < have) v[j] = s[first + j];
    }
    double total = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < RUN; i++)
        if (i < have) total += (double)v[i];
    double mean = block_sum(total, space) / (double)n;
#pragma unroll
    for (int i = 0; i < RUN; i++)
        if (i < have) squares += ((double)v[i] - mean) * ((double)v[i] - mean);
    squares = block_sum(squares, space);
    float theta = q == -INFINITY ? -INFINITY : (float)(mean + sqrt(squares / (double)(n - ddof)) * q);
    /* n <= k keeps every entry as it is: the soft form has nothing to subtract; a NaN keeps them too, so that it is seen */
    float shift = theta == -INFINITY ? 0.0f : theta;
    bool all = !(theta > -INFINITY);
    uint32_t found = 0, in_all;
#pragma unroll
    for (int i = 0; i < RUN; i++) found += i < have && (all || dense || v[i] > theta);
    uint32_t at = block_before(found, &in_all, uspace);
#pragma unroll
    for (int i = 0; i < RUN; i++) {
        bool active = all || v[i] > theta;
        if (i >= have || (!active && !dense)) continue;
        ids[at] = first + i;
        value[at++] = active ? v[i] - shift : 0.0f;
    }
    if (!threadIdx.x) counts[blockIdx.x] = in_all;
}

/* dot of a row with x, by a warp */
template <format F>
static __device__ __forceinline__ float dot_row(const char *row, const float *x, unsigned cols, unsigned padded) {
    float sum = 0;
#pragma unroll 4
    for (unsigned k = threadIdx.x % 32 * 8; k < padded; k += 256) {
        float v[8];
        load8<F>(v, row, padded, k);
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (k + i < cols) sum = fmaf(v[i], x[k + i], sum);
    }
    return warp_sum(sum);
}

typedef struct sparse_args {
    const char *U, *V;
    size_t ldu, ldv;
    unsigned in, in_padded, out, out_padded;
    const uint32_t *ids, *counts;
    float *value;
    size_t max;
    const float *x;
    size_t ldx;
    device_work *work;
} sparse_args;

/* A block goes through every SLICES-th run of 8 active neurons: a warp makes the product of a neuron, then all threads add its
 * output rows. parts [T, SLICES, out]. F of SHK_CUDA_FORMATS: the products are in `value` already. */
template <format F, format G> __global__ void __launch_bounds__(GLU_THREADS) sparse_glu(float *parts, sparse_args a, unsigned t0) {
    DYNAMIC_SHARED(float, sum, 4); /* [out_padded] */
    __shared__ float c[NEURONS];
    __shared__ uint32_t id[NEURONS];
    unsigned t = t0 + blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    in_turn();
    unsigned n = a.counts[t];
    const uint32_t *ids = a.ids + t * a.max;
    float *value = a.value + t * a.max;
    const float *x = a.x + t * a.ldx;
    float *out = parts + ((size_t)blockIdx.y * SLICES + blockIdx.x) * a.out;
    bool first = true;
    for (unsigned j0 = blockIdx.x * NEURONS; j0 < n; j0 += SLICES * NEURONS) {
        unsigned j = j0 + warp;
        __syncthreads();
        if (j < n) {
            /* the output row is wanted next: let it come meanwhile */
            for (size_t at = lane * 128; at < a.ldv; at += 32 * 128) prefetch(a.V + ids[j] * a.ldv + at);
            if constexpr (F == SHK_CUDA_FORMATS) {
                if (!lane) c[warp] = value[j];
            } else {
                float dot = dot_row<F>(a.U + ids[j] * a.ldu, x, a.in, a.in_padded);
                if (!lane) c[warp] = value[j] = gelu(value[j]) * dot;
            }
            if (!lane) id[warp] = ids[j];
        } else if (!lane) {
            c[warp] = 0, id[warp] = ids[n - 1];
        }
        __syncthreads();
        for (unsigned k = threadIdx.x * 8; k < a.out_padded; k += GLU_THREADS * 8) {
            float y[8];
#pragma unroll
            for (int i = 0; i < 8; i++) y[i] = first ? 0.0f : sum[k + i];
#pragma unroll
            for (int m = 0; m < NEURONS; m++) {
                float v[8];
                load8<G>(v, a.V + id[m] * a.ldv, a.out_padded, k);
#pragma unroll
                for (int i = 0; i < 8; i++) y[i] = fmaf(c[m], v[i], y[i]);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) sum[k + i] = y[i];
        }
        first = false;
    }
    __syncthreads();
    for (unsigned k = threadIdx.x; !first && k < a.out; k += GLU_THREADS) out[k] = sum[k];
}

/* The slices of a token, in order: eight threads to a column. */
__global__ void __launch_bounds__(GLU_THREADS) add_parts(float *y, const float *parts, sparse_args a, unsigned t0) {
    __shared__ float sums[8][COLUMNS];
    unsigned column = blockIdx.x * COLUMNS + threadIdx.x % COLUMNS, group = threadIdx.x / COLUMNS, t = t0 + blockIdx.y;
    in_turn();
    unsigned runs = (a.counts[t] + NEURONS - 1) / NEURONS, n = runs < SLICES ? runs : SLICES;
    const float *from = parts + (size_t)blockIdx.y * SLICES * a.out + column;
    float sum = 0;
#pragma unroll 20
    for (unsigned p = group; column < a.out && p < n; p += 8) sum += from[(size_t)p * a.out];
    sums[group][threadIdx.x % COLUMNS] = sum;
    __syncthreads();
    if (group || column >= a.out) return;
    for (unsigned g = 1; g < 8; g++) sum += sums[g][threadIdx.x % COLUMNS];
    y[(size_t)t * a.out + column] = sum;
    if (column) return;
    unsigned long long rows = a.counts[t];
    atomicAdd(&a.work->weight_bytes, rows * (a.ldu + a.ldv));
    atomicAdd(&a.work->flops, 2 * rows * (a.in + a.out));
}

/* h [T, n] is 0 already; NULL: not wanted, nor counted */
template <format F> __global__ void __launch_bounds__(GLU_THREADS) sparse_up(float *h, sparse_args a, size_t n) {
    unsigned t = blockIdx.y, warp = threadIdx.x / 32;
    in_turn();
    unsigned active = a.counts[t];
    for (unsigned j = blockIdx.x * 8 + warp; j < active; j += gridDim.x * 8) {
        uint32_t id = a.ids[t * a.max + j];
        float dot = dot_row<F>(a.U + id * a.ldu, a.x + t * a.ldx, a.in, a.in_padded);
        float *value = &a.value[t * a.max + j];
        if (threadIdx.x % 32) continue;
        *value = gelu(*value) * dot;
        if (h) h[t * n + id] = *value;
    }
    if (h && !threadIdx.x && !blockIdx.x) {
        atomicAdd(&a.work->weight_bytes, (unsigned long long)active * a.ldu);
        atomicAdd(&a.work->flops, 2ull * active * a.in);
    }
}

__global__ void __launch_bounds__(256) fill_zero(float *x, size_t n) {
    in_turn();
    for (size_t i = blockIdx.x * (size_t)256 + threadIdx.x; i < n; i += (size_t)gridDim.x * 256) x[i] = 0;
}

/* ---- Gemma 3n ---- */

__global__ void __launch_bounds__(256) altup_predict(float *y, const float *x, const float *coef, size_t n, size_t T, size_t d) {
    in_turn();
    size_t i = blockIdx.x * (size_t)256 + threadIdx.x, t = blockIdx.y, j = blockIdx.z;
    if (i >= d) return;
    float sum = x[(j * T + t) * d + i];
    for (size_t k = 0; k < n; k++) sum = fmaf(coef[(t * n + j) * n + k], x[(k * T + t) * d + i], sum);
    y[(j * T + t) * d + i] = sum;
}

__global__ void __launch_bounds__(256)
    altup_correct(float *x, const float *activated, const float *coef, size_t active, size_t n, size_t T, size_t d) {
    in_turn();
    size_t i = blockIdx.x * (size_t)256 + threadIdx.x, t = blockIdx.y;
    if (i >= d) return;
    float innovation = activated[t * d + i] - x[(active * T + t) * d + i];
    for (size_t j = 0; j < n; j++) x[(j * T + t) * d + i] += (1.0f + coef[t * n + j]) * innovation;
}

/* ---- on the host ---- */

size_t cuda_run_sparsify(shk_cuda *cu, const cuda_op *op, size_t left) {
    if (size_t n = cuda_run_sparse_layer(cu, op, left, false)) return n;
    auto go = [&](auto kernel) {
        launch(cu, kernel, dim3((unsigned)op->n[0]), CHOOSE_THREADS, 0, op->active.ids, op->active.value, op->active.n,
               op->active.max, op->x, (unsigned)op->n[1], op->quantile, op->ddof, op->dense);
    };
    if (op->n[1] <= 16 * CHOOSE_THREADS) go(sparsify<16>);
    else if (op->n[1] <= 256 * CHOOSE_THREADS) go(sparsify<256>); /* in local memory: no published model is so wide */
    else cuda_note(cu, cudaErrorInvalidValue);
    return 1;
}

static sparse_args args_of(shk_cuda *cu, const cuda_op *op) {
    const shk_mat *U = &op->W, *V = &op->V;
    return sparse_args{ (const char *)U->data,
                        (const char *)V->data,
                        U->stride,
                        V->stride,
                        (unsigned)U->cols,
                        (unsigned)shk_cuda_padded(U->cols),
                        (unsigned)V->cols,
                        (unsigned)shk_cuda_padded(V->cols),
                        op->active.ids,
                        op->active.n,
                        op->active.value,
                        op->active.max,
                        op->x,
                        op->n[0],
                        cu->counted };
}

static void run_up(shk_cuda *cu, const cuda_op *op, float *h) {
    size_t n = op->W.rows, T = op->n[1];
    dim3 grid((unsigned)smaller(blocks_for(n, 8), 264), (unsigned)T);
#define CALL(F) launch(cu, sparse_up<F>, grid, GLU_THREADS, 0, h, args_of(cu, op), n)
    BY_FORMAT(shk_cuda_format_of(op->W.type), CALL);
#undef CALL
}

size_t cuda_run_sparse_glu(shk_cuda *cu, const cuda_op *op, size_t) {
    sparse_args a = args_of(cu, op);
    float *parts = (float *)(void *)cu->scratch;
    unsigned T = (unsigned)op->n[1], rows = (unsigned)(cu->scratch_bytes / (SLICES * a.out * sizeof(float)));
    size_t shared = a.out_padded * sizeof(float);
    format f = shk_cuda_format_of(op->W.type), g = shk_cuda_format_of(op->V.type);
    if (f != g) run_up(cu, op, NULL);
    for (unsigned t = 0; t < T; t += rows) {
        unsigned n = (unsigned)smaller(rows, T - t);
#define CALL(F) launch(cu, sparse_glu<F, F>, dim3(SLICES, n), GLU_THREADS, shared, parts, a, t)
#define CALL_DOWN(G) launch(cu, sparse_glu<SHK_CUDA_FORMATS, G>, dim3(SLICES, n), GLU_THREADS, shared, parts, a, t)
        if (f == g) BY_FORMAT(f, CALL);
        else BY_FORMAT(g, CALL_DOWN);
#undef CALL
#undef CALL_DOWN
        launch(cu, add_parts, dim3(blocks_for(a.out, COLUMNS), n), GLU_THREADS, 0, op->y, (const float *)parts, a, t);
    }
    return 1;
}

size_t cuda_run_sparse_up(shk_cuda *cu, const cuda_op *op, size_t) {
    size_t n = op->n[1] * op->W.rows;
    launch(cu, fill_zero, dim3((unsigned)smaller(blocks_for(n, 256), 1024)), 256, 0, op->y, n);
    run_up(cu, op, op->y);
    return 1;
}

size_t cuda_run_altup_predict(shk_cuda *cu, const cuda_op *op, size_t) {
    launch(cu, altup_predict, dim3(blocks_for(op->n[2], 256), (unsigned)op->n[1], (unsigned)op->n[0]), 256, 0, op->y, op->x, op->a,
           op->n[0], op->n[1], op->n[2]);
    return 1;
}

size_t cuda_run_altup_correct(shk_cuda *cu, const cuda_op *op, size_t) {
    launch(cu, altup_correct, dim3(blocks_for(op->n[3], 256), (unsigned)op->n[2]), 256, 0, op->y, op->x, op->a, op->n[0], op->n[1],
           op->n[2], op->n[3]);
    return 1;
}
