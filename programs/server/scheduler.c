#include "server/scheduler.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "error.h"
#include "mem.h"

enum {
    PASS_ROWS = 128,  /* what the library computes at once */
    SHARED_ROWS = 32, /* of prompts while others generate: they wait for the pass */
    WORTH_A_PASS = 64 /* tokens of a prompt whose state is kept; if it is rigid, before the last token, which needs a pass */
};

struct scheduler {
    shk_model *m;
    prefix_cache *cache;
    scheduler_options o;
    pthread_t thread;
    sequence *running[MAX_PARALLEL]; /* [n_running] the thread's own */
    size_t n_running, turn;
    float *hidden; /* [PASS_ROWS, width] */
    bool rigid;    /* sessions cannot go back by a token: the model is recurrent */

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    task *first, *last; /* waiting: some sequence has not started */
    size_t n_waiting, waiting_tokens;
    size_t unfinished; /* tasks */
    bool draining, ending;
    scheduler_counts counts;
};

/* ---- tasks ---- */

submitted scheduler_submit(scheduler *s, task *t, int *retry_s) {
    size_t tokens = task_tokens(t);
    submitted said = SUBMITTED;
    pthread_mutex_lock(&s->lock);
    if (s->draining) {
        said = DRAINING;
    } else if (s->n_waiting >= s->o.queue || (s->n_waiting && tokens > s->o.queue_tokens - s->waiting_tokens)) {
        said = QUEUE_FULL;
        s->counts.refused++;
        double each = s->counts.requests > s->unfinished ? s->counts.request_s / (double)(s->counts.requests - s->unfinished) : 1;
        double wait = each * (double)s->n_waiting / (double)s->o.parallel;
        *retry_s = wait < 1 ? 1 : wait > 60 ? 60 : (int)wait;
    } else {
        t->submitted = seconds();
        t->next = NULL;
        if (s->last) s->last->next = t;
        else s->first = t;
        s->last = t;
        s->n_waiting++;
        s->waiting_tokens += tokens < s->o.queue_tokens ? tokens : s->o.queue_tokens;
        s->unfinished++;
        s->counts.requests++;
        pthread_cond_signal(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return said;
}

void scheduler_wake(scheduler *s) {
    pthread_mutex_lock(&s->lock);
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

bool scheduler_drain(scheduler *s) {
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    bool idle = !s->unfinished;
    pthread_mutex_unlock(&s->lock);
    return idle;
}

scheduler_counts scheduler_count(scheduler *s) {
    pthread_mutex_lock(&s->lock);
    scheduler_counts c = s->counts;
    c.waiting = s->n_waiting;
    pthread_mutex_unlock(&s->lock);
    return c;
}

/* The lock is held. `before`: the task in front of t, NULL if t is the first. */
static void leave_queue(scheduler *s, task *t, task *before) {
    size_t tokens = task_tokens(t);
    if (before) before->next = t->next;
    else s->first = t->next;
    if (s->last == t) s->last = before;
    s->n_waiting--;
    s->waiting_tokens -= tokens < s->o.queue_tokens ? tokens : s->o.queue_tokens;
}

/* Counts `n` sequences of a task as over; the last one ends it. */
static void task_over(scheduler *s, task *t, size_t n, finish how) {
    t->finished += n;
    if (t->finished < task_sequences(t)) return;
    pthread_mutex_lock(&s->lock);
    s->unfinished--;
    s->counts.request_s += seconds() - t->submitted;
    s->counts.failed += how == FINISH_FAILED && t->mood != GONE;
    s->counts.cancelled += t->mood == GONE;
    pthread_mutex_unlock(&s->lock);
    t->listener.done(t->listener.user);
    task_free(t);
}

/* Ends the sequences of a task that have not started: all that it waits for. */
static void give_up(scheduler *s, task *t, int status, const char *message) {
    api_error e = { .status = status, .type = status == 504 ? "timeout_error" : "server_error", .code = "" };
    snprintf(e.message, sizeof e.message, "%s", message);
    size_t from = t->started, n = task_sequences(t) - from;
    t->started += n;
    for (size_t i = from; t->mood != GONE && i < from + n; i++)
        t->listener.tell(t->listener.user, &(news){ .sequence = i, .text = "", .finish = FINISH_FAILED, .error = &e });
    task_over(s, t, n, FINISH_FAILED);
}

/* What is left of its text must not look whole; after this its sequences end as those of a client that has gone. */
static void drop_unread(task *t) {
    static const api_error unread = { 408, "timeout_error", "", "", "what was sent was left unread for too long" };
    t->listener.tell(t->listener.user, &(news){ .text = "", .finish = FINISH_FAILED, .error = &unread });
    t->mood = GONE;
}

static void ask_client(const scheduler *s, task *t, double now) {
    mood was = t->mood;
    if (was == GONE) return;
    t->mood = t->listener.check(t->listener.user);
    if (t->mood == FULL && was != FULL) t->resting = now;
    if (t->mood == FULL && now - t->resting > s->o.stall) drop_unread(t);
}

/* Drops waiting tasks whose client has gone or whose time is over. */
static void look_at_queue(scheduler *s, bool ending) {
    for (;;) {
        double now = seconds();
        pthread_mutex_lock(&s->lock);
        task *t = s->first, *before = NULL;
        for (; t; before = t, t = t->next) {
            ask_client(s, t, now);
            if (ending || t->mood == GONE || (t->deadline > 0 && now > t->deadline)) break;
        }
        if (t) leave_queue(s, t, before);
        pthread_mutex_unlock(&s->lock);
        if (!t) return;
        if (ending) give_up(s, t, 503, "the server is ending");
        else give_up(s, t, 504, "the time limit was reached before the request's turn came");
    }
}

/* ---- starting ---- */

static sequence *leader_of(const scheduler *s, const sequence *q) {
    size_t choices = (size_t)q->task->request.n, first = q->number - q->number % choices;
    for (size_t i = 0; i < s->n_running; i++) {
        sequence *r = s->running[i];
        if (r->task == q->task && r->number == first && r != q && sequence_position(r) < r->n_prompt) return r;
    }
    return NULL;
}

/* Finds what is known of the prompt already, and where its state is worth keeping. */
static bool begin(scheduler *s, sequence *q, shk_error *err) {
    size_t shared = 0;
    q->leader = leader_of(s, q);
    if (!q->embeds && !q->leader) q->session = cache_find(s->cache, q->ids, q->n_prompt, &shared);
    if (!q->session && shk_session_new(&q->session, s->m, s->o.context, err)) return false;
    size_t at = q->n_cached = sequence_position(q), last = q->n_prompt - 1;
    if (shared > at && shared < last) q->keep[0] = shared;
    if (!q->embeds && last - at >= WORTH_A_PASS) q->keep[1] = s->rigid ? last : q->n_prompt;
    return true;
}

static void start(scheduler *s, task *t) {
    shk_error err = { .message = "out of memory" };
    sequence *q = sequence_new(t, t->started++, s->m);
    if (q && begin(s, q, &err)) {
        s->running[s->n_running++] = q;
        return;
    }
    api_error e = { .status = 503, .type = "server_error", .code = "" };
    memcpy(e.message, err.message, sizeof e.message);
    t->listener.tell(t->listener.user, &(news){ .sequence = t->started - 1, .text = "", .finish = FINISH_FAILED, .error = &e });
    sequence_free(q);
    task_over(s, t, 1, FINISH_FAILED);
}

/* Sequences that rest because their client does not read take nobody's place. */
static bool has_place(const scheduler *s) {
    size_t active = 0;
    for (size_t i = 0; i < s->n_running; i++) active += s->running[i]->task->mood == LISTENING;
    return active < s->o.parallel;
}

/* Makes room in `running`, by the next round: of those that rest the one that has rested longest goes. */
static void drop_longest_unread(scheduler *s) {
    task *longest = NULL;
    for (size_t i = 0; i < s->n_running; i++) {
        task *t = s->running[i]->task;
        if (t->mood == FULL && (!longest || t->resting < longest->resting)) longest = t;
    }
    if (longest) drop_unread(longest);
}

/* Tasks go in their order, but who does not read starts nothing more. */
static void admit(scheduler *s) {
    while (has_place(s)) {
        bool room = s->n_running < MAX_PARALLEL;
        pthread_mutex_lock(&s->lock);
        task *t = s->first, *before = NULL;
        while (t && t->mood != LISTENING) before = t, t = t->next;
        if (t && room && t->started + 1 == task_sequences(t)) leave_queue(s, t, before);
        pthread_mutex_unlock(&s->lock);
        if (!t) return;
        if (!room) return drop_longest_unread(s);
        start(s, t);
    }
}

/* ---- ending ---- */

static void count_sequence(scheduler *s, const sequence *q) {
    pthread_mutex_lock(&s->lock);
    s->counts.prompt_tokens += q->n_prompt;
    s->counts.cached_tokens += q->n_cached;
    s->counts.generated_tokens += q->n_ids - q->n_prompt;
    if (q->first > 0) {
        s->counts.first_tokens++;
        s->counts.first_token_s += q->first - q->task->submitted;
    }
    pthread_mutex_unlock(&s->lock);
}

/* Takes finished sequences out; their states go to the cache. */
static void reap(scheduler *s) {
    size_t kept = 0;
    for (size_t i = 0; i < s->n_running; i++) {
        sequence *q = s->running[i];
        if (!q->finish) {
            s->running[kept++] = q;
            continue;
        }
        for (size_t j = 0; j < s->n_running; j++) /* who waits for it goes alone */
            if ((j < kept || j > i) && s->running[j]->leader == q) s->running[j]->leader = NULL;
        if (!q->embeds && q->finish != FINISH_FAILED) {
            cache_put(s->cache, q->session, q->ids);
            q->session = NULL;
        }
        count_sequence(s, q);
        task *t = q->task;
        finish how = q->finish;
        sequence_free(q);
        task_over(s, t, 1, how);
    }
    s->n_running = kept;
}

/* Asks the clients; a task's sequences ask once each, which is cheap. */
static void look_at_running(scheduler *s, bool ending) {
    static const api_error late = { 504, "timeout_error", "", "", "the time limit was reached before the first token" };
    static const api_error end = { 503, "server_error", "", "", "the server is ending" };
    double now = seconds();
    for (size_t i = 0; i < s->n_running; i++) {
        sequence *q = s->running[i];
        task *t = q->task;
        ask_client(s, t, now);
        if (ending) sequence_finish(q, FINISH_FAILED, &end);
        else if (t->mood == GONE) sequence_finish(q, FINISH_LENGTH, NULL);
        else if (t->deadline > 0 && now > t->deadline) {
            if (q->first > 0) sequence_finish(q, FINISH_LENGTH, NULL);
            else sequence_finish(q, FINISH_FAILED, &late);
        }
    }
}

/* ---- a pass ---- */

/* The next position at which q's state is wanted, or its end. */
static size_t next_stop(const sequence *q) {
    size_t at = sequence_position(q);
    for (size_t i = 0; i < 2; i++)
        if (q->keep[i] > at) return q->keep[i];
    return q->n_ids;
}

static bool rests(const sequence *q) { return q->task->mood == FULL || q->leader; }

typedef struct plan {
    sequence *of[MAX_PARALLEL];
    shk_span spans[MAX_PARALLEL];
    size_t n, rows;
} plan;

/* One token of each, then equal shares of what is left; who comes first takes turns. */
static void make_plan(scheduler *s, plan *p) {
    size_t wants[MAX_PARALLEL], wanting = 0;
    bool generating = false;
    p->n = p->rows = 0;
    for (size_t i = 0; i < s->n_running; i++) {
        sequence *q = s->running[(s->turn + i) % s->n_running];
        if (rests(q)) continue;
        size_t at = sequence_position(q);
        generating |= q->n_ids > q->n_prompt;
        wants[p->n] = next_stop(q) - at - 1;
        wanting += wants[p->n] > 0;
        p->of[p->n] = q;
        p->spans[p->n++] = (shk_span){ .session = q->session, .tokens = q->ids + at, .n = 1 };
    }
    s->turn++;
    p->rows = p->n;
    size_t room = PASS_ROWS - p->n;
    if (generating && room > SHARED_ROWS) room = SHARED_ROWS;
    while (room && wanting) {
        size_t share = room / wanting ? room / wanting : 1;
        for (size_t i = 0; i < p->n && room; i++) {
            size_t take = wants[i] < share ? wants[i] : share;
            p->spans[i].n += take;
            p->rows += take;
            room -= take;
            wants[i] -= take;
            wanting -= take && !wants[i];
        }
    }
}

/* Whether the choice is made from all logits, or others need them. A bias that could forbid every token must fail q alone. */
static bool needs_logits(const scheduler *s, const sequence *q) {
    bool needed = q->matcher || q->task->request.logprobs || q->sampling.n_bias >= (size_t)shk_model_vocab_size(s->m);
    for (size_t i = 0; i < s->n_running; i++) needed |= s->running[i]->leader == q;
    return needed;
}

/* Where the results go. */
static void ask(scheduler *s, plan *p) {
    size_t row = 0, width = (size_t)shk_model_width(s->m);
    for (size_t i = 0; i < p->n; i++) {
        sequence *q = p->of[i];
        shk_span *span = &p->spans[i];
        bool last = sequence_position(q) + span->n == q->n_ids;
        if (q->embeds) {
            span->hidden = s->hidden + row * width;
        } else if (last) {
            q->sampled = -1;
            if (needs_logits(s, q)) span->logits = q->logits;
            else span->sampler = q->sampler, span->sampled = &q->sampled;
            span->active = q->active;
        }
        row += span->n;
    }
}

/* Those who wait for q start where it stands, at the end of the prompt and with the same logits. */
static void lead(scheduler *s, sequence *q) {
    for (size_t i = 0; i < s->n_running; i++) {
        sequence *r = s->running[i];
        shk_session *copy;
        if (r->leader != q) continue;
        r->leader = NULL;
        if (shk_session_fork(&copy, q->session, NULL)) continue; /* it reads the prompt itself */
        shk_session_free(r->session);
        r->session = copy;
        r->n_cached = r->n_prompt;
        memcpy(r->logits, q->logits, (size_t)shk_model_vocab_size(s->m) * sizeof *r->logits);
        if (r->active) memcpy(r->active, q->active, (size_t)shk_model_layers(s->m) * sizeof *r->active);
        sequence_next(r);
    }
}

static void keep(scheduler *s, const sequence *q) {
    shk_session *copy;
    if (cache_wants(s->cache, q->session) && !shk_session_fork(&copy, q->session, NULL)) cache_put(s->cache, copy, q->ids);
}

/* What the pass has brought to one sequence. */
static void after(scheduler *s, sequence *q, const shk_span *span) {
    size_t at = sequence_position(q);
    if (q->embeds) {
        sequence_embed(q, span->hidden, span->n);
        if (at == q->n_ids) sequence_finish(q, FINISH_STOP, NULL);
        return;
    }
    if (at == q->keep[0] || at == q->keep[1]) keep(s, q);
    if (at < q->n_ids) return;
    if (at == q->n_prompt) lead(s, q);
    sequence_next(q);
}

static void pass(scheduler *s) {
    plan p;
    shk_error err;
    make_plan(s, &p);
    ask(s, &p);
    shk_status st = shk_advance(s->m, p.spans, p.n, &err);
    pthread_mutex_lock(&s->lock);
    s->counts.passes++;
    s->counts.pass_rows += p.rows;
    pthread_mutex_unlock(&s->lock);
    api_error e = { .status = 500, .type = "server_error", .code = "" };
    if (st) memcpy(e.message, err.message, sizeof e.message);
    for (size_t i = 0; i < p.n; i++) {
        if (st) sequence_finish(p.of[i], FINISH_FAILED, &e);
        else after(s, p.of[i], &p.spans[i]);
    }
}

/* ---- the thread ---- */

/* Waits until there may be something to do; while clients are looked after, not for long. true: the end has come. */
static bool wait_for_work(scheduler *s, bool ready) {
    enum { TICK_MS = 20 };
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += TICK_MS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&s->lock);
    s->counts.running = s->n_running;
    if (!ready && !s->ending) {
        if (s->n_running || s->first) pthread_cond_timedwait(&s->changed, &s->lock, &until);
        else pthread_cond_wait(&s->changed, &s->lock);
    }
    bool ending = s->ending;
    pthread_mutex_unlock(&s->lock);
    return ending;
}

static void *work(void *p) {
    scheduler *s = p;
    bool ready = false, ending;
    do {
        ending = wait_for_work(s, ready);
        look_at_queue(s, ending);
        look_at_running(s, ending);
        reap(s);
        admit(s);
        ready = false;
        for (size_t i = 0; i < s->n_running; i++) ready |= !rests(s->running[i]);
        if (ready) pass(s);
    } while (!ending);
    return NULL;
}

static shk_status find_rigid(scheduler *s, shk_error *err) {
    shk_session *probe;
    shk_status st = shk_session_new(&probe, s->m, s->o.context, err);
    if (st) return st;
    st = shk_session_simulate(probe, 1, 0, err);
    s->rigid = !st && shk_session_earliest(probe) == 1;
    shk_session_free(probe);
    return st;
}

shk_status scheduler_new(scheduler **out, shk_model *m, prefix_cache *c, const scheduler_options *o, shk_error *err) {
    *out = NULL;
    scheduler *s = shk_calloc(1, sizeof *s);
    if (!s) return shk_fail(err, SHK_E_MEMORY, "no memory for the scheduler");
    s->m = m;
    s->cache = c;
    s->o = *o;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->hidden = shk_calloc(PASS_ROWS, (size_t)shk_model_width(m) * sizeof *s->hidden);
    shk_status st = s->hidden ? find_rigid(s, err) : shk_fail(err, SHK_E_MEMORY, "no memory for the scheduler");
    if (!st && pthread_create(&s->thread, NULL, work, s)) st = shk_fail(err, SHK_E_MEMORY, "the scheduler cannot be started");
    if (st) {
        free(s->hidden);
        free(s);
        return st;
    }
    *out = s;
    return SHK_OK;
}

void scheduler_stop(scheduler *s) {
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->draining = s->ending = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
}

void scheduler_free(scheduler *s) {
    if (!s) return;
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s->hidden);
    free(s);
}
