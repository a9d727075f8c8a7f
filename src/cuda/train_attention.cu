/* Attention over whole batches, forward and backward, for every device, shape and type (train_attention.cuh): products of f32
 * values by fused multiply-adds, 64 x 64 at a time, a thread 4 x 4 of them. Also what the kernels on tensor cores need beside, and
 * the rotation of heads. */
#include "cuda/train_attention.cuh"

enum { THREADS = 256, SIDE = 64, PITCH = SIDE + 4, SLICE = SIDE / 2, OUT = 128, CHUNKS = OUT / SIDE };

/* Two slices of SLICE dims of 64 rows, or 64 dims of 64 rows; and weights [64, 64] */
struct __align__(16) tile_space {
    float rows[2 * SLICE][PITCH], w[SIDE][PITCH];
};

/* Rows of T: where the first one is, how far it is to the next, how many there are. */
template <typename A> struct tile_rows {
    const A *at;
    size_t stride;
    int exist;
};

static __device__ __forceinline__ int group_y() { return (int)threadIdx.x / 16 * 4; }
static __device__ __forceinline__ int group_x() { return (int)threadIdx.x % 16 * 4; }

static __device__ __forceinline__ void multiply(float c[4][4], const float *a, const float *b) {
    float4 x = *(const float4 *)(const void *)a, y = *(const float4 *)(const void *)b;
    float xs[4] = { x.x, x.y, x.z, x.w }, ys[4] = { y.x, y.y, y.z, y.w };
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) c[i][j] = fmaf(xs[i], ys[j], c[i][j]);
}

template <typename A> static __device__ __forceinline__ void fetch_slice(float (*to)[PITCH], tile_rows<A> x, int from, int end) {
    for (int i = (int)threadIdx.x; i < SIDE * SLICE; i += THREADS) {
        int d = i % 8 + i / 512 * 8, row = i / 8 % SIDE;
        to[d][row] = row < x.exist && from + d < end ? get(x.at[row * x.stride + from + d]) : 0;
    }
}

/* c [64, 64] = rows of x times rows of y, over dims [from, to), in that order */
template <typename A>
static __device__ __forceinline__ void products(float c[4][4], tile_space *s, tile_rows<A> x, tile_rows<A> y, int from, int to) {
    for (int i = 0; i < 16; i++) c[i / 4][i % 4] = 0;
    for (int d = from; d < to; d += SLICE) {
        __syncthreads();
        fetch_slice(s->rows, x, d, to);
        fetch_slice(s->rows + SLICE, y, d, to);
        __syncthreads();
#pragma unroll 8
        for (int i = 0; i < SLICE; i++) multiply(c, &s->rows[i][group_y()], &s->rows[SLICE + i][group_x()]);
    }
}

static __device__ __forceinline__ void cap_all(float s[4][4], float cap, float inverse) {
    for (int i = 0; i < 16 && cap > 0; i++) s[i / 4][i % 4] = train_capped<false>(s[i / 4][i % 4], cap, inverse);
}

/* out [64, CHUNKS * 64] += w^T y: dims begin to begin + OUT - 1 of the rows of y, those in [from, to) */
template <typename A>
static __device__ __forceinline__ void mix(float (*out)[4][4], tile_space *s, tile_rows<A> y, int begin, int from, int to) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        int d0 = begin + chunk * SIDE;
        if (d0 >= to || d0 + SIDE <= from) continue;
        __syncthreads();
        for (int i = (int)threadIdx.x; i < SIDE * SIDE; i += THREADS) {
            int d = d0 + i % SIDE, row = i / SIDE;
            s->rows[row][i % SIDE] = row < y.exist && d >= from && d < to ? get(y.at[row * y.stride + d]) : 0;
        }
        __syncthreads();
#pragma unroll 8
        for (int i = 0; i < SIDE; i++) multiply(out[chunk], &s->w[i][group_y()], &s->rows[i][group_x()]);
    }
}

/* Weights of queries (rows of c) and keys, for a mix over keys, or over queries. */
static __device__ __forceinline__ void put_by_key(tile_space *s, const float c[4][4]) {
    __syncthreads();
    for (int j = 0; j < 4; j++)
        *(float4 *)(void *)&s->w[group_x() + j][group_y()] = make_float4(c[0][j], c[1][j], c[2][j], c[3][j]);
}
static __device__ __forceinline__ void put_by_query(tile_space *s, const float c[4][4]) {
    __syncthreads();
    for (int i = 0; i < 4; i++)
        *(float4 *)(void *)&s->w[group_y() + i][group_x()] = make_float4(c[i][0], c[i][1], c[i][2], c[i][3]);
}

