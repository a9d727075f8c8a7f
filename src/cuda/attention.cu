/* Attention over everything or a window: a block takes the heads of a group, of one row or a few neighbours of one sequence, over a
 * chunk of positions whose borders are multiples of the chunk's length; then the chunks are put together, in order. */
#include "cuda/rings.cuh"

enum { ATTEND_THREADS = 256, QUERIES = 8, GROUP_HEADS = 16, ATTEND_SHARED = 32 << 10 };

static __device__ __forceinline__ uint64_t first_visible(uint64_t pos, uint32_t window) {
    return window && pos + 1 > window ? pos + 1 - window : 0;
}

/* How a block's share of the queries is found: `cuts` blocks for each key head, of GROUP_HEADS heads of its group at most; `rows`
 * rows, all of one sequence if more than one. */
typedef struct attend_shape {
    uint32_t row0, T, rows, chunks, cuts;
} attend_shape;

/* parts: for each row, head and chunk: the sum of weights, their largest exponent, the weighted sum of values [head_dim]. Positions
 * count from the chunk's beginning, so that a sum has one order whatever rows are beside each other. */
template <shk_type KV>
__global__ void __launch_bounds__(ATTEND_THREADS) attend(float *parts, attention_args a, attend_shape shape) {
    extern __shared__ __align__(16) float q[]; /* [queries, head_dim]; a query is a row and a head */
    __shared__ float scores[GROUP_HEADS][ATTENTION_CHUNK];
    let_next_start(); /* what is known of the pass does not change while it runs: it may be read before */
    uint32_t row = shape.row0 + blockIdx.z * shape.rows, kv = blockIdx.y / shape.cuts, D = a.head_dim, group = a.heads / a.kv_heads;
    uint32_t head = kv * group + blockIdx.y % shape.cuts * GROUP_HEADS, left = (kv + 1) * group - head;
    uint32_t heads = left < GROUP_HEADS ? left : GROUP_HEADS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t rows = shape.row0 + shape.T - row < shape.rows ? shape.row0 + shape.T - row : shape.rows, queries = rows * heads;
    const pass_seq *s = &a.pass->seqs[a.pass->rows[row].seq];
    uint64_t pos = a.pass->rows[row].pos, low = first_visible(pos, a.window), top = pos + rows;
    /* a row's first chunk is the one where what it sees begins: later rows may begin later */
    uint64_t chunk = low / ATTENTION_CHUNK + blockIdx.x, base = chunk * ATTENTION_CHUNK, first = base < low ? low : base;
    if (base >= top) return;
    uint32_t from = (uint32_t)(first - base), n = top - base < ATTENTION_CHUNK ? (uint32_t)(top - base) : ATTENTION_CHUNK;
    ring_run key(keys(a, s, kv), first), value(values(a, s, kv), first);
    wait_for_previous();
    for (uint32_t i = threadIdx.x; i < queries * D; i += ATTEND_THREADS)
        q[i] = a.q[((size_t)(row + i / D / heads) * a.heads + head + i / D % heads) * D + i % D];
    __syncthreads();
    score<KV>(scores[0] + from, ATTENTION_CHUNK, q, queries, D, key, n - from, D, a.softcap);
    __syncthreads();
    for (uint32_t i = warp; i < queries; i += ATTEND_THREADS / 32) {
        uint32_t r = i / heads;
        uint64_t mine = first_visible(pos + r, a.window), mine_chunk = mine / ATTENTION_CHUNK;
        uint32_t begin = mine > base ? (uint32_t)(mine - base) : 0, end = pos + r + 1 > base ? (uint32_t)(pos + r + 1 - base) : 0;
        if (begin < from) begin = from;
        if (end > n) end = n;
        float most = -INFINITY, sum = 0;
        for (uint32_t j = lane; j < end; j += 32)
            if (j >= begin) most = fmaxf(most, scores[i][j]);
        most = warp_max(most);
        if (!(most > -INFINITY)) most = 0; /* all are NaN or -inf: what follows shows it */
        for (uint32_t j = lane; j < n; j += 32)
            if (j >= from) sum += scores[i][j] = j >= begin && j < end ? expf(scores[i][j] - most) : 0.0f;
        sum = warp_sum(sum);
        float *out =
            parts + (((size_t)(row + r - shape.row0) * a.heads + head + i % heads) * shape.chunks + (chunk - mine_chunk)) * (D + 2);
        if (!lane && begin < end) out[0] = sum, out[1] = most;
    }
    __syncthreads();
    for (uint32_t i = 0; i < queries; i += 4)
        for (uint32_t d = threadIdx.x; d < D; d += ATTEND_THREADS) {
            float o[4] = {};
#pragma unroll 16
            for (uint32_t j = from; j < n; j++) {
                float v = kv_get<KV>(value[j - from], d);
#pragma unroll
                for (uint32_t u = 0; u < 4; u++) o[u] = fmaf(scores[i + u < queries ? i + u : i][j], v, o[u]);
            }
            for (uint32_t u = 0; u < 4 && i + u < queries; u++) {
                uint32_t r = (i + u) / heads;
                uint64_t mine = first_visible(pos + r, a.window), mine_chunk = mine / ATTENTION_CHUNK;
                if (chunk < mine_chunk || pos + r < base) continue;
                parts[(((size_t)(row + r - shape.row0) * a.heads + head + (i + u) % heads) * shape.chunks + (chunk - mine_chunk)) *
                          (D + 2) +
                      2 + d] = o[u];
            }
        }
}

