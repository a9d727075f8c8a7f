/* Spark attention: scores by the first dims of all visible keys, a threshold from their mean and deviation, and only for what is
 * above it the rest of the key and the value. */
#include "cuda/heads.cuh"

enum {
    SCORE_THREADS = 4 * ATTENTION_CHUNK,
    CHOOSE_THREADS = 256,
    KEPT_THREADS = CHOOSE_THREADS,
    WARPS = KEPT_THREADS / 32,
    OWN_DIMS = (int)HEAD_DIM / KEPT_THREADS, /* of a thread */
    GROUP_HEADS = 16,
    /* What a head keeps is cut into parts of a multiple of KEPT_CHUNK positions, KEPT_PARTS at most. */
    KEPT_PARTS = 16,
    KEPT_CHUNK = 64,
    /* Up to so many positions each block that goes through what is kept makes the scores by itself, or (and rows) finds out what
     * is kept, which saves kernels. */
    NEAR_REACH = 512,
    CHOOSE_REACH = 4096,
    HELD_REACH = 8192, /* so many scores the threads of a block hold */
    CHOOSE_ROWS = 4
};
static_assert(CHOOSE_REACH / KEPT_PARTS <= NEAR_REACH, "a part has room in a block");

/* Of a row and head, between the kernels: score j and, once chosen, the position and weight of the j-th kept. */
typedef struct pair_space {
    float *scores;
    uint32_t *ids;
    size_t positions;
} pair_space;

typedef struct choice {
    uint32_t kept;
    float sum, theta;
} choice;

/* As shk_normal_quantile (src/ops.h). */
static __device__ __noinline__ double quantile(double p) {
    if (!(p > 0)) return -INFINITY;
    if (p >= 1) return INFINITY;
    double tail = p < 0.5 ? p : 1 - p, t = sqrt(-2 * log(tail));
    double x = -(t - (2.30753 + 0.27061 * t) / (1 + 0.99229 * t + 0.04481 * t * t));
    for (int i = 0; i < 8; i++) {
        double cdf = 0.5 * erfc(-x * 0.70710678118654752440), pdf = exp(-0.5 * x * x) * 0.39894228040143267794;
        double step = (cdf - tail) / pdf;
        step /= 1 + 0.5 * x * step;
        x -= step;
        if (fabs(step) < 1e-15 * (1 + fabs(x))) break;
    }
    return p < 0.5 ? x : -x;
}

/* Positions of a part. */
static __device__ __forceinline__ uint32_t part_size(uint32_t kept) {
    uint32_t n = (kept + KEPT_PARTS - 1) / KEPT_PARTS;
    return n <= KEPT_CHUNK ? KEPT_CHUNK : (n + KEPT_CHUNK - 1) / KEPT_CHUNK * KEPT_CHUNK;
}

/* Where the kept go, in order: their weights and positions; all, or one part. */
typedef struct wanted_part {
    float *weights;
    uint32_t *ids, part;
    bool all;
} wanted_part;

/* What a threshold needs that scores do not change: how many there are, their quantile; by the block, before its first barrier. A
 * long computation, for which there is time while the kernel before runs. */
typedef struct spread {
    bool all;        /* as many as may be kept, or fewer */
    double quantile; /* over the root of how many count */
} spread;
static __device__ __forceinline__ void find_spread(spread *shared, size_t n, double k, unsigned ddof) {
    if (threadIdx.x) return;
    shared->all = (double)n <= k || n <= ddof;
    if (!shared->all) shared->quantile = quantile(1 - k / (double)n) / sqrt((double)(n - ddof));
}

/* Said, so that all kernels round alike. */
static __device__ __forceinline__ double add_square(double sum, float v, double mean) {
    return fma((double)v - mean, (double)v - mean, sum);
}
static __device__ __forceinline__ float theta_of(double mean, double squares, const spread &how) {
    return (float)fma(sqrt(squares), how.quantile, mean);
}

