/* From logits to a token id. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "mem.h"
#include "model/model.h"

typedef struct candidate {
    float logit;
    int32_t id;
    double weight;
} candidate;

struct shk_sampler {
    shk_sampling s;
    shk_bias *bias; /* [s.n_bias] by id; those of one id in their order */
    int32_t vocab;
    candidate *c;    /* [vocab] */
    float *logits;   /* [vocab] the adjusted copy */
    int32_t *recent; /* ring of the last repeat_last_n tokens */
    size_t n_recent, next;
    uint32_t *count; /* [vocab] how often each is among them */
    uint32_t *place; /* [vocab] and where in `cost` it then is */
    shk_bias *cost;  /* [n_cost] each of them once, with what its presence and its appearances add */
    size_t n_cost;
    uint64_t random[4];
};

shk_sampling shk_sampling_default(void) { return (shk_sampling){ .top_p = 1, .repeat_penalty = 1, .repeat_last_n = 64 }; }

/* xoshiro256++ (Blackman and Vigna), seeded through splitmix64. */
static uint64_t splitmix(uint64_t *x) {
    uint64_t z = *x += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t rotate(uint64_t x, int k) { return x << k | x >> (64 - k); }

static double uniform(uint64_t s[4]) { /* [0, 1) */
    uint64_t r = rotate(s[0] + s[3], 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return (double)(r >> 11) * 0x1p-53;
}

static shk_status check(const shk_sampling *s, int32_t vocab, shk_error *err) {
    const struct {
        const char *name;
        double value, min, max;
    } fields[] = {
        { "temperature", s->temperature, 0, 1000 },
        { "top_k", s->top_k, 0, INT32_MAX },
        { "top_p", s->top_p, 0, 1 },
        { "min_p", s->min_p, 0, 1 },
        { "repeat_penalty", s->repeat_penalty, 1e-3, 1000 },
        { "repeat_last_n", s->repeat_last_n, 0, 1 << 24 },
        { "presence_penalty", s->presence_penalty, -100, 100 },
        { "frequency_penalty", s->frequency_penalty, -100, 100 },
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!(fields[i].value >= fields[i].min && fields[i].value <= fields[i].max))
            return shk_fail(err, SHK_E_ARGUMENT, "sampling: %s is %g; it must be from %g to %g", fields[i].name, fields[i].value,
                            fields[i].min, fields[i].max);
    for (size_t i = 0; i < s->n_bias; i++)
        if (s->bias[i].id < 0 || s->bias[i].id >= vocab || isnan(s->bias[i].add) || s->bias[i].add == INFINITY)
            return shk_fail(err, SHK_E_ARGUMENT,
                            "sampling: bias %g of token %d: the token must be in the vocabulary (0 to %d), the bias a number",
                            s->bias[i].add, s->bias[i].id, vocab - 1);
    return SHK_OK;
}

/* Copies the biases, by id; those of one id stay in their order. place [vocab] is 0 and used to count. */
static void sort_biases(shk_sampler *p) {
    const shk_bias *from = p->s.bias;
    uint32_t at = 0;
    for (size_t i = 0; i < p->s.n_bias; i++) p->place[from[i].id]++;
    for (int32_t id = 0; p->s.n_bias && id < p->vocab; id++) {
        uint32_t n = p->place[id];
        p->place[id] = at;
        at += n;
    }
    for (size_t i = 0; i < p->s.n_bias; i++) p->bias[p->place[from[i].id]++] = from[i];
}

shk_status shk_sampler_new(shk_sampler **out, const shk_sampling *s, int32_t vocab_size, shk_error *err) {
    *out = NULL;
    shk_status st = check(s, vocab_size, err);
    if (st) return st;
    shk_sampler *p = shk_calloc(1, sizeof *p);
    if (!p) return shk_fail(err, SHK_E_MEMORY, "no memory for a sampler");
    p->s = *s;
    p->vocab = vocab_size;
    p->bias = shk_calloc(s->n_bias, sizeof *p->bias);
    p->c = shk_calloc((size_t)vocab_size, sizeof *p->c);
    p->logits = shk_calloc((size_t)vocab_size, sizeof *p->logits);
    p->recent = shk_calloc((size_t)s->repeat_last_n, sizeof *p->recent);
    p->count = shk_calloc((size_t)vocab_size, sizeof *p->count);
    p->place = shk_calloc((size_t)vocab_size, sizeof *p->place);
    p->cost = shk_calloc((size_t)(s->repeat_last_n < vocab_size ? s->repeat_last_n : vocab_size), sizeof *p->cost);
    uint64_t seed = s->seed;
    for (int i = 0; i < 4; i++) p->random[i] = splitmix(&seed);
    if (!p->bias || !p->c || !p->logits || !p->recent || !p->count || !p->place || !p->cost) {
        shk_sampler_free(p);
        return shk_fail(err, SHK_E_MEMORY, "no memory for a sampler");
    }
    sort_biases(p);
    *out = p;
    return SHK_OK;
}

void shk_sampler_free(shk_sampler *s) {
    if (!s) return;
    free(s->bias);
    free(s->c);
    free(s->logits);
    free(s->recent);
    free(s->count);
    free(s->place);
    free(s->cost);
    free(s);
}

/* `id` appears once more among the recent tokens (by 1), or once less (-1). */
static void recount(shk_sampler *s, int32_t id, int by) {
    if (!s->count[id]) {
        s->place[id] = (uint32_t)s->n_cost;
        s->cost[s->n_cost++].id = id;
    }
    s->count[id] += (uint32_t)by;
    shk_bias *cost = &s->cost[s->place[id]];
    if (s->count[id]) {
        cost->add = -(s->s.presence_penalty + s->s.frequency_penalty * (float)s->count[id]);
        return;
    }
    *cost = s->cost[--s->n_cost]; /* the last one takes its place */
    s->place[cost->id] = s->place[id];
}

void shk_sampler_accept(shk_sampler *s, int32_t id) {
    size_t room = (size_t)s->s.repeat_last_n;
    if (!room || id < 0 || id >= s->vocab) return;
    if (s->n_recent == room) recount(s, s->recent[s->next], -1);
    else s->n_recent++;
    s->recent[s->next] = id;
    s->next = (s->next + 1) % room;
    recount(s, id, 1);
}

static bool penalises(const shk_sampling *s) {
    return s->repeat_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
}

/* Penalises recent tokens: a positive logit is divided, a negative one multiplied (CTRL, sec. 4.1), each once; then what their
 * presence and each of their appearances costs is taken off. */
static void adjust(shk_sampler *s) {
    for (size_t i = 0; i < s->s.n_bias; i++) s->logits[s->bias[i].id] += s->bias[i].add;
    if (!penalises(&s->s)) return;
    for (size_t i = 0; i < s->n_cost; i++) {
        float *l = &s->logits[s->cost[i].id];
        *l = *l > 0 ? *l / s->s.repeat_penalty : *l * s->s.repeat_penalty;
        *l += s->cost[i].add;
    }
}

/* How far below the best a token can be that min-p leaves, where nothing before it asks for the weight of all: exp(-drop /
 * temperature) is below min_p, however it is rounded. */
static double near_enough(const shk_sampling *s) {
    return s->top_p >= 1 && s->min_p > 0 ? s->temperature * (1e-6 - (1 + 1e-6) * log(s->min_p)) : INFINITY;
}

/* What comes after top-k looks at no more than it leaves; top-p by itself asks for the weight of all. */
shk_wanted shk_sampler_wants(const shk_sampler *p) {
    const shk_sampling *s = &p->s;
    if (s->n_bias || penalises(s)) return (shk_wanted){ 0 };
    if (s->temperature <= 0) return (shk_wanted){ 1, 0 };
    if (s->top_k > 0) return (shk_wanted){ (size_t)s->top_k, 0 };
    double drop = near_enough(s);
    return drop < INFINITY ? (shk_wanted){ 1, drop } : (shk_wanted){ 0 };
}

int32_t shk_sampler_vocab(const shk_sampler *s) { return s->vocab; }
float *shk_sampler_room(shk_sampler *s) { return s->logits; }
void shk_sampler_drew(shk_sampler *s) { uniform(s->random); }

shk_draw shk_sampler_draw(const shk_sampler *s) {
    uint64_t random[4];
    memcpy(random, s->random, sizeof random);
    return (shk_draw){ .bias = s->bias, .n_bias = s->s.n_bias, .recent = s->cost, .n_recent = penalises(&s->s) ? s->n_cost : 0,
                       .temperature = s->s.temperature, .top_p = s->s.top_p, .min_p = s->s.min_p,
                       .repeat_penalty = s->s.repeat_penalty, .top_k = s->s.top_k, .u = uniform(random) };
}

static bool before(const candidate *a, const candidate *b) { return a->logit != b->logit ? a->logit > b->logit : a->id < b->id; }

static int compare(const void *a, const void *b) { return before(a, b) ? -1 : 1; }

/* Puts the k best of n in front, in no order: quickselect with the middle as pivot. */
static void partition_best(candidate *c, ptrdiff_t n, ptrdiff_t k) {
    ptrdiff_t lo = 0, hi = n - 1;
    while (lo < hi) {
        candidate pivot = c[lo + (hi - lo) / 2];
        ptrdiff_t i = lo, j = hi;
        while (i <= j) {
            while (before(&c[i], &pivot)) i++;
            while (before(&pivot, &c[j])) j--;
            if (i > j) break;
            candidate t = c[i];
            c[i++] = c[j];
            c[j--] = t;
        }
        if (k - 1 <= j) hi = j;
        else if (k - 1 >= i) lo = i;
        else return;
    }
}

/* How many of the best candidates hold top_p of the weight. Sorts no more of them than it has to look at. */
static size_t nucleus(candidate *c, size_t n, double total, double top_p) {
    double sum = 0;
    for (size_t sorted = 0, step = 64; sorted < n; step *= 8) {
        size_t k = n - sorted < step ? n - sorted : step;
        partition_best(c + sorted, (ptrdiff_t)(n - sorted), (ptrdiff_t)k);
        qsort(c + sorted, k, sizeof *c, compare);
        for (size_t end = sorted + k; sorted < end; sorted++) {
            sum += c[sorted].weight;
            if (sum >= top_p * total) return sorted + 1;
        }
    }
    return n;
}

/* ---- passes over the vocabulary: in lanes, which compilers make vectors of ---- */

enum { LANES = 16 };

/* The largest of n values, -infinity if there is none. false: one of them is no number. */
static bool largest(const float *l, size_t n, float *out) {
    float most[LANES], top = -INFINITY;
    int odd[LANES] = { 0 }, any = 0;
    size_t i = 0;
    for (int j = 0; j < LANES; j++) most[j] = -INFINITY;
    for (; n - i >= LANES; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float v = l[i + (size_t)j];
            odd[j] |= v != v;
            most[j] = v > most[j] ? v : most[j];
        }
    for (; i < n; i++) {
        any |= l[i] != l[i];
        top = l[i] > top ? l[i] : top;
    }
    for (int j = 0; j < LANES; j++) {
        any |= odd[j];
        top = most[j] > top ? most[j] : top;
    }
    *out = top;
    return !any;
}

static bool some_above(const float *l, float least) {
    int any = 0;
    for (int j = 0; j < LANES; j++) any |= l[j] > least;
    return any;
}

/* The k best of what is above -infinity, best first. What comes later is not before what is kept and as good, so a piece that has
 * nothing better than all kept ones is passed over. */
static size_t keep_best(shk_sampler *s, const float *l, size_t k) {
    size_t n = 0, vocab = (size_t)s->vocab;
    float least = -INFINITY;
    for (size_t i = 0; i < vocab; i += LANES) {
        size_t end = i + LANES;
        if (end > vocab) end = vocab;
        else if (!some_above(l + i, least)) continue;
        for (size_t j = i; j < end; j++)
            if (l[j] > least) s->c[n++] = (candidate){ .logit = l[j], .id = (int32_t)j };
        if (n < 2 * k) continue;
        partition_best(s->c, (ptrdiff_t)n, (ptrdiff_t)k);
        n = k;
        least = s->c[0].logit;
        for (size_t j = 1; j < k; j++) least = s->c[j].logit < least ? s->c[j].logit : least;
    }
    if (n > k) {
        partition_best(s->c, (ptrdiff_t)n, (ptrdiff_t)k);
        n = k;
    }
    qsort(s->c, n, sizeof *s->c, compare); /* the order of sums must not depend on how they were found */
    return n;
}

/* All that are at most `drop` below the best, by id. */
static size_t keep_near(shk_sampler *s, const float *l, double top, double drop) {
    size_t n = 0;
    double least = top - drop;
    for (int32_t i = 0; i < s->vocab; i++)
        if (l[i] >= least && l[i] > -INFINITY) s->c[n++] = (candidate){ .logit = l[i], .id = i };
    return n;
}

/* Weighs candidates, the best one by 1; those that weigh nothing go. */
static size_t weigh(candidate *c, size_t n, double top, double temperature) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        candidate one = c[i];
        one.weight = exp((one.logit - top) / temperature);
        if (one.weight > 0) c[kept++] = one;
    }
    return kept;
}

