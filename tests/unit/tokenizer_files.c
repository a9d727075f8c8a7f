/* Reading vocabularies from GGUF, tokenizer.json and tokenizer.model, writing them, and refusing what is broken. */
#include "scratch.h"

#include <stdarg.h>

#include "pieces.h"

/* ---- GGUF ---- */

static void put_none(shk_gguf_meta *m) { (void)m; }
static void put_model_gpt2(shk_gguf_meta *m) { shk_gguf_put_str(m, "tokenizer.ggml.model", "gpt2"); }
static void put_model_number(shk_gguf_meta *m) { shk_gguf_put_u32(m, "tokenizer.ggml.model", 1); }
static void put_no_tokens(shk_gguf_meta *m) { shk_gguf_put_strs(m, "tokenizer.ggml.tokens", NULL, 0); }
static void put_tokens_numbers(shk_gguf_meta *m) { shk_gguf_put_i32s(m, "tokenizer.ggml.tokens", &(int32_t){ 1 }, 1); }
static void put_few_scores(shk_gguf_meta *m) { shk_gguf_put_f32s(m, "tokenizer.ggml.scores", &(float){ 1 }, 1); }
static void put_types_reals(shk_gguf_meta *m) { shk_gguf_put_f32s(m, "tokenizer.ggml.token_type", (float[N_ROWS]){ 0 }, N_ROWS); }
static void put_types_wrong(shk_gguf_meta *m) { shk_gguf_put_i32s(m, "tokenizer.ggml.token_type", (int32_t[N_ROWS]){ 7 }, N_ROWS); }
static void put_bos_outside(shk_gguf_meta *m) { shk_gguf_put_u32(m, "tokenizer.ggml.bos_token_id", N_ROWS); }
static void put_flag_number(shk_gguf_meta *m) { shk_gguf_put_u32(m, "tokenizer.ggml.add_space_prefix", 1); }
static void put_charsmap_string(shk_gguf_meta *m) { shk_gguf_put_str(m, "tokenizer.ggml.precompiled_charsmap", "x"); }
static void put_merges_number(shk_gguf_meta *m) { shk_gguf_put_u32(m, "tokenizer.ggml.merges", 1); }
static void put_merge_unknown(shk_gguf_meta *m) { shk_gguf_put_strs(m, "tokenizer.ggml.merges", &(shk_str){ "a zz", 4 }, 1); }
static void put_merge_useless(shk_gguf_meta *m) { shk_gguf_put_strs(m, "tokenizer.ggml.merges", &(shk_str){ "b b", 3 }, 1); }

static void put_not_a_number(shk_gguf_meta *m) {
    float scores[N_ROWS] = { 0 };
    scores[AB] = 0.0f / (float)strlen("");
    shk_gguf_put_f32s(m, "tokenizer.ggml.scores", scores, N_ROWS);
}

static void put_bad_byte(shk_gguf_meta *m) {
    int32_t types[N_ROWS] = { [AB] = SHK_PIECE_BYTE };
    shk_gguf_put_i32s(m, "tokenizer.ggml.token_type", types, N_ROWS);
}

static void put_no_unknown(shk_gguf_meta *m) {
    shk_gguf_put_u32(m, "tokenizer.ggml.unknown_token_id", UINT32_MAX);
    shk_gguf_put_i32s(m, "tokenizer.ggml.token_type", (int32_t[N_ROWS]){ 0 }, N_ROWS);
}

static void put_long_piece(shk_gguf_meta *m) {
    static char piece[SHK_PIECE_MAX + 1];
    shk_str tokens[N_ROWS];
    for (int i = 0; i < N_ROWS; i++) tokens[i] = (shk_str){ "a", 1 };
    tokens[AB] = (shk_str){ piece, sizeof piece };
    shk_gguf_put_strs(m, "tokenizer.ggml.tokens", tokens, N_ROWS);
    shk_gguf_put_i32s(m, "tokenizer.ggml.token_type", (int32_t[N_ROWS]){ 0 }, N_ROWS);
}

