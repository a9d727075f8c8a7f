/* Arrays in the memory of GPUs, one for each rank, through NCCL; the rest stays as MPI does it, which also brings NCCL's id to the
 * ranks. NCCL adds in an order that the machine's topology and the size of the array choose: the same in every run. */
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdlib.h>

#include "comm/comm.h"

typedef struct context {
    ncclComm_t comm;
    cudaStream_t stream;
    void (*close)(shk_comm *c); /* of the table below */
} context;

static shk_status check(ncclResult_t code, const char *call, shk_error *err) {
    return code == ncclSuccess ? SHK_OK : shk_fail(err, SHK_E_DEVICE, "%s: %s", call, ncclGetErrorString(code));
}

static shk_status check_cuda(cudaError_t code, const char *call, shk_error *err) {
    return code == cudaSuccess ? SHK_OK : shk_fail(err, SHK_E_DEVICE, "%s: %s", call, cudaGetErrorString(code));
}

static shk_status reduce_scatter(shk_comm *c, float *x, size_t each, shk_error *err) {
    const context *k = c->device;
    float *own = x + (size_t)c->rank * each;
    shk_status st = check(ncclReduceScatter(x, own, each, ncclFloat, ncclSum, k->comm, k->stream), "ncclReduceScatter", err);
    if (!st) st = check_cuda(cudaStreamSynchronize(k->stream), "ncclReduceScatter", err);
    c->broken |= st != SHK_OK;
    return st;
}

static shk_status all_gather(shk_comm *c, float *x, size_t each, shk_error *err) {
    const context *k = c->device;
    const float *own = x + (size_t)c->rank * each;
    shk_status st = check(ncclAllGather(own, x, each, ncclFloat, k->comm, k->stream), "ncclAllGather", err);
    if (!st) st = check_cuda(cudaStreamSynchronize(k->stream), "ncclAllGather", err);
    c->broken |= st != SHK_OK;
    return st;
}

static void leave(shk_comm *c) {
    context *k = c->device;
    if (k->comm && c->broken) ncclCommAbort(k->comm);
    else if (k->comm) ncclCommDestroy(k->comm);
    if (k->stream) cudaStreamDestroy(k->stream);
    k->close(c);
    free(k);
    c->device = NULL;
}

shk_status shk_comm_join_nccl(shk_comm *c, shk_error *err) {
    ncclUniqueId id;
    context *k = shk_calloc(1, sizeof *k);
    shk_status st = shk_comm_agree(c, k ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "no memory"), err);
    if (st) return free(k), st;
    k->close = c->close;
    c->device = k, c->close = leave;
    c->reduce_scatter = reduce_scatter, c->all_gather = all_gather;
    int devices = 0; /* one: the launcher shows each rank its own */
    st = check_cuda(cudaGetDeviceCount(&devices), "cudaGetDeviceCount", err);
    if (!st) st = check_cuda(cudaSetDevice(devices == 1 ? 0 : c->local), "cudaSetDevice", err);
    if (!st) st = check_cuda(cudaStreamCreateWithFlags(&k->stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags", err);
    if (!st && c->rank == 0) st = check(ncclGetUniqueId(&id), "ncclGetUniqueId", err);
    st = shk_comm_agree(c, st, err);
    if (!st) st = c->broadcast(c, &id, sizeof id, 0, err);
    if (st) return st;
    st = check(ncclCommInitRank(&k->comm, c->size, id, c->rank), "ncclCommInitRank", err);
    c->broken |= st != SHK_OK; /* the others may wait in there until this process ends */
    return shk_comm_agree(c, st, err);
}
