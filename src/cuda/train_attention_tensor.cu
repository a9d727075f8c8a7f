/* Attention over whole batches, forward and backward, on tensor cores: activations are bf16, the factors of every product are, and
 * all else is f32 (train_attention.cuh). A warp owns 16 rows of a tile: queries forward and for dq, keys for dk and dv. Its scores
 * come out of the tensor cores in the very registers from which they go in again as the left factor of the next product. */
#include "cuda/train_attention.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS, ROWS = 16 * WARPS, OUT = 128, INFO = 4 };

/* ---- tiles in shared memory: rows of D values ---- */

/* Where 8 values begin. They change places with others of their row, so that the same 8 of 8 rows lie in different banks. */
template <int D> static __device__ __forceinline__ uint32_t place(int row, int eight) {
    return (uint32_t)(row * D * 2 + ((eight ^ (row & 7)) << 4));
}

/* Begins to copy R rows, of which `exist` do, of `dims` values: the rest is set to zeros. */
template <int D, int R>
static __device__ __forceinline__ void fetch(uint32_t to, const bf16 *from, size_t stride, int exist, int dims) {
    constexpr int EIGHTS = D / 8, STEP = THREADS / EIGHTS;
    int eight = (int)threadIdx.x % EIGHTS, row = (int)threadIdx.x / EIGHTS;
    bool inside = eight * 8 < dims;
    const bf16 *at = from + row * stride + eight * 8;
#pragma unroll
    for (int i = 0; i < R; i += STEP, at += STEP * stride) {
        bool there = inside && row + i < exist;
        tensor_copy16(to + place<D>(row + i, eight), there ? at : from, there);
    }
}

/* c [16, 8 N] += rows row to row + 15 of a times rows 0 to 8 N - 1 of b, over dims [from, to) */
template <int D, int N>
static __device__ __forceinline__ void products(float (*c)[4], uint32_t a, int row, uint32_t b, int from, int to) {
    int lane = (int)threadIdx.x % 32, at = row + lane % 16, n_at = lane % 8 + lane / 16 * 8;
#pragma unroll 8
    for (int k = from / 8; k < to / 8; k += 2) {
        uint32_t x[4], y[4];
        tensor_load(x, a + place<D>(at, k + lane / 16));
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            tensor_load(y, b + place<D>(n * 8 + n_at, k + lane / 8 % 2));
            tensor_multiply(c[n], x, y[0], y[1]);
            tensor_multiply(c[n + 1], x, y[2], y[3]);
        }
    }
}

/* Scores of 16 queries and 8 N keys, or the other way round; of SPARK both parts. */
template <int D, int N, bool SPARK>
static __device__ __forceinline__ void scores(float (*s)[4], float (*s2)[4], uint32_t a, int row, uint32_t b,
                                              const train_attend<bf16> &g) {
    if constexpr (SPARK) {
        products<D, N>(s, a, row, b, 0, g.rank);
        products<D, N>(s2, a, row, b, g.rank, D);
    } else products<D, N>(s, a, row, b, 0, D);
    if (g.cap > 0)
#pragma unroll
        for (int i = 0; i < 4 * N; i++) s[i / 4][i % 4] = train_capped<true>(s[i / 4][i % 4], g.cap, g.inverse_cap);
}

/* out [16, 8 M] += w [16, 8 N], rounded, times dims from `begin` on of the N * 8 rows of b; of SPARK the dims from rank on have
 * weights w2 */
template <int D, int N, int M, bool SPARK>
static __device__ __forceinline__ void mix(float (*out)[4], float (*w)[4], float (*w2)[4], uint32_t b, int begin, int rank) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        uint32_t x[2][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[0][i] = packed(w[k + i / 2][i % 2 * 2], w[k + i / 2][i % 2 * 2 + 1]);
            if constexpr (SPARK) x[1][i] = packed(w2[k + i / 2][i % 2 * 2], w2[k + i / 2][i % 2 * 2 + 1]);
        }
