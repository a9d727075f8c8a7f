/* Model files and saved sessions that lie: cut off anywhere, bits flipped, fields out of range, tensors missing or of the wrong
 * shape, weights that are not numbers. Each is refused with one line that names the file and the field, or runs; none crashes. */
#include <jansson.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file/gguf.h"
#include "file/writer.h"
#include "sparkhawk.h"
#include "../test.h"

static shk_error err;
static char dir[64], path[128];

static char *read_file(const char *name, size_t *n) {
    FILE *f = fopen(name, "rb");
    NEED(f, "%s", name);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*n + 1);
    NEED(fread(data, 1, *n, f) == *n, "%s", name);
    data[*n] = 0;
    fclose(f);
    return data;
}

static void write_file(const char *name, const void *data, size_t n) {
    FILE *f = fopen(name, "wb");
    NEED(f && (n == 0 || fwrite(data, 1, n, f) == n) && fclose(f) == 0, "%s", name);
}

static const shk_convert_options *as(const char *type) {
    static shk_convert_options o;
    o.type = type;
    return &o;
}

/* One line, no control characters, and the name of something in it. */
static bool clear_message(const char *naming) {
    for (const char *p = err.message; *p; p++)
        if ((unsigned char)*p < 32) return false;
    return strstr(err.message, naming) != NULL;
}

/* Loads it and, if that works, lets it run a few tokens. */
static shk_status try_model(const char *name) {
    static const int32_t tokens[] = { 2, 5, 9, 300, 17 };
    shk_model *m;
    shk_session *s = NULL;
    shk_model_params p = { .threads = 1 };
    memset(&err, 0, sizeof err);
    shk_status st = shk_model_load(&m, name, &p, &err);
    if (st) return st;
    float *logits = malloc((size_t)shk_model_vocab_size(m) * sizeof *logits);
    st = shk_session_new(&s, m, 64, &err);
    if (!st) st = shk_advance(m, &(shk_span){ s, tokens, 5, logits, 0 }, 1, &err);
    free(logits);
    shk_session_free(s);
    shk_model_free(m);
    return st;
}

/* Cuts and flips of a whole file. `at(i)` of n places; near the head every byte matters more. */
static void test_damage(const char *file, const char *load, unsigned long long seed) {
    size_t n, refused = 0, head;
    char *data = read_file(file, &n), *copy = malloc(n);
    head = n < 4096 ? n : 4096;
    for (int i = 0; i < 60; i++) {
        size_t cut = i < 30 ? (size_t)(test_uniform(&seed) * (double)head) : (size_t)(test_uniform(&seed) * (double)n);
        write_file(file, data, cut);
        CHECK(try_model(load) != SHK_OK && clear_message(dir), "cut at %zu of %zu: %s", cut, n, err.message);
    }
    for (int i = 0; i < 150; i++) {
        memcpy(copy, data, n);
        for (int k = 0; k < 1 + i % 3; k++)
            copy[(size_t)(test_uniform(&seed) * (double)(i < 120 ? head : n))] ^= (char)(1 << i % 8);
        write_file(file, copy, n);
        if (try_model(load) == SHK_OK) continue;
        refused++;
        CHECK(clear_message(dir) || err.status == SHK_E_ARGUMENT, "flip %d: %s", i, err.message);
    }
    CHECK(refused > 20, "only %zu of 150 flips were noticed", refused);
    write_file(file, data, n);
    free(data);
    free(copy);
}

static void golden_copy(const char *name) { /* dir/config.json and dir/model.safetensors, writable */
    static const char *const files[] = { "config.json", "model.safetensors" };
    for (int i = 0; i < 2; i++) {
        char from[128];
        size_t n;
        snprintf(from, sizeof from, "tests/golden/%s/%s", name, files[i]);
        char *data = read_file(from, &n);
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        write_file(path, data, n);
        free(data);
    }
}