__global__ void __launch_bounds__(128)
    join_chunks(float *o, const float *parts, attention_args a, uint32_t row0, uint32_t chunks, device_work *work) {
    let_next_start();
    uint32_t row = row0 + blockIdx.y, head = blockIdx.x, D = a.head_dim;
    uint64_t pos = a.pass->rows[row].pos, low = first_visible(pos, a.window);
    wait_for_previous();
    uint32_t n = (uint32_t)(pos / ATTENTION_CHUNK - low / ATTENTION_CHUNK) + 1;
    const float *part = parts + ((size_t)blockIdx.y * a.heads + head) * chunks * (D + 2);
    float top = -INFINITY, sum = 0;
    for (uint32_t c = 0; c < n; c++) top = fmaxf(top, part[(size_t)c * (D + 2) + 1]);
    for (uint32_t c = 0; c < n; c++) sum = fmaf(part[(size_t)c * (D + 2)], expf(part[(size_t)c * (D + 2) + 1] - top), sum);
    for (uint32_t d = threadIdx.x; d < D; d += 128) {
        float v = 0;
        for (uint32_t c = 0; c < n; c++) v = fmaf(part[(size_t)c * (D + 2) + 2 + d], expf(part[(size_t)c * (D + 2) + 1] - top), v);
        o[((size_t)row * a.heads + head) * D + d] = v / sum;
    }
    if (!threadIdx.x && !head) {
        unsigned long long dims = (pos + 1 - low) * 2 * D;
        atomicAdd(&work->state_bytes, (unsigned long long)((double)(dims * a.kv_heads) * a.value_bytes));
        atomicAdd(&work->flops, 2 * dims * a.heads);
    }
}

__global__ void __launch_bounds__(64) put_in_rings(attention_args a) {
    in_turn();
    uint32_t kv = blockIdx.x, value = threadIdx.x / 32;
    const pass_row *r = &a.pass->rows[blockIdx.y];
    put_in_ring(a, r, &a.pass->seqs[r->seq], kv, value, (value ? a.v : a.k) + ((size_t)blockIdx.y * a.kv_heads + kv) * a.head_dim);
}

void cuda_put_in_rings(shk_cuda *cu, const attention_args &a) { launch(cu, put_in_rings, dim3(a.kv_heads, cu->T), 64, 0, a); }

void cuda_attend(shk_cuda *cu, const cuda_op *op, bool written) {
    const shk_attention *at = &op->at;
    attention_args a = { op->x,
                         op->a,
                         op->b,
                         cu->pass,
                         (uint32_t)at->heads,
                         (uint32_t)at->kv_heads,
                         (uint32_t)at->head_dim,
                         0,
                         (uint32_t)at->layer,
                         (uint32_t)at->window,
                         at->softcap,
                         (float)kv_bytes(op->kv, 32) / 32 };
    if (at->write && !written) cuda_put_in_rings(cu, a);
    uint32_t chunks = (uint32_t)(cu->reach / ATTENTION_CHUNK), group = a.heads / a.kv_heads,
             heads = (uint32_t)smaller(group, GROUP_HEADS);
    if (a.window && chunks > a.window / ATTENTION_CHUNK + 2) chunks = a.window / ATTENTION_CHUNK + 2;
    float *parts = (float *)(void *)cu->scratch;
    size_t each = (size_t)chunks * a.heads * (a.head_dim + 2) * sizeof(float);
    attend_shape shape = { 0, 0, cu->n_seqs == 1 && heads < QUERIES ? QUERIES / heads : 1, chunks, blocks_for(group, GROUP_HEADS) };
    while (shape.rows > 1 && shape.rows * heads * a.head_dim * sizeof(float) > ATTEND_SHARED) shape.rows--;
    uint32_t rows = (uint32_t)(cu->scratch_bytes / each);
    if (!rows) cuda_note(cu, cudaErrorMemoryAllocation);
    for (; rows && shape.row0 < cu->T; shape.row0 += rows) {
        shape.T = (uint32_t)smaller(rows, cu->T - shape.row0);
        dim3 grid(chunks + (shape.rows > 1), a.kv_heads * shape.cuts, blocks_for(shape.T, shape.rows));
#define CALL(KV) launch(cu, attend<KV>, grid, ATTEND_THREADS, shape.rows *heads *a.head_dim * sizeof(float), parts, a, shape)
        BY_KV(op->kv, CALL);
#undef CALL
        launch(cu, join_chunks, dim3(a.heads, shape.T), 128, 0, op->y, (const float *)parts, a, shape.row0, chunks, cu->counted);
    }
}

size_t cuda_run_attention(shk_cuda *cu, const cuda_op *op, size_t) {
    cuda_attend(cu, op, false);
    return 1;
}
