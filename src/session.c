/* One sequence: its state, its position; advancing, forking, saving. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "file/writer.h"
#include "mem.h"
#include "model/model.h"

struct shk_session {
    shk_model *m;
    uint64_t pos, context; /* context 0: unbounded */
    uint64_t top;          /* the last position that may have been written to a ring, plus 1 */
    char *state;           /* device memory */
    size_t bytes;
    shk_state_layer *layers;
};

shk_status shk_session_new(shk_session **out, shk_model *m, uint64_t context, shk_error *err) {
    *out = NULL;
    bool unbounded = shk_config_unbounded(&m->config);
    if (!context) context = shk_model_context(m);
    if (!unbounded && context > 1ull << 32)
        return shk_fail(err, SHK_E_ARGUMENT, "a context of %llu tokens: at most 4294967296 are possible",
                        (unsigned long long)context);
    shk_session *s = shk_calloc(1, sizeof *s);
    if (!s) return shk_fail(err, SHK_E_MEMORY, "no memory for a session");
    shk_status st = SHK_OK;
    s->m = m;
    s->context = context;
    s->layers = shk_calloc(m->config.n_layers, sizeof *s->layers);
    s->bytes = s->layers ? shk_state_layout(&m->config, m->kv_type, context, s->layers) : SIZE_MAX;
    s->state = s->bytes == SIZE_MAX ? NULL : m->ops->alloc(m->dev, s->bytes);
    if (!s->state) st = shk_fail(err, SHK_E_MEMORY, "no address space for the state of %llu tokens", (unsigned long long)context);
    if (!st) {
        pthread_mutex_lock(&m->lock);
        const shk_config *c = &m->config;
        st = shk_model_prepare(m, err);
        if (!st) st = m->ops->reserve(m->dev, shk_state_reach(c, context), c->heads, c->kv_heads, c->head_dim, err);
        pthread_mutex_unlock(&m->lock);
    }
    if (st) shk_session_free(s);
    else *out = s;
    return st;
}

void shk_session_free(shk_session *s) {
    if (!s) return;
    if (s->state) s->m->ops->release(s->m->dev, s->state, s->bytes);
    free(s->layers);
    free(s);
}

/* What lies behind position 0 is never read, so nothing needs clearing. */
void shk_session_reset(shk_session *s) { s->pos = s->top = 0; }
char *shk_session_state(shk_session *s) { return s->state; }
shk_model *shk_session_model(const shk_session *s) { return s->m; }
uint64_t shk_session_position(const shk_session *s) { return s->pos; }
uint64_t shk_session_context(const shk_session *s) { return s->context; }
uint64_t shk_session_bytes(const shk_session *s) { return shk_state_bytes(&s->m->config, s->m->kv_type, s->pos); }

uint64_t shk_session_dense_bytes(const shk_session *s) {
    const shk_config *c = &s->m->config;
    size_t row = 0, kv = (size_t)c->kv_heads * c->head_dim;
    shk_row_bytes(s->m->kv_type, kv ? kv : c->hidden, &row);
    return 2 * row * c->n_layers * s->pos;
}

static void move(shk_session *s, uint64_t pos) {
    s->pos = pos;
    if (s->top < pos) s->top = pos;
}

uint64_t shk_session_earliest(const shk_session *s) {
    const shk_config *c = &s->m->config;
    uint64_t earliest = 0;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        uint64_t ring = s->layers[l].ring, window = c->layers[l].window;
        if (c->layers[l].mixer == SHK_MIXER_RECURRENT) return s->pos;
        if (window && s->top > ring && s->top - ring + window > earliest)
            earliest = s->top - ring + window; /* the ring holds [top - ring, top) */
    }
    return earliest < s->pos ? earliest : s->pos;
}

shk_status shk_session_truncate(shk_session *s, uint64_t position, shk_error *err) {
    if (position > s->pos || position < shk_session_earliest(s))
        return shk_fail(err, SHK_E_ARGUMENT, "a session at %llu cannot go back to %llu: %llu to %llu are possible",
                        (unsigned long long)s->pos, (unsigned long long)position, (unsigned long long)shk_session_earliest(s),
                        (unsigned long long)s->pos);
    s->pos = position;
    return SHK_OK;
}

/* ---- advancing ---- */

