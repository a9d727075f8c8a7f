/* Spark attention: scores by the first dims of all visible keys, a threshold from their mean and deviation, and only for what is
 * above it the rest of the key and the value. */
#include "cuda/rings.cuh"

enum { SCORE_THREADS = 256, CHOOSE_THREADS = 1024, KEPT_THREADS = 256, KEPT_PARTS = 16, KEPT_AT_ONCE = 64, GROUP_HEADS = 16 };

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

template <shk_type KV>
__global__ void __launch_bounds__(SCORE_THREADS) spark_scores(pair_space p, attention_args a, uint32_t row0, uint32_t cuts) {
    extern __shared__ __align__(16) float q[]; /* [heads of the group, rank] */
    let_next_start();
    uint32_t row = row0 + blockIdx.z, kv = blockIdx.y / cuts, rank = a.rank, group = a.heads / a.kv_heads;
    uint32_t head = kv * group + blockIdx.y % cuts * GROUP_HEADS, left = (kv + 1) * group - head;
    uint32_t heads = left < GROUP_HEADS ? left : GROUP_HEADS;
    const pass_row *r = &a.pass->rows[row];
    uint64_t first = (uint64_t)blockIdx.x * ATTENTION_CHUNK;
    if (first > r->pos) return;
    uint32_t n = r->pos + 1 - first < ATTENTION_CHUNK ? (uint32_t)(r->pos + 1 - first) : ATTENTION_CHUNK;
    ring_run key(keys(a, &a.pass->seqs[r->seq], kv), first);
    wait_for_previous();
    for (uint32_t i = threadIdx.x; i < heads * rank; i += SCORE_THREADS)
        q[i] = a.q[((size_t)row * a.heads + head + i / rank) * a.head_dim + i % rank];
    __syncthreads();
    score<KV>(p.scores + ((size_t)blockIdx.z * a.heads + head) * p.positions + first, p.positions, q, heads, rank, key, n, rank, 0);
}

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

__global__ void __launch_bounds__(CHOOSE_THREADS)
    spark_choose(choice *choices, uint32_t *kept, pair_space p, attention_args a, uint32_t row0, double k, unsigned ddof) {
    __shared__ double space[32];
    __shared__ float fspace[32];
    __shared__ uint32_t uspace[32];
    __shared__ float shared_theta;
    in_turn();
    uint32_t head = blockIdx.x, row = row0 + blockIdx.y;
    size_t pair = (size_t)blockIdx.y * a.heads + head, n = (size_t)a.pass->rows[row].pos + 1;
    float *s = p.scores + pair * p.positions;
    uint32_t *ids = p.ids + pair * p.positions;
    double total = 0, squares = 0;
    float top = -INFINITY;
    for (size_t j = threadIdx.x; j < n; j += CHOOSE_THREADS) total += (double)s[j], top = fmaxf(top, s[j]);
    double mean = block_sum(total, space) / (double)n;
    top = block_max(top, fspace);
    for (size_t j = threadIdx.x; j < n; j += CHOOSE_THREADS) squares += ((double)s[j] - mean) * ((double)s[j] - mean);
    squares = block_sum(squares, space);
    if (!threadIdx.x)
        shared_theta = (double)n <= k || n <= ddof
                           ? -INFINITY
                           : (float)(mean + sqrt(squares / (double)(n - ddof)) * quantile(1 - k / (double)n));
    __syncthreads();
    float theta = shared_theta, sum = 0;
    uint32_t have = 0;
    for (size_t j0 = 0; j0 < n; j0 += CHOOSE_THREADS) { /* the kept move to the front: never past what is still to be read */
        size_t j = j0 + threadIdx.x;
        float v = j < n ? s[j] : 0;
        bool keep = j < n && v > theta;
        uint32_t found, at = have + block_rank(keep, &found, uspace);
        if (keep) {
            float w = expf(v - top);
            sum += w;
            s[at] = w;
            ids[at] = (uint32_t)j;
        }
        have += found;
        __syncthreads();
    }
    sum = block_sum(sum, fspace);
    if (threadIdx.x) return;
    choices[pair] = choice{ have, sum, theta };
    kept[(size_t)row * a.heads + head] = have;
}

