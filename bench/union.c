/* A sparse feed-forward layer by the union of a tile's active neurons, where each row that a token of the tile wants is loaded once
 * and meets all its tokens, with a coefficient of 0 where one does not want it; beside the engine's gathers, in which each token
 * meets its own rows while they are in the cache, and the same for each token by itself ("apart"). Microseconds a token and layer,
 * medians of REPEATS turns of all three, and the other two's ratio to the gathers, with its range. Results must be equal, not
 * close; the program fails where they are not.
 *
 *   bench/union [--shared PERCENT] [--pass TOKENS] [TYPE]     q8_0 and bf16 if no type is given
 *
 * PERCENT (0) of a token's neurons are those of all tokens of its tile; 30 is about what tokens of a trained model share. A pass is
 * one tile, as where so many sequences go on, or TOKENS (a multiple of 16, at most 128), as in a prompt, whose tiles find the rows
 * in the cache. SHK_CPU=avx2 caps the instructions. The sizes are a layer's of spark-gemma2-2b. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/device.h"
#include "timing.h"
#include "union.h"

/* Layers are more than a cache holds, and no turn wants the neurons of the last. */
enum { REPEATS = 9, LAYERS = 6, NEURONS = 13824, IN = 1280, OUT = 2304 };
enum { TILE_BYTES = 640 << 10, TOGETHER = 1152, UNIT = 64 }; /* of rows, columns and units of both, as in ops_sparse.c */

static void *memory(size_t bytes) {
    void *p = shk_reserve(bytes);
    if (!p) exit(fprintf(stderr, "no memory\n"));
    return p;
}

/* ---- the union form ---- */

typedef struct tile {
    size_t n;
    uint32_t *ids; /* [NEURONS] the union, ascending */
    float *c;      /* [UNION_TOKENS, NEURONS] */
    void *x;       /* the activations, as the kernels want them */
} tile;

typedef struct job {
    shk_cpu *cpu;
    const union_kernels *k;
    const shk_mat *U, *Vt;
    shk_active active;
    const float *x;
    float *y;
    size_t T, each; /* tokens of the pass, of a tile */
    tile *tiles;
} job;

/* Neurons of all tokens as bits, then each token's at their places in the union, with 0 for those it does not want. */
static void prepare(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const job *a = ctx;
    for (size_t i = begin; i < end; i++) {
        tile *to = a->tiles + i;
        uint64_t bits[NEURONS / 64] = { 0 };
        uint32_t before[NEURONS / 64];
        to->n = 0;
        for (size_t t = i * a->each; t < (i + 1) * a->each; t++)
            for (const uint32_t *id = a->active.ids + t * NEURONS, *last = id + a->active.n[t]; id < last; id++)
                bits[*id / 64] |= 1ull << *id % 64;
        for (size_t w = 0; w < NEURONS / 64; w++) {
            before[w] = (uint32_t)to->n;
            for (uint64_t b = bits[w]; b; b &= b - 1) to->ids[to->n++] = (uint32_t)w * 64 + (uint32_t)__builtin_ctzll(b);
        }
        shk_xblock rounded[UNION_TOKENS * IN / 32];
        for (size_t t = 0; t < a->each; t++) {
            size_t row = i * a->each + t, n = a->active.n[row];
            float *value = a->active.value + row * NEURONS, *c = to->c + t * NEURONS;
            a->cpu->k.gelu_mul(value, value, NULL, n);
            memset(c, 0, to->n * sizeof *c);
            for (size_t j = 0; j < n; j++) {
                size_t id = a->active.ids[row * NEURONS + j], w = id / 64;
                c[before[w] + (size_t)__builtin_popcountll(bits[w] & ((1ull << id % 64) - 1))] = value[j];
            }
            if (a->U->rounded) a->cpu->k.round_x[SHK_Q8_0](rounded + t * (IN / 32), a->x + row * IN, IN);
        }
        if (a->U->rounded) a->k->arrange(to->x, rounded, a->each, IN);
    }
}

