/* The context of a GPU: memory, weights, passes and their graphs. */
#include "cuda/train.cuh"

#include <stdlib.h>
#include <string.h>

void cuda_note(shk_cuda *cu, cudaError_t e) {
    if (e == cudaSuccess) return;
    cudaGetLastError(); /* it is remembered here */
    if (!cu->broken) cu->broken = e;
}

static shk_status status_of(const shk_cuda *cu, shk_error *err) {
    if (!cu->broken) return SHK_OK;
    shk_status st = cu->broken == cudaErrorMemoryAllocation ? SHK_E_MEMORY : SHK_E_DEVICE;
    return shk_fail(err, st, "%s: %s", cu->name, cudaGetErrorString(cu->broken));
}

/* ---- memory ---- */

void *cuda_alloc(void *dev, size_t bytes) {
    (void)dev;
    void *p = NULL;
    if (cudaMalloc(&p, bytes ? bytes : 1) == cudaSuccess && cudaMemset(p, 0, bytes) == cudaSuccess &&
        cudaStreamSynchronize(cudaStreamLegacy) == cudaSuccess)
        return p;
    cudaGetLastError();
    cudaFree(p);
    return NULL;
}

void cuda_release(void *dev, void *p, size_t bytes) {
    (void)dev;
    (void)bytes;
    if (p) cudaFree(p);
}

/* Either side may be the device's: a fork copies from one state to another. */
static void copy(shk_cuda *cu, void *to, const void *from, size_t bytes) {
    cuda_flush(cu);
    if (cu->broken || !bytes) return;
    cuda_note(cu, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, cu->stream));
    cuda_note(cu, cudaStreamSynchronize(cu->stream));
}

void cuda_download(void *dev, void *host, const void *p, size_t bytes) { copy((shk_cuda *)dev, host, p, bytes); }
void cuda_upload(void *dev, void *p, const void *host, size_t bytes) { copy((shk_cuda *)dev, p, host, bytes); }

static shk_status own(shk_cuda *cu, void **p, size_t bytes, shk_error *err) {
    *p = cu->n_owned < sizeof cu->owned / sizeof *cu->owned ? cuda_alloc(cu, bytes) : NULL;
    if (!*p) return shk_fail(err, SHK_E_MEMORY, "%s: no memory for %zu bytes of weights", cu->name, bytes);
    cu->owned[cu->n_owned++] = *p;
    return SHK_OK;
}

/* Rows [row, row + n) in the form of shk_cuda_pack_row to `to` in device memory; `space` is for cuda_pack_row and, before that, for
 * the rows. */
static void put_rows(shk_cuda *cu, char *to, const shk_mat *m, size_t row, size_t n, size_t stride, char *rows, float *space) {
    const char *from = (const char *)m->data + row * m->stride;
    bool as_in_file = stride == m->stride && (m->type == SHK_F32 || m->type == SHK_F16 || m->type == SHK_BF16);
    for (size_t r = 0; r < n && !as_in_file; r++)
        shk_cuda_pack_row(rows + r * stride, from + r * m->stride, m->type, m->cols, space);
    cuda_note(cu, cudaMemcpyAsync(to, as_in_file ? from : rows, n * stride, cudaMemcpyDefault, cu->stream));
}

shk_status cuda_prepare(void *dev, shk_mat *m, shk_error *err) {
    enum { PIECE = 32 << 20 };
    shk_cuda *cu = (shk_cuda *)dev;
    if (m->packed) return SHK_OK;
    shk_cuda_format format = shk_cuda_format_of(m->type);
    size_t stride = shk_cuda_row_bytes(format, m->cols), groups = shk_cuda_padded(m->cols) / SHK_CUDA_GROUP,
           step = (PIECE / stride + 1) * 16;
    size_t tile = m->by_rows ? 0 : shk_cuda_tile_bytes(format), bytes, tiles = blocks_for(m->rows, 16);
    while (step > 16 && step * stride > PIECE) step -= 16;
    bool fits = tile ? shk_mul(&bytes, tiles, groups * tile) : shk_mul(&bytes, stride, m->rows);
    if (!fits || step * stride > cu->scratch_bytes)
        return shk_fail(err, SHK_E_LIMIT, "%s: a matrix of %zu x %zu", cu->name, m->rows, m->cols);
    void *to = NULL;
    shk_status st = own(cu, &to, bytes, err);
    if (st) return st;
    char *rows = (char *)shk_calloc(step, stride);
    float *space = (float *)shk_calloc(m->cols, sizeof *space);
    if (!rows || !space) st = shk_fail(err, SHK_E_MEMORY, "no memory to copy weights to %s", cu->name);
    cuda_flush(cu);
    for (size_t i = 0; !st && i < m->rows; i += step) {
        size_t n = smaller(step, m->rows - i);
        char *at = tile ? cu->scratch : (char *)to + i * stride;
        put_rows(cu, at, m, i, n, stride, rows, space);
        if (tile) cuda_make_tiles(cu, (char *)to + i / 16 * groups * tile, at, stride, n, m->cols, format);
    }
    cuda_note(cu, cudaStreamSynchronize(cu->stream));
    free(rows);
    free(space);
    m->data = to;
    m->stride = tile ? groups * tile / 16 : stride;
    m->packed = true;
    return st ? st : status_of(cu, err);
}