static void gguf_refused(void) {
    const struct { void (*put)(shk_gguf_meta *); shk_status status; const char *message; } cases[] = {
        { put_none, SHK_OK, "" },
        { put_model_gpt2, SHK_E_UNSUPPORTED, "tokenizer.ggml.model is \"gpt2\"" },
        { put_model_number, SHK_E_FORMAT, "tokenizer.ggml.model is not a string" },
        { put_no_tokens, SHK_E_FORMAT, "as many as there are tokens" },
        { put_tokens_numbers, SHK_E_FORMAT, "not an array of strings" },
        { put_few_scores, SHK_E_FORMAT, "tokenizer.ggml.scores is not an array of" },
        { put_types_reals, SHK_E_FORMAT, "token_type has no integers" },
        { put_types_wrong, SHK_E_FORMAT, "piece 0 has type 7" },
        { put_bos_outside, SHK_E_FORMAT, "the bos token" },
        { put_flag_number, SHK_E_FORMAT, "add_space_prefix is not a bool" },
        { put_charsmap_string, SHK_E_FORMAT, "not an array of bytes" },
        { put_merges_number, SHK_E_FORMAT, "merges is not an array" },
        { put_merge_unknown, SHK_E_FORMAT, "merge 0, \"a zz\", does not name two pieces" },
        { put_merge_useless, SHK_E_FORMAT, "merge 0 makes something that is no piece" },
        { put_not_a_number, SHK_E_FORMAT, "not a number" },
        { put_bad_byte, SHK_E_FORMAT, "byte piece" },
        { put_no_unknown, SHK_E_FORMAT, "neither an unknown token nor all bytes" },
        { put_long_piece, SHK_E_UNSUPPORTED, "has 1025 bytes" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        shk_gguf_meta *m = shk_gguf_meta_new();
        shk_tokenizer *t;
        shk_error err = { 0 };
        put_rows(m);
        cases[i].put(m);
        shk_status status = load_meta(&t, m, &err);
        CHECK(status == cases[i].status && !t == (status != SHK_OK), "%zu: %d", i, status);
        CHECK(strstr(err.message, cases[i].message), "%zu: %s", i, err.message);
        shk_tokenizer_free(t);
    }
    shk_gguf_meta *m = shk_gguf_meta_new();
    shk_tokenizer *t;
    shk_error err = { 0 };
    CHECK_FAILS(load_meta(&t, m, &err), SHK_E_FORMAT, "has no tokenizer");
}

/* ---- tokenizer.json ---- */

/* The rows as a tokenizer.json, with these components; `merges` is a JSON array. The caller frees it. */
static char *json_of(const char *components, const char *merges, const char *options) {
    shk_buffer b = { 0 };
    shk_buffer_printf(&b, "{\"version\":\"1.0\",%s\"added_tokens\":[", components);
    for (int i = PAD; i <= TWO_SPACES; i++) {
        const char *text = i == NL ? "\\n" : i == NLNL ? "\\n\\n" : rows[i].text;
        shk_buffer_printf(&b, "%s{\"id\":%d,\"content\":\"%s\",\"lstrip\":false,\"special\":%s}", i ? "," : "", i, text,
                          i < NL ? "true" : "false");
    }
    shk_buffer_printf(&b, "],\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,%s\"vocab\":{", options);
    for (int i = BYTES; i < N_ROWS; i++) {
        row r = row_at(i);
        shk_buffer_printf(&b, "%s\"%s\":%d", i == BYTES ? "" : ",", r.text, i);
    }
    shk_buffer_printf(&b, "},\"merges\":%s}}", merges);
    return b.data;
}

static const char gemma[] =
    "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"},"
    "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"MergedWithPrevious\",\"invert\":false},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<bos>\",\"type_id\":0}},"
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":["
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},"
    "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]},";

/* What the scores of the rows say, every division of each piece. */
static const char all_merges[] = "[\"c ab\",[\"a\",\"b\"],\"b c\",\"a bc\",\"ab c\",\"\xe2\x96\x81 a\",\"a a\",\"a aa\",\"aa a\"]";

