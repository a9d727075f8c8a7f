/* Convolution and RG-LRU over whole batches, forward and backward: bounded by memory, each array read once. */
#include "cuda/train.cuh"
#include "cuda/train_maths.cuh"

/* ---- convolution ---- */

/* A thread takes V channels of `each` rows and keeps the GROUP nearest coefficients and rows in registers: rows are read once. */
enum { CONV_THREADS = 32, GROUP = 4, FEWEST_ROWS = 16, PIECES = 1024 };

struct conv_shape {
    const int32_t *first;
    int N, T, w, taps, each;
};

template <int V> static __device__ __forceinline__ void add_product(float sum[V], const float *a, const float *b) {
    for (int j = 0; j < V; j++) sum[j] = fmaf(a[j], b[j], sum[j]);
}

/* Row i at channels `at`; what counts for nothing where there is none. */
template <int V, typename A>
static __device__ __forceinline__ void load_row(float v[V], const A *x, const conv_shape &s, int i, int at) {
    load<V>(v, x + (size_t)min(max(i, 0), s.N - 1) * s.w + at);
}
/* The coefficient of the input k rows before. */
template <int V>
static __device__ __forceinline__ void load_coefficient(float v[V], const float *c, const conv_shape &s, int k, int at) {
    for (int j = 0; j < V; j++) v[j] = 0;
    if (k < s.taps) load<V>(v, c + (size_t)(s.taps - 1 - k) * s.w + at);
}
template <int V> static __device__ __forceinline__ void move(float *to, const float *from) {
    for (int j = 0; j < V; j++) to[j] = from[j];
}

/* FAR: there are more coefficients than GROUP. */
template <typename A, int V, bool FAR>
__global__ void __launch_bounds__(CONV_THREADS)
    convolve(A *__restrict__ y, const A *__restrict__ x, const float *c, const float *bias, conv_shape s) {
    int at = (int)(blockIdx.x * CONV_THREADS + threadIdx.x) * V, row = (int)blockIdx.y * s.each, end = min(row + s.each, s.N);
    if (at >= s.w) return;
    float near[GROUP][V], past[GROUP][V], start[V]; /* past[k]: k rows before */
    load<V>(start, bias + at);
#pragma unroll
    for (int k = 0; k < GROUP; k++) load_coefficient<V>(near[k], c, s, k, at), load_row<V>(past[k], x, s, row - 1 - k, at);
    int t = row % s.T;
#pragma unroll 4
    for (int i = row; i < end; i++) {
        int back = min(t - s.first[i], s.taps - 1);
        float sum[V];
#pragma unroll
        for (int k = GROUP - 1; k > 0; k--) move<V>(past[k], past[k - 1]);
        load<V>(past[0], x + (size_t)i * s.w + at);
        move<V>(sum, start);
#pragma unroll
        for (int k = 0; k < GROUP; k++)
            if (k <= back) add_product<V>(sum, past[k], near[k]);
        for (int k = GROUP; FAR && k <= back; k++) {
            float far[V], v[V];
            load_coefficient<V>(far, c, s, k, at);
            load_row<V>(v, x, s, i - k, at);
            add_product<V>(sum, v, far);
        }
        store<V>(y + (size_t)i * s.w + at, sum);
        t = t + 1 < s.T ? t + 1 : 0;
    }
}

