/* Processes that compute together, each a rank: one table, filled by comm.c (one process alone), mpi.c (MPI=1) and nccl.c, which
 * puts GPUs under it (NCCL=1). All but `close` are collective: every rank makes the same calls in the same order. A rank that fails
 * by itself therefore goes on to the next shk_comm_agree. When a call here fails no further ones may follow but `close`; the
 * launcher ends the other ranks when this one's process ends, as it does when one is killed. One thread calls. */
#ifndef SHK_COMM_COMM_H
#define SHK_COMM_COMM_H

#include "error.h"
#include "mem.h"

typedef struct shk_comm shk_comm;
struct shk_comm {
    int rank, size;
    int local; /* rank among those of this machine */

    /* Small things, in host memory: all [size, bytes] in the order of the ranks; p of rank `from` to everybody. */
    shk_status (*gather)(shk_comm *c, void *all, const void *mine, size_t bytes, shk_error *err);
    shk_status (*broadcast)(shk_comm *c, void *p, size_t bytes, int from, shk_error *err);

    /* Arrays x [size, each] of f32 in the memory that the device computes in, which is done with them: row r is rank r's shard. An
     * all-reduce is the one and then the other. */
    /* The own shard becomes the sum of all ranks' values there, in one order of adding; the rest stays as it is. */
    shk_status (*reduce_scatter)(shk_comm *c, float *x, size_t each, shk_error *err);
    /* Every shard becomes what its rank has there. */
    shk_status (*all_gather)(shk_comm *c, float *x, size_t each, shk_error *err);

    void (*close)(shk_comm *c);
    bool broken;         /* a call has failed: `close` waits for nobody */
    void *host, *device; /* contexts of those who fill the table */
};

/* Joins the ranks that one launch has started; SHK_E_UNSUPPORTED in a build without MPI. A process that no launcher has started, or
 * that is the only one of its launch, is alone.
 * *c is complete also on failure. Once in a process, unless the process has initialised MPI itself. */
shk_status shk_comm_open(shk_comm *c, shk_error *err);
/* The arrays are in the memory of CUDA devices from now on, each rank's in that of device `local`, which becomes the calling
 * thread's current one. */
shk_status shk_comm_use_cuda(shk_comm *c, shk_error *err);

/* x [n] becomes the sums over the ranks, each added in the order of the ranks, so that it has the same bits everywhere. */
shk_status shk_comm_sum(shk_comm *c, double *x, size_t n, shk_error *err);

/* Where a rank may have failed by itself: `st` and *err say how this one fared. SHK_OK if every rank did well; else the status of
 * the first that did not, on all of them. Its message is given to rank 0 (and says which rank it was); on the others the message is
 * empty, so that a failure is reported once. Also a barrier. */
shk_status shk_comm_agree(shk_comm *c, shk_status st, shk_error *err);

/* The parts of shk_comm_open and shk_comm_use_cuda that a build may lack. */
shk_status shk_comm_join_mpi(shk_comm *c, shk_error *err);
shk_status shk_comm_join_nccl(shk_comm *c, shk_error *err);

#endif
