/* What is done to heads between the products of an attention and the attention (heads.cu). */
#ifndef SHK_CUDA_HEADS_CUH
#define SHK_CUDA_HEADS_CUH

#include "cuda/rings.cuh"

enum { ROPES = 2 };

/* What is done to the heads of one tensor [T, heads, head_dim], in this order. */
typedef struct head_job {
    float *x;
    uint32_t heads, n_ropes;
    bool normed;
    const float *norm; /* NULL: ones */
    float eps, scale;
    struct {
        const float *table;
        uint32_t half, offset;
    } ropes[ROPES];
} head_job;

typedef struct head_jobs {
    head_job of[3]; /* q, k, v */
    uint32_t n, heads;
    bool write; /* k and v go into the rings */
} head_jobs;

/* The attentions that follow: of heads that are done (`jobs` NULL), `written` if the keys and values are in the rings already; or
 * of passes with one token of each sequence, whose blocks finish the heads themselves. */
void cuda_attend(shk_cuda *cu, const cuda_op *op, const head_jobs *jobs, bool written);
void cuda_spark_attend(shk_cuda *cu, const cuda_op *op, const head_jobs *jobs, bool written);

static __device__ __forceinline__ float4 get4(const float *p) { return *(const float4 *)(const void *)p; }
static __device__ __forceinline__ void put4(float *p, float4 v) { *(float4 *)(void *)p = v; }

/* The scale of a head's norm. Its squares are added up by 128 neighbours, four to a lane, and these sums in order. */
static __device__ __forceinline__ float squares_of(float4 x) {
    return warp_sum(fmaf(x.x, x.x, fmaf(x.y, x.y, fmaf(x.z, x.z, x.w * x.w))));
}
static __device__ __forceinline__ float norm_scale(float squares, float eps, uint32_t D) {
    return rsqrtf(squares / (float)D + eps);
}
/* One of a pair: its own value, the other's, what they turn by. Said, so that all kernels round alike. */
static __device__ __forceinline__ float turned(bool upper, float own, float other, float cos, float sin) {
    return upper ? fmaf(own, cos, other * sin) : fmaf(own, cos, -(other * sin));
}

/* Whether heads can be cut into pieces of 128 values, and what is done to them into fours. */
static __device__ __forceinline__ bool heads_by_fours(const head_jobs &jobs, uint32_t D, uint32_t rank) {
    uint32_t all = D % 128 | rank % 4;
    for (uint32_t i = 0; i < jobs.n; i++)
        for (uint32_t r = 0; r < jobs.of[i].n_ropes; r++) all |= (jobs.of[i].ropes[r].half | jobs.of[i].ropes[r].offset) % 4;
    return !all;
}

/* v [D], in shared memory, becomes the head of a row, finished; by a warp. */
static __device__ __noinline__ void finish_head(float *v, const head_job *j, uint32_t row, uint32_t head, uint32_t D) {
    const float *x = j->x + ((size_t)row * j->heads + head) * D;
    uint32_t lane = threadIdx.x % 32;
    float squares = 0, scale = 1;
    for (uint32_t d = lane; d < D; d += 32) v[d] = x[d];
    __syncwarp();
    for (uint32_t d = 0; j->normed && d < D; d += 128) {
        float4 y = {};
        if (D % 128 == 0) y = get4(v + d + lane * 4);
        else
            for (uint32_t i = d + lane * 4, e = 0; e < 4 && i + e < D; e++) (&y.x)[e] = v[i + e];
        squares += squares_of(y);
    }
    if (j->normed) scale = norm_scale(squares, j->eps, D);
    __syncwarp();
    for (uint32_t d = lane; d < D; d += 32) v[d] = v[d] * scale * (j->norm ? j->norm[d] : 1.0f) * j->scale;
    __syncwarp();
    for (uint32_t r = 0; r < j->n_ropes; r++) {
        uint32_t half = j->ropes[r].half;
        const float *c = j->ropes[r].table + (size_t)row * 2 * half;
        for (uint32_t d = lane; d < half; d += 32) {
            float *p = v + j->ropes[r].offset + d, p0 = p[0], p1 = p[half];
            p[0] = turned(false, p0, p1, c[d], c[half + d]);
            p[half] = turned(true, p1, p0, c[d], c[half + d]);
        }
        __syncwarp();
    }
}

/* The heads that a block finishes: [head, head + n) of q of a row, and where the block has the row's own position (`last`), the key
 * and value of head kv. */
typedef struct head_share {
    uint64_t pos;
    uint32_t row, head, n, kv;
    bool last;
} head_share;

/* Four values of one of these heads, i, from d on: a thread's. What is known of them before the products are there. */
typedef struct head_piece {
    bool mine, normed;
    uint32_t i, d, half[ROPES], at[ROPES]; /* at: in what is turned */
    const float *x, *table[ROPES];
    float4 norm;
    float eps, scale;
    char *ring; /* of a key or value: its row, which begins with value `from` */
    uint32_t from;
} head_piece;

