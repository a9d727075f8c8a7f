/* y = sum of h * Vt over the neurons of a sparse layer (sparse_tensor.cuh).
 *
 * D[16 outputs, 8 tokens] += A[16 outputs, 16 neurons] B[16 neurons, 8 tokens]. Rows of Vt lie in shared memory by 64 outputs, 8 at
 * a time in the order of the outputs, and are turned when they are read from there: pairs of bytes, so that a lane gets two
 * outputs of a neuron at once where weights are q8, four where they are q4. Where there are scales, h is multiplied by them. */
#include "cuda/sparse_tensor.cuh"

enum { COLUMNS = 64 };

/* A row's 64 outputs in shared memory: pieces of 8. */
template <format F> static __host__ __device__ constexpr unsigned row_bytes() {
    return F == SHK_CUDA_BF16 ? 128 : F == SHK_CUDA_Q8 ? 64 : 32;
}

/* Its blocks of 16 bytes are mixed up by this, so that 8 rows read at once meet all banks. */
template <format F> static __device__ __forceinline__ unsigned mixed(unsigned row) {
    return F == SHK_CUDA_BF16 ? (row & 1) | (row >> 1 & 6) : F == SHK_CUDA_Q8 ? row >> 2 & 3 : row >> 2 & 1;
}

/* Piece `piece` of a row of V to its place. */
template <format F>
static __device__ __forceinline__ void copy_piece(uint32_t rows, unsigned to, const char *row, unsigned column, unsigned piece,
                                                  bool there) {
    enum { ROW = row_bytes<F>(), PIECE = ROW / 8 };
    const char *from = row + column * ROW + (F == SHK_CUDA_BF16 ? piece : piece % 4 * 2 + piece / 4) * PIECE;
    uint32_t at = rows + to * ROW + ((piece * PIECE / 16) ^ mixed<F>(to)) * 16 + piece * PIECE % 16;
    if (F == SHK_CUDA_BF16) tensor_copy16(at, from, there);
    else if (F == SHK_CUDA_Q8) tensor_copy8(at, from, there);
    else tensor_copy4(at, from, there);
}

/* Both scales of a row's 64 outputs. */
template <format F>
static __device__ __forceinline__ void copy_scales(uint32_t to, const char *row, unsigned column, unsigned padded, bool there) {
    if (F != SHK_CUDA_BF16) tensor_copy4(to, row + (F == SHK_CUDA_Q8 ? padded : padded / 2) + column * 4, there);
}

/* The neuron of 16 whose row a lane names: lanes 0..15 those of k = 0..7, twice, the others of k = 8..15. In a product
 * lane % 4 then has four neighbours. */
static __device__ __forceinline__ unsigned neuron_of(unsigned lane) { return lane % 8 / 2 * 4 + lane % 2 + lane / 16 * 2; }

/* Bytes i and i + 2, signed, to bf16. */
static __device__ __forceinline__ uint32_t every_second(uint32_t w, int i) {
    return bytes_bf16(__byte_perm(w, 0, 0x20 + i * 0x11), 0);
}

/* 32 outputs, block b of the 64: two tiles. `row`: where the lane's row begins, its blocks mixed by `mix`. */
template <format F>
static __device__ __forceinline__ void turned(uint32_t a[2][4], uint32_t row, unsigned mix, unsigned b, unsigned lane) {
    unsigned second = lane / 8 % 2;
    uint32_t w[4];
    if constexpr (F == SHK_CUDA_BF16) {
        for (unsigned i = 0; i < 2; i++) tensor_load_turned(a[i], row + ((b * 4 + i * 2 + second) ^ mix) * 16);
    } else if constexpr (F == SHK_CUDA_Q8) {
        tensor_load_turned(w, row + ((b * 2 + second) ^ mix) * 16);
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 4; j++) a[i][j] = every_second(w[j], i);
    } else {
        tensor_load_turned(w, row + (b ^ mix) * 16); /* w[1] and w[3] say the same again */
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 4; j++) a[i][j] = nibbles_bf16(w[j / 2 * 2] >> (8 * i + j % 2 * 4));
    }
}

/* Which of the 32 outputs is row g, or g + 8 (`upper`), of tile i. */
template <format F> static __device__ __forceinline__ unsigned output_of(unsigned i, unsigned upper, unsigned g) {
    if (F == SHK_CUDA_BF16) return i * 16 + upper * 8 + g;
    if (F == SHK_CUDA_Q8) return upper * 16 + g * 2 + i;
    return g / 2 * 8 + (i * 2 + upper) * 2 + g % 2;
}