static void test_config_fields(void) {
    static const struct {
        const char *golden, *key, *value, *naming;
    } cases[] = {
        { "gemma2", "hidden_size", "0", "hidden_size" },
        { "gemma2", "hidden_size", "-64", "hidden_size" },
        { "gemma2", "hidden_size", "1e30", "hidden_size" },
        { "gemma2", "hidden_size", "63.5", "hidden_size" },
        { "gemma2", "hidden_size", "\"64\"", "hidden_size" },
        { "gemma2", "hidden_size", "[64]", "hidden_size" },
        { "gemma2", "hidden_size", "128", "embed_tokens" },
        { "gemma2", "vocab_size", "1e20", "vocab_size" },
        { "gemma2", "vocab_size", "16777216", "embed_tokens" },
        { "gemma2", "num_hidden_layers", "100000000", "num_hidden_layers" },
        { "gemma2", "num_hidden_layers", "5", "layer_types" },
        { "gemma2", "num_attention_heads", "3", "heads" },
        { "gemma2", "num_key_value_heads", "0", "num_key_value_heads" },
        { "gemma2", "head_dim", "15", "even" },
        { "gemma2", "sliding_window", "0", "sliding_window" },
        { "gemma2", "query_pre_attn_scalar", "-1", "query_pre_attn_scalar" },
        { "gemma2", "rms_norm_eps", "null", "" },
        { "gemma2", "hidden_activation", "\"relu\"", "relu" },
        { "gemma2", "model_type", "\"llama\"", "llama" },
        { "gemma2", "model_type", "7", "model_type" },
        { "gemma2", "layer_types", "[\"sliding_attention\",\"full_attention\",\"full_attention\",\"linear\"]", "linear" },
        { "gemma2", "layer_types", "[]", "layer_types" },
        { "gemma2", "layer_types", "[1,2,3,4]", "layer_types" },
        { "gemma2", "rope_parameters", "{\"rope_type\":\"yarn\"}", "yarn" },
        { "gemma2", "rope_parameters", "{\"rope_theta\":-1}", "rope_theta" },
        { "gemma2", "rope_parameters", "{\"rope_type\":\"linear\"}", "factor" },
        { "gemma2", "rope_theta", "null", "" },
        { "gemma2", "layer_types", "\"full_attention\"", "layer_types" },
        { "gemma2", "hidden_activation", "\"gelu\"", "gelu" },
        { "gemma3", "rope_parameters", "{\"full_attention\":{},\"sliding_attention\":{\"rope_type\":\"linear\",\"factor\":8}}",
          "sliding_attention" },
        { "gemma2", "attention_bias", "true", "attention_bias" },
        { "gemma3n", "intermediate_size", "[256]", "intermediate_size" },
        { "gemma3n", "activation_sparsity_pattern", "[0.95]", "activation_sparsity_pattern" },
        { "gemma3n", "activation_sparsity_pattern", "1.5", "activation_sparsity_pattern" },
        { "gemma3n", "num_kv_shared_layers", "6", "num_kv_shared_layers" },
        { "gemma3n", "num_kv_shared_layers", "5", "shares" },
        { "gemma3n", "altup_active_idx", "4", "altup_active_idx" },
        { "recurrentgemma", "block_types", "[\"recurrent\",\"mamba\"]", "mamba" },
        { "recurrentgemma", "block_types", "[\"recurrent\",\"recurrent\",\"attention\",\"recurrent\",\"recurrent\",\"attention\"]",
          "" }, /* cut at the layer count */
        { "recurrentgemma", "lru_width", "63", "lru_width" },
        { "recurrentgemma", "conv1d_width", "1", "conv1d_width" },
        { "recurrentgemma", "attention_window_size", "0", "sliding_window" },
        { "recurrentgemma", "intermediate_size", "191", "intermediate_size" },
        { "sparkhawk", "mlps", "[\"experts\"]", "experts" },
        { "sparkhawk", "mixers", "\"spark\"", "mixers" },
        { "sparkhawk", "spark_ffn_rank", "64", "spark_ffn_rank" },
        { "sparkhawk", "spark_ffn_k", "0", "spark_ffn_k" },
        { "sparkhawk", "spark_ffn_k", "193", "spark_ffn_k" },
        { "sparkhawk", "spark_attn_rank", "7", "spark_attn_rank" },
        { "sparkhawk", "spark_attn_rank", "16", "spark_attn_rank" },
        { "sparkhawk", "std_ddof", "2", "std_ddof" },
        { "sparkhawk", "lru_blocks", "5", "lru_width" },
        { "sparkhawk", "num_hidden_layers", "4", "layers.3" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        golden_copy(cases[i].golden);
        snprintf(path, sizeof path, "%s/config.json", dir);
        json_t *config = json_load_file(path, 0, NULL), *value = json_loads(cases[i].value, JSON_DECODE_ANY, NULL);
        NEED(config && value, "case %zu", i);
        json_object_set_new(config, cases[i].key, value);
        snprintf(text, sizeof text, "%s = %s in %s", cases[i].key, cases[i].value, cases[i].golden);
        NEED(json_dump_file(config, path, 0) == 0, "%s", path);
        json_decref(config);
        shk_status st = try_model(dir);
        if (*cases[i].naming)
            CHECK(st != SHK_OK && clear_message(dir) && clear_message(cases[i].naming), "%s: %s", text, err.message);
        else CHECK(st == SHK_OK, "%s: %s", text, err.message);
    }
    golden_copy("gemma2");
    snprintf(path, sizeof path, "%s/config.json", dir);
    static const char *const texts[] = { "", "{", "[]", "null", "{}", "{\"model_type\":\"gemma2\",\"model_type\":\"gemma\"}" };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        write_file(path, texts[i], strlen(texts[i]));
        CHECK(try_model(dir) != SHK_OK && clear_message("config.json"), "config \"%s\": %s", texts[i], err.message);
    }
    unlink(path);
    CHECK(try_model(dir) == SHK_E_IO && clear_message("config.json"), "no config: %s", err.message);
    CHECK(try_model("/nonexistent") == SHK_E_IO && clear_message("/nonexistent"), "%s", err.message);
    CHECK(try_model("/dev/null") != SHK_OK && clear_message("/dev/null"), "%s", err.message);
}