#pragma unroll
        for (int m = 0; m < M; m += 2) {
            uint32_t y[4], z[4];
            bool second = SPARK && begin + m * 8 >= rank;
#pragma unroll
            for (int i = 0; i < 4; i++) z[i] = second ? x[SPARK][i] : x[0][i];
            tensor_load_turned(y, b + place<D>(k * 8 + lane % 16, begin / 8 + m + lane / 16));
            tensor_multiply(out[m], z, y[0], y[1]);
            tensor_multiply(out[m + 1], z, y[2], y[3]);
        }
    }
}

/* fetch(i) begins to copy what compute(i) needs, into place i % STAGES. */
template <int STAGES, typename F, typename C> static __device__ __forceinline__ void pipeline(int n, F fetch, C compute) {
    if (STAGES > 1) {
        if (n) fetch(0);
        tensor_copy_group();
    }
    for (int i = 0; i < n; i++) {
        if (i + STAGES - 1 < n) fetch(i + STAGES - 1);
        tensor_copy_group();
        tensor_copy_wait<STAGES - 1>();
        __syncthreads();
        compute(i);
        __syncthreads();
    }
}

/* Rows of a sum of 16 x 8 M, one pair of values at a time: put(row of 16, dim, values) */
template <int M, typename F> static __device__ __forceinline__ void each_pair(float (*c)[4], F put) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
        for (int half = 0; half < 2; half++) put(lane / 4 + 8 * half, m * 8 + lane % 4 * 2, c[m][2 * half], c[m][2 * half + 1]);
}
template <typename A> static __device__ __forceinline__ void put_pair(A *to, float low, float high) {
    *(uint32_t *)(void *)to = packed(low, high);
}

/* Over the four threads that share a row. */
template <typename V> static __device__ __forceinline__ V quad_max(V v) {
    for (int i = 1; i < 4; i *= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, i));
    return v;
}
template <typename V> static __device__ __forceinline__ V quad_sum(V v) {
    for (int i = 1; i < 4; i *= 2) v += __shfl_xor_sync(0xffffffffu, v, i);
    return v;
}

/* ---- a block owns queries ---- */

/* What a thread knows of its two rows, and the tiles of KEYS keys that the block's queries see. */
template <int KEYS> struct owner {
    int b, head, kv, t0, warp_row, t[2], first_tile, tiles;
    train_sight sight[2];

    __device__ __forceinline__ owner(const train_attend<bf16> &g) {
        int lane = (int)threadIdx.x % 32;
        b = (int)blockIdx.z, head = (int)blockIdx.y, kv = head / (g.heads / g.kv_heads);
        t0 = (int)(gridDim.x - 1 - blockIdx.x) * ROWS; /* the longest first */
        warp_row = (int)threadIdx.x / 32 * 16;
        const int32_t *first = g.first + (size_t)b * g.T;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            t[i] = t0 + warp_row + lane / 4 + 8 * i;
            sight[i] = train_sight_of(t[i] < g.T ? first[t[i]] : 0, g.window, t[i], g.T);
        }
        int last = min(t0 + ROWS, g.T) - 1;
        first_tile = train_lowest(first[t0], g.window, t0) / KEYS;
        tiles = last / KEYS - first_tile + 1;
    }
    __device__ __forceinline__ int key(int tile) const { return (first_tile + tile) * KEYS; }
    /* The key of value i of the n-th 8 columns, of a tile that begins at key0. */
    __device__ __forceinline__ int column(int key0, int n, int i) const {
        return key0 + n * 8 + (int)threadIdx.x % 4 * 2 + (i & 1);
    }
    /* Whether a row of this warp can see keys from key0 on. */
    __device__ __forceinline__ bool reaches(int key0) const { return key0 <= t0 + warp_row + 15; }
};

/* Shared memory of the two kernels below: `resident` tiles of ROWS rows, and two tiles of keys a stage. */
template <int D> struct query_layout {
    static constexpr int KEYS = D <= 128 ? 64 : 32, N = KEYS / 8, TILE = KEYS * D * 2, OWN = ROWS * D * 2;
    static constexpr int BACK_STAGES = D <= 128 ? 2 : 1;
    static constexpr size_t forward_bytes() { return OWN + 2 * 2 * TILE; }
    static constexpr size_t back_bytes() { return 2 * OWN + BACK_STAGES * 2 * TILE; }
};