/* A block takes a sixteenth of what a head keeps: weight * softplus(q2 . k2) * v. */
template <shk_type KV>
__global__ void __launch_bounds__(KEPT_THREADS)
    spark_kept(float *parts, const choice *choices, pair_space p, attention_args a, uint32_t row0) {
    extern __shared__ __align__(16) float q[]; /* [head_dim - rank] */
    __shared__ float weight[KEPT_AT_ONCE];
    __shared__ uint64_t where[KEPT_AT_ONCE];
    let_next_start();
    uint32_t part = blockIdx.x, head = blockIdx.y, row = row0 + blockIdx.z, D = a.head_dim, rest = D - a.rank,
             kv = head / (a.heads / a.kv_heads);
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    size_t pair = (size_t)blockIdx.z * a.heads + head;
    const pass_seq *s = &a.pass->seqs[a.pass->rows[row].seq];
    ring_view key = rest_of_keys(a, s, kv), value = values(a, s, kv);
    wait_for_previous();
    uint32_t n = choices[pair].kept, begin = (uint32_t)((uint64_t)part * n / KEPT_PARTS),
             end = (uint32_t)((uint64_t)(part + 1) * n / KEPT_PARTS);
    const float *w = p.scores + pair * p.positions;
    const uint32_t *ids = p.ids + pair * p.positions;
    float *out = parts + (pair * KEPT_PARTS + part) * D;
    for (uint32_t i = threadIdx.x; i < rest; i += KEPT_THREADS) q[i] = a.q[((size_t)row * a.heads + head) * D + a.rank + i];
    for (uint32_t d = threadIdx.x; d < D; d += KEPT_THREADS) out[d] = 0;
    for (uint32_t j0 = begin; j0 < end; j0 += KEPT_AT_ONCE) {
        uint32_t m = end - j0 < KEPT_AT_ONCE ? end - j0 : KEPT_AT_ONCE;
        __syncthreads();
        for (uint32_t j = warp; j < m; j += KEPT_THREADS / 32) {
            uint64_t pos = ids[j0 + j];
            const char *k = key[pos];
            float dot = 0;
            for (uint32_t i = lane; i < rest; i += 32) dot = fmaf(q[i], kv_get<KV>(k, i), dot);
            dot = warp_sum(dot);
            if (!lane) where[j] = pos, weight[j] = w[j0 + j] * (fmaxf(dot, 0) + log1pf(expf(-fabsf(dot))));
        }
        __syncthreads();
        for (uint32_t d = threadIdx.x; d < D; d += KEPT_THREADS) {
            float sum = out[d];
#pragma unroll 8
            for (uint32_t j = 0; j < m; j++) sum = fmaf(weight[j], kv_get<KV>(value[where[j]], d), sum);
            out[d] = sum;
        }
    }
}

__global__ void __launch_bounds__(128)
    spark_join(float *o, const float *parts, const choice *choices, attention_args a, uint32_t row0, device_work *work) {
    in_turn();
    uint32_t head = blockIdx.x, row = row0 + blockIdx.y, D = a.head_dim;
    size_t pair = (size_t)blockIdx.y * a.heads + head;
    choice c = choices[pair];
    for (uint32_t d = threadIdx.x; d < D; d += 128) {
        float sum = 0;
        for (uint32_t i = 0; i < KEPT_PARTS; i++) sum += parts[(pair * KEPT_PARTS + i) * D + d];
        /* nothing is above a NaN, which must not pass for a 0 */
        o[((size_t)row * a.heads + head) * D + d] = isnan(c.theta) ? c.theta : c.kept ? sum / c.sum : 0;
    }
    if (threadIdx.x) return;
    unsigned long long rest = 2 * D - a.rank, group = a.heads / a.kv_heads; /* a group's heads share what is read, on average */
    atomicAdd(&work->state_bytes, (unsigned long long)((double)(c.kept * rest) * a.value_bytes / (double)group));
    atomicAdd(&work->flops, 2 * c.kept * rest);
    if (head) return;
    unsigned long long dims = (a.pass->rows[row].pos + 1) * a.rank;
    atomicAdd(&work->state_bytes, (unsigned long long)((double)(dims * a.kv_heads) * a.value_bytes));
    atomicAdd(&work->flops, 2 * dims * a.heads);
}

void cuda_spark_attend(shk_cuda *cu, const cuda_op *op, bool written) {
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
    choice *choices = (choice *)(void *)cu->scratch;
    float *parts = (float *)(void *)(cu->scratch + SHK_PASS_ROWS * a.heads * sizeof(choice));
    size_t each = (size_t)a.heads * KEPT_PARTS * a.head_dim * sizeof(float), space = SHK_PASS_ROWS * a.heads * sizeof(choice);
    uint32_t rows = (uint32_t)smaller(cu->pairs / a.heads, (cu->scratch_bytes - space) / each);
    if (!rows) cuda_note(cu, cudaErrorMemoryAllocation);
    for (uint32_t row = 0; rows && row < cu->T; row += rows) {
        uint32_t n = (uint32_t)smaller(rows, cu->T - row);
#define CALL(KV)                                                                                                                   \
    launch(cu, spark_scores<KV>, dim3(chunks, a.kv_heads *cuts, n), SCORE_THREADS,                                                 \
           smaller(group, GROUP_HEADS) * a.rank * sizeof(float), p, a, row, cuts)
        BY_KV(op->kv, CALL);
#undef CALL
        launch(cu, spark_choose, dim3(a.heads, n), CHOOSE_THREADS, 0, choices, (uint32_t *)op->out, p, a, row, at->k, at->ddof);
#define CALL(KV)                                                                                                                   \
    launch(cu, spark_kept<KV>, dim3(KEPT_PARTS, a.heads, n), KEPT_THREADS, (a.head_dim - a.rank) * sizeof(float), parts,           \
           (const choice *)choices, p, a, row)
        BY_KV(op->kv, CALL);
#undef CALL
        launch(cu, spark_join, dim3(a.heads, n), 128, 0, op->y, (const float *)parts, (const choice *)choices, a, row, cu->counted);
    }
}

size_t cuda_run_spark_attention(shk_cuda *cu, const cuda_op *op, size_t) {
    cuda_spark_attend(cu, op, false);
    return 1;
}
