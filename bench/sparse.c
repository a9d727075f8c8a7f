/* What a sparse feed-forward layer's two matrices take by gathered rows, beside what they take whole (`linear` on matrices of the
 * same shapes): microseconds a token, medians of REPEATS turns of one and the other, and the median ratio with its range. Tokens'
 * active neurons are drawn independently.
 *
 *   bench/sparse [TYPE [NEURONS IN OUT]]     q8_0 13824 1280 2304, a layer of spark-gemma2-2b, if not given */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"
#include "timing.h"

enum { REPEATS = 9, LAYERS = 4 };

static const shk_ops *ops;
static void *dev;

static void *memory(size_t bytes) {
    void *p = ops->alloc(dev, bytes);
    if (!p) exit(fprintf(stderr, "no memory\n"));
    return p;
}

static shk_mat matrix(shk_type type, size_t rows, size_t cols) {
    shk_mat m = { .type = type, .rows = rows, .cols = cols, .rounded = true };
    if (!shk_row_bytes(type, cols, &m.stride)) exit(fprintf(stderr, "no rows of %zu values in this type\n", cols));
    uint32_t *words = memory(rows * m.stride);
    for (size_t i = 0; i < rows * m.stride / 4; i++) words[i] = (uint32_t)rand() & 0x3bff3bff; /* below 1 as any type */
    m.data = words;
    return m;
}

/* Each token wants `percent` of n neurons. */
static void draw(shk_active *a, size_t T, size_t percent) {
    for (size_t t = 0; t < T; t++) {
        a->n[t] = 0;
        for (uint32_t i = 0; i < a->max; i++)
            if ((size_t)rand() % 100 < percent) a->ids[t * a->max + a->n[t]++] = i;
    }
}

int main(int argc, char **argv) {
    shk_error err;
    shk_type type = SHK_Q8_0;
    if (argc > 1 && !shk_type_parse(argv[1], &type)) return fprintf(stderr, "no type %s\n", argv[1]), 1;
    size_t n = argc > 4 ? strtoul(argv[2], NULL, 0) : 13824, in = argc > 4 ? strtoul(argv[3], NULL, 0) : 1280;
    size_t out = argc > 4 ? strtoul(argv[4], NULL, 0) : 2304;
    if (shk_cpu_open(&ops, &dev, 0, &err)) return fprintf(stderr, "%s\n", err.message), 1;

    shk_mat U[LAYERS], Vt[LAYERS], up[LAYERS], down[LAYERS];
    for (size_t l = 0; l < LAYERS; l++) { /* more than a cache holds */
        U[l] = matrix(type, n, in), Vt[l] = matrix(type, n, out);
        up[l] = matrix(type, n, in), down[l] = matrix(type, out, n);
        if (ops->prepare(dev, &up[l], &err) || ops->prepare(dev, &down[l], &err)) return fprintf(stderr, "%s\n", err.message), 1;
    }
    float *x = memory(SHK_PASS_ROWS * in * sizeof *x), *y = memory(SHK_PASS_ROWS * out * sizeof *y);
    float *h = memory(SHK_PASS_ROWS * n * sizeof *h), *g = memory(SHK_PASS_ROWS * n * sizeof *g);
    shk_active a = { memory(SHK_PASS_ROWS * n * 4), memory(SHK_PASS_ROWS * n * 4), memory(SHK_PASS_ROWS * 4), n };
    for (size_t i = 0; i < SHK_PASS_ROWS * in; i++) x[i] = (float)rand() / (float)RAND_MAX * 2 - 1;
    for (size_t i = 0; i < SHK_PASS_ROWS * n; i++) h[i] = (float)rand() / (float)RAND_MAX;

    printf("%s, %zu neurons, %zu in, %zu out; us a token and layer\n", shk_type_of(type)->name, n, in, out);
    printf("active  tokens  gathers    whole  whole/gathers\n");
    for (size_t percent = 4; percent <= 32; percent *= 2)
        for (size_t T = 1; T <= SHK_PASS_ROWS; T *= 2) {
            double gathers[REPEATS], whole[REPEATS], ratio[REPEATS];
            size_t turns = LAYERS * (T < 16 ? 16 / T : 1);
            draw(&a, T, percent);
            for (int r = -1; r < REPEATS; r++) { /* the first turn warms up */
                double start = now();
                for (size_t i = 0; i < turns; i++) {
                    memcpy(a.value, h, T * n * sizeof *h);
                    ops->sparse_glu(dev, y, &a, x, in, &U[i % LAYERS], &Vt[i % LAYERS], T);
                }
                double middle = now();
                for (size_t i = 0; i < turns; i++) {
                    ops->linear(dev, g, x, in, &up[i % LAYERS], NULL, T);
                    ops->linear(dev, y, g, n, &down[i % LAYERS], NULL, T);
                }
                if (r < 0) continue;
                double each = 1e6 / (double)(turns * T);
                gathers[r] = (middle - start) * each, whole[r] = (now() - middle) * each, ratio[r] = whole[r] / gathers[r];
            }
            qsort(gathers, REPEATS, sizeof *gathers, by_value), qsort(whole, REPEATS, sizeof *whole, by_value);
            qsort(ratio, REPEATS, sizeof *ratio, by_value);
            printf("%5zu%%  %6zu %8.1f %8.1f  %5.2f (%.2f to %.2f)\n", percent, T, gathers[REPEATS / 2], whole[REPEATS / 2],
                   ratio[REPEATS / 2], ratio[0], ratio[REPEATS - 1]);
            fflush(stdout);
        }
    ops->close(dev);
    return 0;
}