static shk_tokenizer *load_text(const char *name, const char *text, size_t n) {
    shk_tokenizer *t;
    shk_error err = { 0 };
    NEED(shk_tokenizer_load(&t, scratch_file(name, text, n), &err) == SHK_OK, "%s", err.message);
    return t;
}

static void json_accepted(void) {
    char *text = json_of(gemma, all_merges, "");
    shk_tokenizer *t = load_text("tokenizer.json", text, strlen(text));
    free(text);
    CHECK_IDS(t, "abc", SHK_TOKENIZE_BOS, false, BOS, ABC);
    CHECK_IDS(t, "bcab", 0, true, B, CAB);
    CHECK_IDS(t, "aaaaa a", 0, true, AA, AAA, SPACE_A);
    CHECK_IDS(t, "  a\n\n\n\xff", 0, true, TWO_SPACES, A, NLNL, NL, BYTES + 0xff);
    CHECK_IDS(t, "<eos>", SHK_TOKENIZE_SPECIAL, false, EOS);
    CHECK(shk_tokenizer_eos(t) == EOS && shk_tokenizer_is_end(t, END), "%d", shk_tokenizer_eos(t));
    CHECK(shk_merges_follow_scores(t), "the list has every division");
    shk_tokenizer_free(t);

    text = json_of("", "[\"a b\",\"a a\",\"aa a\"]", ""); /* the list is all there is: no ab c, no a aa */
    t = load_text("tokenizer.json", text, strlen(text));
    free(text);
    CHECK_IDS(t, "abcaaab", SHK_TOKENIZE_BOS, true, AB, C, AA, AB);
    CHECK_IDS(t, "\xe2\x96\x81" "a a", 0, true, SPACE, A, BYTES + ' ', A); /* without the normalizer U+2581 is itself */
    CHECK(!shk_merges_follow_scores(t), "scores would merge ab c");
    shk_tokenizer_free(t);

    shk_error err = { 0 };
    char *dir = strdup(scratch(""));
    NEED(shk_tokenizer_load(&t, dir, &err) == SHK_OK, "%s", err.message);
    shk_tokenizer_free(t);
    free(dir);
}

static void json_refused(void) {
    const struct { const char *components, *merges, *options, *message; shk_status status; } cases[] = {
        { "\"normalizer\":{\"type\":\"NFC\"},", "[]", "", "normalizer NFC", SHK_E_UNSUPPORTED },
        { "\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},", "[]", "", "Prepend without", SHK_E_UNSUPPORTED },
        { "\"normalizer\":[],", "[]", "", "normalizer", SHK_E_UNSUPPORTED },
        { "\"pre_tokenizer\":{\"type\":\"ByteLevel\"},", "[]", "", "pre_tokenizer ByteLevel", SHK_E_UNSUPPORTED },
        { "\"decoder\":{\"type\":\"WordPiece\"},", "[]", "", "decoder WordPiece", SHK_E_UNSUPPORTED },
        { "\"post_processor\":{\"type\":\"Bert\"},", "[]", "", "post_processor Bert", SHK_E_UNSUPPORTED },
        { "", "[]", "\"dropout\":0.1,", "dropout", SHK_E_UNSUPPORTED },
        { "", "[]", "\"ignore_merges\":true,", "ignore_merges", SHK_E_UNSUPPORTED },
        { "", "[\"a z\"]", "", "merge 0", SHK_E_FORMAT },
        { "", "[[\"a\"]]", "", "merge 0", SHK_E_FORMAT },
        { "", "[\"a b\",\"a b\"]", "", "merge 1 appeared before", SHK_E_FORMAT },
        { "", "[", "", "line 1", SHK_E_FORMAT },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = json_of(cases[i].components, cases[i].merges, cases[i].options);
        shk_tokenizer *t = NULL;
        shk_error err = { 0 };
        shk_status status = shk_tokenizer_from_json(&t, text, strlen(text), "x.json", &err);
        CHECK(status == cases[i].status && !t && strstr(err.message, cases[i].message), "%zu: %d %s", i, status, err.message);
        free(text);
    }
    static const char *const broken[] = {
        "{}", "{\"model\":{}}", "{\"model\":{\"type\":\"Unigram\"}}", "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true}}",
        "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":1}}}",
        "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":-1}}}",
        "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0,\"b\":0}}}",
        "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0.5}}}",
        "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0}}}",
        "{\"model\":{\"type\":\"BPE\",\"fuse_unk\":true,\"vocab\":{\"a\":0}},\"added_tokens\":[{\"id\":1}]}",
        "{\"added_tokens\":[{\"id\":1,\"content\":\"b\",\"rstrip\":true}],\"model\":{\"type\":\"BPE\",\"fuse_unk\":true}}",
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        shk_tokenizer *t = NULL;
        shk_error err = { 0 };
        CHECK(shk_tokenizer_from_json(&t, broken[i], strlen(broken[i]), "x.json", &err) && !t, "%s", broken[i]);
        CHECK(strncmp(err.message, "x.json: ", 8) == 0, "%s", err.message);
    }
}

