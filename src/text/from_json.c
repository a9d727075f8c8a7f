/* tokenizer.json, as far as Gemma's family uses it: a BPE model with merges, U+2581 for spaces, tokens added to the model. A
 * component that would change ids and is not known here is refused by name. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "text/vocab.h"

static const char space_mark[] = "\xe2\x96\x81";

typedef struct piece {
    const char *text; /* NULL: no piece has this id */
    size_t n;
    shk_piece_type type;
} piece;

typedef struct reader {
    shk_tokenizer *t;
    const json_t *root, *model;
    piece *pieces; /* [capacity] by id */
    size_t n, capacity;
    const char *bos; /* what the post-processor puts first, or NULL */
    const char *path;
    shk_error *err;
} reader;

static shk_status unsupported(const reader *r, const char *component, const char *what) {
    return shk_fail(r->err, SHK_E_UNSUPPORTED, "%s: %s %s is not supported", r->path, component, what);
}

static const char *string_at(const json_t *object, const char *key) {
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

static bool is_pattern(const json_t *component, const char *text) {
    return strcmp(string_at(json_object_get(component, "pattern"), "String"), text) == 0;
}

/* ---- components ---- */

typedef shk_status component_fn(reader *r, const json_t *component, const char *type);

/* Calls f for the component, or for each in a sequence (whose list is called `list`); none at all is fine. */
static shk_status each(reader *r, const char *name, const char *list, component_fn *f) {
    const json_t *component = json_object_get(r->root, name), *items = json_object_get(component, list);
    shk_status status = SHK_OK;
    if (!component || json_is_null(component)) return SHK_OK;
    if (strcmp(string_at(component, "type"), "Sequence")) return f(r, component, string_at(component, "type"));
    for (size_t i = 0; i < json_array_size(items) && !status; i++)
        status = f(r, json_array_get(items, i), string_at(json_array_get(items, i), "type"));
    return status;
}

static shk_status read_normalizer(reader *r, const json_t *component, const char *type) {
    if (strcmp(type, "Replace") == 0 && is_pattern(component, " ") && strcmp(string_at(component, "content"), space_mark) == 0)
        r->t->escape = true;
    else if (strcmp(type, "Prepend") == 0 && strcmp(string_at(component, "prepend"), space_mark) == 0) r->t->add_space = true;
    else return unsupported(r, "normalizer", type);
    return SHK_OK;
}

/* Gemma's splits at spaces, of which the normalizer has left none. */
static shk_status read_pre_tokenizer(reader *r, const json_t *component, const char *type) {
    if (strcmp(type, "Split") == 0 && is_pattern(component, " ") && r->t->escape) return SHK_OK;
    return unsupported(r, "pre_tokenizer", type);
}

/* Decoding follows from the pieces; this only looks for what would contradict that. */
static shk_status read_decoder(reader *r, const json_t *component, const char *type) {
    bool known = strcmp(type, "ByteFallback") == 0 || strcmp(type, "Fuse") == 0;
    known = known || (strcmp(type, "Replace") == 0 && is_pattern(component, space_mark));
    known = known || (strcmp(type, "Strip") == 0 && strcmp(string_at(component, "content"), " ") == 0 && r->t->add_space);
    return known ? SHK_OK : unsupported(r, "decoder", type);
}

static shk_status read_post_processor(reader *r, const json_t *component, const char *type) {
    if (strcmp(type, "TemplateProcessing")) return unsupported(r, "post_processor", type);
    const json_t *first = json_array_get(json_object_get(component, "single"), 0);
    r->bos = json_string_value(json_object_get(json_object_get(first, "SpecialToken"), "id"));
    return SHK_OK;
}

static shk_status read_components(reader *r) {
    shk_status status = each(r, "normalizer", "normalizers", read_normalizer);
    if (!status && r->t->add_space && !r->t->escape) status = unsupported(r, "normalizer", "Prepend without Replace");
    if (!status) status = each(r, "pre_tokenizer", "pretokenizers", read_pre_tokenizer);
    if (!status) status = each(r, "decoder", "decoders", read_decoder);
    if (!status) status = each(r, "post_processor", "processors", read_post_processor);
    r->t->add_bos = r->bos != NULL;
    return status;
}

/* ---- the model's options ---- */

static bool is_off(const json_t *value) {
    const char *s = json_string_value(value);
    bool zero = json_is_number(value) && json_number_value(value) == 0;
    return !value || json_is_null(value) || json_is_false(value) || (s && !*s) || zero;
}

static shk_status check_model(reader *r) {
    static const char *const options[] = { "dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges" };
    r->model = json_object_get(r->root, "model");
    if (!json_is_object(r->model)) return shk_fail(r->err, SHK_E_FORMAT, "%s: has no model", r->path);
    if (strcmp(string_at(r->model, "type"), "BPE")) return unsupported(r, "model", string_at(r->model, "type"));
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (!is_off(json_object_get(r->model, options[i]))) return unsupported(r, "model option", options[i]);
    if (is_off(json_object_get(r->model, "byte_fallback")) && is_off(json_object_get(r->model, "fuse_unk")))
        return unsupported(r, "model", "without byte_fallback and fuse_unk");
    return SHK_OK;
}

/* ---- pieces ---- */

static shk_status place(reader *r, const json_t *id, const char *text, size_t n, shk_piece_type type) {
    json_int_t i = json_is_integer(id) ? json_integer_value(id) : -1;
    if (i < 0 || (uint64_t)i >= r->capacity)
        return shk_fail(r->err, SHK_E_FORMAT, "%s: the id of \"%.*s\" is not below %zu", r->path, (int)(n < 99 ? n : 99), text,
                        r->capacity);
    piece *p = &r->pieces[i];
    if (p->text && (p->n != n || memcmp(p->text, text, n)))
        return shk_fail(r->err, SHK_E_FORMAT, "%s: two pieces have the id %jd", r->path, (intmax_t)i);
    *p = (piece){ text, n, type };
    if ((size_t)i >= r->n) r->n = (size_t)i + 1;
    return SHK_OK;
}

static bool looks_like_byte(const char *text, size_t n) { return n == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>'; }

static shk_status place_model(reader *r) {
    json_t *vocab = json_object_get(r->model, "vocab"), *id;
    bool bytes = !is_off(json_object_get(r->model, "byte_fallback"));
    const char *text;
    json_object_foreach(vocab, text, id) {
        size_t n = strlen(text);
        shk_piece_type type = bytes && looks_like_byte(text, n) ? SHK_PIECE_BYTE : SHK_PIECE_NORMAL;
        shk_status status = place(r, id, text, n, type);
        if (status) return status;
    }
    return SHK_OK;
}

/* An added token that is not special is a user piece, one of spaces too: SentencePiece, from which these files come, has it
 * so. The merges in the file lead to the same. */
static shk_status place_added(reader *r) {
    static const char *const options[] = { "single_word", "lstrip", "rstrip" };
    const json_t *added = json_object_get(r->root, "added_tokens");
    shk_status status = SHK_OK;
    for (size_t i = 0; i < json_array_size(added) && !status; i++) {
        const json_t *token = json_array_get(added, i), *content = json_object_get(token, "content");
        const char *text = json_string_value(content);
        if (!text) return shk_fail(r->err, SHK_E_FORMAT, "%s: added token %zu has no content", r->path, i);
        for (size_t k = 0; k < sizeof options / sizeof *options; k++)
            if (!is_off(json_object_get(token, options[k]))) return unsupported(r, "added token option", options[k]);
        shk_piece_type type = json_is_true(json_object_get(token, "special")) ? SHK_PIECE_CONTROL : SHK_PIECE_USER;
        status = place(r, json_object_get(token, "id"), text, json_string_length(content), type);
    }
    return status;
}

static void note_special(reader *r, const piece *p, int32_t id) {
    const char *unk = string_at(r->model, "unk_token");
    if (*unk && strcmp(p->text, unk) == 0) r->t->unk = id;
    const struct { const char *names[2]; int32_t *id; } specials[] = {
        { { r->bos ? r->bos : "<bos>", r->bos ? r->bos : "<s>" }, &r->t->bos },
        { { "<eos>", "</s>" }, &r->t->eos },
        { { "<pad>", "<pad>" }, &r->t->pad },
    };
    for (size_t i = 0; i < sizeof specials / sizeof *specials && p->type == SHK_PIECE_CONTROL; i++)
        if (strcmp(p->text, specials[i].names[0]) == 0 || strcmp(p->text, specials[i].names[1]) == 0) *specials[i].id = id;
}

static shk_status add_pieces(reader *r) {
    r->capacity = json_object_size(json_object_get(r->model, "vocab")) + json_array_size(json_object_get(r->root, "added_tokens"));
    r->pieces = shk_calloc(r->capacity, sizeof *r->pieces);
    if (!r->pieces) return shk_fail(r->err, SHK_E_MEMORY, "%s: out of memory for its vocabulary", r->path);
    shk_status status = place_model(r);
    if (!status) status = place_added(r);
    if (!status) status = shk_vocab_reserve(r->t, r->n, r->path, r->err);
    for (size_t i = 0; i < r->n && !status; i++) {
        const piece *p = &r->pieces[i];
        if (!p->text) return shk_fail(r->err, SHK_E_FORMAT, "%s: no piece has the id %zu", r->path, i);
        note_special(r, p, (int32_t)i);
        status = shk_vocab_add(r->t, p->text, p->n, p->type, 0, r->path, r->err);
    }
    return status;
}

/* ---- merges: "left right" or ["left", "right"] ---- */

static shk_status add_merge(reader *r, const json_t *pair) {
    if (json_is_string(pair)) return shk_merges_add_text(r->t, json_string_value(pair), json_string_length(pair), r->path, r->err);
    int32_t ids[2] = { SHK_NO_ID, SHK_NO_ID };
    for (size_t i = 0; i < 2 && json_array_size(pair) == 2; i++) {
        const json_t *part = json_array_get(pair, i);
        if (json_is_string(part)) ids[i] = shk_vocab_find_written(r->t, json_string_value(part), json_string_length(part));
    }
    if (ids[0] == SHK_NO_ID || ids[1] == SHK_NO_ID)
        return shk_fail(r->err, SHK_E_FORMAT, "%s: merge %zu does not name two pieces", r->path, r->t->n_merges);
    return shk_merges_add(r->t, ids[0], ids[1], r->path, r->err);
}

static shk_status add_merges(reader *r) {
    const json_t *merges = json_object_get(r->model, "merges");
    shk_status status = shk_merges_reserve(r->t, json_array_size(merges), r->path, r->err);
    for (size_t i = 0; i < json_array_size(merges) && !status; i++) status = add_merge(r, json_array_get(merges, i));
    return status;
}

shk_status shk_tokenizer_from_json(shk_tokenizer **out, const void *data, size_t n, const char *path, shk_error *err) {
    json_error_t bad;
    reader r = { .t = shk_vocab_new(), .path = path, .err = err };
    json_t *root = NULL;
    shk_status status = SHK_OK;
    *out = NULL;
    if (!r.t) status = shk_fail(err, SHK_E_MEMORY, "%s: out of memory", path);
    else r.t->escape = false;
    if (!status) r.root = root = json_loadb(data, n, JSON_ALLOW_NUL, &bad);
    if (!status && !root) {
        bool memory = json_error_code(&bad) == json_error_out_of_memory;
        status = shk_fail(err, memory ? SHK_E_MEMORY : SHK_E_FORMAT, "%s: line %d: %s", path, bad.line, bad.text);
    }
    if (!status) status = check_model(&r);
    if (!status) status = read_components(&r);
    if (!status) status = add_pieces(&r);
    if (!status) status = shk_vocab_finish(r.t, path, err);
    if (!status) status = add_merges(&r);
    json_decref(root);
    free(r.pieces);
    if (status) shk_tokenizer_free(r.t);
    else *out = r.t;
    return status;
}