/* The logits after the fifth token: all at once, or one by one. */
static void logits_of(const char *name, bool steps, float *out) {
    static const int32_t tokens[] = { 2, 5, 9, 300, 17 };
    shk_model *m;
    shk_session *s;
    NEED(shk_model_load(&m, name, NULL, &err) == SHK_OK && shk_session_new(&s, m, 64, &err) == SHK_OK, "%s", err.message);
    for (size_t i = 0, n = steps ? 1 : 5; i < 5; i += n)
        NEED(shk_advance(m, &(shk_span){ s, tokens + i, n, out, 0 }, 1, &err) == SHK_OK, "%s", err.message);
    shk_session_free(s);
    shk_model_free(m);
}

/* Legal, but unlike anything published: dimensions of 1 in every place, one stream, ids beyond a table, fractions. Both formats
 * must give the same logits, whatever the division into passes. */
static void test_unusual(void) {
#define SMALL "\"vocab_size\":320,\"num_hidden_layers\":2,\"num_attention_heads\":2,"
#define NATIVE "{\"model_type\":\"sparkhawk\"," SMALL
    static const char *const configs[] = {
        NATIVE "\"hidden_size\":8,\"intermediate_size\":4,\"mixers\":[\"recurrent\"],\"lru_width\":6,\"lru_blocks\":6}",
        NATIVE "\"hidden_size\":8,\"intermediate_size\":4,\"mixers\":[\"recurrent\"],\"lru_width\":6,\"lru_blocks\":1}",
        NATIVE "\"hidden_size\":1,\"intermediate_size\":3,\"head_dim\":2,\"mlps\":[\"gated\",\"topk\"],\"topk_ffn_k\":1}",
        NATIVE "\"hidden_size\":8,\"intermediate_size\":1,\"mlps\":[\"gated\",\"topk\"],\"topk_ffn_k\":1}",
        NATIVE "\"hidden_size\":8,\"intermediate_size\":7,\"mlps\":[\"spark\"],\"spark_ffn_rank\":1,\"spark_ffn_k\":2,"
               "\"std_ddof\":1}",
        NATIVE "\"hidden_size\":8,\"intermediate_size\":7,\"mlps\":[\"spark\"],\"spark_ffn_rank\":7,\"spark_ffn_k\":7}",
        NATIVE "\"hidden_size\":12,\"intermediate_size\":9,\"head_dim\":20,\"rope_fraction\":0.7,\"tie_word_embeddings\":false,"
               "\"final_logit_softcapping\":null,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8}}",
        NATIVE "\"hidden_size\":12,\"intermediate_size\":9,\"head_dim\":5,\"rope_fraction\":0.01,\"rms_norm_eps\":0}",
        "{\"model_type\":\"gemma2\"," SMALL "\"hidden_size\":8,\"num_key_value_heads\":1,\"head_dim\":4,\"intermediate_size\":8,"
        "\"final_logit_softcapping\":null,\"attn_logit_softcapping\":null}",
        "{\"model_type\":\"gemma3n\"," SMALL "\"hidden_size\":8,\"num_key_value_heads\":1,\"head_dim\":4,\"intermediate_size\":8,"
        "\"altup_num_inputs\":1,\"laurel_rank\":1,\"hidden_size_per_layer_input\":1,\"vocab_size_per_layer_input\":256,"
        "\"num_kv_shared_layers\":0,\"final_logit_softcapping\":null}",
        "{\"model_type\":\"gemma3n\"," SMALL "\"hidden_size\":1,\"num_key_value_heads\":1,\"head_dim\":4,\"intermediate_size\":8,"
        "\"altup_num_inputs\":2,\"laurel_rank\":2,\"hidden_size_per_layer_input\":2,\"num_kv_shared_layers\":0}",
        "{\"model_type\":\"recurrent_gemma\"," SMALL "\"hidden_size\":8,\"intermediate_size\":8,"
        "\"block_types\":[\"recurrent\",\"full_attention\",\"attention\"]}",
    };
    char config[128], gguf[128], folder[128], file[160];
    static const char *const parts[] = { "config.json", "model.safetensors" };
    snprintf(config, sizeof config, "%s/unusual.json", dir);
    snprintf(gguf, sizeof gguf, "%s/unusual.gguf", dir);
    snprintf(folder, sizeof folder, "%s/unusual", dir);
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        float whole[320], other[320];
        write_file(config, configs[i], strlen(configs[i]));
        NEED(shk_init(config, gguf, "f32", 3, &err) == SHK_OK, "%s: %s", configs[i], err.message);
        logits_of(gguf, false, whole);
        logits_of(gguf, true, other);
        CHECK(memcmp(whole, other, sizeof whole) == 0, "steps differ from prefill: %s", configs[i]);
        NEED(shk_convert(gguf, folder, NULL, &err) == SHK_OK, "%s: %s", configs[i], err.message);
        logits_of(folder, false, other);
        CHECK(memcmp(whole, other, sizeof whole) == 0, "the converted model differs: %s", configs[i]);
        NEED(shk_init(config, folder, "f32", 3, &err) == SHK_OK, "%s: %s", configs[i], err.message);
        logits_of(folder, false, other);
        CHECK(memcmp(whole, other, sizeof whole) == 0, "the directory differs: %s", configs[i]);
    }
    for (size_t i = 0; i < 2; i++) {
        snprintf(file, sizeof file, "%s/%s", folder, parts[i]);
        unlink(file);
    }
    unlink(config), unlink(gguf), rmdir(folder);
}