/* dx, and sums over `each` rows: dc [pieces, taps, w], dbias [pieces, w]. Blocks of z > 0 sum for coefficients GROUP z on only. */
template <typename A, int V, bool FAR>
__global__ void __launch_bounds__(CONV_THREADS)
    convolve_back(A *__restrict__ dx, float *dc, float *dbias, const A *__restrict__ dy, const A *__restrict__ x, const float *c,
                  conv_shape s) {
    int at = (int)(blockIdx.x * CONV_THREADS + threadIdx.x) * V, row = (int)blockIdx.y * s.each, end = min(row + s.each, s.N);
    int k0 = FAR ? (int)blockIdx.z * GROUP : 0, t = row % s.T, begins[GROUP];
    if (at >= s.w) return;
    float near[GROUP][V], dnear[GROUP][V] = {}, dstart[V] = {}, past[GROUP][V], next[GROUP][V]; /* next[k]: dy, k rows behind */
#pragma unroll
    for (int k = 0; k < GROUP; k++) {
        load_coefficient<V>(near[k], c, s, k, at);
        load_row<V>(past[k], x, s, row - k0 - 1 - k, at);
        load_row<V>(next[k], dy, s, row - 1 + k, at);
        begins[k] = s.first[min(max(row - 1 + k, 0), s.N - 1)];
    }
#pragma unroll 4
    for (int i = row; i < end; i++) {
#pragma unroll
        for (int k = GROUP - 1; k > 0; k--) {
            move<V>(past[k], past[k - 1]);
            move<V>(next[GROUP - 1 - k], next[GROUP - k]);
            begins[GROUP - 1 - k] = begins[GROUP - k];
        }
        load_row<V>(past[0], x, s, i - k0, at);
        load_row<V>(next[GROUP - 1], dy, s, i + GROUP - 1, at);
        begins[GROUP - 1] = s.first[min(i + GROUP - 1, s.N - 1)];
        int back = min(t - begins[0], s.taps - 1);
        float sum[V] = {};
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            if (k0 + k <= back) add_product<V>(dnear[k], next[0], past[k]);
            if (k < s.taps && t + k < s.T && begins[k] <= t) add_product<V>(sum, next[k], near[k]);
        }
        for (int k = GROUP; FAR && !k0 && k < s.taps && t + k < s.T && s.first[i + k] <= t; k++) {
            float far[V], v[V];
            load_coefficient<V>(far, c, s, k, at);
            load_row<V>(v, dy, s, i + k, at);
            add_product<V>(sum, v, far);
        }
        for (int j = 0; j < V; j++) dstart[j] += next[0][j];
        if (!k0) store<V>(dx + (size_t)i * s.w + at, sum);
        t = t + 1 < s.T ? t + 1 : 0;
    }
#pragma unroll
    for (int k = 0; k < GROUP; k++)
        if (k0 + k < s.taps) store<V>(dc + ((size_t)blockIdx.y * s.taps + s.taps - 1 - k0 - k) * s.w + at, dnear[k]);
    if (!k0) store<V>(dbias + (size_t)blockIdx.y * s.w + at, dstart);
}

static conv_shape shape_of(const shk_batch *b, size_t w, size_t taps, size_t pieces) {
    size_t N = b->B * b->T, each = (N + pieces - 1) / pieces;
    return conv_shape{ b->first, (int)N, (int)b->T, (int)w, (int)taps, each < FEWEST_ROWS ? FEWEST_ROWS : (int)each };
}

void shk_cuda_train_conv1d(void *dev, shk_act *y, const shk_act *x, const float *c, const float *bias, const shk_batch *b, size_t w,
                           size_t taps) {
    shk_cuda *cu = (shk_cuda *)dev;
    conv_shape s = shape_of(b, w, taps, 2 * PIECES);
    by_pack(cu, w, { y, x, c, bias }, [&](auto one, auto pack) {
        using A = decltype(one);
        constexpr int V = decltype(pack)::value;
        dim3 grid(blocks_for(w, CONV_THREADS * V), blocks_for((size_t)s.N, (size_t)s.each));
        auto kernel = taps > GROUP ? convolve<A, V, true> : convolve<A, V, false>;
        train_launch(cu, kernel, grid, CONV_THREADS, 0, (A *)y, (const A *)x, c, bias, s);
    });
}

