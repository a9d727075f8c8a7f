#include "comm/comm.h"

#include <stdlib.h>
#include <string.h>

/* ---- one process alone ---- */

static shk_status gather(shk_comm *c, void *all, const void *mine, size_t bytes, shk_error *err) {
    (void)c, (void)err;
    memcpy(all, mine, bytes);
    return SHK_OK;
}

static shk_status broadcast(shk_comm *c, void *p, size_t bytes, int from, shk_error *err) {
    (void)c, (void)p, (void)bytes, (void)from, (void)err;
    return SHK_OK;
}

static shk_status keep(shk_comm *c, float *x, size_t each, shk_error *err) {
    (void)c, (void)x, (void)each, (void)err;
    return SHK_OK;
}

static void leave(shk_comm *c) { (void)c; }

/* Whether a launcher has started this process as one of several: each kind tells its processes so in a variable. */
static bool launched(void) {
    static const char *const ranks[] = { "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK" };
    static const char *const sizes[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE" };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (getenv(sizes[i]) && !strcmp(getenv(sizes[i]), "1")) return false;
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++)
        if (getenv(ranks[i])) return true;
    return false;
}

shk_status shk_comm_open(shk_comm *c, shk_error *err) {
    *c = (shk_comm){ .size = 1, .gather = gather, .broadcast = broadcast, .reduce_scatter = keep, .all_gather = keep,
                     .close = leave };
    return launched() ? shk_comm_join_mpi(c, err) : SHK_OK;
}

shk_status shk_comm_use_cuda(shk_comm *c, shk_error *err) { return c->size > 1 ? shk_comm_join_nccl(c, err) : SHK_OK; }

/* ---- made of the table ---- */

shk_status shk_comm_sum(shk_comm *c, double *x, size_t n, shk_error *err) {
    size_t values;
    double *all = shk_mul(&values, n, (size_t)c->size) ? shk_calloc(values, sizeof *all) : NULL;
    c->broken |= !all;
    if (!all) return shk_fail(err, SHK_E_MEMORY, "no memory for %zu sums", n);
    shk_status st = c->gather(c, all, x, n * sizeof *x, err);
    for (size_t i = 0; !st && i < n; i++) {
        x[i] = all[i];
        for (int r = 1; r < c->size; r++) x[i] += all[(size_t)r * n + i];
    }
    free(all);
    return st;
}

shk_status shk_comm_agree(shk_comm *c, shk_status st, shk_error *err) {
    if (c->size == 1 || c->broken) return st;
    shk_error own = { 0 };
    if (!err) err = &own;
    int *all = shk_calloc((size_t)c->size, sizeof *all), mine = (int)st, from = 0;
    shk_error said = *err;
    c->broken |= !all;
    if (!all) return shk_fail(err, SHK_E_MEMORY, "no memory for %d ranks", c->size);
    st = c->gather(c, all, &mine, sizeof mine, err);
    while (!st && from < c->size && !all[from]) from++;
    if (!st && from < c->size) {
        st = c->broadcast(c, &said, sizeof said, from, err);
        if (!st) {
            st = (shk_status)all[from];
            if (c->rank > 0) *err = (shk_error){ .status = st };
            else if (from > 0) shk_fail(err, st, "rank %d: %s", from, said.message);
        }
    }
    free(all);
    return st;
}
