/* The choice of a token: the steps of shk_sampler_sample (sample.c), for the rows of a pass at once.
 *
 * A row is read by 64 blocks, each a part of it, as often as needed: for the largest value; for the weights; for what may be
 * chosen. Where tokens are taken best first (top-k, top-p) values are counted in bins by their distance from the largest. The bins
 * in front that hold the k best, or enough of the weight, are what one block then sorts. Where those are too many it sorts the last
 * of them, in which top-p ends, and the one in which the random number falls; and where that is not enough (thousands of equal
 * values) it leaves the row to the host.
 *
 * Weights are f64 and summed in one order, but not the host's. So the choice is the host's unless the random number is as near to
 * the border between two tokens as those sums are to each other: 1e-11 of the weight where it is known by bins, else 1e-15. */
#include "cuda/device.cuh"

enum { PARTS = 64, BINS = 1024, LISTED = 2048, PICK_THREADS = LISTED / 2 };

typedef unsigned long long wide;

/* What is known of values: the largest and the first place where it is (-1: one is not a number), the least above -infinity, and
 * how many are not finite. */
typedef struct row_part {
    float top;
    int32_t id;
    float low;
    uint32_t odd;
} row_part;

/* What the kernels leave each other of one row. */
typedef struct row_work {
    row_part part[PARTS];
    double total[PARTS], kept[PARTS]; /* weights in each part: of all, of those that are not too light for min_p */
    wide weight[BINS], list[LISTED];  /* weights as integers; keys of what is to be sorted, in no order */
    uint32_t count[BINS], listed;
    int32_t odd; /* how many more values are not finite since biases were added */
} row_work;

/* What 1 is where weights, at most 1 each, are integers, so that sums have no order: those of n are less than 2^64. */
static __device__ double fixed_of(size_t n) { return (double)(1ull << (__clzll((long long)n) - 1)); }

/* ---- over a block ---- */

static __device__ row_part merge(row_part a, row_part b) {
    bool second = a.id >= 0 && (b.id < 0 || b.top > a.top || (b.top == a.top && b.id < a.id));
    return row_part{ second ? b.top : a.top, second ? b.id : a.id, fminf(a.low, b.low), a.odd + b.odd };
}

static __device__ row_part nothing() { return row_part{ -INFINITY, INT32_MAX, INFINITY, 0 }; }

/* Every thread gets the result. space [32] */
static __device__ row_part merge_block(row_part c, row_part *space) {
    return block_join(c, nothing(), space, [](row_part a, row_part b) { return merge(a, b); });
}

/* The row as its parts have it. space [32] */
static __device__ row_part whole_row(const row_work *w, row_part *space) {
    return merge_block(threadIdx.x < PARTS ? w->part[threadIdx.x] : nothing(), space);
}

/* The sum of the values of the threads before this one. space [32], reusable after the call. */
template <typename V> static __device__ V sum_before(V v, V *space) {
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    V sum = v, before = 0;
    for (unsigned i = 1; i < 32; i *= 2) {
        V other = __shfl_up_sync(0xffffffffu, sum, i);
        if (lane >= i) sum += other;
    }
    if (lane == 31) space[warp] = sum;
    sum = __shfl_up_sync(0xffffffffu, sum, 1);
    __syncthreads();
    for (unsigned w = 0; w < warp; w++) before += space[w];
    __syncthreads();
    return lane ? before + sum : before;
}

static __device__ uint32_t block_min(uint32_t v, uint32_t *space) {
    return block_join(v, UINT32_MAX, space, [](uint32_t a, uint32_t b) { return min(a, b); });
}

/* ---- one value ---- */

static __device__ double weight_of(float l, float top, float temperature) {
    return exp(((double)l - (double)top) / (double)temperature);
}

/* Keys ascend from the best value to the worst, and from the lower id to the higher; both zeros are one value. */
static __device__ wide key_of(float l, size_t id) {
    uint32_t u = __float_as_uint(__fadd_rn(l, 0.0f));
    u = u >> 31 ? u : ~u & 0x7fffffffu;
    return (wide)u << 32 | (uint32_t)id;
}
static __device__ float value_of(wide key) {
    uint32_t u = (uint32_t)(key >> 32);
    return __uint_as_float(u >> 31 ? u : ~u & 0x7fffffffu);
}

/* Bins of equal width from the largest value on. What is further away weighs less than 2^-92: nobody would ever choose it. */
typedef struct binning {
    float top, reach, per;
} binning;