/* A GGUF file of another origin: what it says of rotary embeddings is heeded or refused. */
static shk_status nothing(void *user, const shk_tensor *t, shk_writer *w, shk_error *e) {
    (void)user, (void)t, (void)w, (void)e;
    return SHK_OK;
}

static void test_gguf_keys(void) {
    static const struct {
        const char *key, *text; /* a string, or a number where it starts with a digit */
        const char *naming;     /* of the message; "" : only its tensors are missing */
    } cases[] = {
        { "gemma2.rope.scaling.type", "yarn", "yarn" },
        { "gemma2.rope.scaling.type", "linear", "" },
        { "gemma2.rope.scaling.type", "none", "" },
        { "gemma2.rope.scaling.type", "7", "rope.scaling.type" },
        { "gemma2.rope.dimension_count", "2", "dimension_count" },
        { "gemma2.rope.dimension_count", "4", "" },
    };
    char file[128];
    snprintf(file, sizeof file, "%s/keys.gguf", dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        shk_gguf_meta *m = shk_gguf_meta_new();
        NEED(m, "memory");
        shk_gguf_put_str(m, "general.architecture", "gemma2");
        static const char *const sizes[] = { "vocab_size",          "embedding_length",     "block_count",
                                             "feed_forward_length", "attention.head_count", "attention.head_count_kv",
                                             "attention.key_length" };
        for (size_t k = 0; k < 7; k++) {
            char key[64];
            snprintf(key, sizeof key, "gemma2.%s", sizes[k]);
            shk_gguf_put_u32(m, key, 4);
        }
        if (cases[i].text[0] < 'a') shk_gguf_put_u32(m, cases[i].key, (uint32_t)(cases[i].text[0] - '0'));
        else shk_gguf_put_str(m, cases[i].key, cases[i].text);
        NEED(shk_gguf_write(file, m, NULL, 0, nothing, NULL, &err) == SHK_OK, "%s", err.message);
        shk_gguf_meta_free(m);
        CHECK(try_model(file) != SHK_OK && clear_message(*cases[i].naming ? cases[i].naming : "token_embd.weight is missing"),
              "%s = %s: %s", cases[i].key, cases[i].text, err.message);
    }
    unlink(file);
}