static shk_status refuse(const float *l, int32_t vocab, shk_error *err) {
    for (int32_t i = 0; i < vocab; i++)
        if (isnan(l[i])) return shk_fail(err, SHK_E_NUMERIC, "sampling: the logit of token %d is not a number", i);
    return shk_fail(err, SHK_E_ARGUMENT, "sampling: no token is left: all %d are forbidden", vocab);
}

shk_status shk_sampler_sample(shk_sampler *s, const float *logits, int32_t *id, shk_error *err) {
    if (s->s.n_bias || penalises(&s->s)) {
        if (logits != s->logits) memcpy(s->logits, logits, (size_t)s->vocab * sizeof *logits);
        adjust(s);
        logits = s->logits;
    }
    return shk_sampler_choose(s, logits, id, err);
}

shk_status shk_sampler_choose(shk_sampler *s, const float *l, int32_t *id, shk_error *err) {
    float best;
    if (!largest(l, (size_t)s->vocab, &best) || best == -INFINITY) return refuse(l, s->vocab, err);
    for (*id = 0; l[*id] != best;) ++*id;
    if (s->s.temperature <= 0 || best == INFINITY) return SHK_OK; /* beside an infinity nothing has any weight */

    double top = best, total = 0;
    bool few = s->s.top_k > 0 && s->s.top_k < s->vocab;
    size_t n = few ? keep_best(s, l, (size_t)s->s.top_k) : keep_near(s, l, top, near_enough(&s->s));
    n = weigh(s->c, n, top, s->s.temperature);
    for (size_t i = 0; i < n; i++) total += s->c[i].weight;
    if (s->s.top_p < 1) n = nucleus(s->c, n, total, s->s.top_p);
    if (s->s.min_p > 0) { /* relative to the best token's probability; its weight is 1 */
        size_t kept = 0;
        for (size_t i = 0; i < n; i++)
            if (s->c[i].weight >= s->s.min_p) s->c[kept++] = s->c[i];
        n = kept;
    }
    total = 0;
    for (size_t i = 0; i < n; i++) total += s->c[i].weight;
    double r = uniform(s->random) * total;
    *id = s->c[n - 1].id;
    for (size_t i = 0; i < n; i++) {
        r -= s->c[i].weight;
        if (r < 0) {
            *id = s->c[i].id;
            break;
        }
    }
    return SHK_OK;
}