template <int D, bool SPARK> __global__ void __launch_bounds__(THREADS) attend_tiles(train_attend<bf16> g) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    typedef query_layout<D> layout;
    constexpr int KEYS = layout::KEYS, N = layout::N, M = D / 8;
    DYNAMIC_SHARED(char, space, 128);
    owner<KEYS> own(g);
    uint32_t q = tensor_address(space), keys = q + layout::OWN;
    auto stage = [&](int i) { return keys + (uint32_t)(i % 2 * 2 * layout::TILE); };
    auto fetch_from = [&](uint32_t to, const bf16 *from, int i, int dims) {
        int key = own.key(i);
        fetch<D, KEYS>(to, from + train_k_at(g, own.b, key, own.kv), (size_t)g.kv_heads * g.dim, g.T - key, dims);
    };
    fetch<D, ROWS>(q, g.q + train_q_at(g, own.b, own.t0, own.head), (size_t)g.heads * g.dim, g.T - own.t0, g.dim);

    float theta[2] = { -INFINITY, -INFINITY };
    shk_threshold th[2];
    unsigned active[2] = {};
    if constexpr (SPARK) {
        double sum[2] = {}, squares[2] = {};
        pipeline<2>(
            own.tiles, [&](int i) { fetch_from(stage(i), g.k, i, g.rank); },
            [&](int tile) {
                if (!own.reaches(own.key(tile))) return;
                float s[N][4] = {};
                products<D, N>(s, q, own.warp_row, stage(tile), 0, g.rank);
#pragma unroll
                for (int n = 0; n < N; n++)
                    for (int i = 0; i < 4; i++)
                        if (train_sees(own.sight[i / 2], own.column(own.key(tile), n, i))) {
                            double v = s[n][i];
                            sum[i / 2] += v, squares[i / 2] += v * v;
                        }
            });
#pragma unroll
        for (int i = 0; i < 2; i++) {
            th[i] = train_threshold(quad_sum(sum[i]), quad_sum(squares[i]), own.sight[i].span + 1, g.target, g.ddof);
            theta[i] = th[i].theta;
        }
    }

    float out[M][4] = {}, most[2] = { -INFINITY, -INFINITY }, total[2] = {};
    pipeline<2>(
        own.tiles,
        [&](int i) {
            fetch_from(stage(i), g.k, i, g.dim);
            fetch_from(stage(i) + layout::TILE, g.v, i, g.dim);
        },
        [&](int tile) {
            if (!own.reaches(own.key(tile))) return;
            uint32_t k = stage(tile), v = k + layout::TILE;
            float s[N][4] = {}, s2[SPARK ? N : 1][4] = {}, next[2] = { most[0], most[1] };
            scores<D, N, SPARK>(s, s2, q, own.warp_row, k, g);
#pragma unroll
            for (int n = 0; n < N; n++)
                for (int i = 0; i < 4; i++) {
                    float c = s[n][i];
                    bool kept = train_sees(own.sight[i / 2], own.column(own.key(tile), n, i)) && !(SPARK && c <= theta[i / 2]);
                    s[n][i] = kept ? c : -INFINITY;
                    active[i / 2] += kept;
                    next[i / 2] = fmaxf(next[i / 2], s[n][i]);
                }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                next[i] = quad_max(next[i]);
                float ref = next[i] == -INFINITY ? 0 : next[i], shrink = train_exp<true>(most[i] - ref);
                most[i] = next[i], next[i] = ref;
                total[i] *= shrink;
#pragma unroll
                for (int m = 0; m < M; m++) out[m][2 * i] *= shrink, out[m][2 * i + 1] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < N; n++)
                for (int i = 0; i < 4; i++) {
                    float p = train_exp<true>(s[n][i] - next[i / 2]);
                    total[i / 2] += p;
                    if constexpr (SPARK) p *= train_softplus<true>(s2[n][i]);
                    s[n][i] = p;
                }
            mix<D, N, M, false>(out, s, s, v, 0, D);
        });

    float scale[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        total[i] = quad_sum(total[i]);
        if constexpr (SPARK) active[i] = quad_sum(active[i]);
        scale[i] = total[i] == 0 ? 0 : 1 / total[i];
        if (own.t[i] >= g.T || threadIdx.x % 4) continue;
        size_t at = train_row_at(g, own.b, own.t[i], own.head);
        g.lse[at] = total[i] == 0 ? INFINITY : most[i] + logf(total[i]);
        if constexpr (SPARK) th[i].active = (float)active[i], g.th[at] = th[i];
    }
    each_pair<M>(out, [&](int row, int dim, float low, float high) {
        int t = own.t0 + own.warp_row + row, i = row / 8;
        if (t < g.T && dim < g.dim) put_pair(g.o + train_q_at(g, own.b, t, own.head) + dim, low * scale[i], high * scale[i]);
    });
