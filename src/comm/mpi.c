/* Ranks as MPI has them. Arrays are in host memory. They travel in pieces, whose counts fit MPI's ints, and are added here, in the
 * order of the ranks: MPI promises none. */
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"

enum {
    PIECE = 1 << 15,    /* values of a shard that are added at once */
    MESSAGE = 1 << 28   /* bytes of a broadcast at once */
};

typedef struct context {
    MPI_Comm comm;
    bool initialized;      /* by this file */
    float *send, *receive; /* [size, PIECE] */
} context;

static shk_status check(shk_comm *c, int code, const char *call, shk_error *err) {
    char text[MPI_MAX_ERROR_STRING];
    int n = 0;
    if (code == MPI_SUCCESS) return SHK_OK;
    c->broken = true;
    if (MPI_Error_string(code, text, &n) != MPI_SUCCESS) n = 0;
    return shk_fail(err, SHK_E_DEVICE, "%s: %.*s", call, n, text);
}

static shk_status gather(shk_comm *c, void *all, const void *mine, size_t bytes, shk_error *err) {
    const context *x = c->host;
    return check(c, MPI_Allgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, x->comm), "MPI_Allgather", err);
}

static shk_status broadcast(shk_comm *c, void *p, size_t bytes, int from, shk_error *err) {
    const context *x = c->host;
    shk_status st = SHK_OK;
    for (size_t at = 0; !st && at < bytes; at += MESSAGE) {
        int n = bytes - at < MESSAGE ? (int)(bytes - at) : MESSAGE;
        st = check(c, MPI_Bcast((char *)p + at, n, MPI_BYTE, from, x->comm), "MPI_Bcast", err);
    }
    return st;
}

static shk_status reduce_scatter(shk_comm *c, float *x, size_t each, shk_error *err) {
    const context *k = c->host;
    size_t size = (size_t)c->size;
    float *own = x + (size_t)c->rank * each;
    shk_status st = SHK_OK;
    for (size_t at = 0; !st && at < each; at += PIECE) {
        size_t n = each - at < PIECE ? each - at : PIECE;
        for (size_t r = 0; r < size; r++) memcpy(k->send + r * n, x + r * each + at, n * sizeof *x);
        st = check(c, MPI_Alltoall(k->send, (int)n, MPI_FLOAT, k->receive, (int)n, MPI_FLOAT, k->comm), "MPI_Alltoall", err);
        if (st) break;
        memcpy(own + at, k->receive, n * sizeof *x);
        for (size_t r = 1; r < size; r++)
            for (size_t i = 0; i < n; i++) own[at + i] += k->receive[r * n + i];
    }
    return st;
}

static shk_status all_gather(shk_comm *c, float *x, size_t each, shk_error *err) {
    shk_status st = SHK_OK;
    for (int r = 0; !st && r < c->size; r++) st = broadcast(c, x + (size_t)r * each, each * sizeof *x, r, err);
    return st;
}

/* MPI_Finalize waits for the other ranks. Where this one has lost them it would wait for good; a process that ends without it is
 * taken for one that crashed, and the launcher ends the others. */
static void leave(shk_comm *c) {
    context *x = c->host;
    if (x->comm != MPI_COMM_NULL && !c->broken) MPI_Comm_free(&x->comm);
    if (x->initialized && !c->broken) MPI_Finalize();
    free(x->send), free(x->receive), free(x);
    c->host = NULL;
}

static shk_status join(shk_comm *c, context *x, shk_error *err) {
    int there = 0, over = 0, provided;
    MPI_Comm machine;
    shk_status st = check(c, MPI_Finalized(&over), "MPI_Finalized", err);
    if (!st && over) st = shk_fail(err, SHK_E_ARGUMENT, "MPI is finalized: processes train together once");
    if (!st) st = check(c, MPI_Initialized(&there), "MPI_Initialized", err);
    if (!st && !there) {
        st = check(c, MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread", err);
        x->initialized = !st;
    }
    if (!st) st = check(c, MPI_Comm_dup(MPI_COMM_WORLD, &x->comm), "MPI_Comm_dup", err);
    if (!st) st = check(c, MPI_Comm_set_errhandler(x->comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler", err);
    if (!st) st = check(c, MPI_Comm_rank(x->comm, &c->rank), "MPI_Comm_rank", err);
    if (!st) st = check(c, MPI_Comm_size(x->comm, &c->size), "MPI_Comm_size", err);
    if (!st)
        st = check(c, MPI_Comm_split_type(x->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine), "MPI_Comm_split_type", err);
    if (!st) {
        st = check(c, MPI_Comm_rank(machine, &c->local), "MPI_Comm_rank", err);
        MPI_Comm_free(&machine);
    }
    return st;
}

shk_status shk_comm_join_mpi(shk_comm *c, shk_error *err) {
    context *x = shk_calloc(1, sizeof *x);
    c->broken = !x;
    if (!x) return shk_fail(err, SHK_E_MEMORY, "no memory");
    x->comm = MPI_COMM_NULL;
    c->host = x;
    c->gather = gather, c->broadcast = broadcast, c->reduce_scatter = reduce_scatter, c->all_gather = all_gather, c->close = leave;
    shk_status st = join(c, x, err);
    if (st) return st;
    x->send = shk_calloc((size_t)c->size * PIECE, sizeof *x->send);
    x->receive = shk_calloc((size_t)c->size * PIECE, sizeof *x->receive);
    st = x->send && x->receive ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "no memory for pieces of %d ranks", c->size);
    return shk_comm_agree(c, st, err);
}