/* What a head attends to, by CHOOSE_THREADS: positions whose score get(j), j < n, is above the threshold, each with a weight. */
template <typename G> static __device__ __forceinline__ choice choose(G get, size_t n, const spread &how, wanted_part to) {
    __shared__ double space[32];
    __shared__ float fspace[32];
    __shared__ uint32_t uspace[32];
    double total = 0, squares = 0;
    float top = -INFINITY, theta = -INFINITY, sum = 0;
#pragma unroll 8
    for (size_t j = threadIdx.x; j < n; j += CHOOSE_THREADS) {
        float v = get(j);
        total += (double)v, top = fmaxf(top, v);
    }
    top = block_max(top, fspace);
    if (!how.all) {
        double mean = block_sum(total, space) / (double)n;
#pragma unroll 8
        for (size_t j = threadIdx.x; j < n; j += CHOOSE_THREADS) squares = add_square(squares, get(j), mean);
        theta = theta_of(mean, block_sum(squares, space), how);
    }
    uint32_t kept = 0;
#pragma unroll 8
    for (size_t j = threadIdx.x; j < n; j += CHOOSE_THREADS) {
        float v = get(j);
        if (v > theta) sum += expf(v - top), kept++;
    }
    sum = block_sum(sum, fspace);
    kept = block_sum(kept, uspace);
    uint32_t have = 0, size = to.all ? kept : part_size(kept), begin = to.part * size;
    uint32_t end = begin + size < kept ? begin + size : kept;
    float next = threadIdx.x < n ? get(threadIdx.x) : 0;
#pragma unroll 1
    for (size_t j0 = 0; j0 < n && have < end; j0 += CHOOSE_THREADS) {
        size_t j = j0 + threadIdx.x, after = j + CHOOSE_THREADS;
        float v = next;
        next = after < n ? get(after) : 0;
        bool keep = j < n && v > theta;
        uint32_t found, at = have + block_rank(keep, &found, uspace);
        if (keep && at >= begin && at < end) {
            to.weights[at - begin] = expf(v - top);
            to.ids[at - begin] = (uint32_t)j;
        }
        have += found;
    }
    __syncthreads();
    return choice{ kept, sum, theta };
}

/* The same of at most EACH * CHOOSE_THREADS scores, which threads hold: fewer steps. All sums have the order of those. */
template <int EACH, typename G>
static __device__ __forceinline__ choice choose_held(G get, uint32_t n, const spread &how, wanted_part to) {
    static_assert(EACH <= 32, "a lane for each of a thread's scores");
    __shared__ double space[32];
    __shared__ float tops[WARPS], sums[WARPS];
    __shared__ uint32_t counts[EACH][WARPS];
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float v[EACH], top = -INFINITY, theta = -INFINITY, sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < EACH; i++) {
        uint32_t j = threadIdx.x + i * CHOOSE_THREADS;
        v[i] = j < n ? get(j) : -INFINITY;
    }
#pragma unroll
    for (uint32_t i = 0; i < EACH; i++) top = fmaxf(top, v[i]);
    top = warp_max(top);
    if (!lane) tops[warp] = top;
    if (!how.all) {
        double total = 0, squares = 0;
#pragma unroll
        for (uint32_t i = 0; i < EACH; i++)
            if (threadIdx.x + i * CHOOSE_THREADS < n) total += (double)v[i];
        double mean = block_sum(total, space) / (double)n;
#pragma unroll
        for (uint32_t i = 0; i < EACH; i++)
            if (threadIdx.x + i * CHOOSE_THREADS < n) squares = add_square(squares, v[i], mean);
        theta = theta_of(mean, block_sum(squares, space), how);
    } else {
        __syncthreads();
    }
    top = warp_join<WARPS>(tops[lane % WARPS], [](float a, float b) { return fmaxf(a, b); });
