/* A block of C is made by one thread: it packs the block of B that it needs once for each K values of k, then goes down the rows of
 * A in panels, which stay in the first-level cache while B's panels pass from the second (after Goto and van de Geijn). */
#include "cpu/gemm.h"

#include <string.h>

enum {
    K = 256, COLS = 512, ROWS = 768, /* of a block */
    MR = SHK_GEMM_ROWS, NR = SHK_GEMM_COLS,
    B_PACKED = K * COLS, A_PACKED = K * MR
};
_Static_assert(B_PACKED + A_PACKED <= SHK_CPU_SCRATCH, "both packed blocks lie in a thread's scratch");
_Static_assert(COLS % NR == 0 && ROWS % MR == 0, "blocks are whole panels");
_Static_assert(COLS % SHK_GEMM_BF16_COLS == 0 && ROWS % SHK_GEMM_BF16_ROWS == 0 && K % SHK_GEMM_BF16_DEEP == 0, "in bf16 too");
_Static_assert(K * (COLS + SHK_GEMM_BF16_ROWS) / 2 <= SHK_CPU_SCRATCH, "two values of bf16 to a word");

/* Rounds to bf16, nearest even; a NaN stays one. */
static void round_bf16(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, sizeof u);
        uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
        u = (u & 0x7fffffff) > 0x7f800000 ? u | 0x400000 : rounded;
        u &= 0xffff0000u;
        memcpy(x + i, &u, sizeof u);
    }
}

typedef float quad __attribute__((vector_size(16)));
typedef struct __attribute__((packed, may_alias)) { quad v; } quad_memory; /* at any address */
static inline quad load_quad(const void *p) { return ((const quad_memory *)p)->v; }
static inline void store_quad(void *p, quad v) { ((quad_memory *)p)->v = v; }

/* to[i * width + l] = from[l * line + i] for 4 x 4 of them */
static inline void transpose_quads(float *to, size_t width, const float *from, size_t line) {
    quad a = load_quad(from), b = load_quad(from + line), c = load_quad(from + 2 * line), d = load_quad(from + 3 * line);
    quad ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    quad ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    store_quad(to, __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5));
    store_quad(to + width, __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7));
    store_quad(to + 2 * width, __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5));
    store_quad(to + 3 * width, __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7));
}

/* to [k, width] = the `lines` lines of the factor (rows of A or columns of B), zeros behind them. `line` and `deep` are the strides
 * from one to the next and along k. */
__attribute__((always_inline)) static inline void pack(float *to, const float *from, size_t lines, size_t width, size_t k,
                                                       size_t line, size_t deep, bool bf16) {
    size_t i0 = 0;
    if (lines < width) memset(to, 0, k * width * sizeof *to);
    if (line == 1 && lines == width) {
        for (; i0 < k; i0++) memcpy(to + i0 * width, from + i0 * deep, width * sizeof *to);
    } else if (deep == 1 && lines == width) {
        for (; i0 + 4 <= k; i0 += 4)
            for (size_t l = 0; l < width; l += 4) transpose_quads(to + i0 * width + l, width, from + l * line + i0, line);
    }
    for (; i0 < k; i0++)
        for (size_t l = 0; l < lines; l++) to[i0 * width + l] = from[l * line + i0 * deep];
    if (bf16) round_bf16(to, k * width);
}

static void pack_a(float *to, const float *from, size_t lines, size_t k, size_t line, size_t deep, bool bf16) {
    pack(to, from, lines, MR, k, line, deep, bf16);
}

static void pack_b(float *to, const float *from, size_t lines, size_t k, size_t line, size_t deep, bool bf16) {
    pack(to, from, lines, NR, k, line, deep, bf16);
}

/* block(), where the tier multiplies bf16. */
static void block_bf16(const shk_cpu *cpu, float *scratch, const shk_product *p, size_t i0, size_t i1, size_t j0, size_t j1) {
    enum { HIGH = SHK_GEMM_BF16_ROWS, WIDE = SHK_GEMM_BF16_COLS, DEEP = SHK_GEMM_BF16_DEEP };
    uint32_t *b = (uint32_t *)scratch, *a = b + B_PACKED / 2;
    for (size_t i = i0; i < i1 && !p->add; i++) memset(p->c + i * p->ldc + j0, 0, (j1 - j0) * sizeof *p->c);
    for (size_t k0 = 0; k0 < p->k; k0 += K) {
        size_t k = p->k - k0 < K ? p->k - k0 : K, filled = (k + DEEP - 1) / DEEP * DEEP;
        for (size_t j = j0; j < j1; j += WIDE)
            cpu->k.gemm_pack_bf16(b + (j - j0) * filled / 2, p->b.p + k0 * p->b.row + j * p->b.col,
                                  j1 - j < WIDE ? j1 - j : WIDE, k, p->b.col, p->b.row, true);
        for (size_t i = i0; i < i1; i += HIGH) {
            size_t rows = i1 - i < HIGH ? i1 - i : HIGH;
            cpu->k.gemm_pack_bf16(a, p->a.p + i * p->a.row + k0 * p->a.col, rows, k, p->a.row, p->a.col, false);
            cpu->k.gemm_panel_bf16(p->c + i * p->ldc + j0, p->ldc, a, b, filled, rows, j1 - j0);
        }
    }
}

