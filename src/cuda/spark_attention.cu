/* Spark attention: scores by the first dims of all visible keys, a threshold from their mean and deviation, and only for what is
 * above it the rest of the key and the value. */
#include "cuda/heads.cuh"

enum {
    SCORE_THREADS = 8 * ATTENTION_CHUNK,
    CHOOSE_THREADS = 256,
    KEPT_THREADS = CHOOSE_THREADS,
    KEPT_PARTS = 16,
    KEPT_AT_ONCE = 64,
    GROUP_HEADS = 16
};
/* Up to so many positions and rows each block that goes through what is kept finds out by itself what is, which saves a kernel. */
enum { CHOOSE_REACH = 4096, CHOOSE_ROWS = 4 };

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
static __device__ double quantile(double p) {
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

/* Of the kept, in order, those from `begin` on go to `weights` and `ids`: a part of them, or all. */
typedef struct wanted_part {
    float *weights;
    uint32_t *ids;
    uint32_t part, parts;
} wanted_part;

static __device__ __forceinline__ uint32_t part_begin(uint32_t part, uint32_t parts, uint32_t n) {
    return (uint32_t)((uint64_t)part * n / parts);
}

/* What a head attends to, by CHOOSE_THREADS: positions whose score s [n] is above the threshold, each with a weight. */
static __device__ choice choose(const float *s, size_t n, double k, unsigned ddof, wanted_part to) {
    __shared__ double space[32];
    __shared__ float fspace[32];
    __shared__ uint32_t uspace[32];
    __shared__ float shared_theta;
    double total = 0, squares = 0, mean = 0;
    bool all = (double)n <= k || n <= ddof;
    float top = -INFINITY;
#pragma unroll 8
    for (size_t j = threadIdx.x; j < n; j += CHOOSE_THREADS) {
        float v = __ldcg(s + j);
        total += (double)v, top = fmaxf(top, v);
    }
    top = block_max(top, fspace);
    if (!all) {
        mean = block_sum(total, space) / (double)n;
#pragma unroll 8
        for (size_t j = threadIdx.x; j < n; j += CHOOSE_THREADS) {
            double off = (double)__ldcg(s + j) - mean;
            squares += off * off;
        }
        squares = block_sum(squares, space);
    }
    if (!threadIdx.x)
        shared_theta = all ? -INFINITY : (float)(mean + sqrt(squares / (double)(n - ddof)) * quantile(1 - k / (double)n));
    __syncthreads();
    float theta = shared_theta, sum = 0;
    uint32_t kept = 0;
#pragma unroll 8
    for (size_t j = threadIdx.x; j < n; j += CHOOSE_THREADS) {
        float v = __ldcg(s + j);
        if (v > theta) sum += expf(v - top), kept++;
    }
    sum = block_sum(sum, fspace);
    kept = block_sum(kept, uspace);
    uint32_t have = 0, begin = part_begin(to.part, to.parts, kept), end = part_begin(to.part + 1, to.parts, kept);
    for (size_t j0 = 0; j0 < n && have < end; j0 += CHOOSE_THREADS) {
        size_t j = j0 + threadIdx.x;
        float v = j < n ? __ldcg(s + j) : 0;
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

/* What heads attend to, for longer sequences: weights and ids are in memory then. In place: the kept move to the front, never past
 * what is still to be read. */
__global__ void __launch_bounds__(CHOOSE_THREADS)
    spark_choose(choice *choices, pair_space p, attention_args a, uint32_t row0, double k, unsigned ddof) {
    in_turn();
    size_t pair = (size_t)blockIdx.y * a.heads + blockIdx.x;
    float *s = p.scores + pair * p.positions;
    choice c =
        choose(s, (size_t)a.pass->rows[row0 + blockIdx.y].pos + 1, k, ddof, wanted_part{ s, p.ids + pair * p.positions, 0, 1 });
    if (!threadIdx.x) choices[pair] = c;
}

/* `jobs`: what is to be done to the heads before; the block of the row's own position keeps q in `finished` then. */
template <shk_type KV, int N>
__global__ void __launch_bounds__(SCORE_THREADS)
    spark_scores(pair_space p, attention_args a, uint32_t row0, uint32_t cuts, head_jobs jobs, float *finished) {
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
    wait_for_previous();
    if (jobs.n) finish_heads(q, q + heads * D, jobs, a, s, row, head, heads, kv, own);
    else
        for (uint32_t i = threadIdx.x; i < heads * D; i += SCORE_THREADS) q[i] = a.q[((size_t)row * a.heads + head) * D + i];
    __syncthreads();
    for (uint32_t i = threadIdx.x; jobs.n && own && i < heads * D; i += SCORE_THREADS)
        finished[((size_t)row * a.heads + head) * D + i] = q[i];
    score<KV, N>(p.scores + ((size_t)blockIdx.z * a.heads + head) * p.positions + first, p.positions, q, heads, D, key, n, rank, 0);
}

/* A block takes a sixteenth of what a head keeps: weight * softplus(q2 . k2) * v; the last of them adds up. choices: NULL if it is
 * to choose itself. kept [T, heads] gets the numbers. */
template <shk_type KV, int N>
__global__ void __launch_bounds__(KEPT_THREADS)
    spark_kept(float *o, float *parts, uint32_t *kept, const choice *choices, pair_space p, attention_args a, uint32_t row0,
               double k, unsigned ddof, uint32_t *counters, device_work *work) {
    DYNAMIC_SHARED(float, q, 16); /* [head_dim - rank] */
    __shared__ float own_weights[CHOOSE_REACH / KEPT_PARTS];
    __shared__ uint32_t own_ids[CHOOSE_REACH / KEPT_PARTS];
    __shared__ float weight[KEPT_AT_ONCE];
    __shared__ uint64_t where[KEPT_AT_ONCE];
    let_next_start();
    uint32_t part = blockIdx.x, head = blockIdx.y, row = row0 + blockIdx.z, D = a.head_dim, rest = D - a.rank,
             kv = head / (a.heads / a.kv_heads);
    uint32_t lane = threadIdx.x % 32;
    size_t pair = (size_t)blockIdx.z * a.heads + head;
    const pass_seq *s = &a.pass->seqs[a.pass->rows[row].seq];
    ring_view key = rest_of_keys(a, s, kv), value = values(a, s, kv);
    wait_for_previous();
    const float *w = p.scores + pair * p.positions;
    choice c = choices
                   ? choices[pair]
                   : choose(w, (size_t)a.pass->rows[row].pos + 1, k, ddof, wanted_part{ own_weights, own_ids, part, KEPT_PARTS });
    uint32_t begin = part_begin(part, KEPT_PARTS, c.kept), n = part_begin(part + 1, KEPT_PARTS, c.kept) - begin;
    const uint32_t *ids = choices ? p.ids + pair * p.positions + begin : own_ids;
    w = choices ? w + begin : own_weights;
    float *out = parts + (pair * KEPT_PARTS + part) * D;
    for (uint32_t i = threadIdx.x; i < rest; i += KEPT_THREADS) q[i] = a.q[((size_t)row * a.heads + head) * D + a.rank + i];
    for (uint32_t d = threadIdx.x; d < D; d += KEPT_THREADS) out[d] = 0;
    for (uint32_t j0 = 0; j0 < n; j0 += KEPT_AT_ONCE) {
        uint32_t m = n - j0 < KEPT_AT_ONCE ? n - j0 : KEPT_AT_ONCE;
        __syncthreads();
        /* a quarter of a warp takes a position: most keys are so short that its lanes load them at once */
        for (uint32_t j = threadIdx.x / 8; j < (m + 3) / 4 * 4; j += KEPT_THREADS / 8) {
            uint64_t pos = ids[j0 + (j < m ? j : m - 1)];
            const char *k = key[pos];
            float dot = 0;
#pragma unroll 4
            for (uint32_t i = lane % 8 * N; i < rest; i += 8 * N) {
                kv_run<KV, N> run;
                float v[N];
                run.load(k, i), run.get(v);
#pragma unroll
                for (int e = 0; e < N; e++) dot = fmaf(q[i + e], v[e], dot);
            }
            dot = warp_join<8>(dot, [](float a, float b) { return a + b; });
            if (lane % 8 == 0 && j < m) where[j] = pos, weight[j] = w[j0 + j] * (fmaxf(dot, 0) + log1pf(expf(-fabsf(dot))));
        }
        __syncthreads();
        for (uint32_t d = threadIdx.x; d < D; d += KEPT_THREADS) {
            float sum = out[d];
#pragma unroll 16
            for (uint32_t j = 0; j < m; j++) sum = fmaf(weight[j], kv_get<KV>(value[where[j]], d), sum);
            out[d] = sum;
        }
    }
    if (!is_last(&counters[blockIdx.z * gridDim.y + head], KEPT_PARTS)) return;
    for (uint32_t d = threadIdx.x; d < D; d += KEPT_THREADS) {
        float sum = 0;
#pragma unroll
        for (uint32_t i = 0; i < KEPT_PARTS; i++) sum += __ldcg(parts + (pair * KEPT_PARTS + i) * D + d);
        /* nothing is above a NaN, which must not pass for a 0 */
        o[((size_t)row * a.heads + head) * D + d] = isnan(c.theta) ? c.theta : c.kept ? sum / c.sum : 0;
    }
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
    choice *choices = cu->reach <= CHOOSE_REACH && cu->T <= CHOOSE_ROWS ? NULL : (choice *)(void *)(cu->scratch + q_bytes);
    float *parts = (float *)(void *)(cu->scratch + q_bytes + pairs_bytes);
    uint32_t rows = (uint32_t)smaller(smaller(cu->pairs, COUNTERS) / a.heads, (cu->scratch_bytes - q_bytes - pairs_bytes) / each);
    if (!rows) cuda_note(cu, cudaErrorMemoryAllocation);
    for (uint32_t row = 0; rows && row < cu->T; row += rows) {
        uint32_t n = (uint32_t)smaller(rows, cu->T - row);
        attention_args done = a;
#define CALL(KV, N)                                                                                                                \
    launch(cu, spark_scores<KV, N>, dim3(chunks, a.kv_heads *cuts, n), SCORE_THREADS,                                              \
           (smaller(group, GROUP_HEADS) + 2) * D * sizeof(float), p, a, row, cuts, jobs ? *jobs : head_jobs{}, finished)
        BY_KV(op->kv, rank % 8 == 0 && D % 4 == 0, CALL); /* q is read by fours, head by head */
#undef CALL
        if (choices) launch(cu, spark_choose, dim3(a.heads, n), CHOOSE_THREADS, 0, choices, p, a, row, at->k, at->ddof);
        if (jobs) done.q = finished;
#define CALL(KV, N)                                                                                                                \
    launch(cu, spark_kept<KV, N>, dim3(KEPT_PARTS, a.heads, n), KEPT_THREADS, (D - rank) * sizeof(float), op->y, parts,            \
           (uint32_t *)op->out, (const choice *)choices, p, done, row, at->k, at->ddof, cu->counters, cu->counted)
        BY_KV(op->kv, (D - rank) % 8 == 0 && rank % 8 == 0, CALL);
#undef CALL
    }
}

size_t cuda_run_spark_attention(shk_cuda *cu, const cuda_op *op, size_t) {
    cuda_spark_attend(cu, op, NULL, false);
    return 1;
}