static shk_status check_sampler(const shk_model *m, const shk_span *spans, size_t i, shk_error *err) {
    const shk_span *sp = &spans[i];
    if (!sp->sampled || sp->all_logits)
        return shk_fail(err, SHK_E_ARGUMENT, "span %zu: a sampler needs a place for its token, and has none for more", i);
    if (shk_sampler_vocab(sp->sampler) != (int32_t)m->config.vocab)
        return shk_fail(err, SHK_E_ARGUMENT, "span %zu: its sampler is for %d tokens, the model has %u", i,
                        shk_sampler_vocab(sp->sampler), m->config.vocab);
    for (size_t j = 0; j < i; j++)
        if (spans[j].sampler == sp->sampler)
            return shk_fail(err, SHK_E_ARGUMENT, "spans %zu and %zu have one sampler", j, i);
    return SHK_OK;
}

static shk_status check_spans(const shk_model *m, const shk_span *spans, size_t n, shk_error *err) {
    uint32_t vocab = m->config.vocab;
    for (size_t i = 0; i < n; i++) {
        const shk_session *s = spans[i].session;
        if (s->m != m) return shk_fail(err, SHK_E_ARGUMENT, "span %zu: its session is of another model", i);
        if (!spans[i].n) return shk_fail(err, SHK_E_ARGUMENT, "span %zu has no tokens", i);
        for (size_t j = 0; j < i; j++)
            if (spans[j].session == s) return shk_fail(err, SHK_E_ARGUMENT, "spans %zu and %zu are of one session", j, i);
        shk_status st = spans[i].sampler ? check_sampler(m, spans, i, err) : SHK_OK;
        if (st) return st;
        if (s->context && (spans[i].n > s->context || s->pos > s->context - spans[i].n))
            return shk_fail(err, SHK_E_LIMIT, "%zu tokens after %llu do not fit into a context of %llu", spans[i].n,
                            (unsigned long long)s->pos, (unsigned long long)s->context);
        for (size_t j = 0; j < spans[i].n; j++)
            if (spans[i].tokens[j] < 0 || (uint32_t)spans[i].tokens[j] >= vocab)
                return shk_fail(err, SHK_E_ARGUMENT, "token %d at %zu is not in the vocabulary (0 to %u)", spans[i].tokens[j], j,
                                vocab - 1);
    }
    return SHK_OK;
}

/* Up to SHK_PASS_ROWS spans, as many passes as their tokens need. */
static shk_status advance_group(shk_model *m, const shk_span *spans, size_t n, shk_error *err) {
    size_t done[SHK_PASS_ROWS] = { 0 };
    for (;;) {
        int32_t tokens[SHK_PASS_ROWS];
        uint32_t rows[SHK_PASS_ROWS];
        shk_output out[SHK_PASS_ROWS];
        shk_seq seqs[SHK_PASS_ROWS];
        size_t span_of[SHK_PASS_ROWS];
        shk_pass pass = { .tokens = tokens, .seqs = seqs, .outputs = rows };
        for (size_t i = 0; i < n && pass.T < SHK_PASS_ROWS; i++) {
            const shk_span *sp = &spans[i];
            size_t take = sp->n - done[i], room = SHK_PASS_ROWS - pass.T;
            if (take > room) take = room;
            if (!take) continue;
            for (size_t j = 0; j < take; j++) {
                size_t at = done[i] + j;
                tokens[pass.T + j] = sp->tokens[at];
                bool last = at + 1 == sp->n;
                shk_output o = { .hidden = sp->hidden ? sp->hidden + at * m->config.hidden : NULL,
                                 .active = last ? sp->active : NULL };
                if (sp->logits && (sp->all_logits || last)) o.logits = sp->logits + (sp->all_logits ? at * m->config.vocab : 0);
                if (last) o.sampler = sp->sampler, o.sampled = sp->sampled;
                if (!o.logits && !o.sampler && !o.hidden && !o.active) continue;
                rows[pass.n_outputs] = (uint32_t)(pass.T + j);
                out[pass.n_outputs++] = o;
            }
            seqs[pass.n_seqs] = (shk_seq){ pass.T, take, sp->session->pos, sp->session->state, sp->session->layers };
            span_of[pass.n_seqs++] = i;
            pass.T += take;
        }
        if (!pass.T) return SHK_OK;
        shk_status st = shk_model_forward(m, &pass, out, err);
        for (size_t i = 0; i < pass.n_seqs; i++) {
            move(spans[span_of[i]].session, spans[span_of[i]].session->pos + seqs[i].n);
            done[span_of[i]] += seqs[i].n;
        }
        if (st) return st;
    }
}