#pragma unroll
    for (uint32_t i = 0; i < EACH; i++) {
        bool keep = threadIdx.x + i * CHOOSE_THREADS < n && v[i] > theta;
        uint32_t votes = __ballot_sync(0xffffffffu, keep);
        if (keep) sum += expf(v[i] - top);
        if (!lane) counts[i][warp] = (uint32_t)__popc(votes);
    }
    sum = warp_sum(sum);
    if (!lane) sums[warp] = sum;
    __syncthreads();
    sum = warp_join<WARPS>(sums[lane % WARPS], [](float a, float b) { return a + b; });
    uint32_t before = 0, row = 0; /* lane i: kept in run i before this warp's, in all of it */
    for (uint32_t w = 0; lane < EACH && w < WARPS; w++) {
        if (w == warp) before = row;
        row += counts[lane][w];
    }
    uint32_t up_to = row;
    for (uint32_t i = 1; i < 32; i *= 2) {
        uint32_t other = __shfl_up_sync(0xffffffffu, up_to, i);
        if (lane >= i) up_to += other;
    }
    before += up_to - row;
    uint32_t kept = __shfl_sync(0xffffffffu, up_to, EACH - 1), size = to.all ? kept : part_size(kept), begin = to.part * size;
    uint32_t end = begin + size < kept ? begin + size : kept;
#pragma unroll
    for (uint32_t i = 0; i < EACH; i++) {
        uint32_t j = threadIdx.x + i * CHOOSE_THREADS, first = __shfl_sync(0xffffffffu, before, (int)i);
        bool keep = j < n && v[i] > theta;
        uint32_t at = first + (uint32_t)__popc(__ballot_sync(0xffffffffu, keep) & ((1u << lane) - 1));
        if (!keep || at < begin || at >= end) continue;
        to.weights[at - begin] = expf(v[i] - top);
        to.ids[at - begin] = j;
    }
    __syncthreads();
    return choice{ kept, sum, theta };
}

/* What heads attend to, for longer sequences: weights and ids are in memory then. In place: the kept move to the front, never past
 * what is still to be read. */
template <bool HELD>
__global__ void __launch_bounds__(CHOOSE_THREADS)
    spark_choose(choice *choices, pair_space p, attention_args a, uint32_t row0, double k, unsigned ddof) {
    __shared__ spread how;
    size_t pair = (size_t)blockIdx.y * a.heads + blockIdx.x, n = (size_t)a.pass->rows[row0 + blockIdx.y].pos + 1;
    float *s = p.scores + pair * p.positions;
    wanted_part to = { s, p.ids + pair * p.positions, 0, true };
    let_next_start();
    find_spread(&how, n, k, ddof);
    __syncthreads();
    wait_for_previous();
    auto get = [=](size_t j) { return __ldcg(s + j); };
    choice c = HELD ? choose_held<HELD_REACH / CHOOSE_THREADS>(get, (uint32_t)n, how, to) : choose(get, n, how, to);
    if (!threadIdx.x) choices[pair] = c;
}

