/* A fixed set of threads that runs one parallel loop at a time. */
#ifndef SHK_CPU_POOL_H
#define SHK_CPU_POOL_H

#include "error.h"

typedef struct shk_pool shk_pool;

/* threads >= 1, the caller's thread included: threads - 1 are started. They spin shortly between loops, then sleep. */
shk_status shk_pool_new(shk_pool **out, int threads, shk_error *err);
void shk_pool_free(shk_pool *p); /* NULL is allowed */
int shk_pool_threads(const shk_pool *p);

/* Calls fn(ctx, thread, begin, end) on disjoint ranges that cover [0, n), each range but the last a multiple of `grain` long and
 * thread in [0, threads); returns when all are done. A thread takes a range when it is free, so one may get several or none:
 * results must not depend on who does what. Allocates nothing. Not reentrant: one caller at a time. */
typedef void shk_range_fn(void *ctx, int thread, size_t begin, size_t end);
void shk_pool_run(shk_pool *p, shk_range_fn *fn, void *ctx, size_t n, size_t grain);

#endif