static __device__ binning binning_of(const row_part *row, float temperature) {
    float reach = fminf(__fsub_rn(row->top, row->low), __fmul_rn(64, temperature));
    return binning{ row->top, reach, reach > 1e-30f ? __fdiv_rn(BINS, reach) : 0 };
}
static __device__ int bin_of(const binning *b, float l) { /* -1: too far away */
    float distance = __fsub_rn(b->top, l);
    return distance <= b->reach ? min((int)__fmul_rn(distance, b->per), BINS - 1) : -1;
}

/* Nothing is drawn: the largest is what is wanted, or nothing else has any weight beside it, or nothing may be chosen. */
static __device__ bool settled(const row_part *row, const draw_row *d) {
    return row->id < 0 || isinf(row->top) || !(d->temperature > 0);
}
static __device__ bool takes_few(const draw_row *d, size_t n) { return d->top_k > 0 && (size_t)d->top_k < n; }
static __device__ bool takes_best(const draw_row *d, size_t n) { return takes_few(d, n) || d->top_p < 1; }

/* Where in the bins a count or a weight is reached. */
typedef struct border {
    uint32_t bin, before, in; /* how many are in the bins before it, and in it */
    wide weight;              /* of the bins before */
} border;

/* The first bin up to which there are `target` values, or weight; the last bin where there are not. found and space [32] shared. */
static __device__ border find_border(const row_work *w, bool by_count, wide target, border *found, wide *space) {
    unsigned each = BINS / blockDim.x, first = threadIdx.x * each;
    wide count = 0, weight = 0;
    for (unsigned i = first; i < first + each; i++) count += w->count[i], weight += w->weight[i];
    count = sum_before(count, space);
    weight = sum_before(weight, space);
    for (unsigned i = first; i < first + each; i++) {
        wide before = by_count ? count : weight, after = before + (by_count ? w->count[i] : w->weight[i]);
        if (before < target && (after >= target || i == BINS - 1)) *found = border{ i, (uint32_t)count, w->count[i], weight };
        count += w->count[i], weight += w->weight[i];
    }
    __syncthreads();
    border b = *found;
    __syncthreads();
    return b;
}

/* The bin in which the k best end, or what top-p leaves of the weight. */
static __device__ border find_end(const row_work *w, const draw_row *d, size_t n, double total, border *found, wide *space) {
    bool few = takes_few(d, n);
    wide target = few ? (wide)d->top_k : __double2ull_rn(d->top_p * total * fixed_of(n));
    return find_border(w, few, target ? target : 1, found, space);
}

/* Whether all of the bins up to b can be sorted; else b alone may be. */
static __device__ bool fits(const border *b) { return b->before + b->in <= LISTED; }

/* ---- passes over a row ---- */

/* A row's biases, and then what it costs to have appeared. */
__global__ void __launch_bounds__(256) add_biases(row_work *work, float *x, const pass_info *pass, size_t from, size_t n) {
    __shared__ int space[32];
    in_turn();
    const draw_row d = pass->draws[from + blockIdx.x];
    const shk_bias *b = pass->biases;
    float *row = x + blockIdx.x * n;
    int odd = 0;
    for (uint32_t i = d.bias + threadIdx.x; i < d.recent; i += 256) {
        if (i > d.bias && b[i - 1].id == b[i].id) continue; /* the first thread of an id adds them all, in order */
        float l = row[b[i].id];
        odd -= !isfinite(l);
        for (uint32_t j = i; j < d.recent && b[j].id == b[i].id; j++) l += b[j].add;
        odd += !isfinite(l);
        row[b[i].id] = l;
    }
    __syncthreads();
    for (uint32_t i = d.recent + threadIdx.x; i < d.end; i += 256) {
        float l = row[b[i].id];
        odd -= !isfinite(l);
        l = l > 0 ? __fdiv_rn(l, d.repeat_penalty) : __fmul_rn(l, d.repeat_penalty);
        l = __fadd_rn(l, b[i].add);
        odd += !isfinite(l);
        row[b[i].id] = l;
    }
    odd = block_sum(odd, space);
    if (!threadIdx.x) work[blockIdx.x].odd = odd;
}

