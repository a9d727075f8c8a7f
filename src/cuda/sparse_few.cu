/* A sparse layer for few tokens (sparse_tensor.cuh): a block does all that comes of a unit of 64 neurons. It joins the moments to a
 * threshold, as all blocks do, finds the active ones of its neurons, has their rows of Vt come while it multiplies those of U, and
 * leaves its share of y, which a second kernel adds to the others'. */
#include "cuda/residual.cuh"
#include "cuda/sparse_rows.cuh"

enum { WARPS = SPARSE_THREADS / 32, ROWS = 16, GROUPS = UNIT / 16, SHARES = 16, SHARE_COLUMNS = 32, AT_ONCE = 5, LOADS = 32 };
static_assert((int)SPARSE_THREADS == MOMENTS_LANES && (int)SPARSE_THREADS == STEP_THREADS && (int)WARPS == UP_SLICES &&
                  (int)FEW <= WARPS,
              "what is dealt out to a block's threads and warps");
static_assert(SHARES * 32 == (int)ROW_THREADS, "rows are held by as many");

/* Dynamic shared memory: `room` rows of Vt by columns [columns][room][row_bytes], their scales [columns][room], x. */
template <format G> static __host__ __device__ constexpr unsigned scales_at(unsigned out_padded, unsigned room) {
    return out_padded / COLUMNS * room * row_bytes<G>();
}
template <format G> static __host__ __device__ constexpr unsigned x_at(unsigned out_padded, unsigned room) {
    return scales_at<G>(out_padded, room) + (out_padded / COLUMNS * room * 4 + 127) / 128 * 128;
}