/* ---- tokenizer.model: protobuf written here by hand ---- */

static void put_field(shk_buffer *b, unsigned field, const void *data, size_t n) {
    const uint8_t head[] = { (uint8_t)(field << 3 | 2), (uint8_t)(0x80 | (n & 0x7f)), (uint8_t)(n >> 7) };
    shk_buffer_append(b, head, 3);
    shk_buffer_append(b, data, n);
}

static void put_number(shk_buffer *b, unsigned field, unsigned value) { /* field < 2048, value < 128 */
    const uint8_t bytes[] = { (uint8_t)(0x80 | ((field << 3) & 0x7f)), (uint8_t)(field >> 4), (uint8_t)value };
    shk_buffer_append(b, bytes, 3);
}

static void put_piece(shk_buffer *b, row r) {
    shk_buffer piece = { 0 };
    put_field(&piece, 1, r.text, strlen(r.text));
    shk_buffer_append(&piece, "\x15", 1);
    shk_buffer_append(&piece, &r.score, 4);
    put_number(&piece, 3, r.type);
    put_field(b, 1, piece.data, piece.n);
    shk_buffer_free(&piece);
}

/* The rows; a TrainerSpec with these (field, value) pairs, ended by 0; a NormalizerSpec with these and a charsmap. */
static shk_buffer model_of(const unsigned *trainer, const unsigned *normalizer, const shk_buffer *charsmap) {
    shk_buffer b = { 0 }, spec = { 0 };
    for (int i = 0; i < N_ROWS; i++) put_piece(&b, row_at(i));
    for (; *trainer; trainer += 2) put_number(&spec, trainer[0], trainer[1]);
    put_field(&spec, 8, "an unknown field", 16);
    put_field(&b, 2, spec.data, spec.n);
    spec.n = 0;
    for (; *normalizer; normalizer += 2) put_number(&spec, normalizer[0], normalizer[1]);
    if (charsmap) put_field(&spec, 2, charsmap->data, charsmap->n);
    put_field(&b, 3, spec.data, spec.n);
    shk_buffer_free(&spec);
    return b;
}

static const unsigned bpe[] = { 3, 2, 35, 1, 0 }, unigram[] = { 3, 1, 35, 1, 0 };
static const unsigned as_it_is[] = { 3, 0, 4, 0, 0 }, by_default[] = { 0 };

