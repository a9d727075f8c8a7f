/* sparkhawk serve: an HTTP service with OpenAI's interface. */
#include <errno.h>
#include <unistd.h>

#include "models.h"
#include "server/server.h"

typedef struct serve_args {
    model_args model;
    const char *host, *name, *api_key, *api_key_file, *cache_dir;
    int64_t port, parallel, queue, context, max_tokens, cache_mb, cache_dir_mb, max_body, connections;
    int64_t receive_seconds, request_seconds, stall_seconds, drain_seconds, top_k;
    double temp, top_p, min_p;
    strings allow_host, cors;
    bool open, log;
} serve_args;

#define AT(field) offsetof(serve_args, field)

static const option serve_options[] = {
    MODEL_ROW,
    { "host", 0, OPT_TEXT, AT(host), 0, 0, "ADDRESS", "where to listen; beyond this machine only with an API key or --open" },
    { "port", 0, OPT_INT, AT(port), 0, 65535, "N", "0: any that is free" },
    { "name", 0, OPT_TEXT, AT(name), 0, 0, "NAME", "the model's name in the interface; its file's if not given" },
    { "api-key", 0, OPT_TEXT, AT(api_key), 0, 0, "KEY",
      "who asks must know it; others on this machine can read it here, so better --api-key-file or $SPARKHAWK_API_KEY" },
    { "api-key-file", 0, OPT_PATH, AT(api_key_file), 0, 0, "FILE", "a file whose first line is the key" },
    { "open", 0, OPT_FLAG, AT(open), 0, 0, NULL, "serve other machines without a key" },
    { "allow-host", 0, OPT_LIST, AT(allow_host), 0, 0, "NAME",
      "a name in the Host header that is ours too, as a proxy may send it" },
    { "cors", 0, OPT_LIST, AT(cors), 0, 0, "ORIGIN", "pages of this origin may ask, such as https://example.org" },
    { "parallel", 0, OPT_INT, AT(parallel), 1, MAX_PARALLEL, "N", "texts that are generated at a time" },
    { "queue", 0, OPT_INT, AT(queue), 1, 100000, "N", "requests that may wait; more are answered 429" },
    { "context", 'c', OPT_INT, AT(context), 0, (double)((int64_t)1 << 40), "N",
      "tokens that a text may have; 0: what the model was made for" },
    { "max-tokens", 'n', OPT_INT, AT(max_tokens), 1, 1 << 30, "N", "tokens of an answer where the request does not say" },
    { "temp", 0, OPT_REAL, AT(temp), 0, 2, "T", "temperature where the request does not say" },
    { "top-k", 0, OPT_INT, AT(top_k), 0, 1 << 30, "K", "top_k where the request does not say" },
    { "top-p", 0, OPT_REAL, AT(top_p), 0, 1, "P", "top_p where the request does not say" },
    { "min-p", 0, OPT_REAL, AT(min_p), 0, 1, "P", "min_p where the request does not say" },
    { "cache-mb", 0, OPT_INT, AT(cache_mb), 0, 1 << 24, "N", "memory for states of texts that may go on; 0: keep none" },
    { "cache-dir", 0, OPT_PATH, AT(cache_dir), 0, 0, "DIR", "keep them in files there too, over a restart" },
    { "cache-dir-mb", 0, OPT_INT, AT(cache_dir_mb), 1, 1 << 24, "N", "bytes of those files" },
    { "max-body", 0, OPT_INT, AT(max_body), 1, 1024, "MB", "the largest request" },
    { "connections", 0, OPT_INT, AT(connections), 1, 100000, "N",
      "at a time; then who has been sending a request the longest is closed" },
    { "receive-seconds", 0, OPT_INT, AT(receive_seconds), 1, 3600, "N", "for a request to arrive whole" },
    { "request-seconds", 0, OPT_INT, AT(request_seconds), 0, 1 << 20, "N", "for an answer; 0: no limit" },
    { "stall-seconds", 0, OPT_INT, AT(stall_seconds), 1, 3600, "N", "that a client may leave its answer unread" },
    { "drain-seconds", 0, OPT_INT, AT(drain_seconds), 0, 3600, "N", "that SIGTERM and SIGINT leave to what is running" },
    COMPUTE_ROWS,
    { "log", 0, OPT_FLAG, AT(log), 0, 0, NULL, "a line on standard error for each request" },
    { 0 }
};

/* The key, malloc'd, or NULL where there is none. false: said so. */
static bool read_key(const serve_args *a, char **key) {
    const char *given = a->api_key ? a->api_key : getenv("SPARKHAWK_API_KEY");
    size_t n;
    *key = NULL;
    if (a->api_key_file && !(*key = read_all(a->api_key_file, &n))) return false;
    if (!*key && given) *key = needed(strdup(given));
    if (!*key) return true;
    (*key)[strcspn(*key, "\r\n")] = 0;
    return **key || (fail("the API key is empty"), false);
}

/* The file's name without its folders and .gguf; malloc'd. */
static char *name_of(const char *path) {
    char *copy = needed(strdup(path));
    size_t n = strlen(copy);
    while (n > 1 && copy[n - 1] == '/') copy[--n] = 0;
    const char *slash = strrchr(copy, '/');
    char *name = needed(strdup(slash && slash[1] ? slash + 1 : copy));
    n = strlen(name);
    if (n > 5 && !strcmp(name + n - 5, ".gguf")) name[n - 5] = 0;
    free(copy);
    return name;
}