/* The block's pieces, of the heads from `first` on: number threadIdx.x / (D / 4) of these. */
static __device__ __forceinline__ head_piece piece_of(const head_jobs &jobs, const attention_args &a, const pass_seq *s,
                                                      const head_share &h, uint32_t first) {
    uint32_t D = a.head_dim, pieces = D / 128, warp = threadIdx.x / 32, all = h.n + (h.last && jobs.write ? 2 : 0);
    head_piece p = {};
    if (!heads_by_fours(jobs, D, a.rank)) return p;
    p.i = first + warp / pieces, p.d = threadIdx.x % 32 * 4 + warp % pieces * 128;
    p.mine = p.i < all && p.i < first + blockDim.x / (D / 4);
    bool key = p.mine && p.i == h.n, value = p.mine && p.i > h.n;
    const head_job *j = &jobs.of[value ? 2 : key];
    p.x = j->x + ((size_t)h.row * j->heads + (key || value ? h.kv : h.head + (p.mine ? p.i : 0))) * D + p.d;
    p.normed = j->normed, p.eps = j->eps, p.scale = j->scale;
    p.norm = j->norm ? get4(j->norm + p.d) : make_float4(1, 1, 1, 1);
#pragma unroll
    for (uint32_t r = 0; r < ROPES; r++) {
        bool there = r < j->n_ropes;
        p.half[r] = there ? j->ropes[r].half : 0, p.at[r] = p.d - (there ? j->ropes[r].offset : 0);
        p.table[r] = j->ropes[r].table + (size_t)h.row * 2 * p.half[r] + (p.at[r] < p.half[r] ? p.at[r] : p.at[r] - p.half[r]);
    }
    bool rest = key && a.rank && p.d >= a.rank;
    p.from = rest ? a.rank : 0;
    if (key || value) p.ring = (char *)(value ? values(a, s, h.kv) : rest ? rest_of_keys(a, s, h.kv) : keys(a, s, h.kv))[h.pos];
    return p;
}

/* The share's heads into q [all, D], the key and value into the rings too; by a block, which has to synchronise then. `piece`: the
 * first, made ahead. Where it can, four values to a thread: a step has little to do, and what one thread does takes time.
 * Blocks of one key head write the same bytes there, each before it reads them. */
template <shk_type KV>
static __device__ __forceinline__ void finish_heads(float *q, head_piece piece, const head_jobs &jobs, const attention_args &a,
                                                    const pass_seq *s, const head_share &h) {
    __shared__ float sums[32];
    uint32_t D = a.head_dim, all = h.n + (h.last && jobs.write ? 2 : 0), warp = threadIdx.x / 32;
    if (!heads_by_fours(jobs, D, a.rank)) {
        for (uint32_t i = warp; i < all; i += blockDim.x / 32) {
            finish_head(q + i * D, &jobs.of[i < h.n ? 0 : 1 + i - h.n], h.row, i < h.n ? h.head + i : h.kv, D);
            if (i >= h.n) put_in_ring<KV>(a, h.pos, s, h.kv, i > h.n, q + i * D);
        }
        return;
    }
    uint32_t pieces = D / 128, at_once = blockDim.x / (D / 4), n_ropes = 0;
    bool normed = false;
    for (uint32_t i = 0; i < jobs.n; i++) normed |= jobs.of[i].normed, n_ropes = max(n_ropes, jobs.of[i].n_ropes);
#pragma unroll 1
    for (uint32_t first = 0; first < all; first += at_once) {
        if (first) {
            piece = piece_of(jobs, a, s, h, first);
            __syncthreads();
        }
        const head_piece &p = piece;
        float *own = q + p.i * D + p.d;
        float4 y = {}, cos[ROPES], sin[ROPES];
        if (p.mine) y = get4(p.x);
#pragma unroll
        for (uint32_t r = 0; r < ROPES; r++)
            if (p.at[r] < 2 * p.half[r]) cos[r] = get4(p.table[r]), sin[r] = get4(p.table[r] + p.half[r]);
        float scale = 1;
        if (normed) {
            float part = squares_of(y), squares = 0;
            if (threadIdx.x % 32 == 0) sums[warp] = part;
            __syncthreads();
            for (uint32_t i = 0; p.mine && i < pieces; i++) squares += sums[warp / pieces * pieces + i];
            if (p.normed) scale = norm_scale(squares, p.eps, D);
        }
        y = make_float4(y.x * scale * p.norm.x * p.scale, y.y * scale * p.norm.y * p.scale, y.z * scale * p.norm.z * p.scale,
                        y.w * scale * p.norm.w * p.scale);
#pragma unroll
        for (uint32_t r = 0; r < ROPES; r++) {
            if (r >= n_ropes) break;
            if (p.mine) put4(own, y);
            __syncthreads();
            bool upper = p.at[r] >= p.half[r];
            if (p.mine && p.at[r] < 2 * p.half[r]) {
                float4 other = get4(upper ? own - p.half[r] : own + p.half[r]);
                y = make_float4(turned(upper, y.x, other.x, cos[r].x, sin[r].x), turned(upper, y.y, other.y, cos[r].y, sin[r].y),
                                turned(upper, y.z, other.z, cos[r].z, sin[r].z), turned(upper, y.w, other.w, cos[r].w, sin[r].w));
            }
            __syncthreads();
        }
        if (!p.mine) continue;
        put4(own, y);
        if (p.i >= h.n) kv_put4<KV>(p.ring, p.d - p.from, y);
    }
}

#endif