static void models_accepted(void) {
    shk_buffer b = model_of(bpe, as_it_is, NULL);
    shk_tokenizer *t = load_text("m.model", b.data, b.n);
    CHECK_IDS(t, "bcab  a", 0, true, B, CAB, TWO_SPACES, A);
    CHECK_IDS(t, "\xff\xe2\x96\x81", 0, true, BYTES + 0xff, BYTES + 0xe2, BYTES + 0x96, BYTES + 0x81);
    shk_tokenizer_free(t);
    shk_buffer_free(&b);

    b = model_of(bpe, by_default, NULL);
    t = load_text("m.model", b.data, b.n);
    CHECK_IDS(t, "  a   a ", 0, false, SPACE_A, SPACE_A);
    CHECK_IDS(t, "a a", 0, true, SPACE_A, SPACE_A);
    CHECK(gives(t, "   ", 3, 0, NULL, 0, false), "nothing but spaces is nothing");
    shk_tokenizer_free(t);
    shk_buffer_free(&b);

    b = model_of(unigram, as_it_is, NULL);
    t = load_text("m.model", b.data, b.n);
    CHECK_IDS(t, "abc", 0, true, ABC);         /* -3 beats ab, c: -23 */
    CHECK_IDS(t, "bcab", 0, true, BC, AB);     /* -3 beats b, cab: -21.5 */
    CHECK_IDS(t, "a\xc3\xa9\xff", 0, true, A, BYTES + 0xc3, BYTES + 0xa9, BYTES + 0xff);
    CHECK_IDS(t, "   a", 0, true, TWO_SPACES, SPACE_A);
    shk_tokenizer_free(t);
    shk_buffer_free(&b);
}

/* A double array for the rules b -> "aa" and c -> "", by the description in normalize.c: the root's offset is 256, so b is at
 * 256 ^ 'b', with offset 4 to its leaf; likewise c with 8. */
static shk_buffer make_charsmap(uint32_t value_of_c) {
    uint32_t units[512] = { 256 << 10 };
    units[256 ^ 'b'] = 'b' | 1 << 8 | 4 << 10;
    units[256 ^ 'b' ^ 4] = 1u << 31 | 0;
    units[256 ^ 'c'] = 'c' | 1 << 8 | 8 << 10;
    units[256 ^ 'c' ^ 8] = 1u << 31 | value_of_c;
    shk_buffer b = { 0 };
    shk_buffer_append(&b, &(uint32_t){ sizeof units }, 4);
    shk_buffer_append(&b, units, sizeof units);
    shk_buffer_append(&b, "aa\0", 4);
    return b;
}

static void charsmaps(void) {
    shk_buffer map = make_charsmap(3), b = model_of(bpe, as_it_is, &map);
    shk_tokenizer *t = load_text("m.model", b.data, b.n);
    CHECK_IDS(t, "b", 0, false, AA);
    CHECK_IDS(t, "acab", 0, false, AA, AA);
    CHECK_IDS(t, "a\xff", 0, true, A, BYTES + 0xff);
    shk_tokenizer_free(t);
    shk_buffer_free(&b);
    shk_buffer_free(&map);

    shk_error err;
    map = make_charsmap(77); /* a rule that points behind the replacements is none */
    b = model_of(bpe, as_it_is, &map);
    t = load_text("m.model", b.data, b.n);
    CHECK_IDS(t, "c", 0, true, C);
    shk_tokenizer_free(t);
    shk_buffer_free(&b);
    map.data[0] = (char)0xff;
    b = model_of(bpe, as_it_is, &map);
    CHECK_FAILS(shk_tokenizer_from_model(&t, b.data, b.n, "m", &err), SHK_E_FORMAT, "charsmap");
    shk_buffer_free(&b);
    shk_buffer_free(&map);
}

static void models_refused(void) {
    static const unsigned word[] = { 3, 3, 0 }, suffix[] = { 3, 2, 24, 1, 0 };
    const struct { const unsigned *trainer; const char *message; } cases[] = {
        { word, "model_type is word" }, { suffix, "whitespace_as_suffix" }
    };
    shk_tokenizer *t;
    shk_error err;
    for (size_t i = 0; i < 2; i++) {
        shk_buffer b = model_of(cases[i].trainer, as_it_is, NULL);
        CHECK_FAILS(shk_tokenizer_from_model(&t, b.data, b.n, "m", &err), SHK_E_UNSUPPORTED, cases[i].message);
        shk_buffer_free(&b);
    }
    shk_buffer b = model_of(bpe, as_it_is, NULL);
    for (size_t n = 0; n < b.n; n++) { /* cut short anywhere, in memory of exactly that size */
        void *part = malloc(n ? n : 1);
        memcpy(part, b.data, n);
        if (shk_tokenizer_from_model(&t, part, n, "m", &err) == SHK_OK) shk_tokenizer_free(t);
        else CHECK(!t && *err.message, "%zu bytes", n);
        free(part);
    }
    shk_buffer_free(&b);
}