/* F, G: formats of U, Vt. Of more rows of Vt than there is room for, groups of 16 neurons take turns. */
template <format F, format G> __global__ void __launch_bounds__(SPARSE_THREADS, 2) few(sparse_layer l, unsigned room) {
    enum { AHEAD = F == SHK_CUDA_BF16 ? 3 : 4 };
    DYNAMIC_SHARED(char, shared, 128);
    __shared__ moments sums[FEW][WARPS];
    __shared__ threshold thetas[FEW];
    __shared__ uint32_t active[FEW][2];
    __shared__ uint8_t all_ids[WARPS][UNIT];
    __shared__ float gates[FEW][UNIT], part[UP_SLICES][FEW][ROWS];
    __shared__ __align__(16) uint32_t h[FEW][UNIT];
    unsigned tid = threadIdx.x, warp = tid / 32, lane = tid % 32, g = lane / 4, t = lane % 4;
    unsigned tiles = moments_tiles(l.n), first = blockIdx.x * UNIT, columns = l.out_padded / COLUMNS;
    char *x = shared + x_at<G>(l.out_padded, room);
    uint32_t rows = tensor_address(shared), scales = rows + scales_at<G>(l.out_padded, room);
    uint8_t *ids = all_ids[warp]; /* of the unit's neurons that a token wants */
    let_next_start();
    touch(l);
    wait_for_previous();
    fetch_rows(x, l.x, l.ldx, l.T, l.in, l.in_padded);
    auto score_of = [&](unsigned i) { return first + i % UNIT < l.n ? l.scores[(size_t)(i / UNIT) * l.n + first + i % UNIT] : 0; };
    float score = tid < l.T * UNIT ? score_of(tid) : 0;
    for (unsigned token = 0; token < l.T; token++) {
        const moments *from = l.tiles + token * tiles;
        moments m[MOMENTS_EACH], front = from[0];
#pragma unroll
        for (unsigned i = 0; i < MOMENTS_EACH; i++) m[i] = from[tid + i * MOMENTS_LANES < tiles ? tid + i * MOMENTS_LANES : 0];
        m[0] = warp_join(moments_of_lane(m, tid, moments_pivot(front, l.n, l.tail), l.n, l.tail), moments_add());
        if (!lane) sums[token][warp] = m[0];
    }
    tensor_copy_wait<0>();
    split_rows(x, l.x, l.ldx, l.T, l.in, l.in_padded);
    __syncthreads();
    if (warp < l.T) {
        moments m = warp_join<WARPS>(sums[warp][lane % WARPS], moments_add());
        m = moments_around(moments_pivot(l.tiles[warp * tiles], l.n, l.tail), m, l.n, l.inverse_n);
        if (!lane) thetas[warp] = threshold_of(l, m);
    }
    __syncthreads();
    for (unsigned i = tid; i < l.T * UNIT; i += SPARSE_THREADS) { /* whole warps */
        unsigned token = i / UNIT, j = i % UNIT;
        if (i != tid) score = score_of(i);
        threshold theta = thetas[token];
        bool is = first + j < l.n && theta.keeps(score);
        uint32_t word = __ballot_sync(0xffffffffu, is);
        if (!lane) active[token][j / 32] = word;
        gates[token][j] = is ? gelu(score - theta.shift) : 0;
        h[token][j] = 0;
    }
    __syncthreads();
    uint64_t wanted = 0;
    for (unsigned token = 0; token < l.T; token++) wanted |= active[token][0] | (uint64_t)active[token][1] << 32;
    unsigned count = (unsigned)__popcll(wanted);
    auto rank_of = [&](unsigned j) { return (unsigned)__popcll(wanted & (((uint64_t)1 << j) - 1)); }; /* among the wanted */
    auto group_of = [&](unsigned i) { return (unsigned)(wanted >> i * 16 & 0xffff); };
    for (unsigned j = lane; j < UNIT; j += 32)
        if (wanted >> j & 1) ids[rank_of(j)] = (uint8_t)j;
    __syncwarp();
    if (tid <= l.T) {
        uint32_t n = count;
        if (tid < l.T) n = (uint32_t)__popc(active[tid][0]) + (uint32_t)__popc(active[tid][1]);
        l.found[blockIdx.x * (l.T + 1) + tid] = n;
    }
    /* the groups from i on that there is room for together: their end, and how many rows they have */
    auto turn_of = [&](unsigned i, unsigned *n) {
#pragma unroll 1
        for (*n = 0; i < GROUPS && *n + (unsigned)__popc(group_of(i)) <= room; i++) *n += (unsigned)__popc(group_of(i));
        return i;
    };
    auto copy = [&](unsigned from, unsigned n) {
#pragma unroll 1
        for (unsigned r = warp; r < n; r += WARPS) {
            const char *row = l.V + (size_t)(first + ids[from + r]) * l.ldv;
#pragma unroll 3
            for (unsigned i = lane; i < columns * 8; i += 32)
                copy_piece<G>(rows + i / 8 * room * row_bytes<G>(), r, row, i / 8, i % 8, true);
#pragma unroll 1
            for (unsigned c = lane; G != SHK_CUDA_BF16 && c < columns; c += 32)
                copy_scales<G>(scales + (c * room + r) * 4, row, c, l.out_padded, true);
        }
        tensor_copy_group();
    };
    unsigned n = 0, end = l.V ? turn_of(0, &n) : 0;
    /* h: a warp takes one slice of the sum */
    unsigned groups = l.in_padded / 64, k0 = warp * groups / UP_SLICES, k1 = (warp + 1) * groups / UP_SLICES;
#pragma unroll 1
    for (unsigned base = 0; base < count; base += ROWS) {
        const char *row[2];
        for (unsigned i = 0; i < 2; i++)
            row[i] = base + g + i * 8 < count ? l.U + (size_t)(first + ids[base + g + i * 8]) * l.ldu : NULL;
        fragment<F> next[AHEAD];
#pragma unroll
        for (unsigned i = 0; i < AHEAD; i++)
            if (k0 + i < k1) next[i].load_rows(row, k0 + i, t, l.in_padded);
        if (!base) { /* after those of U, which are waited for first */
            copy(0, n);
#pragma unroll 1
            for (unsigned r = n + warp; l.V && r < count; r += WARPS)
                for (size_t b = lane * 128; b < l.ldv; b += 32 * 128) prefetch(l.V + (size_t)(first + ids[r]) * l.ldv + b);
        }
        float c[1][1][4] = {};
        const char *at = x + g * token_bytes(l.in_padded) + t * 16;
        for (unsigned k = k0; k < k1; k += AHEAD) {
#pragma unroll
            for (unsigned i = 0; i < AHEAD; i++) {
                if (k + i >= k1) break;
                multiply<F, 1, 1>(c, &next[i], [&](int, int half, uint4 *hi, uint4 *lo) {
                    const char *from = at + (k + i) * 256 + half * 128;
                    *hi = g < l.T ? *(const uint4 *)from : uint4{}, *lo = g < l.T ? *(const uint4 *)(from + 64) : uint4{};
                });
                if (k + AHEAD + i < k1) next[i].load_rows(row, k + AHEAD + i, t, l.in_padded);
            }
        }
        for (unsigned i = 0; i < 4; i++) part[warp][2 * t + i % 2][g + i / 2 * 8] = c[0][0][i];
        __syncthreads();
        unsigned token = tid / ROWS, r = base + tid % ROWS;
        if (token < l.T && r < count) {
            float sum = 0;
            for (int s = 0; s < UP_SLICES; s++) sum += part[s][token][tid % ROWS];
            h[token][ids[r]] = h_of(l, gates[token][ids[r]], sum);
        }
        __syncthreads();
    }
    for (unsigned i = tid; !l.V && i < l.T * UNIT; i += SPARSE_THREADS)
        l.h[(size_t)(i / UNIT) * l.n_padded + first + i % UNIT] = h[i / UNIT][i % UNIT];
    /* y: a warp takes 64 outputs at a time */
    float *share = l.parts + (size_t)blockIdx.x * l.T * l.out_padded;
    for (unsigned begin = 0, from = 0; begin < end; from += n, begin = end, end = turn_of(begin, &n)) {
        if (begin) {
            __syncthreads();
            copy(from, n);
        }
        tensor_copy_wait<0>();
        __syncthreads();
#pragma unroll 1
        for (unsigned column = warp; column < columns; column += WARPS * AT_ONCE) {
            float c[AT_ONCE][2][2][4] = {}; /* [column][32 outputs][tile] */
            auto each = [&](auto f) {
#pragma unroll
                for (unsigned i = 0; i < 2; i++) {
                    if (2 * t + i >= l.T) break;
                    float *at = share + (2 * t + i) * l.out_padded + column * COLUMNS;
#pragma unroll
                    for (unsigned j = 0; j < AT_ONCE * 8; j++) {
                        if (column + j / 8 * WARPS >= columns) break;
                        f(at + j / 8 * WARPS * COLUMNS + j / 4 % 2 * 32 + output_of<G>(j / 2 % 2, j % 2, g),
                          &c[j / 8][j / 4 % 2][j / 2 % 2][j % 2 * 2 + i]);
                    }
                }
            };
            if (begin) each([](const float *at, float *v) { *v = *at; });
#pragma unroll 1
            for (unsigned i = begin; i < end; i++) {
                if (!group_of(i)) continue;
                auto place_of = [&](unsigned j) { return wanted >> j & 1 ? rank_of(j) - from : 0; }; /* any: h is 0 */
                unsigned place = place_of(i * 16 + neuron_of(lane)), mix = mixed<G>(place), places[4] = {};
                for (unsigned j = 0; G != SHK_CUDA_BF16 && j < 4; j++) places[j] = place_of(i * 16 + 4 * t + j);
                uint4 values = {};
                if (g < l.T) values = *(const uint4 *)(const void *)&h[g][i * 16 + 4 * t];
#pragma unroll
                for (unsigned k = 0; k < AT_ONCE; k++) {
                    unsigned at = (column + k * WARPS) * room;
                    if (column + k * WARPS >= columns) break;
                    uint32_t pair[4] = {};
                    for (unsigned j = 0; G != SHK_CUDA_BF16 && j < 4; j++)
                        pair[j] =
                            *(const uint32_t *)(const void *)(shared + scales_at<G>(l.out_padded, room) + (at + places[j]) * 4);
#pragma unroll
                    for (unsigned b = 0; b < 2; b++) {
                        uint32_t a[2][4];
                        float d[4];
                        for (unsigned j = 0; j < 4; j++) d[j] = scale_of(pair[j], b);
                        turned<G>(a, rows + (at + place) * row_bytes<G>(), mix, b, lane);
                        add_products<G>(c[k][b], a, values, d);
                    }
                }
            }
            each([](float *at, const float *v) { *at = *v; });
        }
    }
}