static bool has_bf16(const shk_cpu *cpu) { return cpu->bf16 && cpu->k.gemm_panel_bf16; }

/* Rows [i0, i1), columns [j0, j1) of C; at most COLS columns. */
static void block(const shk_cpu *cpu, float *scratch, const shk_product *p, size_t i0, size_t i1, size_t j0, size_t j1) {
    float *b = scratch, *a = scratch + B_PACKED;
    if (has_bf16(cpu)) {
        block_bf16(cpu, scratch, p, i0, i1, j0, j1);
        return;
    }
    for (size_t k0 = 0; k0 < p->k || k0 == 0; k0 += K) {
        size_t k = p->k - k0 < K ? p->k - k0 : K;
        for (size_t j = j0; j < j1; j += NR)
            pack_b(b + (j - j0) * k, p->b.p + k0 * p->b.row + j * p->b.col, j1 - j < NR ? j1 - j : NR, k, p->b.col, p->b.row,
                   cpu->bf16);
        for (size_t i = i0; i < i1; i += MR) {
            size_t rows = i1 - i < MR ? i1 - i : MR;
            pack_a(a, p->a.p + i * p->a.row + k0 * p->a.col, rows, k, p->a.row, p->a.col, cpu->bf16);
            for (size_t j = j0; j < j1; j += NR)
                cpu->k.gemm_tile(p->c + i * p->ldc + j, p->ldc, a, b + (j - j0) * k, k, rows, j1 - j < NR ? j1 - j : NR,
                                 p->add || k0 > 0);
        }
    }
}

void shk_cpu_gemm(const shk_cpu *cpu, int thread, const shk_product *p) {
    float *scratch = cpu->scratch + (size_t)thread * SHK_CPU_SCRATCH;
    for (size_t j = 0; j < p->n; j += COLS) block(cpu, scratch, p, 0, p->m, j, p->n - j < COLS ? p->n : j + COLS);
}

typedef struct products_args {
    const shk_cpu *cpu;
    const shk_product *p;
    size_t step_c, step_a, step_b;
    size_t rows, cols;        /* of a block */
    size_t down, across;      /* blocks of a product */
} products_args;

static void products_range(void *ctx, int thread, size_t begin, size_t end) {
    const products_args *g = ctx;
    for (size_t i = begin; i < end; i++) {
        size_t which = i / (g->down * g->across), in = i % (g->down * g->across);
        size_t i0 = in % g->down * g->rows, j0 = in / g->down * g->cols;
        shk_product p = *g->p;
        p.c += which * g->step_c, p.a.p += which * g->step_a, p.b.p += which * g->step_b;
        block(g->cpu, g->cpu->scratch + (size_t)thread * SHK_CPU_SCRATCH, &p, i0, p.m - i0 < g->rows ? p.m : i0 + g->rows, j0,
              p.n - j0 < g->cols ? p.n : j0 + g->cols);
    }
}

static size_t blocks_of(size_t n, size_t size) { return (n + size - 1) / size; }

void shk_cpu_products(const shk_cpu *cpu, const shk_product *p, size_t count, size_t step_c, size_t step_a, size_t step_b) {
    products_args g = { cpu, p, step_c, step_a, step_b, ROWS, COLS, 0, 0 };
    size_t high = has_bf16(cpu) ? SHK_GEMM_BF16_ROWS : MR, wide = has_bf16(cpu) ? SHK_GEMM_BF16_COLS : NR; /* a panel */
    size_t want = cpu->threads > 1 ? 4 * (size_t)cpu->threads : 1; /* pieces, so that no thread waits long */
    for (;;) {
        g.down = blocks_of(p->m, g.rows), g.across = blocks_of(p->n, g.cols);
        if (g.down * g.across * count >= want || (g.rows <= 4 * high && g.cols <= 4 * wide)) break;
        if (g.rows > g.cols || g.cols <= 4 * wide) g.rows = g.rows / 2 / high * high;
        else g.cols = g.cols / 2 / wide * wide;
    }
    shk_pool_run(cpu->pool, products_range, &g, g.down * g.across * count, 1);
}