#endif
}

template <int D, bool SPARK> __global__ void __launch_bounds__(THREADS) attend_tiles_dq(train_attend<bf16> g) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    typedef query_layout<D> layout;
    constexpr int KEYS = layout::KEYS, N = layout::N, M = D / 8, STAGES = layout::BACK_STAGES;
    DYNAMIC_SHARED(char, space, 128);
    owner<KEYS> own(g);
    uint32_t q = tensor_address(space), dy = q + layout::OWN, keys = dy + layout::OWN;
    auto stage = [&](int i) { return keys + (uint32_t)(i % STAGES * 2 * layout::TILE); };
    size_t own_at = train_q_at(g, own.b, own.t0, own.head), stride = (size_t)g.heads * g.dim;
    size_t kv_stride = (size_t)g.kv_heads * g.dim;
    fetch<D, ROWS>(q, g.q + own_at, stride, g.T - own.t0, g.dim);
    fetch<D, ROWS>(dy, g.dy + own_at, stride, g.T - own.t0, g.dim);

    float lse[2] = { INFINITY, INFINITY }, delta[2] = {}, theta[2] = { -INFINITY, -INFINITY };
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (own.t[i] >= g.T) continue;
        size_t at = train_row_at(g, own.b, own.t[i], own.head);
        lse[i] = g.lse[at], delta[i] = g.delta[at];
        if constexpr (SPARK) theta[i] = g.th[at].theta;
    }
    float out[M][4] = {};
    pipeline<STAGES>(
        own.tiles,
        [&](int i) {
            int key = own.key(i);
            size_t at = train_k_at(g, own.b, key, own.kv);
            fetch<D, KEYS>(stage(i), g.k + at, kv_stride, g.T - key, g.dim);
            fetch<D, KEYS>(stage(i) + layout::TILE, g.v + at, kv_stride, g.T - key, g.dim);
        },
        [&](int tile) {
            if (!own.reaches(own.key(tile))) return;
            uint32_t k = stage(tile), v = k + layout::TILE;
            float s[N][4] = {}, s2[SPARK ? N : 1][4] = {}, dw[N][4] = {};
            scores<D, N, SPARK>(s, s2, q, own.warp_row, k, g);
            products<D, N>(dw, dy, own.warp_row, v, 0, D);
#pragma unroll
            for (int n = 0; n < N; n++)
                for (int i = 0; i < 4; i++) {
                    float c = s[n][i], s2_or_0 = SPARK ? s2[SPARK ? n : 0][i] : 0;
                    bool kept = train_sees(own.sight[i / 2], own.column(own.key(tile), n, i)) && !(SPARK && c <= theta[i / 2]);
                    train_slope d = train_back<SPARK, true>(c, s2_or_0, dw[n][i], lse[i / 2], delta[i / 2], g.inverse_cap);
                    s[n][i] = kept ? d.ds : 0;
                    if constexpr (SPARK) s2[n][i] = kept ? d.ds2 : 0;
                }
            mix<D, N, M, SPARK>(out, s, s2, k, 0, g.rank);
        });
    each_pair<M>(out, [&](int row, int dim, float low, float high) {
        int t = own.t0 + own.warp_row + row;
        if (t < g.T && dim < g.dim) put_pair(g.dq + train_q_at(g, own.b, t, own.head) + dim, low, high);
    });
#endif
}