static bool open_model(server *s, const serve_args *a) {
    shk_error err;
    char build[64], arithmetic[128];
    if (shk_build_info(build, sizeof build, &err)) return fail("%s", err.message), false;
    snprintf(arithmetic, sizeof arithmetic, "%s, %s%s", build, a->model.device ? a->model.device : "cpu",
             a->model.exact ? ", exact" : "");
    cache_options cache = { (uint64_t)a->context, (uint64_t)a->cache_mb << 20, a->cache_dir, (uint64_t)a->cache_dir_mb << 20,
                            arithmetic };
    scheduler_options work = { (size_t)a->parallel, (size_t)a->queue, (size_t)1 << 22, (uint64_t)a->context,
                               (double)a->stall_seconds };
    if (!(s->model = model_open(&a->model))) return false;
    s->tokenizer = shk_model_tokenizer(s->model);
    s->context = a->context ? (uint64_t)a->context : shk_model_context(s->model);
    if (shk_model_describe(s->model, &s->description, &err) || cache_new(&s->cache, s->model, &cache, &err) ||
        scheduler_new(&s->scheduler, s->model, s->cache, &work, &err))
        return fail("%s", err.message), false;
    return true;
}

/* Until a signal comes, then until nothing runs, a second signal comes or the time is over. */
static void serve(server *s, const sigset_t *signals, int64_t drain_seconds) {
    const struct timespec second = { .tv_sec = 1 }, moment = { .tv_nsec = 50000000 };
    while (sigtimedwait(signals, NULL, &second) < 0) http_tick(s);
    atomic_store(&s->draining, true);
    double end = seconds() + (double)drain_seconds;
    while (!scheduler_drain(s->scheduler) && seconds() < end && sigtimedwait(signals, NULL, &moment) < 0) http_tick(s);
}

static int serve_run(const void *p, const strings *operands) {
    (void)operands;
    const serve_args *a = p;
    char port[16], *key = NULL, *path = NULL, *name = NULL;
    int status = EXIT_FAILURE;
    sigset_t signals;
    server s = { .started = time(NULL), .listener = -1 };
    if (a->api_key && a->api_key_file) return misuse(&cmd_serve, "only one of --api-key and --api-key-file can be the key");
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* for all threads that are made from here on */
    if (!read_key(a, &key) || !(path = model_path(&a->model))) goto done;
    name = a->name ? needed(strdup(a->name)) : name_of(path);
    snprintf(port, sizeof port, "%lld", (long long)a->port);
    s.o = (server_options){
        .host = a->host, .port = port, .name = name, .key = key, .open = a->open, .hosts = a->allow_host.items,
        .n_hosts = a->allow_host.n, .origins = a->cors.items, .n_origins = a->cors.n, .body_bytes = (size_t)a->max_body << 20,
        .connections = (size_t)a->connections, .receive_s = (double)a->receive_seconds, .request_s = (double)a->request_seconds,
        .log = a->log,
        .defaults = { .sampling = { .temperature = (float)a->temp, .top_k = (int)a->top_k, .top_p = (float)a->top_p,
                                    .min_p = (float)a->min_p, .repeat_penalty = 1, .repeat_last_n = 64 },
                      .max_tokens = a->max_tokens, .max_choices = a->parallel },
    };
    if (!http_bind(&s) || !open_model(&s, a) || !http_start(&s)) goto done;
    bool v6 = strchr(a->host, ':');
    putf("%s is served at http://%s%s%s:%d\n", name, v6 ? "[" : "", a->host, v6 ? "]" : "", s.port);
    put_flush();
    serve(&s, &signals, a->drain_seconds);
    status = EXIT_SUCCESS;
done:
    scheduler_stop(s.scheduler); /* before http_stop, as nobody may wait then */
    http_stop(&s);
    scheduler_free(s.scheduler);
    cache_free(s.cache);
    free(s.description);
    shk_model_free(s.model);
    free(name);
    free(path);
    free(key);
    return status;
}

const command cmd_serve = {
    .name = "serve",
    .summary = "answer requests over HTTP",
    .operands = "",
    .description = "Serves a model with OpenAI's interface: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, and "
                   "/v1/tokenize, /v1/detokenize, /metrics, /health; a page to talk with it is at /. Texts are generated "
                   "together, and none depends on the others. States of conversations are kept, so that the next turn goes on "
                   "where they were.\n\n"
                   "It listens on this machine alone unless --host says otherwise. SIGTERM and SIGINT end it when what is "
                   "running is done.",
    .options = serve_options,
    .defaults = &(const serve_args){ .host = "127.0.0.1", .port = 8080, .parallel = 16, .queue = 64, .max_tokens = 2048, .temp = 1,
                                     .top_k = 64, .top_p = 0.95, .cache_mb = 1024, .cache_dir_mb = 8192, .max_body = 8,
                                     .connections = 256, .receive_seconds = 30, .stall_seconds = 60, .drain_seconds = 30 },
    .size = sizeof(serve_args),
    .run = serve_run,
};