void shk_cuda_train_conv1d_grad(void *dev, shk_act *dx, float *dc, float *dbias, const shk_act *dy, const shk_act *x,
                                const float *c, const shk_batch *b, size_t w, size_t taps) {
    shk_cuda *cu = (shk_cuda *)dev;
    size_t room = cu->scratch_bytes / ((taps + 1) * w * sizeof(float));
    if (!room) cuda_note(cu, cudaErrorMemoryAllocation);
    conv_shape s = shape_of(b, w, taps, room && room < PIECES ? room : PIECES);
    unsigned pieces = blocks_for((size_t)s.N, (size_t)s.each);
    float *parts = (float *)(void *)cu->scratch, *bias_parts = parts + pieces * taps * w;
    by_pack(cu, w, { dx, dy, x, c }, [&](auto one, auto pack) {
        using A = decltype(one);
        constexpr int V = decltype(pack)::value;
        dim3 grid(blocks_for(w, CONV_THREADS * V), pieces, blocks_for(taps, GROUP));
        auto kernel = taps > GROUP ? convolve_back<A, V, true> : convolve_back<A, V, false>;
        train_launch(cu, kernel, grid, CONV_THREADS, 0, (A *)dx, parts, bias_parts, (const A *)dy, (const A *)x, c, s);
    });
    cuda_train_add_pieces(cu, dc, parts, pieces, taps * w);
    cuda_train_add_pieces(cu, dbias, bias_parts, pieces, w);
}

/* ---- RG-LRU ---- */

/* A block goes through a sequence with 32 channels; each of its warps takes LENGTH tokens at a time. What a warp's tokens do to the
 * state is h -> a h + in, whatever h is: so all find that out at once, and what they begin with from those before them. */
enum { CHANNELS = 32, WARPS = 8, SCAN_THREADS = CHANNELS * WARPS, LENGTH = 8, BACK_LENGTH = 4 };

/* a may be 0, where a document begins: then nothing of h comes through, were it infinite. */
static __device__ __forceinline__ float onward(float a, float h, float in) { return a == 0 ? in : fmaf(a, h, in); }

/* Of the warps' (a, in) at ends: the state with which `warp` begins; *h moves on past all of them. */
static __device__ __forceinline__ float entry(const float2 (*ends)[CHANNELS], int lane, int warp, float *h) {
    float mine = 0;
    for (int i = 0; i < WARPS; i++) {
        if (i == warp) mine = *h;
        *h = onward(ends[i][lane].x, *h, ends[i][lane].y);
    }
    return mine;
}

/* kernels.h: rglru_step */
struct gates {
    float i, r, a, m;
};
template <bool FAST> static __device__ __forceinline__ gates gates_of(float ia, float ra, float sl, bool begins) {
    gates g = { train_sigmoid<FAST>(ia), train_sigmoid<FAST>(ra), 0, 1 };
    if (begins) return g;
    float log_a = -8 * g.r * sl, twice = 2 * log_a;
    g.a = train_exp<FAST>(log_a);
    if constexpr (FAST) /* near 0, where 1 - a^2 cancels, three terms of the series are enough */
        g.m = fast_sqrt(twice > -0.02f ? -twice * (1 + twice * (0.5f + twice * (1 / 6.0f))) : 1 - g.a * g.a);
    else g.m = sqrtf(-expm1f(twice));
    return g;
}

/* Which of the warp's tokens t(0), t(1), ... begin a document, a bit each. Every lane calls it. */
template <typename F> static __device__ __forceinline__ unsigned beginnings(const int32_t *first, int T, int lane, int n, F t_of) {
    int t = t_of(lane);
    return __ballot_sync(0xffffffffu, lane < n && t >= 0 && t < T && first[t] == t);
}

