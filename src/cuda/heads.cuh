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

/* v [D], in shared memory, becomes the head of a row, finished; by a warp. */
static __device__ __forceinline__ void finish_head(float *v, const head_job *j, uint32_t row, uint32_t head, uint32_t D) {
    const float *x = j->x + ((size_t)row * j->heads + head) * D;
    uint32_t lane = threadIdx.x % 32;
    float squares = 0;
    for (uint32_t d = lane; d < D; d += 32) {
        v[d] = x[d];
        squares = fmaf(v[d], v[d], squares);
    }
    if (j->normed) {
        float scale = rsqrtf(warp_sum(squares) / (float)D + j->eps);
        for (uint32_t d = lane; d < D; d += 32) v[d] = v[d] * scale * (j->norm ? j->norm[d] : 1.0f);
    }
    for (uint32_t d = lane; d < D; d += 32) v[d] *= j->scale;
    __syncwarp();
    for (uint32_t r = 0; r < j->n_ropes; r++) {
        uint32_t half = j->ropes[r].half;
        const float *c = j->ropes[r].table + (size_t)row * 2 * half;
        for (uint32_t d = lane; d < half; d += 32) {
            float *p = v + j->ropes[r].offset + d, p0 = p[0], p1 = p[half];
            p[0] = fmaf(p0, c[d], -(p1 * c[half + d])); /* said, so that all kernels round alike */
            p[half] = fmaf(p1, c[d], p0 * c[half + d]);
        }
    }
    __syncwarp();
}

/* Heads [head, head + n) of q of a row into q [n, D], and where the block has the row's own position (`last`), the key and value of
 * head kv into the rings, through `space` [2, D]; by the warps of a block, which has to synchronise then.
 * Blocks of one key head write the same bytes there, each before it reads them. */
static __device__ __forceinline__ void finish_heads(float *q, float *space, const head_jobs &jobs, const attention_args &a,
                                                    const pass_seq *s, uint32_t row, uint32_t head, uint32_t n, uint32_t kv,
                                                    bool last) {
    uint32_t D = a.head_dim, all = n + (last && jobs.write ? 2 : 0);
    for (uint32_t i = threadIdx.x / 32; i < all; i += blockDim.x / 32) {
        if (i < n) {
            finish_head(q + i * D, &jobs.of[0], row, head + i, D);
            continue;
        }
        float *v = space + (i - n) * D;
        finish_head(v, &jobs.of[1 + i - n], row, kv, D);
        put_in_ring(a, &a.pass->rows[row], s, kv, i > n, v);
    }
}

#endif
