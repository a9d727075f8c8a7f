/* What lies between the products of an attention and the attention: each head's norm, its scale, its rotations, and the way into
 * the rings. A run of ops on the tape becomes one kernel, a warp for each head of a row. */
#include "cuda/heads.cuh"

enum { HEADS_THREADS = 256 };

__global__ void __launch_bounds__(HEADS_THREADS)
    heads_kernel(const __grid_constant__ head_jobs jobs, attention_args a, uint32_t T) {
    DYNAMIC_SHARED(float, space, 4); /* [warps, head_dim] */
    uint32_t lane = threadIdx.x % 32, D = a.head_dim, i = (blockIdx.x * HEADS_THREADS + threadIdx.x) / 32;
    uint32_t row = i / jobs.heads, head = i % jobs.heads, which = 0;
    float *v = space + threadIdx.x / 32 * D;
    let_next_start();
    if (row >= T) return; /* not in the first block, which waits */
    while (which + 1 < jobs.n && head >= jobs.of[which].heads) head -= jobs.of[which++].heads;
    const head_job *j = &jobs.of[which];
    const pass_row *p = &a.pass->rows[row];
    const pass_seq *s = &a.pass->seqs[p->seq];
    wait_for_previous();
    finish_head(v, j, row, head, D);
    float *x = j->x + ((size_t)row * j->heads + head) * D;
    for (uint32_t d = lane; d < D; d += 32) x[d] = v[d];
    if (which && jobs.write) put_in_ring(a, p->pos, s, head, which == 2, v);
}

/* Takes one op into the jobs; false: it is none of theirs, or out of order. */
static bool take(head_jobs *jobs, const cuda_op *op, uint32_t D) {
    for (uint32_t i = 0; i < jobs->n; i++) {
        head_job *j = &jobs->of[i];
        if (op->y != j->x) continue;
        if (op->kind == OP_RMSNORM) {
            if (op->x != op->y || op->n[1] != D || j->normed || j->scale != 1 || j->n_ropes) return false;
            j->normed = true, j->norm = op->a, j->eps = op->f;
        } else if (op->kind == OP_SCALE) {
            if (j->n_ropes || j->scale != 1) return false;
            j->scale = op->f;
        } else {
            if (j->n_ropes == ROPES || op->n[3] != D || op->n[2] != j->heads) return false;
            j->ropes[j->n_ropes].table = op->x;
            j->ropes[j->n_ropes].half = (uint32_t)op->n[0];
            j->ropes[j->n_ropes++].offset = (uint32_t)op->n[4];
        }
        return true;
    }
    return false;
}

size_t cuda_run_heads(shk_cuda *cu, const cuda_op *op, size_t left) {
    size_t n = 0;
    while (n < left && (op[n].kind == OP_RMSNORM || op[n].kind == OP_SCALE || op[n].kind == OP_ROPE)) n++;
    if (n == left || (op[n].kind != OP_ATTENTION && op[n].kind != OP_SPARK_ATTENTION)) return 0;
    const cuda_op *end = op + n;
    const shk_attention *at = &end->at;
    bool spark = end->kind == OP_SPARK_ATTENTION;
    uint32_t D = (uint32_t)at->head_dim;
    head_jobs jobs = {};
    jobs.n = at->write ? 3 : 1;
    jobs.write = at->write;
    const float *x[3] = { end->x, end->a, end->b };
    for (uint32_t i = 0; i < jobs.n; i++) {
        jobs.of[i].x = (float *)x[i];
        jobs.of[i].heads = (uint32_t)(i ? at->kv_heads : at->heads);
        jobs.of[i].scale = 1;
        jobs.heads += jobs.of[i].heads;
    }
    for (size_t i = 0; i < n; i++)
        if (!take(&jobs, op + i, D)) return 0;
    bool alone = cu->T == cu->n_seqs; /* each token is its sequence's only one: its blocks may do this too */
    if (!alone) {
        attention_args a = {};
        a.pass = cu->pass, a.head_dim = D, a.kv_heads = (uint32_t)at->kv_heads, a.rank = spark ? (uint32_t)at->rank : 0,
        a.layer = (uint32_t)at->layer;
        launch(cu, heads_kernel, dim3(blocks_for((size_t)cu->T * jobs.heads, HEADS_THREADS / 32)), HEADS_THREADS,
               HEADS_THREADS / 32 * D * sizeof(float), jobs, a, cu->T);
    }
    if (spark) cuda_spark_attend(cu, end, alone ? &jobs : NULL, jobs.write);
    else cuda_attend(cu, end, alone ? &jobs : NULL, jobs.write);
    return n + 1;
}
