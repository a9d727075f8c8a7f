/* Attention over everything or a window: a block takes heads of a group, of one row or a few neighbours of one sequence, over a
 * chunk of positions whose borders are multiples of the chunk's length; the last block of a row puts its chunks together. What is
 * added up by warps is dealt out to them by position in the chunk, and chunks by number: a row's sums have one order whatever rows
 * are beside it. */
#include "cuda/heads.cuh"

enum { ATTEND_THREADS = 256, WARPS = ATTEND_THREADS / 32, QUERIES = 8, GROUP_HEADS = 16, ATTEND_SHARED = 32 << 10 };

static __device__ __forceinline__ uint64_t first_visible(uint64_t pos, uint32_t window) {
    return window && pos + 1 > window ? pos + 1 - window : 0;
}

/* How a block's share of the queries is found: `cuts` blocks for each key head, of `heads` heads of its group at most (GROUP_HEADS
 * or fewer); `rows` rows, all of one sequence if more than one. */
typedef struct attend_shape {
    uint32_t row0, T, rows, chunks, heads, cuts;
} attend_shape;

/* Of a row, head and chunk in memory: the weighted sum of values [head_dim, rounded up to fours], the sum of weights, their largest
 * exponent. */
static __host__ __device__ constexpr size_t part_floats(uint32_t D) { return (D + 3) / 4 * 4 + 4; }

/* What a block works on. A query is a row and a head: number i is of row `row` + i / heads, head `head` + i % heads. */
typedef struct share {
    uint32_t row, head, heads, queries, D;
    uint64_t pos; /* of the first row */
} share;

/* A sum of a query's values, by the warps' sums red [Q, WARPS, D]: f(query, dim, sum). */
template <int Q, typename F> static __device__ __forceinline__ void add_warps(const float *red, uint32_t i0, const share &b, F f) {
    __syncthreads();
    for (uint32_t x = threadIdx.x; x < Q * b.D; x += ATTEND_THREADS) {
        uint32_t i = x / b.D, d = x % b.D;
        if (i0 + i >= b.queries) break;
        float v[WARPS], sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) v[w] = red[(i * WARPS + w) * b.D + d];
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += v[w];
        f(i0 + i, d, sum);
    }
    __syncthreads();
}

/* The chunks of the block's rows, in memory, to o. */
template <int Q>
static __device__ __forceinline__ void join_chunks(float *o, const float *parts, float *red, const attention_args &a,
                                                   const attend_shape &shape, const share &b) {
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, D4 = (b.D + 3) / 4 * 4;
    size_t each = part_floats(b.D);
    __shared__ float sums[Q];
    for (uint32_t i0 = 0; i0 < b.queries; i0 += Q) {
        for (uint32_t u = 0; u < Q && i0 + u < b.queries; u++) {
            uint32_t r = (i0 + u) / b.heads, head = b.head + (i0 + u) % b.heads;
            uint64_t pos = b.pos + r;
            uint32_t n = (uint32_t)(pos / ATTENTION_CHUNK - first_visible(pos, a.window) / ATTENTION_CHUNK) + 1;
            const float *part = parts + ((size_t)(b.row + r - shape.row0) * a.heads + head) * shape.chunks * each;
            float top = -INFINITY, sum = 0;
            for (uint32_t c = lane; c < n; c += 32) top = fmaxf(top, __ldcg(part + c * each + D4 + 1));
            top = warp_max(top);
            for (uint32_t c = lane; c < n; c += 32)
                sum = fmaf(__ldcg(part + c * each + D4), expf(__ldcg(part + c * each + D4 + 1) - top), sum);
            sum = warp_sum(sum);
            if (!threadIdx.x) sums[u] = sum;
            for (uint32_t d = lane * 4; d < D4; d += 128) {
                float v[4] = {};
#pragma unroll 8
                for (uint32_t c = warp; c < n; c += WARPS) {
                    float4 p = __ldcg((const float4 *)(const void *)(part + c * each + d));
                    float weight = expf(__ldcg(part + c * each + D4 + 1) - top);
                    v[0] = fmaf(p.x, weight, v[0]), v[1] = fmaf(p.y, weight, v[1]);
                    v[2] = fmaf(p.z, weight, v[2]), v[3] = fmaf(p.w, weight, v[3]);
                }
                for (uint32_t e = 0; e < 4 && d + e < b.D; e++) red[(u * WARPS + warp) * b.D + d + e] = v[e];
            }
        }
        add_warps<Q>(red, i0, b, [&](uint32_t i, uint32_t d, float v) {
            o[((size_t)(b.row + i / b.heads) * a.heads + b.head + i % b.heads) * b.D + d] = v / sums[i - i0];
        });
    }
}