/* The largest value of each part. `clear`: bins will be needed. */
__global__ void __launch_bounds__(256) look(row_work *work, const float *x, size_t n, bool clear) {
    __shared__ row_part space[32];
    in_turn();
    row_work *w = &work[blockIdx.y];
    const float *row = x + blockIdx.y * n;
    size_t begin = blockIdx.x * n / PARTS, end = (blockIdx.x + 1) * n / PARTS;
    row_part c = nothing();
    for (size_t i = begin + threadIdx.x; i < end; i += 256) {
        float l = row[i];
        c = merge(c, row_part{ l, isnan(l) ? -1 : (int32_t)i, l > -INFINITY ? l : INFINITY, !isfinite(l) });
    }
    c = merge_block(c, space);
    if (!threadIdx.x) w->part[blockIdx.x] = c;
    if (clear && threadIdx.x < BINS / PARTS) {
        unsigned bin = blockIdx.x * (BINS / PARTS) + threadIdx.x;
        w->count[bin] = 0;
        w->weight[bin] = 0;
        if (!bin) w->listed = 0;
    }
}

static __device__ shk_choice choice_of(const row_part *row, const row_work *w, bool biased, int32_t id, bool drawn) {
    return shk_choice{ id, (int32_t)row->odd == (biased ? w->odd : 0), drawn };
}
static __device__ int32_t largest_id(const row_part *row) { return row->top > -INFINITY ? row->id : -1; }

/* Where no row draws. */
__global__ void __launch_bounds__(PARTS) settle(shk_choice *choice, const row_work *work, bool biased) {
    __shared__ row_part space[32];
    in_turn();
    const row_work *w = &work[blockIdx.x];
    row_part row = whole_row(w, space);
    if (!threadIdx.x) choice[blockIdx.x] = choice_of(&row, w, biased, largest_id(&row), false);
}

/* The weights of each part, and what is in the bins. */
__global__ void __launch_bounds__(256) weigh(row_work *work, const float *x, const pass_info *pass, size_t from, size_t n) {
    __shared__ row_part space[32];
    __shared__ double sums[32];
    __shared__ wide weight[BINS];
    __shared__ uint32_t count[BINS];
    in_turn();
    row_work *w = &work[blockIdx.y];
    const draw_row d = pass->draws[from + blockIdx.y];
    row_part row = whole_row(w, space);
    if (settled(&row, &d)) return;
    const float *l = x + blockIdx.y * n;
    size_t begin = blockIdx.x * n / PARTS, end = (blockIdx.x + 1) * n / PARTS;
    bool few = takes_few(&d, n), best = takes_best(&d, n);
    binning bins = binning_of(&row, d.temperature);
    double total = 0, kept = 0, fixed = fixed_of(n);
    for (unsigned i = threadIdx.x; best && i < BINS; i += 256) weight[i] = count[i] = 0;
    __syncthreads();
    for (size_t i = begin + threadIdx.x; i < end; i += 256) {
        int bin = best ? bin_of(&bins, l[i]) : -1;
        if (best && bin < 0) continue;
        if (best) atomicAdd(&count[bin], 1u);
        if (few) continue;
        double v = weight_of(l[i], row.top, d.temperature);
        if (best) atomicAdd(&weight[bin], __double2ull_rn(v * fixed));
        total += v;
        if (v >= d.min_p) kept += v;
    }
    total = block_sum(total, sums);
    kept = block_sum(kept, sums);
    if (!threadIdx.x) w->total[blockIdx.x] = total, w->kept[blockIdx.x] = kept;
    for (unsigned i = threadIdx.x; best && i < BINS; i += 256) {
        if (count[i]) atomicAdd(&w->count[i], count[i]);
        if (weight[i]) atomicAdd(&w->weight[i], weight[i]);
    }
}

/* Of all parts; every thread gets the sum. space [32] */
static __device__ double sum_parts(const double *part, double *space) {
    return block_sum(threadIdx.x < PARTS ? part[threadIdx.x] : 0.0, space);
}

/* Lists what is in front. */
__global__ void __launch_bounds__(256) collect(row_work *work, const float *x, const pass_info *pass, size_t from, size_t n) {
    __shared__ row_part space[32];
    __shared__ double sums[32];
    __shared__ wide counts[32];
    __shared__ border found;
    in_turn();
    row_work *w = &work[blockIdx.y];
    const draw_row d = pass->draws[from + blockIdx.y];
    row_part row = whole_row(w, space);
    if (settled(&row, &d) || !takes_best(&d, n)) return;
    bool few = takes_few(&d, n);
    border b = find_end(w, &d, n, few ? 0 : sum_parts(w->total, sums), &found, counts);
    bool all = fits(&b);
    if (!all && (few || b.in > LISTED)) return;
    const float *l = x + blockIdx.y * n;
    size_t begin = blockIdx.x * n / PARTS, end = (blockIdx.x + 1) * n / PARTS;
    binning bins = binning_of(&row, d.temperature);
    for (size_t i = begin + threadIdx.x; i < end; i += 256) {
        int bin = bin_of(&bins, l[i]);
        if (bin == (int)b.bin || (all && bin >= 0 && bin < (int)b.bin)) w->list[atomicAdd(&w->listed, 1u)] = key_of(l[i], i);
    }
}