/* The units' shares of a token, 32 outputs a block, a warp a slice; the last block has what was counted. What comes after the
 * layer, if `after` says so, does the block of a token that is done last. */
__global__ void __launch_bounds__(SHARES * 32) add_units(sparse_layer l, residual_args after) {
    __shared__ float slices[SHARES][SHARE_COLUMNS], space[32];
    __shared__ uint32_t uspace[32];
    unsigned slice = threadIdx.x / SHARE_COLUMNS, column = blockIdx.x * SHARE_COLUMNS + threadIdx.x % SHARE_COLUMNS, t = blockIdx.y;
    let_next_start();
    residual_weights w = {};
    if (after.n) w = get_weights(after);
    touch(l);
    wait_for_previous();
    if (slice < l.slices && column < l.out) {
        size_t step = (size_t)l.T * l.out_padded;
        const float *from = l.parts + t * (size_t)l.out_padded + column;
        unsigned end = unit_of(l, slice + 1);
        float sum = 0;
        for (unsigned unit = unit_of(l, slice); unit < end; unit += LOADS) {
            float v[LOADS];
#pragma unroll
            for (unsigned i = 0; i < LOADS; i++) v[i] = unit + i < end ? __ldcg(from + (unit + i) * step) : 0;
#pragma unroll
            for (unsigned i = 0; i < LOADS; i++) sum += v[i];
        }
        slices[slice][threadIdx.x % SHARE_COLUMNS] = sum;
    }
    __syncthreads();
    if (!slice && column < l.out) {
        float sum = 0;
        for (unsigned s = 0; s < l.slices; s++) sum += slices[s][threadIdx.x % SHARE_COLUMNS];
        l.y[(size_t)t * l.out + column] = sum;
    }
    if (blockIdx.x == gridDim.x - 1) {
        const uint32_t *found = l.found + (threadIdx.x < l.units ? threadIdx.x : 0) * (l.T + 1);
        uint32_t own = block_sum(threadIdx.x < l.units ? found[t] : 0, uspace);
        uint32_t any = block_sum(threadIdx.x < l.units ? found[l.T] : 0, uspace);
        if (!threadIdx.x) {
            l.counts[t] = own;
            atomicAdd(&l.work->flops, 2ull * own * (l.in + l.out));
            if (!t) atomicAdd(&l.work->weight_bytes, (unsigned long long)any * (l.ldu + l.ldv));
        }
    }
    if (!after.n || !is_last(l.counters + t, gridDim.x)) return;
    held_row y;
#pragma unroll
    for (unsigned i = 0; i < ROW_HELD; i++) {
        size_t at = threadIdx.x + (size_t)i * ROW_THREADS;
        y.v[i] = at < l.out ? __ldcg(l.y + (size_t)t * l.out + at) : 0;
    }
    finish_residual(after, w, t, y, after.before, space);
}