shk_status cuda_place(void *dev, const float **v, size_t n, shk_error *err) {
    shk_cuda *cu = (shk_cuda *)dev;
    void *to = NULL;
    shk_status st = own(cu, &to, n * sizeof **v, err);
    if (st) return st;
    cuda_note(cu, cudaMemcpyAsync(to, *v, n * sizeof **v, cudaMemcpyDefault, cu->stream));
    *v = (const float *)to;
    return status_of(cu, err);
}

/* Rounded up, so that graphs are few. */
static uint64_t reach_of(uint64_t positions) {
    uint64_t reach = 8 * ATTENTION_CHUNK;
    while (reach < positions) reach *= 2;
    return reach;
}

/* Spark attention's scores: as many rows and heads at once as fit into a quarter of what is free, 64 at least. Of other attention
 * what a row's chunks leave must fit into the scratch space, and 16 heads into the shared memory of a block. */
shk_status cuda_reserve(void *dev, uint64_t positions, size_t heads, size_t, size_t head_dim, shk_error *err) {
    shk_cuda *cu = (shk_cuda *)dev;
    if (head_dim > HEAD_DIM)
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: heads of %zu values; %d at most", cu->name, head_dim, HEAD_DIM);
    uint64_t chunks = positions > UINT64_MAX / 4 ? UINT64_MAX : reach_of(positions) / ATTENTION_CHUNK;
    size_t row = heads * (head_dim + 7) * sizeof(float);
    if (row && (chunks > cu->scratch_bytes / row || row > cu->scratch_bytes / (2 * SHK_PASS_ROWS)))
        return shk_fail(err, SHK_E_LIMIT, "%s: attention of %zu heads over %llu positions: they are too many", cu->name, heads,
                        (unsigned long long)positions);
    if (positions <= cu->positions) return SHK_OK;
    size_t each, pairs = 1024, free_bytes = 0, total = 0;
    if (!shk_mul(&each, (size_t)positions, 2 * sizeof(float))) each = SIZE_MAX;
    cuda_flush(cu);
    cuda_note(cu, cudaStreamSynchronize(cu->stream));
    for (int i = 0; i < GRAPHS; i++) { /* they know the old address */
        if (cu->graphs[i].exec) cudaGraphExecDestroy(cu->graphs[i].exec);
        cu->graphs[i] = graph{};
    }
    cudaFree(cu->scores);
    cu->scores = NULL;
    cu->positions = 0;
    cuda_note(cu, cudaMemGetInfo(&free_bytes, &total));
    while (pairs / 2 >= heads && pairs > 64 && each > free_bytes / 4 / pairs) pairs /= 2;
    if (each > free_bytes / pairs || !(cu->scores = (float *)cuda_alloc(cu, each * pairs)))
        return shk_fail(err, SHK_E_MEMORY, "%s: no memory for attention over %llu positions", cu->name,
                        (unsigned long long)positions);
    cu->positions = positions;
    cu->pairs = pairs;
    return SHK_OK;
}

shk_work cuda_work(const void *dev) {
    const shk_cuda *cu = (const shk_cuda *)dev;
    device_work counted = {};
    shk_work work = cu->work;
    copy((shk_cuda *)(uintptr_t)dev, &counted, cu->counted, sizeof counted);
    work.weight_bytes += (double)counted.weight_bytes + cu->passing.weight_bytes;
    work.state_bytes += (double)counted.state_bytes + cu->passing.state_bytes;
    work.flops += (double)counted.flops + cu->passing.flops;
    return work;
}