/* Rewrites model.safetensors with one tensor changed: dropped, of another shape, of another type, or with a NaN. */
typedef struct edit {
    const shk_tensors *from;
    const char *name;
    int nan;
} edit;

static shk_status fill(void *user, const shk_tensor *t, shk_writer *w, shk_error *e) {
    (void)e;
    const edit *x = user;
    const shk_tensor *from = shk_tensors_find(x->from, t->name);
    char *data = malloc(t->n_bytes);
    memcpy(data, from->data, t->n_bytes < from->n_bytes ? t->n_bytes : from->n_bytes);
    uint16_t nan = 0x7fc0; /* bf16 */
    if (x->nan && strcmp(t->name, x->name) == 0) memcpy(data + t->n_bytes / 4 * 2, &nan, 2);
    shk_writer_put(w, data, t->n_bytes);
    free(data);
    return SHK_OK;
}

static void test_tensors(void) {
    static const char *const names[] = { "model.embed_tokens.weight", "model.norm.weight", "model.layers.1.mlp.down_proj.weight",
                                         "model.layers.2.self_attn.q_proj.weight",
                                         "model.layers.3.post_feedforward_layernorm.weight" };
    enum { DROP, RESHAPE, RETYPE, NOT_A_NUMBER, EDITS };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int what = 0; what < EDITS; what++) {
            shk_tensors t = { 0 };
            shk_tensor items[256];
            size_t n = 0;
            golden_copy("gemma2");
            NEED(shk_safetensors_open(&t, "tests/golden/gemma2/model.safetensors", &err) == SHK_OK, "%s", err.message);
            for (size_t k = 0; k < t.n; k++) {
                items[n] = t.items[k];
                bool it = strcmp(t.items[k].name, names[i]) == 0;
                if (it && what == DROP) continue;
                if (it && what == RESHAPE)
                    items[n].shape[0] -= 1, items[n].n_elem = items[n].n_elem / t.items[k].shape[0] * items[n].shape[0];
                if (it && what == RETYPE) items[n].type = SHK_I16;
                items[n].n_bytes = items[n].n_elem * 2;
                n++;
            }
            edit e = { &t, names[i], what == NOT_A_NUMBER };
            snprintf(path, sizeof path, "%s/model.safetensors", dir);
            NEED(shk_safetensors_write(path, items, n, fill, &e, &err) == SHK_OK, "%s", err.message);
            shk_tensors_free(&t);
            CHECK(try_model(dir) != SHK_OK && clear_message(names[i]) && clear_message(dir), "edit %d of %s: %s", what, names[i],
                  err.message);
        }
}