template <typename A>
__global__ void __launch_bounds__(SCAN_THREADS)
    rglru_scan(A *y, const A *x, const A *ia, const A *ra, const float *lambda, const int32_t *first, int T, unsigned w) {
    constexpr bool FAST = sizeof(A) == 2;
    __shared__ float2 ends[2][WARPS][CHANNELS];
    int lane = (int)threadIdx.x % CHANNELS, warp = (int)threadIdx.x / CHANNELS;
    unsigned channel = blockIdx.x * CHANNELS + (unsigned)lane;
    bool exists = channel < w;
    float sl = exists ? train_softplus<false>(lambda[channel]) : 0, h = 0;
    size_t at = ((size_t)blockIdx.y * T + (size_t)warp * LENGTH) * w + channel;
    first += (size_t)blockIdx.y * T;
    size_t step = (size_t)WARPS * LENGTH * w;
    A vx[LENGTH], vi[LENGTH], vr[LENGTH];
    auto fetch = [&](int t0, size_t at) { /* tokens from t0 on: before the ones before them are done */
        int n = exists ? T - t0 : 0;
#pragma unroll
        for (unsigned s = 0; s < LENGTH; s++)
            if ((int)s < n) vx[s] = x[at + s * w], vi[s] = ia[at + s * w], vr[s] = ra[at + s * w];
    };
    fetch(warp * LENGTH, at);
    for (int t0 = warp * LENGTH, turn = 0; t0 - warp * LENGTH < T; t0 += WARPS * LENGTH, turn ^= 1, at += step) {
        float a[LENGTH], in[LENGTH], all = 1, end = 0;
        int n = exists ? T - t0 : 0; /* tokens that there are, LENGTH of them count */
        unsigned begins = beginnings(first, T, lane, LENGTH, [&](int s) { return t0 + s; });
#pragma unroll
        for (int s = 0; s < LENGTH; s++) {
            a[s] = 1, in[s] = 0;
            if (s < n) {
                gates g = gates_of<FAST>(get(vi[s]), get(vr[s]), sl, begins >> s & 1);
                a[s] = g.a, in[s] = g.m * g.i * get(vx[s]);
            }
            end = onward(a[s], end, in[s]), all *= a[s];
        }
        fetch(t0 + WARPS * LENGTH, at + step);
        ends[turn][warp][lane] = make_float2(all, end);
        __syncthreads();
        float state = entry(ends[turn], lane, warp, &h);
#pragma unroll
        for (unsigned s = 0; s < LENGTH; s++) {
            state = onward(a[s], state, in[s]);
            if ((int)s < n) put(y + at + s * w, state);
        }
    }
}