/* `jobs`: what is to be done to the heads before, where the block has one row. Shared memory: q [queries, D] and a key and a value
 * [2, D], then the warps' sums [Q, WARPS, D] of the values of Q queries at once in their place. */
template <shk_type KV, int N, int Q>
__global__ void __launch_bounds__(ATTEND_THREADS)
    attend(float *o, float *parts, uint32_t *counters, attention_args a, attend_shape shape, const __grid_constant__ head_jobs jobs,
           device_work *work) {
    DYNAMIC_SHARED(float, space, 16);
    __shared__ float scores[GROUP_HEADS][ATTENTION_CHUNK], sums[GROUP_HEADS];
    let_next_start(); /* what is known of the pass does not change while it runs: it may be read before */
    uint32_t kv = blockIdx.y / shape.cuts, D = a.head_dim, group = a.heads / a.kv_heads, row = shape.row0 + blockIdx.z * shape.rows;
    uint32_t head = kv * group + blockIdx.y % shape.cuts * shape.heads, left = (kv + 1) * group - head;
    uint32_t heads = left < shape.heads ? left : shape.heads, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t rows = shape.row0 + shape.T - row < shape.rows ? shape.row0 + shape.T - row : shape.rows;
    const pass_seq *s = &a.pass->seqs[a.pass->rows[row].seq];
    uint64_t pos = a.pass->rows[row].pos, low = first_visible(pos, a.window), top = pos + rows;
    share b = { row, head, heads, rows * heads, D, pos };
    /* a row's first chunk is the one where what it sees begins: later rows may begin later */
    uint64_t chunk = low / ATTENTION_CHUNK + blockIdx.x, base = chunk * ATTENTION_CHUNK, first = base < low ? low : base;
    if (base >= top) return;
    uint32_t from = (uint32_t)(first - base), n = top - base < ATTENTION_CHUNK ? (uint32_t)(top - base) : ATTENTION_CHUNK;
    uint32_t blocks = (uint32_t)((top - 1) / ATTENTION_CHUNK - low / ATTENTION_CHUNK) + 1;
    ring_run key(keys(a, s, kv), first), value(values(a, s, kv), first);
    uint32_t lines = (uint32_t)((key.view.bytes + 127) / 128);
    for (uint32_t i = threadIdx.x; jobs.n && i < (n - from) * lines; i += ATTEND_THREADS) { /* on their way while q is made */
        prefetch(key[i / lines] + i % lines * 128);
        prefetch(value[i / lines] + i % lines * 128);
    }
    head_share h = { pos, row, head, heads, kv, chunk == pos / ATTENTION_CHUNK };
    head_piece piece;
    if (jobs.n) piece = piece_of(jobs, a, s, h, 0);
    touch(a), touch(shape);
    wait_for_previous();
    if (jobs.n) finish_heads<KV>(space, piece, jobs, a, s, h);
    else
        for (uint32_t i = threadIdx.x; i < b.queries * D; i += ATTEND_THREADS)
            space[i] = a.q[((size_t)(row + i / D / heads) * a.heads + head + i / D % heads) * D + i % D];
    __syncthreads();
    score<KV, N, Q, 2>(scores[0] + from, ATTENTION_CHUNK, space, b.queries, D, key, n - from, D, a.softcap);
    __syncthreads();
    size_t each = part_floats(D), D4 = each - 4;
    /* where a query's chunk goes; NULL: the chunk is none of the query's */
    auto part_of = [&](uint32_t i) {
        uint32_t r = i / heads;
        uint64_t mine = first_visible(pos + r, a.window) / ATTENTION_CHUNK;
        size_t at = ((size_t)(row + r - shape.row0) * a.heads + head + i % heads) * shape.chunks + (chunk - mine);
        return chunk < mine || pos + r < base ? (float *)NULL : parts + at * each;
    };
    for (uint32_t i = warp; i < b.queries; i += WARPS) {
        uint32_t r = i / heads;
        uint64_t mine = first_visible(pos + r, a.window);
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
        float *out = part_of(i);
        if (lane) continue;
        sums[i] = sum;
        if (out && blocks > 1) out[D4] = sum, out[D4 + 1] = most;
    }
    __syncthreads();
    for (uint32_t i0 = 0; i0 < b.queries; i0 += Q) {
        for (uint32_t d = lane * N; d < D; d += 32 * N) {
            constexpr uint32_t EACH = ATTENTION_CHUNK / WARPS;
            kv_run<KV, N> v[EACH];
            float sum[Q][N] = {};
#pragma unroll
            for (uint32_t u = 0; u < EACH; u++)
                if (uint32_t j = u * WARPS + warp; j >= from && j < n) v[u].load(value[j - from], d);
#pragma unroll
            for (uint32_t u = 0; u < EACH; u++) {
                uint32_t j = u * WARPS + warp;
                if (j < from || j >= n) continue;
                float one[N];
                v[u].get(one);
#pragma unroll
                for (uint32_t i = 0; i < Q; i++) {
                    if (i0 + i >= b.queries) break;
#pragma unroll
                    for (int e = 0; e < N; e++) sum[i][e] = fmaf(scores[i0 + i][j], one[e], sum[i][e]);
                }
            }
#pragma unroll
            for (uint32_t i = 0; i < Q; i++) put_floats<N>(space + (i * WARPS + warp) * D + d, sum[i]);
        }
        add_warps<Q>(space, i0, b, [&](uint32_t i, uint32_t d, float v) {
            float *out = part_of(i);
            if (blocks == 1) o[((size_t)(row + i / heads) * a.heads + head + i % heads) * D + d] = v / sums[i];
            else if (out) out[d] = v;
        });
    }
    if (blocks > 1) {
        if (!is_last(&counters[blockIdx.z * gridDim.y + blockIdx.y], blocks)) return;
        join_chunks<Q>(o, parts, space, a, shape, b);
    }
    if (threadIdx.x || blockIdx.y) return;
    unsigned long long dims = 0;
    for (uint32_t r = 0; r < rows; r++) dims += (pos + r + 1 - first_visible(pos + r, a.window)) * 2 * D;
    atomicAdd(&work->state_bytes, (unsigned long long)((double)(dims * a.kv_heads) * a.value_bytes));
    atomicAdd(&work->flops, 2 * dims * a.heads);
}