/* ---- writing ---- */

static void check_same(const shk_tokenizer *t, const shk_tokenizer *u, const char *how) {
    unsigned long long seed = 11;
    char text[64];
    CHECK(t->n == u->n && t->bos == u->bos && t->eos == u->eos && t->unk == u->unk && t->pad == u->pad, "special ids, %s", how);
    for (int k = 0; k < 500; k++) {
        size_t n = test_random(&seed) % sizeof text, n_ids, n_again;
        for (size_t i = 0; i < n; i++) text[i] = "aaabbcc  \n\xff"[test_random(&seed) % 11];
        int32_t *ids, *again;
        NEED(!shk_tokenize(t, text, n, 0, &ids, &n_ids, NULL) && !shk_tokenize(u, text, n, 0, &again, &n_again, NULL), "%s", how);
        CHECK(n_ids == n_again && memcmp(ids, again, n_ids * sizeof *ids) == 0, "%s: %.*s", how, (int)n, text);
        free(ids);
        free(again);
    }
}

/* Writes t both ways and reads it back. */
static void check_written(const shk_tokenizer *t, const char *what, bool as_model) {
    shk_gguf_meta *m = shk_gguf_meta_new();
    shk_tokenizer *u;
    shk_error err = { 0 };
    NEED(shk_tokenizer_to_gguf(t, m) && load_meta(&u, m, &err) == SHK_OK, "%s: %s", what, err.message);
    CHECK(t->algorithm == u->algorithm || as_model, "%s: merges that scores cannot express are kept", what);
    CHECK(t->add_bos == u->add_bos, "%s: add_bos_token", what);
    check_same(t, u, what);
    shk_tokenizer_free(u);
    const char *path = scratch("written.model");
    shk_status status = shk_tokenizer_write_model(t, path, &err);
    CHECK(status == (as_model ? SHK_OK : SHK_E_UNSUPPORTED), "%s: %s", what, err.message);
    if (status) return;
    NEED(shk_tokenizer_load(&u, path, &err) == SHK_OK, "%s: %s", what, err.message);
    check_same(t, u, what);
    shk_tokenizer_free(u);
}

static void written_and_read_back(void) {
    shk_tokenizer *t = load_rows();
    check_written(t, "from GGUF", true);
    shk_tokenizer_free(t);
    const struct { const unsigned *trainer, *normalizer; bool charsmap; const char *name; } models[] = {
        { bpe, as_it_is, false, "bpe" }, { bpe, by_default, true, "bpe, normalized" },
        { unigram, as_it_is, true, "unigram, rules" }, { unigram, by_default, false, "unigram, spaces" },
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        shk_buffer map = make_charsmap(3), b = model_of(models[i].trainer, models[i].normalizer, models[i].charsmap ? &map : NULL);
        t = load_text("m.model", b.data, b.n);
        check_written(t, models[i].name, true);
        shk_tokenizer_free(t);
        shk_buffer_free(&b);
        shk_buffer_free(&map);
    }
    for (int k = 0; k < 2; k++) {
        char *text = json_of(gemma, k ? "[\"a b\",\"a a\",\"aa a\",\"b c\"]" : all_merges, "");
        t = load_text("x.json", text, strlen(text));
        check_written(t, k ? "some merges" : "all merges", !k);
        shk_tokenizer_free(t);
        free(text);
    }
}

int main(void) {
    gguf_refused();
    json_accepted();
    json_refused();
    models_accepted();
    charsmaps();
    models_refused();
    written_and_read_back();
    shk_tokenizer *t;
    shk_error err = { 0 };
    CHECK_FAILS(shk_tokenizer_load(&t, scratch("nothing"), &err), SHK_E_IO, "nothing: ");
    CHECK_FAILS(shk_tokenizer_load(&t, "src", &err), SHK_E_IO, "neither");
    return test_done();
}