/* `jobs`: what is to be done to the heads before; the block of the row's own position keeps q in `finished` then. */
template <shk_type KV, int N>
__global__ void __launch_bounds__(SCORE_THREADS) spark_scores(pair_space p, attention_args a, uint32_t row0, uint32_t cuts,
                                                              const __grid_constant__ head_jobs jobs, float *finished) {
    DYNAMIC_SHARED(float, q, 16); /* [heads of the group, head_dim], a key and a value [2, head_dim] */
    let_next_start();
    uint32_t row = row0 + blockIdx.z, kv = blockIdx.y / cuts, rank = a.rank, group = a.heads / a.kv_heads, D = a.head_dim;
    uint32_t head = kv * group + blockIdx.y % cuts * GROUP_HEADS, left = (kv + 1) * group - head;
    uint32_t heads = left < GROUP_HEADS ? left : GROUP_HEADS;
    const pass_row *r = &a.pass->rows[row];
    const pass_seq *s = &a.pass->seqs[r->seq];
    uint64_t first = (uint64_t)blockIdx.x * ATTENTION_CHUNK;
    if (first > r->pos) return;
    uint32_t n = r->pos + 1 - first < ATTENTION_CHUNK ? (uint32_t)(r->pos + 1 - first) : ATTENTION_CHUNK;
    bool own = blockIdx.x == r->pos / ATTENTION_CHUNK;
    ring_run key(keys(a, s, kv), first);
    head_share h = { r->pos, row, head, heads, kv, own };
    head_piece piece;
    if (jobs.n) piece = piece_of(jobs, a, s, h, 0);
    touch(a), touch(p);
    wait_for_previous();
    if (jobs.n) finish_heads<KV>(q, piece, jobs, a, s, h);
    else
        for (uint32_t i = threadIdx.x; i < heads * D; i += SCORE_THREADS) q[i] = a.q[((size_t)row * a.heads + head) * D + i];
    __syncthreads();
    for (uint32_t i = threadIdx.x; jobs.n && own && i < heads * D; i += SCORE_THREADS)
        finished[((size_t)row * a.heads + head) * D + i] = q[i];
    score<KV, N, 4, 2>(p.scores + ((size_t)blockIdx.z * a.heads + head) * p.positions + first, p.positions, q, heads, D, key, n,
                       rank, 0);
}

/* The sum of weight[j] * softplus(q2 . k2) * v over m <= KEPT_CHUNK positions where[j], added to total: of dims threadIdx.x,
 * threadIdx.x + KEPT_THREADS, ... q2 [rest] and red [WARPS, D] in shared memory. Positions are dealt out to warps. */
template <shk_type KV, int N>
static __device__ __forceinline__ void add_chunk(float total[OWN_DIMS], float *weight, const uint32_t *where, uint32_t m,
                                                 const float *q2, uint32_t rest, float *red, uint32_t D, const ring_run &key,
                                                 const ring_run &value) {
    constexpr uint32_t EACH = KEPT_CHUNK / WARPS;
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    /* eight lanes take a position, and another one beside it, so that their keys are on their way at once */
    constexpr uint32_t ROUNDS = KEPT_CHUNK / (KEPT_THREADS / 8);
    const char *k[ROUNDS];
    float dot[ROUNDS] = {}, own = 0;
#pragma unroll
    for (uint32_t r = 0; r < ROUNDS; r++) {
        uint32_t j = threadIdx.x / 8 + r * (KEPT_THREADS / 8);
        k[r] = key[where[j < m ? j : 0]];
    }
#pragma unroll 2
    for (uint32_t i = lane % 8 * N; i < rest; i += 8 * N) {
        kv_run<KV, N> run[ROUNDS];
#pragma unroll
        for (uint32_t r = 0; r < ROUNDS; r++) run[r].load(k[r], i);
        float v[N], w[N];
        get_floats<N>(w, q2 + i);
#pragma unroll
        for (uint32_t r = 0; r < ROUNDS; r++) {
            run[r].get(v);
#pragma unroll
            for (int e = 0; e < N; e++) dot[r] = fmaf(w[e], v[e], dot[r]);
        }
    }
#pragma unroll
    for (uint32_t r = 0; r < ROUNDS; r++) {
        dot[r] = warp_join<8>(dot[r], [](float a, float b) { return a + b; });
        if (lane % 8 == r) own = dot[r];
    }
    uint32_t mine = threadIdx.x / 8 + lane % 8 * (KEPT_THREADS / 8); /* of lane r the r-th */
    if (lane % 8 < ROUNDS && mine < m) weight[mine] *= fmaxf(own, 0) + log1pf(expf(-fabsf(own)));
    __syncthreads();
#pragma unroll 1
    for (uint32_t d = lane * N; d < D; d += 32 * N) {
        kv_run<KV, N> v[EACH];
        float sum[N] = {};
#pragma unroll
        for (uint32_t u = 0; u < EACH; u++)
            if (u * WARPS + warp < m) v[u].load(value[where[u * WARPS + warp]], d);
#pragma unroll
        for (uint32_t u = 0; u < EACH; u++) {
            if (u * WARPS + warp >= m) break;
            float one[N];
            v[u].get(one);
#pragma unroll
            for (int e = 0; e < N; e++) sum[e] = fmaf(weight[u * WARPS + warp], one[e], sum[e]);
        }
        put_floats<N>(red + warp * D + d, sum);
    }
    __syncthreads();
#pragma unroll
    for (uint32_t i = 0; i < OWN_DIMS; i++) {
        uint32_t d = threadIdx.x + i * KEPT_THREADS;
        float sum = 0;
        if (d >= D) break;
#pragma unroll
        for (uint32_t w = 0; w < WARPS; w++) sum += red[w * D + d];
        total[i] += sum;
    }
    __syncthreads();
}