__global__ void __launch_bounds__(64) put_in_rings(attention_args a) {
    in_turn();
    uint32_t kv = blockIdx.x, value = threadIdx.x / 32;
    const pass_row *r = &a.pass->rows[blockIdx.y];
    put_in_ring(a, r->pos, &a.pass->seqs[r->seq], kv, value,
                (value ? a.v : a.k) + ((size_t)blockIdx.y * a.kv_heads + kv) * a.head_dim);
}

void cuda_put_in_rings(shk_cuda *cu, const attention_args &a) { launch(cu, put_in_rings, dim3(a.kv_heads, cu->T), 64, 0, a); }

void cuda_attend(shk_cuda *cu, const cuda_op *op, const head_jobs *jobs, bool written) {
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
    uint32_t most = GROUP_HEADS; /* heads to a block: steps have few blocks, which are the sooner done */
    if (jobs) most = cu->T <= 4 ? 1 : 2;
    uint32_t chunks = (uint32_t)(cu->reach / ATTENTION_CHUNK), group = a.heads / a.kv_heads, heads = (uint32_t)smaller(group, most),
             D = a.head_dim;
    if (a.window && chunks > a.window / ATTENTION_CHUNK + 2) chunks = a.window / ATTENTION_CHUNK + 2;
    float *parts = (float *)(void *)cu->scratch;
    size_t each = (size_t)chunks * a.heads * part_floats(D) * sizeof(float), row_bytes = heads * D * sizeof(float);
    attend_shape shape = { 0, 0, 1, chunks, heads, blocks_for(group, heads) };
    if (cu->n_seqs == 1 && heads < QUERIES) shape.rows = (uint32_t)smaller(QUERIES / heads, cu->T);
    while (shape.rows > 1 && shape.rows * row_bytes > ATTEND_SHARED) shape.rows--;
    size_t shared = shape.rows * row_bytes + 2 * D * sizeof(float), sums = WARPS * D * sizeof(float);
    bool one = shape.rows * heads == 1 || D > 256;
    uint32_t rows = (uint32_t)smaller(cu->scratch_bytes / each, COUNTERS / (a.kv_heads * shape.cuts));
    if (!rows) cuda_note(cu, cudaErrorMemoryAllocation);
    for (; rows && shape.row0 < cu->T; shape.row0 += rows) {
        shape.T = (uint32_t)smaller(rows, cu->T - shape.row0);
        dim3 grid(chunks + (shape.rows > 1), a.kv_heads * shape.cuts, blocks_for(shape.T, shape.rows));
        auto go = [&](auto kernel, uint32_t q) {
            launch(cu, kernel, grid, ATTEND_THREADS, shared > q * sums ? shared : q * sums, op->y, parts, cu->counters, a, shape,
                   jobs ? *jobs : head_jobs{}, cu->counted);
        };
#define CALL(KV, N) one ? go(attend<KV, N, 1>, 1) : go(attend<KV, N, 4>, 4)
        BY_KV(op->kv, D % 8 == 0, CALL);
#undef CALL
    }
}

size_t cuda_run_attention(shk_cuda *cu, const cuda_op *op, size_t) {
    cuda_attend(cu, op, NULL, false);
    return 1;
}
