#include "json_output.h"

#include "mem.h"
#include "program.h"

/* Length of the UTF-8 character at s, 0 if there is none: the ranges of the second byte keep out overlong forms, surrogates and
 * what lies beyond U+10FFFF. */
static size_t character(const unsigned char *s, size_t n) {
    static const struct { unsigned char first, last, low, high, length; } forms[] = {
        { 0x00, 0x7f, 0x00, 0x00, 1 }, { 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 },
        { 0xe1, 0xec, 0x80, 0xbf, 3 }, { 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 },
        { 0xf0, 0xf0, 0x90, 0xbf, 4 }, { 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        size_t length = forms[i].length;
        if (s[0] < forms[i].first || s[0] > forms[i].last) continue;
        if (length > n || (length > 1 && (s[1] < forms[i].low || s[1] > forms[i].high))) return 0;
        for (size_t j = 2; j < length; j++)
            if ((s[j] & 0xc0) != 0x80) return 0;
        return length;
    }
    return 0;
}

json_t *json_text(const char *text, size_t n) {
    static const char replacement[] = "\xef\xbf\xbd";
    char *clean = shk_calloc(n + 1, 3), *to = clean;
    if (!clean) return NULL;
    for (size_t i = 0; i < n;) {
        size_t length = character((const unsigned char *)text + i, n - i);
        memcpy(to, length ? text + i : replacement, length ? length : 3);
        to += length ? length : 3;
        i += length ? length : 1;
    }
    json_t *j = json_stringn(clean, (size_t)(to - clean));
    free(clean);
    return j;
}

json_t *json_ids(const int32_t *ids, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        if (json_array_append_new(list, json_integer(ids[i]))) return json_decref(list), NULL;
    return list;
}

int put_json(json_t *j) {
    char *text = needed(j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL);
    putf("%s\n", text);
    free(text);
    json_decref(j);
    return EXIT_SUCCESS;
}