/* c += a * h, for four neurons a lane; d: their scales. */
template <format F>
static __device__ __forceinline__ void add_products(float c[2][4], const uint32_t a[2][4], uint4 h, const float d[4]) {
    uint32_t hi[2], lo[2];
    if (F == SHK_CUDA_BF16) {
        hi[0] = __byte_perm(h.x, h.y, 0x5410), hi[1] = __byte_perm(h.z, h.w, 0x5410);
        lo[0] = __byte_perm(h.x, h.y, 0x7632), lo[1] = __byte_perm(h.z, h.w, 0x7632);
    } else {
        split2(__uint_as_float(h.x) * d[0], __uint_as_float(h.y) * d[1], &hi[0], &lo[0]);
        split2(__uint_as_float(h.z) * d[2], __uint_as_float(h.w) * d[3], &hi[1], &lo[1]);
    }
    for (int i = 0; i < 2; i++) tensor_multiply(c[i], a[i], hi[0], hi[1]);
    for (int i = 0; i < 2; i++) tensor_multiply(c[i], a[i], lo[0], lo[1]);
}

static __device__ __forceinline__ float scale_of(uint32_t pair, unsigned b) {
    return __half2float(__ushort_as_half((unsigned short)(pair >> (16 * b))));
}

/* The first unit of a part; part DOWN_PARTS of a slice is the first of the next. */
static __device__ __forceinline__ unsigned unit_of(const sparse_layer &l, unsigned slice, unsigned part) {
    return (unsigned)((size_t)(slice * DOWN_PARTS + part) * (l.n_padded / UNIT) / (l.slices * DOWN_PARTS));
}

