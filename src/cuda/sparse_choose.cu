/* Statistical top-k for the layers of sparse_tensor.cuh, and the host's side of these. */
#include "cuda/sparse_tensor.cuh"

enum { CHOOSE_THREADS = 1024, RUN = WIDEST / CHOOSE_THREADS, CHOSEN = 4096 };

/* A row's theta, g and active bits; a block each. The last block makes the list of all rows. Active scores come together in shared
 * memory, if there is room, so that gelu is not computed for the others beside them. */
__global__ void __launch_bounds__(CHOOSE_THREADS)
    choose(sparse_layer l, uint32_t *counts, const float *s, double q, unsigned ddof, bool dense) {
    __shared__ double sums[2][32];
    __shared__ uint32_t words[WIDEST / 32], starts[WIDEST / 32], space[32];
    __shared__ float chosen[CHOSEN];
    __shared__ uint16_t ids[CHOSEN];
    unsigned tid = threadIdx.x, warp = tid / 32, lane = tid % 32, n = l.n, n_words = l.n_padded / 32;
    in_turn();
    s += blockIdx.x * (size_t)n;
    uint32_t *g = l.h + blockIdx.x * (size_t)l.n_padded;
    float v[RUN], pivot = s[0];
#pragma unroll
    for (unsigned j = 0; j < RUN; j++) v[j] = j * CHOOSE_THREADS + tid < n ? s[j * CHOOSE_THREADS + tid] : 0;
    if (!up_is_few(l) && tid < STEP_THREADS)
        split_row(l.split + (size_t)blockIdx.x * l.in_padded * 4, l.x + blockIdx.x * l.ldx, l.in, l.in_padded);
    double total = 0, squares = 0; /* of what is left over a value of the row: little is lost in the difference of the sums */
#pragma unroll
    for (unsigned j = 0; j < RUN; j++) {
        double d = j * CHOOSE_THREADS + tid < n ? (double)v[j] - (double)pivot : 0;
        total += d, squares += d * d;
    }
    total = warp_sum(total), squares = warp_sum(squares);
    if (!lane) sums[0][warp] = total, sums[1][warp] = squares;
    __syncthreads();
    total = warp_sum(sums[0][lane]), squares = warp_sum(sums[1][lane]);
    double mean = (double)pivot + total / (double)n;
    squares -= total * total / (double)n;
    if (squares < 0) squares = 0;
    float theta = q == -INFINITY ? -INFINITY : (float)(mean + sqrt(squares / (double)(n - ddof)) * q);
    /* n <= k keeps every entry as it is: the soft form has nothing to subtract; a NaN keeps them too, so that it is seen */
    float shift = theta == -INFINITY ? 0.0f : theta;
    bool all = !(theta > -INFINITY);
#pragma unroll
    for (unsigned j = 0; j < RUN; j++) {
        unsigned i = j * CHOOSE_THREADS + tid;
        if (i - lane >= l.n_padded) break;
        uint32_t word = __ballot_sync(0xffffffffu, i < n && (all || v[j] > theta));
        if (!lane) words[i / 32] = word;
    }
    __syncthreads();
    uint32_t word = tid < n_words ? words[tid] : 0, found, before = block_before((uint32_t)__popc(word), &found, space);
    if (tid < n_words) starts[tid] = before;
    __syncthreads();
    bool fit = found <= CHOSEN;
#pragma unroll
    for (unsigned j = 0; j < RUN; j++) {
        unsigned i = j * CHOOSE_THREADS + tid;
        if (i >= l.n_padded) break;
        bool active = words[i / 32] >> lane & 1;
        uint32_t at = starts[i / 32] + (uint32_t)__popc(words[i / 32] & ((1u << lane) - 1));
        if (active && fit) chosen[at] = v[j] - shift, ids[at] = (uint16_t)i;
        else g[i] = active ? __float_as_uint(v[j] - shift) : 0;
    }
    __syncthreads();
    for (unsigned k = tid; k < (fit ? found : n);
         k += CHOOSE_THREADS) { /* where they do not fit, of what this thread has written */
        unsigned i = fit ? ids[k] : k;
        float value = gelu(fit ? chosen[k] : __uint_as_float(g[i]));
        g[i] = value == 0 ? 0 : __float_as_uint(value);
    }
    if (!tid) {
        uint32_t count = dense ? n : found;
        counts[blockIdx.x] = count;
        atomicAdd(&l.work->flops, 2ull * count * (l.in + l.out));
        if (l.whole && !blockIdx.x) atomicAdd(&l.work->weight_bytes, (unsigned long long)n * (l.ldu + l.ldv));
    }
    if (l.whole) return;
    if (l.T > 1) {
        if (tid < n_words) l.active[blockIdx.x * n_words + tid] = word;
        if (!is_last(l.counters, l.T)) return;
        word = 0;
#pragma unroll 8
        for (unsigned t = 0; t < l.T; t++)
            if (tid < n_words) word |= __ldcg(l.active + t * n_words + tid);
        before = block_before((uint32_t)__popc(word), &found, space);
    }
    if (tid < n_words) l.wanted[tid] = words[tid] = word, starts[tid] = before;
    __syncthreads();
#pragma unroll
    for (unsigned j = 0; j < RUN; j++) {
        unsigned i = j * CHOOSE_THREADS + tid;
        if (i >= l.n_padded || !(words[i / 32] >> lane & 1)) continue;
        l.list[starts[i / 32] + (uint32_t)__popc(words[i / 32] & ((1u << lane) - 1))] = i;
    }
    if (tid) return;
    *l.listed = found;
    atomicAdd(&l.work->weight_bytes, (unsigned long long)found * (l.ldu + l.ldv));
}