/* ---- passes ---- */

/* The device's copy of a table of layers: sessions of one length have the same one. */
static const shk_state_layer *layout(shk_cuda *cu, const shk_state_layer *layers, size_t n) {
    size_t i = 0, bytes = n * sizeof *layers;
    if (!layers) return NULL;
    for (; i < cu->n_layouts; i++)
        if (cu->layouts[i].n == n && !memcmp(cu->layouts[i].host, layers, bytes)) return cu->layouts[i].device;
    if (cu->n_layouts == LAYOUTS) { /* rare enough to begin again */
        cuda_note(cu, cudaStreamSynchronize(cu->stream));
        for (i = 0; i < LAYOUTS; i++) {
            free(cu->layouts[i].host);
            cudaFree(cu->layouts[i].device);
        }
        i = cu->n_layouts = 0;
    }
    cu->layouts[i].host = (shk_state_layer *)shk_memdup(layers, bytes);
    cu->layouts[i].device = (shk_state_layer *)cuda_alloc(cu, bytes);
    cu->layouts[i].n = n;
    if (!cu->layouts[i].host || !cu->layouts[i].device) {
        free(cu->layouts[i].host);
        cudaFree(cu->layouts[i].device);
        cuda_note(cu, cudaErrorMemoryAllocation);
        return NULL;
    }
    cuda_note(cu, cudaMemcpyAsync(cu->layouts[i].device, layers, bytes, cudaMemcpyDefault, cu->stream));
    cu->n_layouts++;
    return cu->layouts[i].device;
}

/* How output rows choose; returns the bytes of p that are used. */
static size_t describe_draws(shk_cuda *cu, pass_info *p, const shk_pass *pass) {
    uint32_t n = 0; /* biases */
    cu->choosing = 0;
    for (size_t i = 0; pass->draws && i < pass->n_outputs; i++) {
        const shk_draw *d = &pass->draws[i];
        uint32_t recent = n + (uint32_t)d->n_bias, end = recent + (uint32_t)d->n_recent;
        p->draws[i] = draw_row{ d->u, d->temperature, d->top_p, d->min_p, d->repeat_penalty, d->top_k, n, recent, end };
        if (d->n_bias) memcpy(p->biases + n, d->bias, d->n_bias * sizeof *d->bias);
        if (d->n_recent) memcpy(p->biases + recent, d->recent, d->n_recent * sizeof *d->recent);
        if (end > n) cu->choosing |= CHOOSE_BIASED;
        if (d->temperature > 0) cu->choosing |= CHOOSE_DRAWN | (d->top_k > 0 || d->top_p < 1 ? CHOOSE_BEST : 0);
        n = end;
    }
    if (!cu->choosing) return offsetof(pass_info, draws);
    if (!n) return offsetof(pass_info, draws) + pass->n_outputs * sizeof *p->draws;
    return offsetof(pass_info, biases) + n * sizeof *p->biases;
}

static void describe(shk_cuda *cu, const shk_pass *pass, size_t n_layers) {
    cu->slot = (cu->slot + 1) % SLOTS;
    cuda_note(cu, cudaEventSynchronize(cu->staged[cu->slot]));
    pass_info *p = &cu->staging[cu->slot];
    uint64_t reach = 0;
    for (size_t i = 0; i < pass->n_seqs; i++) {
        const shk_seq *s = &pass->seqs[i];
        p->seqs[i] = pass_seq{ s->pos, s->state, layout(cu, s->layers, n_layers), (uint32_t)s->row, (uint32_t)s->n };
        for (size_t j = 0; j < s->n; j++)
            p->rows[s->row + j] = pass_row{ s->pos + j, pass->tokens ? pass->tokens[s->row + j] : 0, (uint32_t)i };
        if (s->pos + s->n > reach) reach = s->pos + s->n;
    }
    if (pass->n_outputs) memcpy(p->out, pass->outputs, pass->n_outputs * sizeof *p->out);
    cuda_note(cu, cudaMemcpyAsync(cu->pass, p, describe_draws(cu, p, pass), cudaMemcpyHostToDevice, cu->stream));
    cuda_note(cu, cudaEventRecord(cu->staged[cu->slot], cu->stream));
    cu->reach = reach_of(reach);
    cu->T = (uint32_t)pass->T;
    cu->n_seqs = (uint32_t)pass->n_seqs;
}