shk_status shk_advance(shk_model *m, const shk_span *spans, size_t n, shk_error *err) {
    shk_status st = check_spans(m, spans, n, err);
    if (st) return st;
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; !st && i < n; i++)
        if (spans[i].sampler && !spans[i].logits && shk_sampler_wants(spans[i].sampler).k) st = shk_model_coarsen(m, err);
    for (size_t i = 0; !st && i < n; i += SHK_PASS_ROWS)
        st = advance_group(m, spans + i, n - i < SHK_PASS_ROWS ? n - i : SHK_PASS_ROWS, err);
    pthread_mutex_unlock(&m->lock);
    return st;
}

/* ---- copies ---- */

/* Calls fn for every run of rows that the state of s fills, n bytes, in one order. */
typedef void run_fn(void *user, char *state, size_t n, const shk_region *r);

static void each_run(const shk_session *s, uint64_t pos, run_fn *fn, void *user) {
    for (uint32_t l = 0; l < s->m->config.n_layers; l++) {
        shk_region r[3];
        size_t n = shk_state_regions(&s->m->config, l, &s->layers[l], r);
        for (size_t i = 0; i < n; i++) {
            size_t row = shk_region_row_bytes(&r[i]), used = (size_t)(pos < r[i].rows ? pos : r[i].rows) * row;
            for (size_t h = 0; used && h < r[i].heads; h++) fn(user, s->state + r[i].offset + h * r[i].rows * row, used, &r[i]);
        }
    }
}

typedef struct copy_args {
    const shk_session *from, *to;
} copy_args;

static void copy_run(void *user, char *state, size_t n, const shk_region *r) {
    (void)r;
    const copy_args *a = user;
    a->to->m->ops->upload(a->to->m->dev, a->to->state + (state - a->from->state), state, n);
}

shk_status shk_session_fork(shk_session **out, const shk_session *s, shk_error *err) {
    shk_status st = shk_session_new(out, s->m, s->context, err);
    if (st) return st;
    copy_args a = { s, *out };
    pthread_mutex_lock(&s->m->lock);
    each_run(s, s->pos, copy_run, &a);
    pthread_mutex_unlock(&s->m->lock);
    (*out)->pos = s->pos;
    (*out)->top = s->top;
    return SHK_OK;
}

typedef struct simulate_args {
    const shk_session *s;
    uint64_t random;
} simulate_args;

/* Four uniform numbers of a linear congruential generator: nearly normal. */
static float random_normal(uint64_t *random) {
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    uint64_t r = *random ^ *random >> 29;
    int sum = (int)(r & 0xffff) + (int)(r >> 16 & 0xffff) + (int)(r >> 32 & 0xffff) + (int)(r >> 48);
    return (float)(sum - 2 * 0xffff) * (float)(1.7320508 / 65536);
}

/* PIECE values at a time, whole blocks of any type. */
static void simulate_run(void *user, char *state, size_t n, const shk_region *r) {
    enum { PIECE = 1024 };
    simulate_args *a = user;
    float value[PIECE];
    float packed[PIECE];
    size_t row = shk_region_row_bytes(r), left = n / row * r->dim, bytes = 0;
    for (char *at = state; left; at += bytes) {
        size_t k = left < PIECE ? left : PIECE;
        for (size_t i = 0; i < k; i++) value[i] = random_normal(&a->random);
        shk_quant_row(r->type, packed, value, k);
        shk_row_bytes(r->type, k, &bytes);
        a->s->m->ops->upload(a->s->m->dev, at, packed, bytes);
        left -= k;
    }
}

shk_status shk_session_simulate(shk_session *s, uint64_t position, uint64_t seed, shk_error *err) {
    if (position > (s->context ? s->context : INT64_MAX))
        return shk_fail(err, SHK_E_LIMIT, "position %llu is past a context of %llu", (unsigned long long)position,
                        (unsigned long long)s->context);
    simulate_args a = { s, seed };
    pthread_mutex_lock(&s->m->lock);
    each_run(s, position, simulate_run, &a);
    pthread_mutex_unlock(&s->m->lock);
    s->pos = s->top = position;
    return SHK_OK;
}

/* ---- files: header, the filled bytes in order, a checksum. docs/FORMAT.md ---- */

typedef struct file_header {
    char magic[8];
    uint32_t version, kv_type; /* GGUF's number */
    uint64_t fingerprint, pos, top, bytes;
} file_header;

static const char magic[8] = "SHKSTATE";
enum { VERSION = 4 };

/* Fletcher's, over 16-bit words in 64-bit sums: the second depends on their order. */
typedef struct checksum {
    uint64_t a, b;
} checksum;

static void checksum_add(checksum *c, const char *data, size_t n) { /* n is even, as all rows are */
    for (size_t i = 0; i < n; i += 2) {
        uint16_t w;
        memcpy(&w, data + i, 2);
        c->a += w;
        c->b += c->a;
    }
}

