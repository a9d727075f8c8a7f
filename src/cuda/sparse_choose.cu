/* Statistical top-k for many tokens of a layer of sparse_tensor.cuh, and the host's side of these layers. */
#include "cuda/sparse_tensor.cuh"

enum { CHOOSE_THREADS = 1024, RUN = WIDEST / CHOOSE_THREADS, CHOSEN = 4096 };
enum { AFTER = 2 }; /* tokens up to which the kernel that adds up does what comes next: for more of them it is slower */

/* A row's theta and g; a block each. Active scores come together in shared memory, if there is room, so that gelu is not computed
 * for the others beside them. */
__global__ void __launch_bounds__(CHOOSE_THREADS) choose(sparse_layer l) {
    __shared__ moments tiles[MOMENTS_MOST], sums[MOMENTS_LANES / 32];
    __shared__ uint32_t words[WIDEST / 32], starts[WIDEST / 32], space[32];
    __shared__ float chosen[CHOSEN];
    __shared__ uint16_t ids[CHOSEN];
    unsigned tid = threadIdx.x, lane = tid % 32, n_words = l.n_padded / 32;
    in_turn();
    const float *s = l.scores + blockIdx.x * (size_t)l.n;
    uint32_t *g = l.h + blockIdx.x * (size_t)l.n_padded;
    float v[RUN];
#pragma unroll
    for (unsigned j = 0; j < RUN; j++) v[j] = j * CHOOSE_THREADS + tid < l.n ? s[j * CHOOSE_THREADS + tid] : 0;
    if (tid < STEP_THREADS) split_row(l.split + (size_t)blockIdx.x * l.in_padded * 4, l.x + blockIdx.x * l.ldx, l.in, l.in_padded);
    if (unsigned n = moments_values(tid, l.n)) tiles[tid] = moments_of(s + tid * MOMENTS_TILE, n, moments_inverse(n, l.tail));
    __syncthreads();
    double pivot = moments_pivot(tiles[0], l.n, l.tail);
    if (tid < MOMENTS_LANES) {
        moments own[MOMENTS_EACH];
        for (unsigned i = 0; i < MOMENTS_EACH; i++) own[i] = tiles[tid + i * MOMENTS_LANES];
        moments m = warp_join(moments_of_lane(own, tid, pivot, l.n, l.tail), moments_add());
        if (!lane) sums[tid / 32] = m;
    }
    __syncthreads();
    moments m = warp_join<MOMENTS_LANES / 32>(sums[lane % (MOMENTS_LANES / 32)], moments_add());
    m = moments_around(pivot, m, l.n, l.inverse_n);
    threshold theta = threshold_of(l, m);
#pragma unroll
    for (unsigned j = 0; j < RUN; j++) {
        unsigned i = j * CHOOSE_THREADS + tid;
        if (i - lane >= l.n_padded) break;
        uint32_t word = __ballot_sync(0xffffffffu, i < l.n && theta.keeps(v[j]));
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
        if (active && fit) chosen[at] = v[j] - theta.shift, ids[at] = (uint16_t)i;
        else g[i] = active ? __float_as_uint(v[j] - theta.shift) : 0;
    }
    __syncthreads();
    /* where they do not fit, of what this thread has written */
    for (unsigned k = tid; k < (fit ? found : l.n); k += CHOOSE_THREADS) {
        unsigned i = fit ? ids[k] : k;
        float value = gelu(fit ? chosen[k] : __uint_as_float(g[i]));
        g[i] = value == 0 ? 0 : __float_as_uint(value);
    }
    if (tid) return;
    uint32_t count = l.dense ? l.n : found;
    l.counts[blockIdx.x] = count;
    atomicAdd(&l.work->flops, 2ull * count * (l.in + l.out));
    if (!blockIdx.x) atomicAdd(&l.work->weight_bytes, (unsigned long long)l.n * (l.ldu + l.ldv));
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

/* Everything of a pass of T tokens at `at`, of few or many; returns where it ends. */
static char *divide(sparse_layer *l, bool few, size_t T, char *at) {
    if (few) {
        take(&l->tiles, T * blocks_for(l->n, MOMENTS_TILE), &at);
        take(&l->found, (T + 1) * l->units, &at);
    } else {
        take(&l->h, T * l->n_padded, &at);
        take(&l->split, T * l->in_padded * 4, &at);
    }
    take(&l->parts, (few ? l->units : l->slices) * T * l->out_padded, &at);
    return at;
}

/* The layer of a sparsify `op` and what uses it; false: they are none of these. */
static bool layer_of(const shk_cuda *cu, const cuda_op *op, size_t left, sparse_layer *l, bool *few) {
    const cuda_op *use = op + 1;
    if (left < 2 || op->kind != OP_SPARSIFY || (use->kind != OP_SPARSE_GLU && use->kind != OP_SPARSE_UP) || cu->major < 8)
        return false;
    const shk_mat *U = &use->W, *V = use->kind == OP_SPARSE_GLU ? &use->V : NULL;
    size_t T = op->n[0], n = op->n[1];
    if (use->active.n != op->active.n || use->n[1] != T || U->rows != n || T > SHK_PASS_ROWS) return false;
    if (!has_rows(U) || n > WIDEST || (V ? !has_rows(V) || V->cols > WIDEST : n % UNIT != 0)) return false;
    *l = sparse_layer{};
    l->U = (const char *)U->data, l->ldu = U->stride, l->in = (unsigned)U->cols, l->in_padded = (unsigned)shk_cuda_padded(U->cols);
    l->T = (unsigned)T, l->n = (unsigned)n, l->n_padded = (unsigned)shk_cuda_padded(n), l->units = l->n_padded / UNIT;
    l->scores = op->x, l->dense = op->dense, l->counts = op->active.n, l->inverse_n = 1 / (double)n, l->tail = moments_tail(l->n);
    l->spread = op->quantile == -INFINITY ? -INFINITY : op->quantile / sqrt((double)(n - op->ddof));
    l->x = use->x, l->ldx = use->n[0], l->y = use->y, l->counters = cu->counters, l->work = cu->counted;
    if (V) {
        l->V = (const char *)V->data, l->ldv = V->stride, l->out = (unsigned)V->cols,
        l->out_padded = (unsigned)shk_cuda_padded(V->cols);
        l->pairs = shk_cuda_format_of(V->type) == SHK_CUDA_BF16, l->slices = slices_of(l->out);
    }
    /* for the longest pass, so that a shape has one form */
    sparse_layer most = *l;
    if (divide(&most, false, SHK_PASS_ROWS, NULL) > (char *)NULL + cu->scratch_bytes ||
        divide(&most, true, FEW, NULL) > (char *)NULL + cu->scratch_bytes)
        return false;
    *few = !l->dense && T <= FEW && cuda_sparse_room(cu, *l, shk_cuda_format_of((V ? V : U)->type)) > 0;
    divide(l, *few, T, cu->scratch);
    if (!V)
        l->h = (uint32_t *)(void *)l->y; /* rows of whole units: h is the result; `choose` has read a row before it writes there */
    return true;
}

moments *cuda_sparse_moments(shk_cuda *cu, const cuda_op *op, size_t left, const float *s) {
    sparse_layer l;
    bool few;
    return layer_of(cu, op, left, &l, &few) && few && l.scores == s ? l.tiles : NULL;
}

size_t cuda_run_sparse_layer(shk_cuda *cu, const cuda_op *op, size_t left, bool tiles) {
    sparse_layer l;
    bool few;
    if (!layer_of(cu, op, left, &l, &few)) return 0;
    format u = shk_cuda_format_of(op[1].W.type), v = l.V ? shk_cuda_format_of(op[1].V.type) : u;
    size_t residual = l.V ? cuda_is_residual(op + 2, left - 2, l.y, l.out) : 0, step = (size_t)l.T * l.out_padded;
    if (few) {
        if (l.T > AFTER) residual = 0;
        cuda_sparse_few(cu, l, residual ? cuda_residual_of(op + 2, left - 2) : residual_args{}, u, v, tiles);
        return 2 + residual;
    }
    launch(cu, choose, dim3(l.T), CHOOSE_THREADS, 0, l);
    cuda_sparse_up(cu, l, u);
    if (!l.V) return 2;
    if (residual) l.y = NULL;
    cuda_sparse_down(cu, l, v);
    if (residual) cuda_run_residual(cu, op + 2, left - 2, row_parts{ l.parts, NULL, step, l.out_padded, l.slices });
    return 2 + residual;
}

void cuda_sparse_setup(shk_cuda *cu) {
    if (cu->major < 8) return;
    cuda_sparse_few_setup(cu);
    cuda_sparse_up_setup(cu);
    cuda_sparse_down_setup(cu);
}
