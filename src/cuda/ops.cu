/* The op table of a GPU: calls go onto the tape, and from there to the functions that launch them. */
#include "cuda/train.cuh"

static cuda_run_fn *const run[OP_KINDS] = {
    cuda_run_embed,         cuda_run_rmsnorm,       cuda_run_linear,    cuda_run_block_linear, cuda_run_add,
    cuda_run_mul_rows,      cuda_run_scale,         cuda_run_gather,    cuda_run_gelu_mul,     cuda_run_softcap,
    cuda_run_slice,         cuda_run_rope_table,    cuda_run_rope,      cuda_run_attention,    cuda_run_spark_attention,
    cuda_run_conv1d,        cuda_run_rglru,         cuda_run_sparsify,  cuda_run_sparse_glu,   cuda_run_sparse_up,
    cuda_run_altup_predict, cuda_run_altup_correct, cuda_run_match_rms, cuda_run_tanh,         cuda_run_sample,
};

void cuda_flush(shk_cuda *cu) {
    if (!cu->n_ops) return;
    cu->whole = false;
    for (size_t i = 0; i < cu->n_ops;) i += run[cu->tape[i].kind](cu, &cu->tape[i], cu->n_ops - i);
    cu->n_ops = 0;
}

/* A place on the tape. */
static cuda_op *put(shk_cuda *cu, op_kind kind) {
    if (cu->n_ops == TAPE_OPS) cuda_flush(cu);
    cuda_op *op = &cu->tape[cu->n_ops++];
    *op = cuda_op{};
    op->kind = kind;
    return op;
}

static cuda_op *put_rows(void *dev, op_kind kind, float *y, const float *x, size_t n0, size_t n1) {
    cuda_op *op = put((shk_cuda *)dev, kind);
    op->y = y, op->x = x, op->n[0] = n0, op->n[1] = n1;
    return op;
}

static void note(void *dev, const shk_mat *m, size_t T) {
    shk_work *w = &((shk_cuda *)dev)->passing;
    w->weight_bytes += (double)m->rows * (double)m->stride;
    w->flops += 2.0 * (double)m->rows * (double)m->cols * (double)T;
}

static void embed(void *dev, float *x, const shk_mat *E, const shk_pass *pass, float scale) {
    cuda_op *op = put_rows(dev, OP_EMBED, x, NULL, pass->T, 0);
    op->W = *E, op->f = scale;
}

static void rmsnorm(void *dev, float *y, const float *x, const float *w, size_t rows, size_t n, float eps) {
    cuda_op *op = put_rows(dev, OP_RMSNORM, y, x, rows, n);
    op->a = w, op->f = eps;
}

static void linear(void *dev, float *y, const float *x, size_t ldx, const shk_mat *W, const float *b, size_t T) {
    cuda_op *op = put_rows(dev, OP_LINEAR, y, x, ldx, T);
    op->W = *W, op->b = b;
    note(dev, W, T);
}

static void block_linear(void *dev, float *y, const float *x, const shk_mat *W, const float *bias, size_t blocks, size_t T) {
    cuda_op *op = put_rows(dev, OP_BLOCK_LINEAR, y, x, blocks, T);
    op->W = *W, op->b = bias;
    note(dev, W, T);
}

static void add(void *dev, float *y, const float *x, size_t n) { put_rows(dev, OP_ADD, y, x, n, 0); }

static void mul_rows(void *dev, float *y, const float *a, const float *w, size_t rows, size_t n) {
    cuda_op *op = put_rows(dev, OP_MUL_ROWS, y, NULL, rows, n);
    op->a = a, op->b = w;
}

static void scale(void *dev, float *x, size_t n, float s) { put_rows(dev, OP_SCALE, x, NULL, n, 0)->f = s; }

static void gather(void *dev, float *y, const float *x, const shk_pass *, size_t from, size_t n, size_t d) {
    put_rows(dev, OP_GATHER, y, x, from, n)->n[2] = d;
}

static void gelu_mul(void *dev, float *y, const float *g, const float *u, size_t n) {
    cuda_op *op = put_rows(dev, OP_GELU_MUL, y, NULL, n, 0);
    op->a = g, op->b = u;
}

static void softcap(void *dev, float *x, size_t n, float cap) { put_rows(dev, OP_SOFTCAP, x, NULL, n, 0)->f = cap; }

static void slice(void *dev, float *y, const float *x, size_t T, size_t ldx, size_t at, size_t n) {
    cuda_op *op = put_rows(dev, OP_SLICE, y, x, T, ldx);
    op->n[2] = at, op->n[3] = n;
}

static void rope_table(void *dev, float *table, const double *freq, size_t half, const shk_pass *) {
    put_rows(dev, OP_ROPE_TABLE, table, NULL, half, 0)->out = (void *)cuda_constant((shk_cuda *)dev, freq, half * sizeof *freq);
}

static void rope(void *dev, float *x, const float *table, size_t half, size_t T, size_t heads, size_t head_dim, size_t offset) {
    cuda_op *op = put_rows(dev, OP_ROPE, x, table, half, T);
    op->n[2] = heads, op->n[3] = head_dim, op->n[4] = offset;
}