/* Rows 0 to `exist` - 1 at `to` = out, dims from `begin` on */
template <typename A>
static __device__ void put_rows(A *to, size_t stride, int exist, int dims, float (*out)[4][4], const float scale[4], int begin) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++)
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) {
                int d = begin + chunk * SIDE + group_x() + j, row = group_y() + i;
                if (row < exist && d < dims) put(to + row * stride + d, out[chunk][i][j] * scale[i]);
            }
}

/* Over the 16 threads that share rows. */
static __device__ __forceinline__ float row_max(float v) {
    for (int i = 1; i < 16; i *= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, i));
    return v;
}
template <typename V> static __device__ __forceinline__ V row_sum(V v) {
    for (int i = 1; i < 16; i *= 2) v += __shfl_xor_sync(0xffffffffu, v, i);
    return v;
}

/* Where a block stands: some dims of the outputs of 64 queries of a head, or of 64 keys. */
struct standing {
    int b, head, t0, begin;
    __device__ __forceinline__ standing(int parts, bool backwards) {
        b = (int)blockIdx.z, head = (int)blockIdx.y / parts, begin = (int)blockIdx.y % parts * OUT;
        t0 = (int)(backwards ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * SIDE; /* the longest first */
    }
};
template <typename A>
static __device__ __forceinline__ tile_rows<A> q_rows(const train_attend<A> &g, const A *x, int b, int t, int h) {
    return tile_rows<A>{ x + train_q_at(g, b, t, h), (size_t)g.heads * g.dim, g.T - t };
}
template <typename A>
static __device__ __forceinline__ tile_rows<A> k_rows(const train_attend<A> &g, const A *x, int b, int t, int h) {
    return tile_rows<A>{ x + train_k_at(g, b, t, h), (size_t)g.kv_heads * g.dim, g.T - t };
}

/* What the thread's four queries see; the first tile of keys that the block's first one sees. */
template <typename A> static __device__ int look(const train_attend<A> &g, train_sight sight[4], int b, int t0) {
    const int32_t *first = g.first + (size_t)b * g.T;
    for (int i = 0; i < 4; i++) {
        int t = t0 + group_y() + i;
        sight[i] = train_sight_of(t < g.T ? first[t] : 0, g.window, t, g.T);
    }
    return train_lowest(first[t0], g.window, t0) / SIDE * SIDE;
}

template <typename A, bool SPARK> __global__ void __launch_bounds__(THREADS) attend(train_attend<A> g, int parts) {
    __shared__ tile_space space;
    const standing at(parts, true);
    int kv = at.head / (g.heads / g.kv_heads), rank = SPARK ? g.rank : g.dim, end = min(at.t0 + SIDE, g.T);
    train_sight sight[4];
    int first_key = look(g, sight, at.b, at.t0);
    tile_rows<A> q = q_rows(g, g.q, at.b, at.t0, at.head);
    float s[4][4], s2[4][4];

    shk_threshold th[4];
    if constexpr (SPARK) {
        double sum[4] = {}, squares[4] = {};
        for (int key = first_key; key < end; key += SIDE) {
            products(s, &space, q, k_rows(g, g.k, at.b, key, kv), 0, rank);
            cap_all(s, g.cap, g.inverse_cap);
            for (int i = 0; i < 16; i++)
                if (train_sees(sight[i / 4], key + group_x() + i % 4)) {
                    double v = s[i / 4][i % 4];
                    sum[i / 4] += v, squares[i / 4] += v * v;
                }
        }
        for (int i = 0; i < 4; i++)
            th[i] = train_threshold(row_sum(sum[i]), row_sum(squares[i]), sight[i].span + 1, g.target, g.ddof);
    }

    float out[CHUNKS][4][4] = {}, most[4], total[4] = {};
    unsigned active[4] = {};
    for (int i = 0; i < 4; i++) most[i] = -INFINITY;
    for (int key = first_key; key < end; key += SIDE) {
        tile_rows<A> k = k_rows(g, g.k, at.b, key, kv);
        products(s, &space, q, k, 0, rank);
        cap_all(s, g.cap, g.inverse_cap);
        if constexpr (SPARK) products(s2, &space, q, k, rank, g.dim);
        for (int i = 0; i < 4; i++) {
            float next = most[i];
            for (int j = 0; j < 4; j++) {
                bool kept = train_sees(sight[i], key + group_x() + j) && !(SPARK && s[i][j] <= th[i].theta);
                s[i][j] = kept ? s[i][j] : -INFINITY;
                active[i] += kept;
                next = fmaxf(next, s[i][j]);
            }
            next = row_max(next);
            float ref = next == -INFINITY ? 0 : next, shrink = expf(most[i] - ref);
            most[i] = next;
            total[i] *= shrink;
            for (int j = 0; j < 4 * CHUNKS; j++) out[j / 4][i][j % 4] *= shrink;
            for (int j = 0; j < 4; j++) {
                s[i][j] = expf(s[i][j] - ref);
                total[i] += s[i][j];
                if constexpr (SPARK) s[i][j] *= train_softplus<false>(s2[i][j]);
            }
        }
        put_by_key(&space, s);
        mix(out, &space, k_rows(g, g.v, at.b, key, kv), at.begin, 0, g.dim);
    }

    float scale[4];
    for (int i = 0; i < 4; i++) {
        total[i] = row_sum(total[i]);
        if constexpr (SPARK) active[i] = row_sum(active[i]);
        scale[i] = total[i] == 0 ? 0 : 1 / total[i];
        int t = at.t0 + group_y() + i;
        if (t >= g.T || at.begin || group_x()) continue;
        size_t row = train_row_at(g, at.b, t, at.head);
        g.lse[row] = total[i] == 0 ? INFINITY : most[i] + logf(total[i]);
        if constexpr (SPARK) th[i].active = (float)active[i], g.th[row] = th[i];
    }
    put_rows(g.o + train_q_at(g, at.b, at.t0, at.head), q.stride, g.T - at.t0, g.dim, out, scale, at.begin);
}

/* What backward reads of a query. */
struct known {
    train_sight sight;
    float lse, delta, theta;
};
template <typename A, bool SPARK> static __device__ known recall(const train_attend<A> &g, int b, int t, int head) {
    if (t >= g.T) return known{ train_sight_of(0, 0, t, g.T), INFINITY, 0, -INFINITY };
    size_t row = train_row_at(g, b, t, head);
    return known{ train_sight_of(g.first[(size_t)b * g.T + t], g.window, t, g.T), g.lse[row], g.delta[row],
                  SPARK ? g.th[row].theta : -INFINITY };
}

/* Scores of 64 queries and keys, then w, ds and ds2 where s, s2 and dw were. */
template <typename A, bool SPARK>
static __device__ __forceinline__ void slopes(const train_attend<A> &g, const known have[4], int key, float w[4][4], float ds[4][4],
                              float ds2[4][4]) {
    cap_all(ds, g.cap, g.inverse_cap);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float c = ds[i][j];
            bool kept = train_sees(have[i].sight, key + group_x() + j) && !(SPARK && c <= have[i].theta);
            train_slope d = train_back<SPARK, false>(c, SPARK ? ds2[i][j] : 0, w[i][j], have[i].lse, have[i].delta,
                                                              g.inverse_cap);
            w[i][j] = kept ? d.w : 0, ds[i][j] = kept ? d.ds : 0, ds2[i][j] = kept ? d.ds2 : 0;
        }
}