/* ---- the choice: a block a row ---- */

/* Bitonic, ascending. key [LISTED]; behind the n keys it is overwritten. */
static __device__ void sort(wide *key, unsigned n) {
    unsigned size = 2;
    while (size < n) size *= 2;
    for (unsigned i = n + threadIdx.x; i < size; i += PICK_THREADS) key[i] = ~0ull;
    __syncthreads();
    for (unsigned run = 2; run <= size; run *= 2)
        for (unsigned step = run / 2; step; step /= 2) {
            unsigned i = 2 * threadIdx.x - (threadIdx.x & (step - 1)), j = i + step;
            if (threadIdx.x < size / 2 && (key[i] > key[j]) == !(i & run)) {
                wide t = key[i];
                key[i] = key[j];
                key[j] = t;
            }
            __syncthreads();
        }
}

/* The weights of a thread's two keys, and the sums up to each. */
typedef struct weighed {
    double v[2], sum[2];
} weighed;

static __device__ weighed weigh_list(const wide *key, unsigned n, double before, float top, float temperature, double *space) {
    weighed w;
    for (unsigned j = 0; j < 2; j++) {
        unsigned i = 2 * threadIdx.x + j;
        w.v[j] = i < n ? weight_of(value_of(key[i]), top, temperature) : 0;
    }
    w.sum[0] = before + sum_before(w.v[0] + w.v[1], space) + w.v[0];
    w.sum[1] = w.sum[0] + w.v[1];
    return w;
}

typedef struct pick_space {
    wide key[LISTED], counts[32];
    double sums[32], at;
    row_part rows[32];
    uint32_t mins[32], listed;
    border found;
} pick_space;

/* Among all, by id: the part in which r falls, and in it the token. */
static __device__ int32_t pick_by_id(const row_work *w, const draw_row *d, const row_part *row, const float *l, size_t n,
                                     pick_space *s) {
    double mine = threadIdx.x < PARTS ? w->kept[threadIdx.x] : 0, r = d->u * block_sum(mine, s->sums);
    double before = sum_before(mine, s->sums);
    uint32_t part = block_min(mine > 0 && before + mine > r ? threadIdx.x : UINT32_MAX, s->mins);
    if (part == UINT32_MAX) part = ~block_min(mine > 0 ? ~threadIdx.x : UINT32_MAX, s->mins); /* by rounding: the last */
    if (threadIdx.x == part) s->at = before;
    __syncthreads();
    size_t begin = part * n / PARTS, end = (part + 1) * n / PARTS, each = (end - begin + PICK_THREADS - 1) / PICK_THREADS;
    size_t first = min(begin + threadIdx.x * each, end), last = min(first + each, end);
    uint32_t found = UINT32_MAX, latest = UINT32_MAX; /* ~ of an id */
    mine = 0;
    for (size_t i = first; i < last; i++) {
        double v = weight_of(l[i], row->top, d->temperature);
        if (v >= d->min_p) mine += v;
    }
    double sum = s->at + sum_before(mine, s->sums);
    for (size_t i = first; i < last; i++) {
        double v = weight_of(l[i], row->top, d->temperature);
        if (!(v > 0 && v >= d->min_p)) continue;
        sum += v;
        latest = ~(uint32_t)i;
        if (sum > r && found == UINT32_MAX) found = (uint32_t)i;
    }
    found = block_min(found, s->mins);
    latest = block_min(latest, s->mins);
    return (int32_t)(found == UINT32_MAX ? ~latest : found);
}