/* A slice's sums are in l.parts: the last block of these outputs and tokens adds the slices up, unless somebody else will. */
static __device__ __forceinline__ void add_slices(const sparse_layer &l, unsigned first, unsigned width, unsigned token0,
                                                  unsigned tokens, uint32_t *arrived) {
    if (!l.y || !is_last(arrived, l.slices)) return;
    size_t step = (size_t)l.T * l.out_padded;
#pragma unroll 2
    for (unsigned i = threadIdx.x; i < tokens * (width / 4); i += SPARSE_THREADS) {
        unsigned token = token0 + i / (width / 4), at = first + i % (width / 4) * 4;
        if (token >= l.T || at >= l.out) continue;
        const float *from = l.parts + (size_t)token * l.out_padded + at;
        float4 sum = {};
#pragma unroll 8
        for (unsigned s = 0; s < l.slices; s++) {
            float4 v = __ldcg((const float4 *)(const void *)(from + s * step));
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        float *y = l.y + (size_t)token * l.out + at;
        y[0] = sum.x;
        if (at + 1 < l.out) y[1] = sum.y;
        if (at + 2 < l.out) y[2] = sum.z;
        if (at + 3 < l.out) y[3] = sum.w;
    }
}

/* ---- few tokens: a block takes 64 outputs and a slice, a warp a part. It copies the wanted rows of some groups of 16 neurons, one
 * behind the other, and those of the next groups while it multiplies them ---- */

enum { BATCH = 24, BATCH_H = 2048, FEW_BLOCKS = 2 }; /* rows, bytes of h */

template <format F> static __host__ __device__ constexpr unsigned batch_bytes() {
    return BATCH * (row_bytes<F>() + 4) + 32 + BATCH_H;
}
template <format F> static __host__ __device__ constexpr unsigned warp_bytes() {
    return 2 * batch_bytes<F>() + 128;
} /* and the rows' ids */
template <format F> static __host__ __device__ constexpr unsigned few_bytes() { return 128 + DOWN_PARTS * warp_bytes<F>(); }

template <format F> __global__ void __launch_bounds__(SPARSE_THREADS, FEW_BLOCKS) down_few(sparse_layer l) {
    enum { ROW = row_bytes<F>(), SCALES = BATCH * ROW, H = SCALES + BATCH * 4 + 32 };
    DYNAMIC_SHARED(char, shared, 128); /* a row of zeros; for each warp two batches and ids. In the end sums. */
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    unsigned column = blockIdx.x, slice = blockIdx.y, neuron = neuron_of(lane);
    char *space = shared + 128 + warp * warp_bytes<F>();
    uint32_t *ids = (uint32_t *)(void *)(space + 2 * batch_bytes<F>());
    uint32_t zeros = tensor_address(shared);
    float c[2][2][4] = {}; /* [block of 32 outputs][tile] */
    if (threadIdx.x < 32) ((uint32_t *)(void *)shared)[threadIdx.x] = 0;
    in_turn();
    __syncthreads();
    unsigned first = unit_of(l, slice, warp) * 4, end = unit_of(l, slice, warp + 1) * 4; /* groups */
    for (; first < end; first += 32) {
        unsigned have = end - first < 32 ? end - first : 32, bits = 0; /* this lane's group */
        if (lane < have) bits = l.whole ? 0xffff : l.wanted[(first + lane) / 2] >> (first + lane) % 2 * 16 & 0xffff;
        for (unsigned i = 0; lane < have && l.whole && i < 16; i++)
            if ((first + lane) * 16 + i >= l.n) bits &= ~(1u << i);
        unsigned after = (unsigned)__popc(bits); /* rows up to here */
        for (unsigned i = 1; i < 32; i *= 2) {
            unsigned other = __shfl_up_sync(0xffffffffu, after, i);
            if (lane >= i) after += other;
        }
        unsigned before = after - (unsigned)__popc(bits);
        /* Groups from `from` on whose rows and h there is room for; returns the next one. */
        auto copy = [&](unsigned from, unsigned buffer) {
            unsigned base = __shfl_sync(0xffffffffu, before, from % 32), most = BATCH_H / 64 / l.T;
            bool fits = lane >= from && lane < have && after - base <= BATCH && lane - from < most;
            unsigned to = from + (unsigned)__popc(__ballot_sync(0xffffffffu, fits));
            unsigned n = __shfl_sync(0xffffffffu, after, (to + 31) % 32) - base;
            if (to == from) return to;
            unsigned place = before - base;
            for (unsigned b = fits ? bits : 0; b; b &= b - 1) ids[place++] = (first + lane) * 16 + (unsigned)__ffs((int)b) - 1;
            __syncwarp();
            uint32_t at = tensor_address(space + buffer * batch_bytes<F>());
            for (unsigned r = lane / 8; r < n; r += 4) copy_piece<F>(at, r, l.V + ids[r] * l.ldv, column, lane % 8, true);
            if (lane < n) copy_scales<F>(at + SCALES + lane * 4, l.V + ids[lane] * l.ldv, column, l.out_padded, true);
            for (unsigned token = 0; token < l.T; token++)
                for (unsigned i = lane; i < (to - from) * 4; i += 32)
                    tensor_copy16(at + H + (i / 4 * l.T + token) * 64 + i % 4 * 16,
                                  l.h + (size_t)token * l.n_padded + (first + from) * 16 + i * 4, true);
            __syncwarp();
            return to;
        };
        auto multiply_batch = [&](unsigned from, unsigned to, unsigned buffer) {
            const char *batch = space + buffer * batch_bytes<F>();
            unsigned base = __shfl_sync(0xffffffffu, before, from);
            for (unsigned i = from; i < to; i++) {
                unsigned wanted = __shfl_sync(0xffffffffu, bits, i), at = __shfl_sync(0xffffffffu, before, i) - base;
                if (!wanted) continue;
                unsigned place = at + (unsigned)__popc(wanted & ((1u << neuron) - 1));
                bool there = wanted >> neuron & 1;
                uint32_t row = there ? tensor_address(batch) + place * ROW : zeros;
                uint4 h = {};
                if (g < l.T) h = *(const uint4 *)(const void *)(batch + H + ((i - from) * l.T + g) * 64 + t * 16);
                uint32_t scales[4] = {};
                for (unsigned j = 4 * t; F != SHK_CUDA_BF16 && j < 4 * t + 4; j++)
                    if (wanted >> j & 1)
                        scales[j % 4] = *(const uint32_t *)(const void *)(batch + SCALES +
                                                                          (at + (unsigned)__popc(wanted & ((1u << j) - 1))) * 4);
#pragma unroll
                for (unsigned b = 0; b < 2; b++) {
                    uint32_t a[2][4];
                    float d[4];
                    for (int j = 0; j < 4; j++) d[j] = scale_of(scales[j], b);
                    turned<F>(a, row, there ? mixed<F>(place) : 0, b, lane);
                    add_products<F>(c[b], a, h, d);
                }
            }
            __syncwarp();
        };
        unsigned from = 0, to = copy(0, 0), buffer = 0;
        tensor_copy_group();
        while (from < have) {
            unsigned next = to < have ? copy(to, buffer ^ 1) : to;
            tensor_copy_group();
            tensor_copy_wait<1>();
            __syncwarp();
            multiply_batch(from, to, buffer);
            from = to, to = next, buffer ^= 1;
        }
    }
    __syncthreads();
    float *sums = (float *)(void *)shared; /* [part][token][64] */
#pragma unroll
    for (unsigned i = 0; i < 16; i++)
        sums[(warp * FEW + 2 * t + i % 2) * COLUMNS + i / 8 * 32 + output_of<F>(i / 4 % 2, i / 2 % 2, g)] =
            c[i / 8][i / 4 % 2][i % 4];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < l.T * COLUMNS; i += SPARSE_THREADS) {
        float sum = 0;
        for (unsigned part = 0; part < DOWN_PARTS; part++) sum += sums[part * FEW * COLUMNS + i];
        l.parts[((size_t)slice * l.T + i / COLUMNS) * l.out_padded + column * COLUMNS + i % COLUMNS] = sum;
    }
    add_slices(l, column * COLUMNS, COLUMNS, 0, l.T, l.counters + blockIdx.x);
}

