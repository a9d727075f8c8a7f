/* tokenizer.model: a SentencePiece ModelProto, read by hand. Fields that matter (numbers of sentencepiece_model.proto):
 *     ModelProto      1 pieces, 2 trainer_spec, 3 normalizer_spec, 5 denormalizer_spec
 *     SentencePiece   1 piece, 2 score, 3 type
 *     TrainerSpec     3 model_type, 24 treat_whitespace_as_suffix, 41 bos_id, 42 eos_id, 43 pad_id (negative: none; otherwise the
 *                     name counts), 46 bos_piece, 47 eos_piece, 48 pad_piece
 *     NormalizerSpec  2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces, 5 escape_whitespaces */
#include <string.h>

#include "file/cursor.h"
#include "text/vocab.h"

typedef enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 } wire;

typedef struct field {
    uint64_t number;
    wire wire;
    uint64_t value;      /* WIRE_VARINT; the length of WIRE_BYTES */
    const uint8_t *data; /* WIRE_BYTES, WIRE_32 */
} field;

typedef struct name {
    const char *p;
    size_t n;
} name;

typedef struct spec { /* what the file says outside its pieces */
    uint64_t model_type;
    bool suffix, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
    name specials[3]; /* bos, eos, pad */
    bool without[3];
    field charsmap, decharsmap;
    size_t n_pieces;
} spec;

static uint64_t varint(shk_cursor *c) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = shk_cursor_u8(c);
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return value;
    }
    c->failed = true;
    return 0;
}

/* False at the end of the message and where it is broken. */
static bool next_field(shk_cursor *c, field *f) {
    if (shk_cursor_left(c) == 0) return false;
    uint64_t tag = varint(c);
    *f = (field){ .number = tag >> 3, .wire = tag & 7 };
    switch (f->wire) {
    case WIRE_VARINT: f->value = varint(c); break;
    case WIRE_64: shk_cursor_take(c, 8, 1); break;
    case WIRE_32: f->data = shk_cursor_take(c, 4, 1); break;
    case WIRE_BYTES: f->value = varint(c), f->data = shk_cursor_take(c, f->value, 1); break;
    default: c->failed = true;
    }
    return !c->failed;
}

static shk_cursor message_of(const field *f) { return (shk_cursor){ .data = f->data, .size = (size_t)f->value }; }

static void set_name(name *out, const field *f) {
    if (f->wire == WIRE_BYTES) *out = (name){ (const char *)f->data, (size_t)f->value };
}

static void set_bool(bool *out, const field *f) {
    if (f->wire == WIRE_VARINT) *out = f->value != 0;
}

static bool read_trainer(spec *s, shk_cursor c) {
    for (field f; next_field(&c, &f);) {
        if (f.number == 3 && f.wire == WIRE_VARINT) s->model_type = f.value;
        if (f.number == 24) set_bool(&s->suffix, &f);
        if (f.number >= 41 && f.number <= 43 && f.wire == WIRE_VARINT) s->without[f.number - 41] = (int64_t)f.value < 0;
        if (f.number >= 46 && f.number <= 48) set_name(&s->specials[f.number - 46], &f);
    }
    return !c.failed;
}

static bool read_normalizer(spec *s, shk_cursor c) {
    for (field f; next_field(&c, &f);) {
        if (f.number == 2 && f.wire == WIRE_BYTES) s->charsmap = f;
        if (f.number == 3) set_bool(&s->add_dummy_prefix, &f);
        if (f.number == 4) set_bool(&s->remove_extra_whitespaces, &f);
        if (f.number == 5) set_bool(&s->escape_whitespaces, &f);
    }
    return !c.failed;
}

static bool read_denormalizer(spec *s, shk_cursor c) {
    for (field f; next_field(&c, &f);)
        if (f.number == 2 && f.wire == WIRE_BYTES) s->decharsmap = f;
    return !c.failed;
}