template <typename A, bool SPARK> __global__ void __launch_bounds__(THREADS) attend_dq(train_attend<A> g, int parts) {
    __shared__ tile_space space;
    const standing at(parts, true);
    int kv = at.head / (g.heads / g.kv_heads), rank = SPARK ? g.rank : g.dim, end = min(at.t0 + SIDE, g.T);
    const int32_t *first = g.first + (size_t)at.b * g.T;
    known have[4];
    for (int i = 0; i < 4; i++) have[i] = recall<A, SPARK>(g, at.b, at.t0 + group_y() + i, at.head);
    tile_rows<A> q = q_rows(g, g.q, at.b, at.t0, at.head), dy = q_rows(g, g.dy, at.b, at.t0, at.head);
    float out[CHUNKS][4][4] = {}, w[4][4], ds[4][4], ds2[4][4];
    for (int key = train_lowest(first[at.t0], g.window, at.t0) / SIDE * SIDE; key < end; key += SIDE) {
        tile_rows<A> k = k_rows(g, g.k, at.b, key, kv);
        products(ds, &space, q, k, 0, rank);
        if constexpr (SPARK) products(ds2, &space, q, k, rank, g.dim);
        products(w, &space, dy, k_rows(g, g.v, at.b, key, kv), 0, g.dim);
        slopes<A, SPARK>(g, have, key, w, ds, ds2);
        put_by_key(&space, ds);
        mix(out, &space, k, at.begin, 0, rank);
        if constexpr (SPARK) {
            put_by_key(&space, ds2);
            mix(out, &space, k, at.begin, rank, g.dim);
        }
    }
    const float one[4] = { 1, 1, 1, 1 };
    put_rows(g.dq + train_q_at(g, at.b, at.t0, at.head), q.stride, g.T - at.t0, g.dim, out, one, at.begin);
}