static void attention(void *dev, float *o, const float *q, const float *k, const float *v, const shk_pass *pass,
                      const shk_attention *a) {
    cuda_op *op = put_rows(dev, OP_ATTENTION, o, q, 0, 0);
    op->a = k, op->b = v, op->at = *a, op->kv = pass->seqs[0].layers[a->layer].type;
}

static void spark_attention(void *dev, float *o, uint32_t *kept, const float *q, const float *k, const float *v,
                            const shk_pass *pass, const shk_attention *a) {
    cuda_op *op = put_rows(dev, OP_SPARK_ATTENTION, o, q, 0, 0);
    op->a = k, op->b = v, op->at = *a, op->out = kept, op->kv = pass->seqs[0].layers[a->layer].type;
}

static void conv1d(void *dev, float *y, const float *x, const float *c, const float *b, const shk_pass *, size_t layer, size_t w,
                   size_t taps) {
    cuda_op *op = put_rows(dev, OP_CONV1D, y, x, layer, w);
    op->a = c, op->b = b, op->n[2] = taps;
}

static void rglru(void *dev, float *y, const float *x, const float *ia, const float *ra, const float *sl, const shk_pass *,
                  size_t layer, size_t w) {
    cuda_op *op = put_rows(dev, OP_RGLRU, y, x, layer, w);
    op->a = ia, op->b = ra, op->c = sl;
}

static void sparsify(void *dev, shk_active *out, const float *s, size_t T, size_t n, const shk_sparsity *how) {
    cuda_op *op = put_rows(dev, OP_SPARSIFY, NULL, s, T, n);
    op->active = *out, op->ddof = how->ddof, op->dense = how->dense;
    op->quantile = (double)n <= how->k || n <= how->ddof ? -INFINITY : shk_normal_quantile(1.0 - how->k / (double)n);
}

static void sparse_glu(void *dev, float *y, shk_active *active, const float *x, size_t ldx, const shk_mat *U, const shk_mat *Vt,
                       size_t T) {
    cuda_op *op = put_rows(dev, OP_SPARSE_GLU, y, x, ldx, T);
    op->active = *active, op->W = *U, op->V = *Vt;
}

static void sparse_up(void *dev, float *h, shk_active *active, const float *x, size_t ldx, const shk_mat *U, size_t T) {
    cuda_op *op = put_rows(dev, OP_SPARSE_UP, h, x, ldx, T);
    op->active = *active, op->W = *U;
}

static void altup_predict(void *dev, float *y, const float *x, const float *coef, size_t n, size_t T, size_t d) {
    cuda_op *op = put_rows(dev, OP_ALTUP_PREDICT, y, x, n, T);
    op->a = coef, op->n[2] = d;
}

static void altup_correct(void *dev, float *x, const float *activated, const float *coef, size_t active, size_t n, size_t T,
                          size_t d) {
    cuda_op *op = put_rows(dev, OP_ALTUP_CORRECT, x, activated, active, n);
    op->a = coef, op->n[2] = T, op->n[3] = d;
}

static void match_rms(void *dev, float *y, const float *x, size_t T, size_t d) { put_rows(dev, OP_MATCH_RMS, y, x, T, d); }
static void tanh_op(void *dev, float *y, const float *x, size_t n) { put_rows(dev, OP_TANH, y, x, n, 0); }

static void sample(void *dev, shk_choice *choice, float *x, const shk_pass *, size_t from, size_t rows, size_t n) {
    cuda_op *op = put_rows(dev, OP_SAMPLE, x, NULL, rows, n);
    op->out = choice, op->n[2] = from;
}

const shk_ops cuda_ops = {
    .name = "cuda",
    .logit_rows = SHK_PASS_ROWS,
    .work = cuda_work,
    .alloc = cuda_alloc,
    .release = cuda_release,
    .download = cuda_download,
    .upload = cuda_upload,
    .reserve = cuda_reserve,
    .begin = cuda_begin,
    .end = cuda_end,
    .close = cuda_close,
    .prepare = cuda_prepare,
    .place = cuda_place,
    .embed = embed,
    .rmsnorm = rmsnorm,
    .linear = linear,
    .block_linear = block_linear,
    .add = add,
    .mul_rows = mul_rows,
    .scale = scale,
    .gather = gather,
    .gelu_mul = gelu_mul,
    .softcap = softcap,
    .slice = slice,
    .rope_table = rope_table,
    .rope = rope,
    .attention = attention,
    .spark_attention = spark_attention,
    .conv1d = conv1d,
    .rglru = rglru,
    .sparsify = sparsify,
    .sparse_glu = sparse_glu,
    .sparse_up = sparse_up,
    .altup_predict = altup_predict,
    .altup_correct = altup_correct,
    .match_rms = match_rms,
    .tanh = tanh_op,
    .sample = sample,
    .train = &shk_cuda_train_ops,
};