/* ---- a block owns keys ---- */

/* K and V stay; of QUERIES queries at a time come q, dy and, f32, what is known of each: first, lse, delta, theta. */
template <int D> struct key_layout {
    static constexpr int QUERIES = 32, N = QUERIES / 8, TILE = QUERIES * D * 2, OWN = ROWS * D * 2, STAGES = D <= 128 ? 2 : 1;
    static constexpr int STAGE = 2 * TILE + INFO * QUERIES * 4, PARTS = D > OUT ? D / OUT : 1, WIDE = D / PARTS;
    static constexpr size_t bytes() { return 2 * OWN + STAGES * STAGE; }
};

/* How many tiles of queries from t0 on have one that sees keys before `end`: the first ones. Every thread calls it. */
template <int QUERIES> static __device__ int tiles_that_see(const train_attend<bf16> &g, const int32_t *first, int t0, int end) {
    int n = 0, found;
    do {
        int t = t0 + (n + (int)threadIdx.x) * QUERIES;
        found = __syncthreads_count(t < g.T && train_lowest(first[t], g.window, t) < end);
        n += found;
    } while (found == THREADS);
    return n;
}

/* Scores lie the other way round here: rows are keys, columns queries. Of more than OUT dims a block makes a part of dk and dv. */
template <int D, bool SPARK> __global__ void __launch_bounds__(THREADS, 2) attend_tiles_dkv(train_attend<bf16> g) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    typedef key_layout<D> layout;
    constexpr int QUERIES = layout::QUERIES, N = layout::N, M = layout::WIDE / 8, STAGES = layout::STAGES, STAGE = layout::STAGE;
    DYNAMIC_SHARED(char, space, 128);
    int b = (int)blockIdx.z, kv = (int)blockIdx.y / layout::PARTS, begin = (int)blockIdx.y % layout::PARTS * layout::WIDE;
    int key0 = (int)blockIdx.x * ROWS, warp_row = (int)threadIdx.x / 32 * 16, lane = (int)threadIdx.x % 32;
    int group = g.heads / g.kv_heads;
    uint32_t k = tensor_address(space), v = k + layout::OWN, stages = v + layout::OWN;
    const int32_t *first = g.first + (size_t)b * g.T;
    size_t stride = (size_t)g.heads * g.dim, kv_stride = (size_t)g.kv_heads * g.dim;
    fetch<D, ROWS>(k, g.k + train_k_at(g, b, key0, kv), kv_stride, g.T - key0, g.dim);
    fetch<D, ROWS>(v, g.v + train_k_at(g, b, key0, kv), kv_stride, g.T - key0, g.dim);
    int tiles = tiles_that_see<QUERIES>(g, first, key0, min(key0 + ROWS, g.T));

    float dk[M][4] = {}, dv[M][4] = {};
    pipeline<STAGES>(
        group * tiles,
        [&](int i) {
            int t = key0 + i % tiles * QUERIES, head = kv * group + i / tiles, thread = (int)threadIdx.x;
            uint32_t to = stages + (uint32_t)(i % STAGES * STAGE), info = to + 2 * layout::TILE;
            size_t at = train_q_at(g, b, t, head);
            fetch<D, QUERIES>(to, g.q + at, stride, g.T - t, g.dim);
            fetch<D, QUERIES>(to + layout::TILE, g.dy + at, stride, g.T - t, g.dim);
            static_assert(INFO * QUERIES == THREADS, "a thread copies one value");
            int row = thread % QUERIES;
            bool there = t + row < g.T;
            size_t one = there ? train_row_at(g, b, t + row, head) : 0;
            const void *from = thread < QUERIES       ? (const void *)(there ? first + t + row : first)
                               : thread < 2 * QUERIES ? (const void *)(g.lse + one)
                               : thread < 3 * QUERIES ? (const void *)(g.delta + one)
                               : SPARK                ? (const void *)&g.th[one].theta
                                                      : (const void *)first;
            tensor_copy4(info + (uint32_t)(thread * 4), from, there);
        },
        [&](int i) {
            int t0 = key0 + i % tiles * QUERIES, key = key0 + warp_row + lane / 4;
            if (t0 + QUERIES <= key0 + warp_row) return;
            uint32_t q = stages + (uint32_t)(i % STAGES * STAGE), dy = q + layout::TILE;
            const float *info = (const float *)(const void *)(space + (dy + layout::TILE - k));
            float s[N][4] = {}, s2[SPARK ? N : 1][4] = {}, dw[N][4] = {};
            scores<D, N, SPARK>(s, s2, k, warp_row, q, g);
            products<D, N>(dw, v, warp_row, dy, 0, D);
#pragma unroll
            for (int n = 0; n < N; n++)
                for (int j = 0; j < 2; j++) {
                    int row = n * 8 + lane % 4 * 2 + j;
                    train_sight sight = train_sight_of(__float_as_int(info[row]), g.window, t0 + row, g.T);
                    float lse = info[QUERIES + row], delta = info[2 * QUERIES + row], theta = info[3 * QUERIES + row];
                    for (int half = 0; half < 2; half++) {
                        int at = 2 * half + j;
                        float c = s[n][at], s2_or_0 = SPARK ? s2[SPARK ? n : 0][at] : 0;
                        bool kept = train_sees(sight, key + 8 * half) && !(SPARK && c <= theta);
                        train_slope d = train_back<SPARK, true>(c, s2_or_0, dw[n][at], lse, delta, g.inverse_cap);
                        dw[n][at] = kept ? d.w : 0;
                        s[n][at] = kept ? d.ds : 0;
                        if constexpr (SPARK) s2[n][at] = kept ? d.ds2 : 0;
                    }
                }
            mix<D, N, M, false>(dv, dw, dw, dy, begin, D);
            mix<D, N, M, SPARK>(dk, s, s2, q, begin, g.rank);
        });
    auto put = [&](bf16 *to, float(*sum)[4]) {
        each_pair<M>(sum, [&](int row, int dim, float low, float high) {
            int t = key0 + warp_row + row;
            if (t < g.T && begin + dim < g.dim) put_pair(to + train_k_at(g, b, t, kv) + begin + dim, low, high);
        });
    };
    put(g.dk, dk);
    put(g.dv, dv);