void cuda_sparse_choose(shk_cuda *cu, const sparse_layer &l, const cuda_op *op) {
    launch(cu, choose, dim3(l.T), CHOOSE_THREADS, 0, l, op->active.n, op->x, op->quantile, op->ddof, op->dense);
}

/* As many as make the blocks of 128 outputs about those that run at once on a large GPU. */
static unsigned slices_of(unsigned out) {
    unsigned n = 132 / blocks_for(out, 128);
    return n < 1 ? 1 : n < 16 ? n : 16;
}

static bool has_rows(const shk_mat *m) { return !is_tiled(m) && shk_cuda_tile_bytes(shk_cuda_format_of(m->type)); }

/* Takes its memory from *at on. */
template <typename V> static void take(V **p, size_t n, char **at) {
    *p = (V *)(void *)*at;
    *at += (n * sizeof **p + 255) / 256 * 256;
}

/* Everything of a pass of T tokens at `at`; returns where it ends. */
static char *divide(sparse_layer *l, size_t T, char *at) {
    take(&l->h, T * l->n_padded, &at);
    take(&l->active, T * (l->n_padded / 32), &at);
    take(&l->wanted, l->n_padded / 32, &at);
    take(&l->list, l->n_padded, &at);
    take(&l->listed, 1, &at);
    take(&l->split, T * l->in_padded * 4, &at);
    take(&l->parts, l->slices * T * l->out_padded, &at);
    return at;
}

size_t cuda_run_sparse_layer(shk_cuda *cu, const cuda_op *op, size_t left) {
    const cuda_op *use = op + 1;
    if (left < 2 || (use->kind != OP_SPARSE_GLU && use->kind != OP_SPARSE_UP) || cu->major < 8) return 0;
    const shk_mat *U = &use->W, *V = use->kind == OP_SPARSE_GLU ? &use->V : NULL;
    size_t T = op->n[0], n = op->n[1];
    if (use->active.n != op->active.n || use->n[1] != T || U->rows != n || T > SHK_PASS_ROWS) return 0;
    if (!has_rows(U) || n > WIDEST || (V ? !has_rows(V) || V->cols > WIDEST : n % UNIT != 0)) return 0;
    sparse_layer l = {};
    l.U = (const char *)U->data, l.ldu = U->stride, l.in = (unsigned)U->cols, l.in_padded = (unsigned)shk_cuda_padded(U->cols);
    l.T = (unsigned)T, l.n = (unsigned)n, l.n_padded = (unsigned)shk_cuda_padded(n);
    l.x = use->x, l.ldx = use->n[0], l.y = use->y, l.counters = cu->counters, l.work = cu->counted;
    l.whole = op->dense || T > WHOLE;
    if (V) {
        l.V = (const char *)V->data, l.ldv = V->stride, l.out = (unsigned)V->cols,
        l.out_padded = (unsigned)shk_cuda_padded(V->cols);
        l.pairs = shk_cuda_format_of(V->type) == SHK_CUDA_BF16, l.slices = slices_of(l.out);
    }
    /* for the longest pass, so that a shape has one form */
    if (divide(&l, SHK_PASS_ROWS, NULL) > (char *)NULL + cu->scratch_bytes) return 0;
    divide(&l, T, cu->scratch);
    if (!V)
        l.h = (uint32_t *)(void *)l.y; /* rows of whole units: h is the result; `choose` has read a row before it writes there */
    cuda_sparse_choose(cu, l, op);
    cuda_sparse_up(cu, l, shk_cuda_format_of(U->type));
    if (!V) return 2;
    size_t residual = cuda_is_residual(op + 2, left - 2, l.y, l.out);
    if (residual) l.y = NULL;
    cuda_sparse_down(cu, l, shk_cuda_format_of(V->type));
    if (residual) cuda_run_residual(cu, op + 2, left - 2, row_parts{ l.parts, NULL, T * l.out_padded, l.out_padded, l.slices });
    return 2 + residual;
}

void cuda_sparse_setup(shk_cuda *cu) {
    if (cu->major < 8) return;
    cuda_sparse_up_setup(cu);
    cuda_sparse_down_setup(cu);
}