/* From a sequence's last token to its first: token T - 1 - u is the u-th. sums [B, w]: what each sequence adds to dlambda. */
template <typename A>
__global__ void __launch_bounds__(SCAN_THREADS)
    rglru_scan_back(A *dx, A *dia, A *dra, float *sums, const A *dy, const A *y, const A *x, const A *ia, const A *ra,
                    const float *lambda, const int32_t *first, int T, unsigned w) {
    constexpr bool FAST = sizeof(A) == 2;
    __shared__ float2 ends[2][WARPS][CHANNELS];
    __shared__ double totals[WARPS][CHANNELS];
    int lane = (int)threadIdx.x % CHANNELS, warp = (int)threadIdx.x / CHANNELS;
    unsigned channel = blockIdx.x * CHANNELS + (unsigned)lane;
    bool exists = channel < w;
    float sl = exists ? train_softplus<false>(lambda[channel]) : 0, carry = 0;
    double total = 0;
    first += (size_t)blockIdx.y * T;
    struct tokens {
        A dy[BACK_LENGTH], x[BACK_LENGTH], i[BACK_LENGTH], r[BACK_LENGTH], h[BACK_LENGTH];
        unsigned begins;
    } next;
    auto place = [&](int t0) { return ((size_t)blockIdx.y * T + (size_t)max(t0, 0)) * w + channel; };
    auto fetch = [&](int t0) { /* tokens from t0 back: before the ones behind them are done */
        size_t at = place(t0);
        int n = exists ? t0 + 1 : 0;
        next.begins = beginnings(first, T, lane, BACK_LENGTH, [&](int s) { return t0 - s; });
#pragma unroll
        for (unsigned s = 0; s < BACK_LENGTH; s++) {
            if ((int)s >= n) continue;
            size_t here = at - s * w;
            next.dy[s] = dy[here], next.x[s] = x[here], next.i[s] = ia[here], next.r[s] = ra[here];
            next.h[s] = next.begins >> s & 1 ? A(0.0f) : y[here - w];
        }
    };
    fetch(T - 1 - warp * BACK_LENGTH);
    for (int u0 = warp * BACK_LENGTH, turn = 0; u0 - warp * BACK_LENGTH < T; u0 += WARPS * BACK_LENGTH, turn ^= 1) {
        int t0 = T - 1 - u0, n = exists ? t0 + 1 : 0; /* going back from t0, n tokens are left */
        size_t at = place(t0);
        gates g[BACK_LENGTH];
        float all = 1, end = 0, dsl = 0;
        const tokens v = next;
        fetch(t0 - WARPS * BACK_LENGTH);
#pragma unroll
        for (int s = 0; s < BACK_LENGTH; s++) {
            g[s] = gates{ 0, 0, 1, 1 };
            if (s >= n) continue;
            g[s] = gates_of<FAST>(get(v.i[s]), get(v.r[s]), sl, v.begins >> s & 1);
            end = onward(g[s].a, end + get(v.dy[s]), 0), all *= g[s].a;
        }
        ends[turn][warp][lane] = make_float2(all, end);
        __syncthreads();
        float mine = entry(ends[turn], lane, warp, &carry);
#pragma unroll
        for (unsigned s = 0; s < BACK_LENGTH; s++) {
            if ((int)s >= n) continue;
            size_t here = at - s * w;
            float i = g[s].i, r = g[s].r, a = g[s].a, m = g[s].m, in = get(v.x[s]), dh = get(v.dy[s]) + mine;
            float per_m = FAST ? fast_reciprocal(fmaxf(m, 1 / 2000.0f)) : 1 / fmaxf(m, 1 / 2000.0f);
            float dl = v.begins >> s & 1 ? 0 : dh * a * (get(v.h[s]) - i * in * a * per_m), into = dh * m * i;
            put(dx + here, into);
            put(dia + here, into * in * (1 - i));
            dl *= -8 * r;
            put(dra + here, sl * dl * (1 - r));
            dsl += dl;
            mine = onward(a, dh, 0);
        }
        total += (double)dsl;
    }
    totals[warp][lane] = total;
    __syncthreads();
    if (warp || !exists) return;
    for (int i = 1; i < WARPS; i++) total += totals[i][lane];
    sums[(size_t)blockIdx.y * w + channel] = (float)(total * (double)train_sigmoid<false>(lambda[channel]));
}

void shk_cuda_train_rglru(void *dev, shk_act *y, const shk_act *x, const shk_act *ia, const shk_act *ra, const float *lambda,
                          const shk_batch *b, size_t w) {
    shk_cuda *cu = (shk_cuda *)dev;
    by_act(cu, [&](auto one) {
        using A = decltype(one);
        train_launch(cu, rglru_scan<A>, dim3(blocks_for(w, CHANNELS), (unsigned)b->B), SCAN_THREADS, 0, (A *)y, (const A *)x,
                     (const A *)ia, (const A *)ra, lambda, b->first, (int)b->T, (unsigned)w);
    });
}

void shk_cuda_train_rglru_grad(void *dev, shk_act *dx, shk_act *dia, shk_act *dra, float *dlambda, const shk_act *dy,
                               const shk_act *y, const shk_act *x, const shk_act *ia, const shk_act *ra, const float *lambda,
                               const shk_batch *b, size_t w) {
    shk_cuda *cu = (shk_cuda *)dev;
    float *sums = (float *)(void *)cu->scratch;
    if (b->B > cu->scratch_bytes / sizeof(float) / w) cuda_note(cu, cudaErrorMemoryAllocation);
    by_act(cu, [&](auto one) {
        using A = decltype(one);
        train_launch(cu, rglru_scan_back<A>, dim3(blocks_for(w, CHANNELS), (unsigned)b->B), SCAN_THREADS, 0, (A *)dx, (A *)dia,
                     (A *)dra, sums, (const A *)dy, (const A *)y, (const A *)x, (const A *)ia, (const A *)ra, lambda, b->first,
                     (int)b->T, (unsigned)w);
    });
    cuda_train_add_pieces(cu, dlambda, sums, b->B, w);
}