/* Best first. -1: there are too many to sort. */
static __device__ int32_t pick_best(const row_work *w, const draw_row *d, const row_part *row, const float *l, size_t n,
                                    pick_space *s) {
    bool few = takes_few(d, n);
    double total = few ? 0 : sum_parts(w->total, s->sums), fixed = fixed_of(n);
    border b = find_end(w, d, n, total, &s->found, s->counts);
    bool all = fits(&b);
    if (!all && (few || b.in > LISTED)) return -1;
    unsigned listed = all ? b.before + b.in : b.in;
    double before = all ? 0 : (double)b.weight / fixed;
    for (unsigned i = threadIdx.x; i < listed; i += PICK_THREADS) s->key[i] = w->list[i];
    sort(s->key, listed);
    if (few) listed = min(listed, (unsigned)d->top_k);

    weighed c = weigh_list(s->key, listed, before, row->top, d->temperature, s->sums);
    uint32_t end = listed - 1; /* the last that top-p leaves */
    if (few) total = block_sum(c.v[0] + c.v[1], s->sums);
    if (d->top_p < 1) {
        uint32_t at = 2 * threadIdx.x, reached = UINT32_MAX;
        for (unsigned j = 2; j-- > 0;)
            if (at + j < listed && c.sum[j] >= d->top_p * total) reached = at + j;
        end = min(end, block_min(reached, s->mins));
    }
    if (threadIdx.x == end / 2) s->at = c.sum[end % 2];
    __syncthreads();
    double sum = s->at;
    if (d->min_p > 0) {
        double kept = 0;
        for (unsigned j = 0; j < 2; j++)
            if (2 * threadIdx.x + j <= end && c.v[j] >= d->min_p) kept += c.v[j];
        sum = all ? block_sum(kept, s->sums) : fmin(sum, sum_parts(w->kept, s->sums));
    }

    double r = d->u * sum;
    if (r < before) { /* it falls into a bin that is not listed */
        b = find_border(w, false, (wide)(r * fixed) + 1, &s->found, s->counts);
        if (b.in > LISTED) return -1;
        binning bins = binning_of(row, d->temperature);
        if (!threadIdx.x) s->listed = 0;
        __syncthreads();
        for (size_t i = threadIdx.x; i < n; i += PICK_THREADS)
            if (bin_of(&bins, l[i]) == (int)b.bin) s->key[atomicAdd(&s->listed, 1u)] = key_of(l[i], i);
        __syncthreads();
        sort(s->key, b.in);
        c = weigh_list(s->key, b.in, (double)b.weight / fixed, row->top, d->temperature, s->sums);
        end = b.in - 1;
    }
    uint32_t found = UINT32_MAX, last = UINT32_MAX; /* ~ of a place */
    for (unsigned j = 2; j-- > 0;) {
        uint32_t at = 2 * threadIdx.x + j;
        if (at > end || !(c.v[j] > 0 && c.v[j] >= d->min_p)) continue;
        last = min(last, ~at);
        if (c.sum[j] > r) found = at;
    }
    found = block_min(found, s->mins);
    last = block_min(last, s->mins);
    return (int32_t)(uint32_t)s->key[found == UINT32_MAX ? ~last : found];
}

__global__ void __launch_bounds__(PICK_THREADS) pick(shk_choice *choice, const row_work *work, const float *x,
                                                     const pass_info *pass, size_t from, size_t n, bool biased) {
    __shared__ pick_space s;
    in_turn();
    const row_work *w = &work[blockIdx.x];
    const draw_row d = pass->draws[from + blockIdx.x];
    const float *l = x + blockIdx.x * n;
    row_part row = whole_row(w, s.rows);
    bool drawn = !settled(&row, &d);
    int32_t id = largest_id(&row);
    if (drawn) id = takes_best(&d, n) ? pick_best(w, &d, &row, l, n, &s) : pick_by_id(w, &d, &row, l, n, &s);
    if (!threadIdx.x) choice[blockIdx.x] = choice_of(&row, w, biased, id, drawn && id >= 0);
}

size_t cuda_run_sample(shk_cuda *cu, const cuda_op *op, size_t) {
    row_work *work = (row_work *)(void *)cu->scratch;
    shk_choice *choice = (shk_choice *)op->out;
    unsigned rows = (unsigned)op->n[0];
    size_t n = op->n[1], from = op->n[2];
    bool biased = cu->choosing & CHOOSE_BIASED, best = cu->choosing & CHOOSE_BEST;
    static_assert(sizeof(row_work) * SHK_PASS_ROWS <= SCRATCH_BYTES, "rows do not fit");
    if (biased) launch(cu, add_biases, dim3(rows), 256, 0, work, op->y, cu->pass, from, n);
    launch(cu, look, dim3(PARTS, rows), 256, 0, work, op->y, n, best);
    if (!(cu->choosing & CHOOSE_DRAWN)) {
        launch(cu, settle, dim3(rows), PARTS, 0, choice, work, biased);
        return 1;
    }
    launch(cu, weigh, dim3(PARTS, rows), 256, 0, work, op->y, cu->pass, from, n);
    if (best) launch(cu, collect, dim3(PARTS, rows), 256, 0, work, op->y, cu->pass, from, n);
    launch(cu, pick, dim3(rows), PICK_THREADS, 0, choice, work, op->y, cu->pass, from, n, biased);
    return 1;
}