template <typename A, bool SPARK> __global__ void __launch_bounds__(THREADS) attend_dkv(train_attend<A> g, int parts) {
    __shared__ tile_space space;
    const standing at(parts, false);
    int kv = at.head, key = at.t0, group = g.heads / g.kv_heads, rank = SPARK ? g.rank : g.dim, end = min(key + SIDE, g.T);
    const int32_t *first = g.first + (size_t)at.b * g.T;
    tile_rows<A> k = k_rows(g, g.k, at.b, key, kv), v = k_rows(g, g.v, at.b, key, kv);
    float dk[CHUNKS][4][4] = {}, dv[CHUNKS][4][4] = {}, w[4][4], ds[4][4], ds2[4][4];
    for (int head = kv * group; head < (kv + 1) * group; head++)
        for (int t = key; t < g.T && train_lowest(first[t], g.window, t) < end; t += SIDE) {
            tile_rows<A> q = q_rows(g, g.q, at.b, t, head), dy = q_rows(g, g.dy, at.b, t, head);
            known have[4];
            for (int i = 0; i < 4; i++) have[i] = recall<A, SPARK>(g, at.b, t + group_y() + i, head);
            products(ds, &space, q, k, 0, rank);
            if constexpr (SPARK) products(ds2, &space, q, k, rank, g.dim);
            products(w, &space, dy, v, 0, g.dim);
            slopes<A, SPARK>(g, have, key, w, ds, ds2);
            put_by_query(&space, w);
            mix(dv, &space, dy, at.begin, 0, g.dim);
            put_by_query(&space, ds);
            mix(dk, &space, q, at.begin, 0, rank);
            if constexpr (SPARK) {
                put_by_query(&space, ds2);
                mix(dk, &space, q, at.begin, rank, g.dim);
            }
        }
    const float one[4] = { 1, 1, 1, 1 };
    size_t to = train_k_at(g, at.b, key, kv);
    put_rows(g.dk + to, k.stride, g.T - key, g.dim, dk, one, at.begin);
    put_rows(g.dv + to, k.stride, g.T - key, g.dim, dv, one, at.begin);
}

/* delta[row] = dy . y, rows of n; 16 threads a row */
template <typename A, int V>
__global__ void __launch_bounds__(THREADS) dots(float *delta, const A *dy, const A *y, size_t rows, size_t n) {
    size_t row = (size_t)blockIdx.x * (THREADS / 16) + threadIdx.x / 16;
    float sum = 0;
    for (size_t d = threadIdx.x % 16 * V; row < rows && d < n; d += 16 * V) {
        float a[V], b[V];
        load<V>(a, dy + row * n + d);
        load<V>(b, y + row * n + d);
        for (int i = 0; i < V; i++) sum = fmaf(a[i], b[i], sum);
    }
    sum = row_sum(sum);
    if (row < rows && threadIdx.x % 16 == 0) delta[row] = sum;
}

/* ---- the table ---- */

template <typename A, bool SPARK> static void run(shk_cuda *cu, const train_attend<A> &g, bool back) {
    int parts = (g.dim + OUT - 1) / OUT;
    dim3 queries(blocks_for((size_t)g.T, SIDE), (unsigned)(g.heads * parts), g.B);
    dim3 keys(queries.x, (unsigned)(g.kv_heads * parts), g.B);
    if (!back) train_launch(cu, attend<A, SPARK>, queries, THREADS, 0, g, parts);
    else {
        train_launch(cu, attend_dq<A, SPARK>, queries, THREADS, 0, g, parts);
        train_launch(cu, attend_dkv<A, SPARK>, keys, THREADS, 0, g, parts);
    }
}

static bool on_tensor_cores(shk_cuda *cu, const train_attend<bf16> &g, bool back) { return cuda_train_attend_tensor(cu, g, back); }
static bool on_tensor_cores(shk_cuda *, const train_attend<float> &, bool) { return false; }