static void test_sessions(void) {
    static const int32_t tokens[40] = { 2 };
    shk_model *m, *other;
    shk_session *s, *o;
    size_t n;
    unsigned long long seed = 23;
    NEED(shk_model_load(&m, "tests/golden/sparkhawk", NULL, &err) == SHK_OK, "%s", err.message);
    NEED(shk_model_load(&other, "tests/golden/griffin", NULL, &err) == SHK_OK, "%s", err.message);
    NEED(shk_session_new(&s, m, 64, &err) == SHK_OK && shk_session_new(&o, other, 64, &err) == SHK_OK, "%s", err.message);
    NEED(shk_advance(m, &(shk_span){ s, tokens, 40, NULL, 0 }, 1, &err) == SHK_OK, "%s", err.message);
    snprintf(path, sizeof path, "%s/state", dir);
    NEED(shk_session_save(s, path, &err) == SHK_OK, "%s", err.message);
    CHECK(shk_session_restore(o, path, &err) == SHK_E_FORMAT && clear_message("another model"), "%s", err.message);
    char *data = read_file(path, &n);
    for (int i = 0; i < 60; i++) {
        size_t cut = (size_t)(test_uniform(&seed) * (double)(i < 20 ? 64 : n));
        write_file(path, data, cut);
        CHECK(shk_session_restore(s, path, &err) != SHK_OK && clear_message(path), "cut at %zu: %s", cut, err.message);
        char *copy = malloc(n + 1);
        memcpy(copy, data, n);
        copy[(size_t)(test_uniform(&seed) * (double)(i < 30 ? 40 : n))] ^= (char)(1 << i % 8);
        write_file(path, copy, n);
        CHECK(shk_session_restore(s, path, &err) != SHK_OK, "a flipped bit (%d) went unnoticed", i);
        copy[n] = 0;
        memcpy(copy, data, n);
        write_file(path, copy, n + 1);
        CHECK(shk_session_restore(s, path, &err) != SHK_OK, "a byte too many");
        free(copy);
    }
    CHECK(shk_session_position(s) == 40, "a refused file moved the session");
    write_file(path, data, n);
    CHECK(shk_session_restore(s, path, &err) == SHK_OK, "%s", err.message);
    shk_session *small;
    NEED(shk_session_new(&small, m, 39, &err) == SHK_OK, "%s", err.message);
    CHECK(shk_session_restore(small, path, &err) == SHK_E_LIMIT && clear_message("39"), "%s", err.message);
    CHECK(shk_session_restore(small, dir, &err) == SHK_E_IO && clear_message(dir), "%s", err.message);
    CHECK(shk_session_save(s, "/nonexistent/state", &err) == SHK_E_IO && clear_message("/nonexistent/state"), "%s", err.message);
    shk_model *f32, *q8_0;
    shk_session *of_f32;
    shk_model_params as_f32 = { .kv_type = "f32" }, as_q8_0 = { .kv_type = "q8_0" };
    NEED(shk_model_load(&f32, "tests/golden/sparkhawk", &as_f32, &err) == SHK_OK, "%s", err.message);
    NEED(shk_session_new(&of_f32, f32, 64, &err) == SHK_OK, "%s", err.message);
    write_file(path, data, n);
    CHECK(shk_session_restore(of_f32, path, &err) == SHK_E_FORMAT && clear_message("bf16"), "%s", err.message);
    shk_status refused = shk_model_load(&q8_0, "tests/golden/sparkhawk", &as_q8_0, &err); /* heads of 16 values */
    CHECK(refused == SHK_E_UNSUPPORTED && clear_message("layer 2"), "%s", err.message);
    shk_session_free(of_f32);
    shk_model_free(f32);
    free(data);
    unlink(path);
    shk_session_free(small);
    shk_session_free(s);
    shk_session_free(o);
    shk_model_free(m);
    shk_model_free(other);
}

