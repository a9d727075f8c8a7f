/* Kernels that keep a row in registers: by a warp if it is short, by a block if not. */
#ifndef SHK_CUDA_TRAIN_ROW_CUH
#define SHK_CUDA_TRAIN_ROW_CUH

#include "cuda/train.cuh"

#ifdef __CUDACC__

/* The most threads that by_row() gives a block: without this bound a kernel that keeps 64 values may want more registers than a
 * block of 1,024 threads has. */
#define ROW_BOUNDS(WARP) __launch_bounds__((WARP) ? 256 : 1024)

/* This thread's part of a row: packs of V values, up to K of them, a row's threads side by side. */
template <int V, int K, bool WARP> struct row_of_threads {
    unsigned lane, lanes, row, rows; /* threads of a row; rows that a block has at once */
    __device__ __forceinline__ row_of_threads()
        : lane(WARP ? threadIdx.x % 32 : threadIdx.x), lanes(WARP ? 32 : blockDim.x), row(WARP ? threadIdx.x / 32 : 0),
          rows(WARP ? blockDim.x / 32 : 1) {}
    template <typename F> __device__ __forceinline__ void each(size_t n, F f) const {
#pragma unroll
        for (int k = 0; k < K; k++) {
            size_t j = (size_t)(lane + k * lanes) * V;
            if (j < n) f(k, j);
        }
    }
    /* Over the row. `space` [32]. */
    __device__ __forceinline__ float sum(float v, float *space) const {
        if constexpr (WARP) return warp_sum(v);
        else return block_sum(v, space);
    }
};

template <bool B> struct choice {
    static constexpr bool value = B;
};

/* f(a, V, K, WARP, threads of a block) for rows of n values: V values at once, K times. Rows of more than 64 Ki values (8 Ki where
 * they cannot be moved by eight) are refused. */
template <typename F>
static inline void by_row(shk_cuda *cu, size_t n, std::initializer_list<const void *> pointers, F f) {
    by_pack(cu, n, pointers, [&](auto a, auto pack) {
        size_t packs = n / pack.value;
        auto block = [&](auto each) { f(a, pack, each, choice<false>{}, blocks_for(blocks_for(packs, each.value), 32) * 32); };
        if (packs <= 32) f(a, pack, pack_of<1>{}, choice<true>{}, 256);
        else if (packs <= 64) f(a, pack, pack_of<2>{}, choice<true>{}, 256);
        else if (packs <= 96) f(a, pack, pack_of<3>{}, choice<true>{}, 256);
        else if (packs <= 128) f(a, pack, pack_of<4>{}, choice<true>{}, 256);
        else if (packs <= 512) block(pack_of<1>{});
        else if (packs <= 1024) block(pack_of<2>{});
        else if (packs <= 8192) block(pack_of<8>{});
        else cuda_note(cu, cudaErrorInvalidValue);
    });
}

#endif
#endif