/* ---- many tokens: a block takes 128 outputs, NT * 16 tokens and a slice, a warp 32 outputs and half of the tokens. Rows and h
 * come through shared memory, a unit of 64 neurons at a time, all of them. ---- */

enum { DOWN_TOKEN = UNIT * 4 + 64 }; /* tokens lie apart so that the lanes of a fragment meet all banks */

template <format F> static __host__ __device__ constexpr unsigned down_stage_bytes(unsigned tokens) {
    return 2 * UNIT * (row_bytes<F>() + 4) + tokens * DOWN_TOKEN;
}

/* STAGES of them are there or on their way. */
template <format F, int NT, int STAGES> __global__ void __launch_bounds__(SPARSE_THREADS) down_pass(sparse_layer l) {
    enum {
        TOKENS = NT * 16,
        ROW = row_bytes<F>(),
        SCALES = 2 * UNIT * ROW,
        H = SCALES + 2 * UNIT * 4,
        STAGE = down_stage_bytes<F>(TOKENS)
    };
    DYNAMIC_SHARED(char, shared, 128);
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    unsigned half = warp / 4, b = warp / 2 % 2, columns = warp % 2 * NT * 8; /* of outputs, of 64; tokens */
    unsigned slice = blockIdx.y, token0 = blockIdx.z * TOKENS, neuron = neuron_of(lane);
    unsigned begin = unit_of(l, slice, 0), end = unit_of(l, slice, DOWN_PARTS);
    in_turn();
    uint32_t space = tensor_address(shared);
    unsigned column = blockIdx.x * 2 + threadIdx.x / 8 % 2; /* what this thread copies of every row */
    bool exists = column < l.out_padded / COLUMNS;
    auto fetch = [&](unsigned unit, unsigned stage) {
        uint32_t at = space + stage * STAGE;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            unsigned r = threadIdx.x / 16 + i * 16, id = unit * UNIT + r;
            bool there = exists && id < l.n;
            copy_piece<F>(at + threadIdx.x / 8 % 2 * (UNIT * ROW), r, l.V + (there ? id : 0) * l.ldv, exists ? column : 0,
                          threadIdx.x % 8, there);
        }
        if (F != SHK_CUDA_BF16 && threadIdx.x < 2 * UNIT) {
            unsigned id = unit * UNIT + threadIdx.x % UNIT, of = blockIdx.x * 2 + threadIdx.x / UNIT;
            bool there = of < l.out_padded / COLUMNS && id < l.n;
            copy_scales<F>(at + SCALES + threadIdx.x * 4, l.V + (there ? id : 0) * l.ldv, there ? of : 0, l.out_padded, there);
        }
#pragma unroll
        for (int i = 0; i < NT; i++) {
            unsigned piece = threadIdx.x + i * SPARSE_THREADS, token = piece / 16;
            bool there = token0 + token < l.T;
            tensor_copy16(at + H + token * DOWN_TOKEN + piece % 16 * 16,
                          l.h + (size_t)(there ? token0 + token : 0) * l.n_padded + unit * UNIT + piece % 16 * 4, there);
        }
    };
    for (unsigned i = 0; i < STAGES - 1; i++) {
        if (begin + i < end) fetch(begin + i, i);
        tensor_copy_group();
    }
    float total[NT][2][4] = {}, c[NT][2][4] = {};
    unsigned stage = 0, part = 0, border = begin;
    /* goes on to one that ends after this unit's beginning */
    auto next_part = [&](unsigned unit) {
        while (part < DOWN_PARTS && (border = unit_of(l, slice, ++part)) <= unit) {}
    };
    next_part(begin);
    for (unsigned unit = begin; unit < end; unit++) {
        tensor_copy_wait<STAGES - 2>();
        __syncthreads(); /* this stage is there, and nobody is at the one before any more */
        if (unit + STAGES - 1 < end) fetch(unit + STAGES - 1, stage ? stage - 1 : STAGES - 1);
        tensor_copy_group();
        const char *h = shared + stage * STAGE + H + (columns + g) * DOWN_TOKEN + t * 16;
        uint32_t rows = space + stage * STAGE + half * (UNIT * ROW);
        const uint32_t *scales = (const uint32_t *)(const void *)(shared + stage * STAGE + SCALES) + half * UNIT + 4 * t;
#pragma unroll
        for (unsigned group = 0; group < UNIT / 16; group++) {
            uint32_t a[2][4];
            float d[4];
            unsigned r = group * 16 + neuron;
            for (int j = 0; j < 4; j++) d[j] = F == SHK_CUDA_BF16 ? 1 : scale_of(scales[group * 16 + j], b);
            turned<F>(a, rows + r * ROW, mixed<F>(r), b, lane);
#pragma unroll
            for (int n = 0; n < NT; n++)
                add_products<F>(c[n], a, *(const uint4 *)(const void *)(h + n * 8 * DOWN_TOKEN + group * 64), d);
        }
        stage = stage + 1 < STAGES ? stage + 1 : 0;
        if (unit + 1 < border) continue;
#pragma unroll
        for (int i = 0; i < NT * 8; i++)
            total[i / 8][i / 4 % 2][i % 4] += c[i / 8][i / 4 % 2][i % 4], c[i / 8][i / 4 % 2][i % 4] = 0;
        next_part(unit + 1);
    }