static void test_arguments(void) {
    shk_model *m, *m2;
    shk_session *s, *s2;
    int32_t tokens[] = { 2, 3 };
    NEED(shk_model_load(&m, "tests/golden/gemma", NULL, &err) == SHK_OK &&
             shk_model_load(&m2, "tests/golden/gemma", NULL, &err) == SHK_OK,
         "%s", err.message);
    NEED(shk_session_new(&s, m, 4, &err) == SHK_OK && shk_session_new(&s2, m2, 4, &err) == SHK_OK, "%s", err.message);
    shk_span twice[] = { { s, tokens, 1, NULL, 0 }, { s, tokens, 1, NULL, 0 } }, foreign = { s2, tokens, 1, NULL, 0 },
             none = { s, tokens, 0, NULL, 0 };
    CHECK(shk_advance(m, twice, 2, &err) == SHK_E_ARGUMENT, "one session twice");
    CHECK(shk_advance(m, &foreign, 1, &err) == SHK_E_ARGUMENT, "a session of another model");
    CHECK(shk_advance(m, &none, 1, &err) == SHK_E_ARGUMENT, "no tokens");
    CHECK(shk_advance(m, NULL, 0, &err) == SHK_OK, "no spans");
    shk_session *huge;
    CHECK(shk_session_new(&huge, m, UINT64_MAX, &err) != SHK_OK && !huge, "an absurd context");
    shk_model_params bad[] = { { .threads = -1 }, { .threads = 1 << 20 }, { .window_extra = -1 }, { .kv_type = "q4_0" } };
    for (int i = 0; i < 4; i++) {
        shk_model *none_loaded;
        CHECK(shk_model_load(&none_loaded, "tests/golden/gemma", &bad[i], &err) == SHK_E_ARGUMENT && !none_loaded, "params %d", i);
    }
    CHECK(shk_convert("tests/golden/gemma", "/nonexistent/x.gguf", NULL, &err) == SHK_E_IO, "%s", err.message);
    snprintf(path, sizeof path, "%s/x.gguf", dir);
    CHECK(shk_convert("tests/golden/gemma", path, as("q3_k"), &err) == SHK_E_ARGUMENT && clear_message("q3_k"), "%s", err.message);
    CHECK(shk_init("no-such-preset", path, NULL, 1, &err) == SHK_E_IO && clear_message("no-such-preset"), "%s", err.message);
    CHECK(access(path, F_OK) != 0, "a file was left behind");
    shk_session_free(s);
    shk_session_free(s2);
    shk_model_free(m);
    shk_model_free(m2);
}

int main(void) {
    snprintf(dir, sizeof dir, "/tmp/shk_hostile_XXXXXX");
    NEED(mkdtemp(dir), "%s", dir);
    test_arguments();
    test_config_fields();
    test_unusual();
    test_gguf_keys();
    test_tensors();
    test_sessions();
    golden_copy("sparkhawk");
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    char file[128];
    strcpy(file, path);
    test_damage(file, dir, 31);
    snprintf(file, sizeof file, "%s/model.gguf", dir);
    static const char *const types[] = { NULL, "q8_0" };
    for (int i = 0; i < 2; i++) {
        NEED(shk_convert(i ? "tests/golden/recurrentgemma" : "tests/golden/gemma3n", file, as(types[i]), &err) == SHK_OK, "%s",
             err.message);
        test_damage(file, file, 37);
    }
    unlink(file);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/config.json", dir);
    unlink(path);
    CHECK(rmdir(dir) == 0, "something was left in %s", dir);
    return test_done();
}