#endif
}

/* ---- launching ---- */

template <int D, bool SPARK> static bool run(shk_cuda *cu, const train_attend<bf16> &g, bool back) {
    typedef query_layout<D> queries;
    typedef key_layout<D> keys;
    size_t most = queries::back_bytes() > keys::bytes() ? queries::back_bytes() : keys::bytes();
    if (most > cu->shared || queries::forward_bytes() > cu->shared) return false;
    unsigned tiles = blocks_for((size_t)g.T, ROWS);
    dim3 own(tiles, (unsigned)g.heads, g.B);
    if (!back) train_launch(cu, attend_tiles<D, SPARK>, own, THREADS, queries::forward_bytes(), g);
    else {
        train_launch(cu, attend_tiles_dq<D, SPARK>, own, THREADS, queries::back_bytes(), g);
        dim3 parts(tiles, (unsigned)g.kv_heads * keys::PARTS, g.B);
        train_launch(cu, attend_tiles_dkv<D, SPARK>, parts, THREADS, keys::bytes(), g);
    }
    return true;
}

template <int D> static bool run_either(shk_cuda *cu, const train_attend<bf16> &g, bool back) {
    return g.rank ? run<D, true>(cu, g, back) : run<D, false>(cu, g, back);
}

bool cuda_train_attend_tensor(shk_cuda *cu, const train_attend<bf16> &g, bool back) {
    uintptr_t addresses = (uintptr_t)g.q | (uintptr_t)g.k | (uintptr_t)g.v | (uintptr_t)g.o | (uintptr_t)g.dy | (uintptr_t)g.dq |
                          (uintptr_t)g.dk | (uintptr_t)g.dv;
    if (cu->major < 8 || g.dim % 16 || g.rank % 16 || g.dim > 256 || addresses % 16) return false;
    return g.dim <= 64 ? run_either<64>(cu, g, back) : g.dim <= 128 ? run_either<128>(cu, g, back) : run_either<256>(cu, g, back);
}