/* The first place of the union that is not before a neuron. */
static size_t place(const tile *a, size_t neuron) {
    size_t low = 0, high = a->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (a->ids[middle] < neuron) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void up(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const job *a = ctx;
    const shk_mat *U = a->U;
    size_t rows = a->T > a->each ? TILE_BYTES / U->stride + 1 : end - begin;
    for (size_t j = begin; j < end; j += rows)
        for (size_t i = 0; i < a->T / a->each; i++) {
            const tile *t = a->tiles + i;
            size_t from = place(t, j), n = place(t, j + rows < end ? j + rows : end) - from;
            union_up_fn *up_rows = U->rounded ? a->k->up_integer : a->k->up_float;
            const void *x = U->rounded ? t->x : a->x + i * a->each * IN;
            up_rows(t->c + from, NEURONS, U->data, U->stride, t->ids + from, n, x, a->each, IN);
        }
}

/* Units of columns, by as many neurons as the gathers take at a time; scales are taken out once for all tiles. */
static void down(void *ctx, int thread, size_t begin, size_t end) {
    const job *a = ctx;
    const shk_mat *V = a->Vt;
    const shk_type_info *type = shk_type_of(V->type);
    size_t column = begin * UNIT, width = end * UNIT - column, each = V->rounded ? width / 32 : 0;
    const char *w = (const char *)V->data + column / type->block * type->bytes;
    float *scales = a->cpu->scratch + (size_t)thread * SHK_CPU_SCRATCH;
    shk_gathered_row rows[SHK_GATHER_ROWS];
    const void *ahead[SHK_GATHER_ROWS];
    for (size_t t = 0; t < a->T; t++) memset(a->y + t * OUT + column, 0, width * sizeof *a->y);
    for (size_t j = 0; j < NEURONS; j += SHK_GATHER_ROWS) {
        bool known[SHK_GATHER_ROWS] = { false };
        for (size_t i = 0; i < a->T / a->each; i++) {
            const tile *t = a->tiles + i;
            size_t from = place(t, j), n = place(t, j + SHK_GATHER_ROWS) - from;
            for (size_t r = 0; r < n; r++) {
                size_t id = t->ids[from + r], next = from + n + r < t->n ? from + n + r : t->n - 1;
                rows[r] = (shk_gathered_row){ w + id * V->stride, scales + (id - j) * each };
                if (V->rounded && !known[id - j]) a->cpu->k.row_scales[V->type](scales + (id - j) * each, rows[r].w, width);
                known[id - j] = true;
                ahead[r] = w + t->ids[next] * V->stride;
            }
            union_down_fn *down_rows = V->rounded ? a->k->down_integer : a->k->down_float;
            down_rows(a->y + i * a->each * OUT + column, OUT, rows, ahead, t->c + from, NEURONS, n, a->each, width);
        }
    }
}

static void by_union(job *a) {
    size_t units = OUT / UNIT, most = (size_t)a->cpu->threads * (TOGETHER / UNIT), turns = (units + most - 1) / most;
    size_t pieces = (size_t)a->cpu->threads * turns;
    shk_pool_run(a->cpu->pool, prepare, a, a->T / a->each, 1);
    shk_pool_run(a->cpu->pool, up, a, NEURONS, 64);
    shk_pool_run(a->cpu->pool, down, a, units, (units + pieces - 1) / pieces);
}

static void by_gathers(job *a) { shk_cpu_sparse_glu(a->cpu, a->y, &a->active, a->x, IN, a->U, a->Vt, a->T); }

static void apart(job *a) {
    for (size_t t = 0; t < a->T; t++) {
        shk_active one = { a->active.ids + t * NEURONS, a->active.value + t * NEURONS, a->active.n + t, NEURONS };
        shk_cpu_sparse_glu(a->cpu, a->y + t * OUT, &one, a->x + t * IN, IN, a->U, a->Vt, 1);
    }
}

/* ---- measuring ---- */

typedef void form(job *a);
enum { GATHERS, APART, UNION, FORMS };
static form *const forms[FORMS] = { by_gathers, apart, by_union };

static shk_mat matrix(shk_type type, size_t cols) {
    shk_mat m = { .type = type, .rows = NEURONS, .cols = cols, .rounded = shk_type_of(type)->block > 1 };
    shk_row_bytes(type, cols, &m.stride);
    uint32_t *words = memory(NEURONS * m.stride);
    for (size_t i = 0; i < NEURONS * m.stride / 4; i++) words[i] = (uint32_t)rand() & 0x3bff3bff; /* below 1 as any type */
    m.data = words;
    return m;
}

static double chance(void) { return rand() / (RAND_MAX + 1.0); }

/* Each token wants a share of the neurons; of these a share is everybody's in the tile. */
static void draw(shk_active *a, size_t T, size_t each, double want, double shared) {
    static bool all[NEURONS];
    double common = want * shared, own = (want - common) / (1 - common);
    for (size_t t = 0; t < T; t++) {
        a->n[t] = 0;
        for (uint32_t i = 0; i < NEURONS; i++) {
            if (t % each == 0) all[i] = chance() < common;
            if (all[i] || chance() < own) a->ids[t * NEURONS + a->n[t]++] = i;
        }
    }
}

static void wake(void *ctx, int thread, size_t begin, size_t end) { (void)ctx, (void)thread, (void)begin, (void)end; }

/* Seconds of a form, whose threads are awake and whose values are not yet overwritten. */
static double time_of(form *f, job *a, const float *value) {
    memcpy(a->active.value, value, a->T * NEURONS * sizeof *value);
    shk_pool_run(a->cpu->pool, wake, NULL, 64, 1);
    double start = now();
    f(a);
    return now() - start;
}

/* How many results differ from the gathers'. */
static size_t differences(job *a, const float *value) {
    static float gathered[SHK_PASS_ROWS * OUT];
    size_t n = 0;
    for (size_t f = 0; f < FORMS; f++) {
        time_of(forms[f], a, value);
        if (f == GATHERS) memcpy(gathered, a->y, a->T * OUT * sizeof *gathered);
        for (size_t i = 0; i < a->T * OUT; i++) n += !(a->y[i] == gathered[i]);
    }
    return n;
}

static void print_ratio(double *ratio) {
    qsort(ratio, REPEATS, sizeof *ratio, by_value);
    printf("  %.2f (%.2f to %.2f)", ratio[REPEATS / 2], ratio[0], ratio[REPEATS - 1]);
}

static size_t line(job *a, const float *value, const shk_mat *U, const shk_mat *Vt, double want, double shared) {
    double us[FORMS][REPEATS], ratio[FORMS][REPEATS], wanted = 0;
    size_t layer = 0, turns = a->T > UNION_TOKENS ? FORMS : LAYERS; /* so that each form is as often the first */
    draw(&a->active, a->T, a->each, want, shared);
    a->U = U, a->Vt = Vt;
    size_t different = differences(a, value);
    for (size_t r = 0; r < REPEATS; r++) {
        double sum[FORMS] = { 0 };
        for (size_t i = 0; i < turns; i++) {
            draw(&a->active, a->T, a->each, want, shared);
            for (size_t j = 0; j < FORMS; j++) { /* a form's layer is not what the one before has left in the cache */
                layer = (layer + 1) % LAYERS;
                a->U = U + layer, a->Vt = Vt + layer;
                sum[(i + j) % FORMS] += time_of(forms[(i + j) % FORMS], a, value);
            }
            for (size_t t = 0; t < a->T / a->each; t++) wanted += (double)a->tiles[t].n / NEURONS;
        }
        for (size_t f = 0; f < FORMS; f++) {
            us[f][r] = sum[f] * 1e6 / (double)(turns * a->T);
            ratio[f][r] = us[f][r] / us[GATHERS][r];
        }
    }
    for (size_t f = 0; f < FORMS; f++) qsort(us[f], REPEATS, sizeof *us[f], by_value);
    wanted /= (double)(REPEATS * turns * (a->T / a->each));
    printf("%-5s %7d %6zu %5zu %5.0f%% %5.0f%% %5.0f%%", shk_type_of(U->type)->name, a->cpu->threads, a->T, a->each, 100 * want,
           100 * shared, 100 * wanted);
    printf(" %8.1f %8.1f %8.1f", us[GATHERS][REPEATS / 2], us[APART][REPEATS / 2], us[UNION][REPEATS / 2]);
    print_ratio(ratio[APART]);
    print_ratio(ratio[UNION]);
    printf(different ? "  %zu results DIFFER\n" : "\n", different);
    fflush(stdout);
    return different;
}

/* The tiles, types and shares of one number of threads. */
static size_t lines(job *a, const float *value, shk_type only, size_t pass, double shared) {
    static const shk_type types[] = { SHK_Q8_0, SHK_BF16 };
    static shk_mat U[2][LAYERS], Vt[2][LAYERS];
    size_t different = 0;
    for (size_t type = 0; type < 2; type++) {
        if (only != SHK_TYPE_COUNT && only != types[type]) continue;
        for (size_t l = 0; l < LAYERS && !U[type][l].data; l++)
            U[type][l] = matrix(types[type], IN), Vt[type][l] = matrix(types[type], OUT);
        for (a->each = 2; a->each <= UNION_TOKENS; a->each *= 2)
            for (double want = 0.04; want < 0.2; want *= 2) {
                a->T = pass ? pass : a->each;
                different += line(a, value, U[type], Vt[type], want, shared);
            }
    }
    return different;
}

int main(int argc, char **argv) {
    double shared = 0;
    size_t pass = 0, different = 0, T = SHK_PASS_ROWS;
    shk_type only = SHK_TYPE_COUNT;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--shared") && i + 1 < argc) shared = atof(argv[++i]) / 100;
        else if (!strcmp(argv[i], "--pass") && i + 1 < argc) pass = strtoul(argv[++i], NULL, 0);
        else if (!shk_type_parse(argv[i], &only)) return fprintf(stderr, "no type %s\n", argv[i]), 1;
    if (pass % UNION_TOKENS || pass > T) return fprintf(stderr, "--pass wants a multiple of %d, at most %zu\n", UNION_TOKENS, T), 1;

    static tile tiles[SHK_PASS_ROWS / 2];
    float *x = memory(T * IN * sizeof *x), *value = memory(T * NEURONS * sizeof *value);
    for (size_t i = 0; i < T * IN; i++) x[i] = (float)(2 * chance() - 1);
    for (size_t i = 0; i < T * NEURONS; i++) value[i] = (float)chance();
    for (size_t i = 0; i < T / 2; i++)
        tiles[i] = (tile){ .ids = memory(NEURONS * 4), .c = memory(UNION_TOKENS * NEURONS * 4),
                           .x = memory(UNION_TOKENS * IN / 32 * UNION_XBYTES) };
    shk_active active = { memory(T * NEURONS * 4), memory(T * NEURONS * 4), memory(T * 4), NEURONS };
    job a = { .active = active, .x = x, .y = memory(T * OUT * 4), .tiles = tiles };

    for (int threads = 1; threads <= 2; threads++) {
        const shk_ops *ops;
        shk_error err;
        if (shk_cpu_open(&ops, (void **)&a.cpu, threads, &err)) return fprintf(stderr, "%s\n", err.message), 1;
        a.k = union_of(a.cpu->k.tier);
        if (!a.k) return fprintf(stderr, "the union is written for AVX2 and for AVX-512 with VNNI, not for %s\n", a.cpu->k.tier), 1;
        if (threads == 1)
            printf("%s; us a token and layer, and ratios to the gathers\n"
                   "type  threads tokens  tile active shared wanted  gathers    apart    union  apart                union\n",
                   a.cpu->k.tier);
        different += lines(&a, value, only, pass, shared);
        ops->close(a.cpu);
    }
    return different > 0;
}