template <typename A>
static train_attend<A> describe(const shk_batch *b, const shk_attention *a, const void *q, const void *k, const void *v) {
    train_attend<A> g = {};
    g.q = (const A *)q, g.k = (const A *)k, g.v = (const A *)v, g.first = b->first;
    g.B = (unsigned)b->B, g.T = (int)b->T;
    g.heads = (int)a->heads, g.kv_heads = (int)a->kv_heads, g.dim = (int)a->head_dim, g.rank = (int)a->rank;
    g.window = a->window < b->T ? (int)a->window : 0;
    g.cap = a->softcap, g.inverse_cap = a->softcap > 0 ? 1 / a->softcap : 0, g.target = a->k, g.ddof = a->ddof;
    return g;
}
template <typename A> static void go(shk_cuda *cu, const train_attend<A> &g, bool back) {
    if (on_tensor_cores(cu, g, back)) return;
    if (g.rank) run<A, true>(cu, g, back);
    else run<A, false>(cu, g, back);
}

size_t shk_cuda_train_attention_work(void *, const shk_batch *b, const shk_attention *a) {
    return b->B * b->T * a->heads * sizeof(float);
}

void shk_cuda_train_attention(void *dev, shk_act *o, float *lse, shk_threshold *th, const shk_act *q, const shk_act *k,
                              const shk_act *v, const shk_batch *b, const shk_attention *a, void *) {
    shk_cuda *cu = (shk_cuda *)dev;
    by_act(cu, [&](auto one) {
        using A = decltype(one);
        train_attend<A> g = describe<A>(b, a, q, k, v);
        g.o = (A *)o, g.lse = lse, g.th = th;
        go(cu, g, false);
    });
}

void shk_cuda_train_attention_grad(void *dev, shk_act *dq, shk_act *dk, shk_act *dv, const shk_act *dy, const shk_act *o,
                                   const float *lse, const shk_threshold *th, const shk_act *q, const shk_act *k, const shk_act *v,
                                   const shk_batch *b, const shk_attention *a, void *work) {
    shk_cuda *cu = (shk_cuda *)dev;
    size_t rows = b->B * b->T * a->heads;
    by_pack(cu, a->head_dim, { dy, o }, [&](auto one, auto pack) {
        using A = decltype(one);
        train_attend<A> g = describe<A>(b, a, q, k, v);
        g.dq = (A *)dq, g.dk = (A *)dk, g.dv = (A *)dv, g.dy = (const A *)dy, g.y = (const A *)o;
        g.lse = (float *)lse, g.th = (shk_threshold *)th, g.delta = (float *)work;
        train_launch(cu, dots<A, decltype(pack)::value>, blocks_for(rows, THREADS / 16), THREADS, 0, g.delta, g.dy, g.y, rows,
                     a->head_dim);
        go(cu, g, true);
    });
}

/* Pairs (i, i + half) of V at a time; a thread goes through the heads of a row. */
template <typename A, int V>
__global__ void __launch_bounds__(THREADS)
    rotate(A *x, const float *table, const int32_t *first, size_t rows, size_t T, size_t half, size_t heads, size_t dim,
           float sign) {
    size_t each = half / V, i = (size_t)blockIdx.x * THREADS + threadIdx.x, row = i / each, at = i % each * V;
    if (row >= rows) return;
    const float *angle = table + (row % T - (size_t)first[row]) * 2 * half + at;
    float cos[V], sin[V];
    load<V>(cos, angle);
    load<V>(sin, angle + half);
    for (int j = 0; j < V; j++) sin[j] *= sign;
    for (size_t h = 0; h < heads; h++) {
        A *low = x + (row * heads + h) * dim + at, *high = low + half;
        float p[V], q[V], r[V], s[V];
        load<V>(p, low);
        load<V>(q, high);
        for (int j = 0; j < V; j++) r[j] = p[j] * cos[j] - q[j] * sin[j], s[j] = q[j] * cos[j] + p[j] * sin[j];
        store<V>(low, r);
        store<V>(high, s);
    }
}

void shk_cuda_train_rope(void *dev, shk_act *x, const float *table, const shk_batch *b, size_t half, size_t heads, size_t head_dim,
                         size_t offset, bool back) {
    shk_cuda *cu = (shk_cuda *)dev;
    size_t rows = b->B * b->T;
    bool even = half % 8 == 0 && head_dim % 8 == 0 && offset % 8 == 0;
    by_pack(cu, even ? half : 1, { x, table }, [&](auto one, auto pack) {
        using A = decltype(one);
        constexpr int V = decltype(pack)::value;
        train_launch(cu, rotate<A, V>, blocks_for(rows * (half / V), THREADS), THREADS, 0, (A *)x + offset, table, b->first, rows,
                     b->T, half, heads, head_dim, back ? -1.0f : 1.0f);
    });
}