static graph *find(shk_cuda *cu, const graph_key *key) {
    graph *oldest = cu->graphs;
    for (graph *g = cu->graphs; g < cu->graphs + GRAPHS; g++) {
        if (g->used && !memcmp(&g->key, key, sizeof *key)) return g;
        if (g->used < oldest->used) oldest = g;
    }
    if (oldest->exec) cudaGraphExecDestroy(oldest->exec);
    *oldest = graph{};
    return oldest;
}

static void add_work(shk_work *to, const shk_work *w) {
    to->weight_bytes += w->weight_bytes;
    to->state_bytes += w->state_bytes;
    to->flops += w->flops;
}

bool cuda_begin(void *dev, const shk_pass *pass, size_t n_layers, bool replay) {
    shk_cuda *cu = (shk_cuda *)dev;
    cuda_flush(cu);
    add_work(&cu->work, &cu->passing);
    cu->passing = shk_work{};
    describe(cu, pass, n_layers);
    cu->open = cu->whole = replay;
    if (!replay || cu->broken) return false;
    cu->key = graph_key{ cu->reach, cu->T, cu->n_seqs, (uint32_t)pass->n_outputs, cu->choosing };
    graph *g = find(cu, &cu->key);
    if (!g->exec) return false;
    cu->open = false;
    g->used = ++cu->clock;
    cuda_note(cu, cudaGraphLaunch(g->exec, cu->stream));
    add_work(&cu->work, &g->work);
    return true;
}

/* The tape as a graph; false if this cannot be done: then it is still there. */
static bool record(shk_cuda *cu, graph *g) {
    cudaGraph_t graph = NULL;
    size_t n = cu->n_ops;
    if (cudaStreamBeginCapture(cu->stream, cudaStreamCaptureModeRelaxed) != cudaSuccess) return false;
    cuda_flush(cu);
    bool ok = cudaStreamEndCapture(cu->stream, &graph) == cudaSuccess && !cu->broken &&
              cudaGraphInstantiate(&g->exec, graph, 0) == cudaSuccess;
    cudaGraphDestroy(graph);
    cudaGetLastError();
    if (ok) return true;
    g->exec = NULL;
    cu->broken = cudaSuccess;
    cu->n_ops = n;
    return false;
}

shk_status cuda_end(void *dev, bool wait, shk_error *err) {
    shk_cuda *cu = (shk_cuda *)dev;
    if (cu->open && cu->whole && !cu->broken) {
        graph *g = find(cu, &cu->key);
        bool again = g->used;
        g->key = cu->key;
        g->used = ++cu->clock;
        g->work = cu->passing;
        if (again && record(cu, g)) cuda_note(cu, cudaGraphLaunch(g->exec, cu->stream));
    }
    cu->open = false;
    cuda_flush(cu);
    if (wait && !cu->broken) cuda_note(cu, cudaStreamSynchronize(cu->stream));
    return status_of(cu, err);
}

/* ---- opening and closing ---- */

void cuda_close(void *dev) {
    shk_cuda *cu = (shk_cuda *)dev;
    if (!cu) return;
    if (cu->stream) cudaStreamSynchronize(cu->stream);
    cuda_train_close(cu);
    for (int i = 0; i < GRAPHS; i++)
        if (cu->graphs[i].exec) cudaGraphExecDestroy(cu->graphs[i].exec);
    for (size_t i = 0; i < cu->n_owned; i++) cudaFree(cu->owned[i]);
    for (size_t i = 0; i < cu->n_layouts; i++) {
        free(cu->layouts[i].host);
        cudaFree(cu->layouts[i].device);
    }
    for (size_t i = 0; i < cu->n_constants; i++) {
        free(cu->constants[i].host);
        cudaFree(cu->constants[i].device);
    }
    for (int i = 0; i < SLOTS; i++)
        if (cu->staged[i]) cudaEventDestroy(cu->staged[i]);
    cudaFreeHost(cu->staging);
    cudaFree(cu->pass);
    cudaFree(cu->counted);
    cudaFree(cu->scratch);
    cudaFree(cu->counters);
    cudaFree(cu->scores);
    if (cu->stream) cudaStreamDestroy(cu->stream);
    free(cu->tape);
    free(cu);
}