/* Blocks take turns at the parts of what a head keeps; the last of them adds these up. choices: NULL if each is to choose itself.
 * NEAR: it makes the scores before, of heads for which `jobs` says what is to be done to them. kept [T, heads] gets the numbers.
 * Shared memory: q [D], and the warps' sums [WARPS, D], before which a key and a value are there. */
template <shk_type KV, int N, bool NEAR>
__global__ void __launch_bounds__(KEPT_THREADS)
    spark_kept(float *o, float *parts, uint32_t *kept, const choice *choices, pair_space p, attention_args a, uint32_t row0,
               double k, unsigned ddof, const __grid_constant__ head_jobs jobs, uint32_t *counters, device_work *work) {
    DYNAMIC_SHARED(float, q, 16);
    __shared__ float weights[NEAR_REACH], near[NEAR ? NEAR_REACH : 1];
    __shared__ uint32_t positions[NEAR_REACH];
    __shared__ spread how;
    let_next_start();
    uint32_t head = blockIdx.y, row = row0 + blockIdx.z, D = a.head_dim, rest = D - a.rank, kv = head / (a.heads / a.kv_heads);
    size_t pair = (size_t)blockIdx.z * a.heads + head;
    const pass_row *r = &a.pass->rows[row];
    const pass_seq *s = &a.pass->seqs[r->seq];
    size_t n = (size_t)r->pos + 1;
    /* no more is kept than there is: others need the block's place while the kernel before runs */
    if (NEAR && gridDim.x > 1 && blockIdx.x * KEPT_CHUNK >= n) return;
    /* no window: the rings hold all positions where they are */
    ring_run first(keys(a, s, kv), 0), key(rest_of_keys(a, s, kv), 0), value(values(a, s, kv), 0);
    if constexpr (NEAR) { /* on their way while q is made; of what is kept, as if all were */
        auto fetch = [&](const ring_run &run, uint32_t begin, uint32_t end) {
            uint32_t lines = (uint32_t)(run.view.bytes + 127) / 128;
#pragma unroll 1
            for (uint32_t i = threadIdx.x; begin < end && i < (end - begin) * lines; i += KEPT_THREADS)
                prefetch(run[begin + i / lines] + i % lines * 128);
        };
        uint32_t old = (uint32_t)n - 1, begin = gridDim.x == 1 ? 0 : blockIdx.x * KEPT_CHUNK;
        uint32_t end = gridDim.x == 1 || begin + KEPT_CHUNK > old ? old : begin + KEPT_CHUNK;
        fetch(first, 0, old), fetch(key, begin, end), fetch(value, begin, end);
    }
    head_share h = { n - 1, row, head, 1, kv, true };
    head_piece piece;
    if constexpr (NEAR) piece = piece_of(jobs, a, s, h, 0);
    if (!choices) find_spread(&how, n, k, ddof);
    __syncthreads();
    touch(a), touch(p);
    wait_for_previous();
    float *red = q + D;
    const float *scores = p.scores + pair * p.positions;
    choice c;
    if constexpr (NEAR) {
        finish_heads<KV>(q, piece, jobs, a, s, h);
        __syncthreads();
        score<KV, N, 1, 2>(near, 0, q, 1, D, first, (uint32_t)n, a.rank, 0);
        __syncthreads();
        c = choose_held<NEAR_REACH / CHOOSE_THREADS>([&](uint32_t j) { return near[j]; }, (uint32_t)n, how,
                                                     wanted_part{ weights, positions, blockIdx.x, gridDim.x == 1 });
    } else {
        for (uint32_t i = a.rank + threadIdx.x; i < D; i += KEPT_THREADS) q[i] = a.q[((size_t)row * a.heads + head) * D + i];
        if (choices) c = choices[pair];
        else
            c = choose_held<CHOOSE_REACH / CHOOSE_THREADS>([&](uint32_t j) { return __ldcg(scores + j); }, (uint32_t)n, how,
                                                           wanted_part{ weights, positions, blockIdx.x, false });
    }
    uint32_t size = part_size(c.kept), used = c.kept ? (c.kept + size - 1) / size : 1, first_part = blockIdx.x;
    if (first_part >= used) return;
    __syncthreads();
    float all[OWN_DIMS] = {};
#pragma unroll 1
    for (uint32_t part = first_part; part < used; part += gridDim.x) {
        float total[OWN_DIMS] = {};
        uint32_t begin = part * size, end = begin + size < c.kept ? begin + size : c.kept;
        uint32_t at = choices || gridDim.x == 1 ? begin : 0; /* where the part is in what has been chosen */
#pragma unroll 1
        for (uint32_t j0 = begin; j0 < end; j0 += KEPT_CHUNK) {
            uint32_t m = end - j0 < KEPT_CHUNK ? end - j0 : KEPT_CHUNK, from = at + j0 - begin;
            if (choices) { /* both are in memory */
                if (threadIdx.x < m) {
                    weights[threadIdx.x] = scores[from + threadIdx.x];
                    positions[threadIdx.x] = p.ids[pair * p.positions + from + threadIdx.x];
                }
                __syncthreads();
                from = 0;
            }
            add_chunk<KV, N>(total, weights + from, positions + from, m, q + a.rank, rest, red, D, key, value);
        }
        for (uint32_t i = 0; i < OWN_DIMS; i++) all[i] += total[i];
    }
    if (gridDim.x > 1 && used > 1) {
        for (uint32_t i = 0, d = threadIdx.x; i < OWN_DIMS && d < D; i++, d += KEPT_THREADS)
            parts[(pair * KEPT_PARTS + first_part) * D + d] = all[i];
        if (!is_last(&counters[blockIdx.z * gridDim.y + head], used)) return;
        for (uint32_t i = 0, d = threadIdx.x; i < OWN_DIMS && d < D; i++, d += KEPT_THREADS) {
            all[i] = 0;
#pragma unroll 8
            for (uint32_t u = 0; u < used; u++) all[i] += __ldcg(parts + (pair * KEPT_PARTS + u) * D + d);
        }
    }
    /* nothing is above a NaN, which must not pass for a 0 */
    for (uint32_t i = 0, d = threadIdx.x; i < OWN_DIMS && d < D; i++, d += KEPT_THREADS)
        o[((size_t)row * a.heads + head) * D + d] = isnan(c.theta) ? c.theta : c.kept ? all[i] / c.sum : 0;
    if (threadIdx.x) return;
    kept[(size_t)row * a.heads + head] = c.kept;
    unsigned long long read = 2 * D - a.rank, group = a.heads / a.kv_heads; /* a group's heads share what is read, on average */
    atomicAdd(&work->state_bytes, (unsigned long long)((double)(c.kept * read) * a.value_bytes / (double)group));
    atomicAdd(&work->flops, 2 * c.kept * read);
    if (head) return;
    unsigned long long dims = (a.pass->rows[row].pos + 1) * a.rank;
    atomicAdd(&work->state_bytes, (unsigned long long)((double)(dims * a.kv_heads) * a.value_bytes));
    atomicAdd(&work->flops, 2 * dims * a.heads);
}