typedef struct save_args {
    const shk_session *s;
    shk_writer *w;
    checksum sum;
} save_args;

static void save_run(void *user, char *state, size_t n, const shk_region *r) {
    (void)r;
    save_args *a = user;
    char piece[16384]; /* also where the state is not the host's memory */
    for (size_t i = 0; i < n; i += sizeof piece) {
        size_t k = n - i < sizeof piece ? n - i : sizeof piece;
        pthread_mutex_lock(&a->s->m->lock); /* for the device: who computes meanwhile does not wait for a file */
        a->s->m->ops->download(a->s->m->dev, piece, state + i, k);
        pthread_mutex_unlock(&a->s->m->lock);
        checksum_add(&a->sum, piece, k);
        shk_writer_put(a->w, piece, k);
    }
}

shk_status shk_session_save(const shk_session *s, const char *path, shk_error *err) {
    save_args a = { .s = s };
    shk_status st = shk_writer_open(&a.w, path, err);
    if (st) return st;
    file_header h = {
        .version = VERSION, .kv_type = s->m->kv_type, .fingerprint = s->m->fingerprint, .pos = s->pos, .top = s->top,
        .bytes = shk_session_bytes(s)
    };
    memcpy(h.magic, magic, sizeof magic);
    shk_writer_put(a.w, &h, sizeof h);
    checksum_add(&a.sum, (const char *)&h.top, sizeof h.top);
    each_run(s, s->pos, save_run, &a);
    shk_writer_put(a.w, &a.sum, sizeof a.sum);
    return shk_writer_commit(a.w, err);
}

typedef struct restore_args {
    const shk_session *s;
    const char *at;
} restore_args;

static void restore_run(void *user, char *state, size_t n, const shk_region *r) {
    (void)r;
    restore_args *a = user;
    a->s->m->ops->upload(a->s->m->dev, state, a->at, n);
    a->at += n;
}

shk_status shk_session_restore(shk_session *s, const char *path, shk_error *err) {
    shk_map map = { 0 };
    file_header h;
    checksum sum = { 0 }, want;
    shk_status st = shk_map_open(&map, path, err);
    if (st) return st;
    const char *data = (const char *)map.data;
    if (map.size < sizeof h || memcmp(data, magic, sizeof magic) != 0) {
        st = shk_fail(err, SHK_E_FORMAT, "%s: not a saved session", path);
        goto done;
    }
    memcpy(&h, data, sizeof h);
    if (h.version != VERSION)
        st = shk_fail(err, SHK_E_UNSUPPORTED, "%s: version %u of the session format; this program knows %d", path, h.version,
                      VERSION);
    else if (h.fingerprint != s->m->fingerprint)
        st = shk_fail(err, SHK_E_FORMAT, "%s: saved with another model than %s", path, s->m->path);
    else if (h.kv_type != s->m->kv_type)
        st = shk_fail(err, SHK_E_FORMAT, "%s: its keys and values are of type %s, this model's sessions keep %s", path,
                      shk_type_of(h.kv_type)->name ? shk_type_of(h.kv_type)->name : "?", shk_type_of(s->m->kv_type)->name);
    else if (s->context && h.pos > s->context)
        st = shk_fail(err, SHK_E_LIMIT, "%s: its %llu tokens do not fit into a context of %llu", path, (unsigned long long)h.pos,
                      (unsigned long long)s->context);
    else if (h.pos > INT64_MAX || h.bytes != shk_state_bytes(&s->m->config, s->m->kv_type, h.pos) ||
             map.size - sizeof h < sizeof sum || map.size - sizeof h - sizeof sum != h.bytes)
        st = shk_fail(err, SHK_E_FORMAT, "%s: truncated or damaged: %zu bytes", path, map.size);
    if (st) goto done;
    checksum_add(&sum, (const char *)&h.top, sizeof h.top);
    checksum_add(&sum, data + sizeof h, (size_t)h.bytes);
    memcpy(&want, data + sizeof h + h.bytes, sizeof want);
    if (sum.a != want.a || sum.b != want.b) {
        st = shk_fail(err, SHK_E_FORMAT, "%s: damaged: the checksum does not match", path);
        goto done;
    }
    restore_args a = { s, data + sizeof h };
    pthread_mutex_lock(&s->m->lock);
    each_run(s, h.pos, restore_run, &a);
    pthread_mutex_unlock(&s->m->lock);
    s->pos = h.pos;
    s->top = h.top > h.pos ? h.top : h.pos;
done:
    shk_map_close(&map);
    return st;
}