/* The moments of a row's tiles, where the product that made the row has not left them. */
__global__ void __launch_bounds__(256) tile_moments(sparse_layer l) {
    unsigned i = blockIdx.x * 256 + threadIdx.x, tile = i / MOMENTS_TILE;
    in_turn();
    unsigned values = moments_values(tile, l.n);
    float score = i < l.n ? l.scores[(size_t)blockIdx.y * l.n + i] : 0;
    moments m = moments_of_lanes(score, values, moments_inverse(values, l.tail));
    if (i < l.n && i % MOMENTS_TILE == 0) l.tiles[blockIdx.y * moments_tiles(l.n) + tile] = m;
}

/* ---- on the host ---- */

enum { RESERVE = 16 * 1024 }; /* of the shared memory, for what the kernel declares */

/* Bytes of a row of Vt there. */
static size_t row_bytes_of(const sparse_layer &l, format v) {
    size_t row = v == SHK_CUDA_BF16 ? row_bytes<SHK_CUDA_BF16>()
                 : v == SHK_CUDA_Q8 ? row_bytes<SHK_CUDA_Q8>()
                                    : row_bytes<SHK_CUDA_Q4>();
    return l.out_padded / COLUMNS * (row + 4);
}

unsigned cuda_sparse_room(const shk_cuda *cu, const sparse_layer &l, format v) {
    size_t x = l.T * token_bytes(l.in_padded) + 128, row = row_bytes_of(l, v);
    for (size_t blocks = 2; blocks; blocks--) { /* of a multiprocessor: two, if they have room for the groups that there are */
        size_t have = cu->shared / blocks - RESERVE;
        if (have < x || (l.V && (have - x) / row < ROWS)) continue;
        return l.V ? (unsigned)smaller((have - x) / row, UNIT) : 1;
    }
    return 0;
}

/* The kernel for two formats. */
template <format F, typename Go> static void few_of(format v, Go go) {
#define CALL(G) go(few<F, G>)
    BY_TENSOR_FORMAT(v, CALL);
#undef CALL
}
template <typename Go> static void few_of(format u, format v, Go go) {
#define CALL(F) few_of<F>(v, go)
    BY_TENSOR_FORMAT(u, CALL);
#undef CALL
}

void cuda_sparse_few(shk_cuda *cu, const sparse_layer &l, const residual_args &after, format u, format v, bool tiles) {
    if (!tiles) launch(cu, tile_moments, dim3(blocks_for(l.n, 256), l.T), 256, 0, l);
    unsigned room = l.V ? cuda_sparse_room(cu, l, v) : 0;
    size_t bytes = room * row_bytes_of(l, v) + 128 + l.T * token_bytes(l.in_padded);
    few_of(u, v, [&](auto kernel) { launch(cu, kernel, dim3(l.units), SPARSE_THREADS, bytes, l, room); });
    launch(cu, add_units, dim3((l.V ? blocks_for(l.out, SHARE_COLUMNS) : 0) + 1, l.T), SHARES * 32, 0, l, after);
}

void cuda_sparse_few_setup(shk_cuda *cu) {
    static const format formats[] = { SHK_CUDA_BF16, SHK_CUDA_Q8, SHK_CUDA_Q4 };
    for (format u : formats)
        for (format v : formats) few_of(u, v, [&](auto kernel) { allow_shared(cu, kernel); });
}