#pragma unroll
    for (int i = 0; i < NT * 8; i++) {
        unsigned token = token0 + columns + i / 8 * 8 + 2 * t + i % 2;
        unsigned at = blockIdx.x * 128 + half * COLUMNS + b * 32 + output_of<F>(i / 4 % 2, i / 2 % 2, g);
        if (token < l.T && at < l.out_padded)
            l.parts[((size_t)slice * l.T + token) * l.out_padded + at] = total[i / 8][i / 4 % 2][i % 4];
    }
    add_slices(l, blockIdx.x * 128, 128, token0, TOKENS, l.counters + blockIdx.z * gridDim.x + blockIdx.x);
}

/* ---- on the host ---- */

template <format F> struct down_form {
    enum { WIDE = 1 };
    static constexpr unsigned stage(unsigned tokens) { return down_stage_bytes<F>(tokens); }
    static constexpr int deep(int nt) { return nt == 1 ? 7 : nt == 2 ? 6 : nt == 4 ? 4 : 3; }
    template <int NT, int STAGES> static auto kernel() { return down_pass<F, NT, STAGES>; }
};

template <format F> static void run_down(shk_cuda *cu, const sparse_layer &l) {
    if (l.T <= FEW) {
        launch(cu, down_few<F>, dim3(l.out_padded / COLUMNS, l.slices), SPARSE_THREADS, few_bytes<F>(), l);
        return;
    }
    offer_for<down_form<F>>(cu, l.T, [&](auto kernel, unsigned tokens, unsigned bytes) {
        launch(cu, kernel, dim3(blocks_for(l.out, 128), l.slices, blocks_for(l.T, tokens)), SPARSE_THREADS, bytes, l);
    });
}

void cuda_sparse_down(shk_cuda *cu, const sparse_layer &l, format f) {
#define CALL(F) run_down<F>(cu, l)
    BY_TENSOR_FORMAT(f, CALL);
#undef CALL
}

template <format F> static void setup(shk_cuda *cu) {
    allow_shared(cu, down_few<F>);
    allow_forms<down_form<F>>(cu);
}

void cuda_sparse_down_setup(shk_cuda *cu) {
    setup<SHK_CUDA_BF16>(cu);
    setup<SHK_CUDA_Q8>(cu);
    setup<SHK_CUDA_Q4>(cu);
}