void cuda_spark_attend(shk_cuda *cu, const cuda_op *op, const head_jobs *jobs, bool written) {
    const shk_attention *at = &op->at;
    attention_args a = { op->x,
                         op->a,
                         op->b,
                         cu->pass,
                         (uint32_t)at->heads,
                         (uint32_t)at->kv_heads,
                         (uint32_t)at->head_dim,
                         (uint32_t)at->rank,
                         (uint32_t)at->layer,
                         0,
                         0,
                         (float)kv_bytes(op->kv, 32) / 32 };
    if (at->write && !written) cuda_put_in_rings(cu, a);
    uint32_t chunks = (uint32_t)(cu->reach / ATTENTION_CHUNK), group = a.heads / a.kv_heads, cuts = blocks_for(group, GROUP_HEADS);
    pair_space p = { cu->scores, (uint32_t *)(void *)(cu->scores + cu->pairs * cu->positions), cu->positions };
    size_t q_bytes = cu->T * a.heads * a.head_dim * sizeof(float), pairs_bytes = SHK_PASS_ROWS * a.heads * sizeof(choice),
           each = (size_t)a.heads * KEPT_PARTS * a.head_dim * sizeof(float), D = a.head_dim, rank = a.rank;
    float *finished = (float *)(void *)cu->scratch;
    bool near = jobs && cu->reach <= NEAR_REACH, own = near || (cu->reach <= CHOOSE_REACH && cu->T <= CHOOSE_ROWS);
    choice *choices = own ? NULL : (choice *)(void *)(cu->scratch + q_bytes);
    float *parts = (float *)(void *)(cu->scratch + q_bytes + pairs_bytes);
    uint32_t rows = (uint32_t)smaller(smaller(cu->pairs, COUNTERS) / a.heads, (cu->scratch_bytes - q_bytes - pairs_bytes) / each);
    uint32_t blocks = !near ? KEPT_PARTS : cu->T <= CHOOSE_ROWS ? NEAR_REACH / KEPT_CHUNK : 1; /* of a head */
    if (!rows) cuda_note(cu, cudaErrorMemoryAllocation);
    for (uint32_t row = 0; rows && row < cu->T; row += rows) {
        uint32_t n = (uint32_t)smaller(rows, cu->T - row);
        attention_args done = a;
        auto go = [&](auto kernel) {
            launch(cu, kernel, dim3(blocks, a.heads, n), KEPT_THREADS, (1 + WARPS) * D * sizeof(float), op->y, parts,
                   (uint32_t *)op->out, (const choice *)choices, p, done, row, at->k, at->ddof, jobs ? *jobs : head_jobs{},
                   cu->counters, cu->counted);
        };
        bool by_eights = rank % 8 == 0 && D % 8 == 0;
        if (near) {
#define CALL(KV, N) go(spark_kept<KV, N, true>)
            BY_KV(op->kv, by_eights, CALL);
#undef CALL
            continue;
        }
#define CALL(KV, N)                                                                                                                \
    launch(cu, spark_scores<KV, N>, dim3(chunks, a.kv_heads *cuts, n), SCORE_THREADS,                                              \
           (smaller(group, GROUP_HEADS) + 2) * D * sizeof(float), p, a, row, cuts, jobs ? *jobs : head_jobs{}, finished)
        BY_KV(op->kv, rank % 8 == 0 && D % 4 == 0, CALL); /* q is read by fours, head by head */
#undef CALL
        if (choices)
            launch(cu, cu->reach <= HELD_REACH ? spark_choose<true> : spark_choose<false>, dim3(a.heads, n), CHOOSE_THREADS, 0,
                   choices, p, a, row, at->k, at->ddof);
        if (jobs) done.q = finished;
#define CALL(KV, N) go(spark_kept<KV, N, false>)
        BY_KV(op->kv, by_eights, CALL);
#undef CALL
    }
}

size_t cuda_run_spark_attention(shk_cuda *cu, const cuda_op *op, size_t) {
    cuda_spark_attend(cu, op, NULL, false);
    return 1;
}