static shk_status read_spec(spec *s, shk_cursor c, const char *path, shk_error *err) {
    for (field f; next_field(&c, &f);) {
        if (f.wire != WIRE_BYTES) continue;
        const char *broken = NULL;
        if (f.number == 1) s->n_pieces++;
        if (f.number == 2 && !read_trainer(s, message_of(&f))) broken = "trainer_spec";
        if (f.number == 3 && !read_normalizer(s, message_of(&f))) broken = "normalizer_spec";
        if (f.number == 5 && !read_denormalizer(s, message_of(&f))) broken = "denormalizer_spec";
        if (broken) return shk_fail(err, SHK_E_FORMAT, "%s: %s is broken", path, broken);
    }
    if (c.failed) return shk_fail(err, SHK_E_FORMAT, "%s: is no tokenizer.model, or broken at byte %zu", path, c.at);
    return SHK_OK;
}

static shk_status check_spec(const spec *s, const char *path, shk_error *err) {
    static const char *const types[] = { "0", "unigram", "bpe", "word", "char" };
    if (s->model_type != 1 && s->model_type != 2)
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: trainer_spec.model_type is %s; supported are unigram and bpe", path,
                        s->model_type < sizeof types / sizeof *types ? types[s->model_type] : "unknown");
    if (s->suffix) return shk_fail(err, SHK_E_UNSUPPORTED, "%s: trainer_spec.treat_whitespace_as_suffix is not supported", path);
    if (s->decharsmap.value)
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: denormalizer_spec.precompiled_charsmap is not supported", path);
    return SHK_OK;
}

static void note_special(shk_tokenizer *t, const spec *s, const field *piece) {
    int32_t *const ids[] = { &t->bos, &t->eos, &t->pad };
    for (size_t i = 0; i < 3; i++) {
        const name *n = &s->specials[i];
        if (!s->without[i] && piece->value == n->n && memcmp(piece->data, n->p, n->n) == 0) *ids[i] = t->n;
    }
}

static shk_status add_piece(shk_tokenizer *t, const spec *s, shk_cursor c, const char *path, shk_error *err) {
    field piece = { 0 };
    float score = 0;
    int64_t type = SHK_PIECE_NORMAL;
    for (field f; next_field(&c, &f);) {
        if (f.number == 1 && f.wire == WIRE_BYTES) piece = f;
        if (f.number == 2 && f.wire == WIRE_32) memcpy(&score, f.data, sizeof score);
        if (f.number == 3 && f.wire == WIRE_VARINT) type = (int64_t)f.value;
    }
    if (c.failed) return shk_fail(err, SHK_E_FORMAT, "%s: piece %d is broken", path, t->n);
    if (piece.value == 0) return shk_fail(err, SHK_E_FORMAT, "%s: piece %d is empty", path, t->n);
    if (type == SHK_PIECE_UNKNOWN) t->unk = t->n;
    if (type == SHK_PIECE_CONTROL) note_special(t, s, &piece);
    return shk_vocab_add(t, (const char *)piece.data, (size_t)piece.value, type, score, path, err);
}

shk_status shk_tokenizer_from_model(shk_tokenizer **out, const void *data, size_t n, const char *path, shk_error *err) {
    shk_cursor c = { .data = data, .size = n };
    spec s = { .model_type = 1, .add_dummy_prefix = true, .remove_extra_whitespaces = true, .escape_whitespaces = true,
               .specials = { { "<s>", 3 }, { "</s>", 4 }, { "<pad>", 5 } } };
    shk_tokenizer *t = NULL;
    *out = NULL;
    shk_status status = read_spec(&s, c, path, err);
    if (!status) status = check_spec(&s, path, err);
    if (status) goto done;
    t = shk_vocab_new();
    status = t ? shk_vocab_reserve(t, s.n_pieces, path, err) : shk_fail(err, SHK_E_MEMORY, "%s: out of memory", path);
    if (status) goto done;
    t->algorithm = s.model_type == 1 ? SHK_UNIGRAM : SHK_BPE_SCORES;
    t->add_space = s.add_dummy_prefix;
    t->squeeze = s.remove_extra_whitespaces;
    t->escape = s.escape_whitespaces;
    for (field f; !status && next_field(&c, &f);)
        if (f.number == 1 && f.wire == WIRE_BYTES) status = add_piece(t, &s, message_of(&f), path, err);
    if (!status) status = shk_charsmap_set(t, s.charsmap.data, (size_t)s.charsmap.value, path, err);
    if (!status) status = shk_vocab_finish(t, path, err);
done:
    if (status) shk_tokenizer_free(t);
    else *out = t;
    return status;
}
