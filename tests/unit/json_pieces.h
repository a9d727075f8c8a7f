/* A vocabulary for JSON: special tokens, the bytes, and pieces that go across what JSON is made of. */
#ifndef SHK_JSON_PIECES_H
#define SHK_JSON_PIECES_H

#include <stdbool.h>

#include "../test.h"
#include "text/vocab.h"

enum { J_PAD, J_EOS, J_BOS, J_UNK, J_TURN, J_END_OF_TURN, J_UNUSED, J_BYTES, J_PIECES = J_BYTES + 256 };

static const char *const json_pieces[] = {
    "{\"", "{}", "[]", "[[", "{{", "\":", "\": ", "\": \"", "\",", "\", \"", "\"}", "\"},", "}}", "}]", "]]", "]}", "],", "},",
        "},{", "[{",
    ", ", ",\"", "\n", "\n\n", "\n  ", "  ", "    ", "                ", " ", " {", "\"\"", "true", "false", "null", "tr", "ue",
        "12", "0.",
    "1e", "-1", "00", "a", "ab", "abc", "name", "\"name\":", "id", "\\\"", "\\u", "\\n", "\\", "\xc3\xa9",
        "\xe6\x97\xa5\xe6\x9c\xac", "\xf0\x9f\x98\x80",
    "\xf0\x9f", "a\"", "ab\",\"", "x]}", "1,", "1}", "\"a\":1", "\t", "\n\t\t", ".", ":", "-", "20", "2024-", "://", "@", "Z\"",
        "T1",
};
enum { J_COUNT = J_PIECES + sizeof json_pieces / sizeof *json_pieces };

/* NULL without memory. */
static inline shk_tokenizer *json_tokenizer(void) {
    static const struct {
        const char *text;
        shk_piece_type type;
    } first[J_BYTES] = {
        { "<pad>", SHK_PIECE_CONTROL },         { "<eos>", SHK_PIECE_CONTROL },       { "<bos>", SHK_PIECE_CONTROL },
        { "<unk>", SHK_PIECE_UNKNOWN },         { "<start_of_turn>", SHK_PIECE_USER }, { "<end_of_turn>", SHK_PIECE_USER },
        { "<unused0>", SHK_PIECE_UNUSED },
    };
    shk_tokenizer *t = shk_vocab_new();
    if (!t) return NULL;
    bool ok = !shk_vocab_reserve(t, J_COUNT, "pieces", NULL);
    for (int i = 0; i < J_COUNT && ok; i++) {
        char byte[8];
        bool is_byte = i >= J_BYTES && i < J_PIECES;
        snprintf(byte, sizeof byte, "<0x%02X>", (unsigned)(i - J_BYTES) & 0xff);
        const char *p = is_byte ? byte : i < J_BYTES ? first[i].text : json_pieces[i - J_PIECES];
        ok = !shk_vocab_add(t, p, strlen(p), is_byte ? SHK_PIECE_BYTE : i < J_BYTES ? first[i].type : SHK_PIECE_NORMAL, -i,
                            "pieces", NULL);
    }
    t->bos = J_BOS, t->eos = J_EOS, t->unk = J_UNK, t->pad = J_PAD;
    if (ok) ok = !shk_vocab_finish(t, "pieces", NULL);
    if (!ok) shk_tokenizer_free(t);
    return ok ? t : NULL;
}

#endif