const void *cuda_constant(shk_cuda *cu, const void *host, size_t bytes) {
    size_t i = 0;
    for (; i < cu->n_constants; i++)
        if (cu->constants[i].bytes == bytes && !memcmp(cu->constants[i].host, host, bytes)) return cu->constants[i].device;
    if (i == CONSTANTS) {
        cuda_note(cu, cudaErrorMemoryAllocation);
        return NULL;
    }
    cu->constants[i].host = shk_memdup(host, bytes);
    cu->constants[i].device = cuda_alloc(cu, bytes);
    cu->constants[i].bytes = bytes;
    if (!cu->constants[i].host || !cu->constants[i].device) cuda_note(cu, cudaErrorMemoryAllocation);
    else cuda_note(cu, cudaMemcpyAsync(cu->constants[i].device, host, bytes, cudaMemcpyDefault, cu->stream));
    return cu->constants[cu->n_constants++].device;
}

static shk_status open_gpu(shk_cuda *cu, shk_error *err) {
    cudaDeviceProp p;
    int n = 0, driver = 0, runtime = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    cudaDriverGetVersion(&driver); /* 0: there is none */
    cudaRuntimeGetVersion(&runtime);
    if (e == cudaErrorInsufficientDriver && driver)
        return shk_fail(err, SHK_E_DEVICE, "the NVIDIA driver is for CUDA %d.%d, this program needs one for %d.%d", driver / 1000,
                        driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (e != cudaSuccess || !n)
        return shk_fail(err, SHK_E_DEVICE, "no NVIDIA GPU: %s",
                        driver ? cudaGetErrorString(e ? e : cudaErrorNoDevice) : "no driver for one");
    int current = 0; /* of the calling thread: the first, if nobody has chosen */
    cuda_note(cu, cudaGetDevice(&current));
    if (!cu->broken) cuda_note(cu, cudaGetDeviceProperties(&p, current));
    if (cu->broken) return shk_fail(err, SHK_E_DEVICE, "NVIDIA GPU %d: %s", current, cudaGetErrorString(cu->broken));
    memcpy(cu->name, p.name, sizeof cu->name - 1);
    cu->sms = p.multiProcessorCount, cu->major = p.major, cu->minor = p.minor, cu->shared = p.sharedMemPerBlockOptin;
    if (cu->major * 10 + cu->minor < 75)
        return shk_fail(err, SHK_E_DEVICE, "%s has compute capability %d.%d; 7.5 and later run", cu->name, cu->major, cu->minor);
    cuda_note(cu, cudaStreamCreateWithFlags(&cu->stream, cudaStreamNonBlocking));
    cuda_note(cu, cudaHostAlloc((void **)&cu->staging, SLOTS * sizeof *cu->staging, 0));
    for (int i = 0; i < SLOTS; i++) cuda_note(cu, cudaEventCreateWithFlags(&cu->staged[i], cudaEventDisableTiming));
    cu->pass = (pass_info *)cuda_alloc(cu, sizeof *cu->pass);
    cu->counted = (device_work *)cuda_alloc(cu, sizeof *cu->counted);
    cu->scratch = (char *)cuda_alloc(cu, cu->scratch_bytes = SCRATCH_BYTES);
    cu->counters = (uint32_t *)cuda_alloc(cu, COUNTERS * sizeof *cu->counters);
    cu->tape = (cuda_op *)shk_calloc(TAPE_OPS, sizeof *cu->tape);
    cuda_linear_setup(cu);
    cuda_sparse_setup(cu);
    if (!cu->pass || !cu->counted || !cu->scratch || !cu->counters || !cu->tape) cuda_note(cu, cudaErrorMemoryAllocation);
    return status_of(cu, err);
}

extern "C" shk_status shk_cuda_open(const shk_ops **ops, void **dev, shk_error *err) {
    shk_cuda *cu = (shk_cuda *)shk_calloc(1, sizeof *cu);
    if (!cu) return shk_fail(err, SHK_E_MEMORY, "no memory for the GPU's context");
    shk_status st = open_gpu(cu, err);
    if (st) {
        cuda_close(cu);
        return st;
    }
    *ops = &cuda_ops;
    *dev = cu;
    return SHK_OK;
}
