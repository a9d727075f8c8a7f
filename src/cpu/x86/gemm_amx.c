/* gemm_panel_bf16 on AMX: 32 x 32 sums in four tiles. */
#include "cpu/x86/vec_avx512.h"

#include "cpu/tiers.h"
#include "cpu/x86/amx.h"

enum { ROWS = SHK_GEMM_BF16_ROWS, COLS = SHK_GEMM_BF16_COLS };
_Static_assert(ROWS == 2 * TILE_ROWS && COLS == 2 * LANES && SHK_GEMM_BF16_DEEP == 2 * TILE_ROWS, "two tiles by two");

/* c [ROWS, COLS] += a b: tile registers 0 to 3 are c, 4 and 5 a, 6 and 7 b. */
INLINE void whole(float *c, size_t ldc, const uint32_t *a, const uint32_t *b, size_t k) {
    size_t line = ldc * sizeof *c, deep = k / 2 * sizeof *a;
    tiles_will_read();
    _tile_loadd(0, c, line);
    _tile_loadd(1, c + LANES, line);
    _tile_loadd(2, c + TILE_ROWS * ldc, line);
    _tile_loadd(3, c + TILE_ROWS * ldc + LANES, line);
    for (size_t i = 0; i < k / 2; i += TILE_ROWS, b += TILE_ROWS * COLS) {
        _tile_loadd(4, a + i, deep);
        _tile_loadd(5, a + TILE_ROWS * (k / 2) + i, deep);
        _tile_loadd(6, b, COLS * sizeof *b);
        _tile_loadd(7, b + LANES, COLS * sizeof *b);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, line);
    _tile_stored(1, c + LANES, line);
    _tile_stored(2, c + TILE_ROWS * ldc, line);
    _tile_stored(3, c + TILE_ROWS * ldc + LANES, line);
}

/* The same sums where there are fewer rows or columns. */
INLINE void partly(float *c, size_t ldc, const uint32_t *a, const uint32_t *b, size_t k, size_t rows, size_t cols) {
    _Alignas(64) float all[ROWS][COLS] = { 0 };
    size_t most = cols < COLS ? cols : COLS;
    for (size_t r = 0; r < rows; r++) memcpy(all[r], c + r * ldc, most * sizeof *c);
    whole(all[0], COLS, a, b, k);
    for (size_t r = 0; r < rows; r++) memcpy(c + r * ldc, all[r], most * sizeof *c);
}

void shk_gemm_panel_bf16_amx(float *c, size_t ldc, const uint32_t *a, const uint32_t *b, size_t k, size_t rows, size_t cols) {
    configure_whole();
    for (size_t j = 0; j < cols; j += COLS, b += k / 2 * COLS) {
        if (rows >= ROWS && cols - j >= COLS) whole(c + j, ldc, a, b, k);
        else partly(c + j, ldc, a, b, k, rows, cols - j);
    }
    _tile_release();
}
