/* Which texts each keyword of a schema takes, byte by byte; what the compiler refuses; masks against what is then accepted. */
#include <pthread.h>

#include "json_pieces.h"

#include "grammar_walks.h"

static shk_tokenizer *tokenizer;

static bool allowed(const uint32_t *bits, int id) { return bits[id >> 5] >> (id & 31) & 1; }

/* Feeds a text as bytes; at each place the mask must say of the next byte what becomes of it, and end tokens are in it exactly
 * where the text is complete. Returns how many bytes were taken; *state: afterwards. */
static size_t feed(const shk_grammar *g, const char *text, shk_match *state) {
    uint32_t bits[(J_COUNT + 31) / 32];
    shk_matcher *m;
    shk_error err;
    size_t n = strlen(text), i = 0, disagree = 0;
    NEED(!shk_matcher_new(&m, g, &err), "%s", err.message);
    for (;; i++) {
        NEED(!shk_matcher_mask(m, bits, J_COUNT, &err), "%s after %zu bytes of %s", err.message, i, text);
        *state = shk_matcher_state(m);
        disagree += allowed(bits, J_EOS) != (*state != SHK_MATCH_OPEN) || allowed(bits, J_END_OF_TURN) !=
            (*state != SHK_MATCH_OPEN);
        disagree += allowed(bits, J_PAD) || allowed(bits, J_BOS) || allowed(bits, J_UNK) || allowed(bits, J_TURN) ||
            allowed(bits, J_UNUSED);
        if (i == n) break;
        int id = J_BYTES + (uint8_t)text[i];
        bool taken = shk_matcher_accept(m, id, &err) == SHK_OK;
        disagree += taken != allowed(bits, id);
        if (!taken) break;
    }
    CHECK(disagree == 0, "the mask disagrees %zu times with what is accepted: %s", disagree, text);
    shk_matcher_free(m);
    return i;
}

typedef struct takes {
    const char *schema; /* NULL: any object */
    const char *yes[24], *no[24];
} takes;

#define U "\xc3\xa9"             /* U+00E9 */
#define SMILE "\xf0\x9f\x98\x80" /* U+1F600 */

static const takes tables[] = {
    { NULL,
      { "{}", "{\"a\":1}", "{\"a\": 1, \"b\": [1, 2.5, -3e10, {}, []]}", "{\n  \"a\": null,\n  \"b\": true\n}", "{\"\":\"\"}",
        "{\"x\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\"}", "{\"" U "\":\"" SMILE "\"}", "{\n\t\"a\": [\n\t\t1\n\t]\n}",
        "{\"a\":1,\"a\":2}", "{\"a\":0.5,\"b\":1E+2,\"c\":-0.25e-7,\"d\":\"\x7f\"}" },
      { "[]", "1", "\"a\"", " {}", "{} ", "{,}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{\"a\":01}", "{\"a\":.5}",
        "{\"a\":1.}",
        "{\"a\":+1}", "{\n\n\"a\":1}", "{  \"a\":1}", "{\"a\" :1}", "{\"a\":\"\\x\"}", "{\"a\":\"\\u12g4\"}", "{\"a\":\"\n\"}",
        "{\"a\":tru}", "{\"a\":NaN}", "{'a':1}" } },
    { NULL,
      { "{\"a\":\"\\uD83D\\uDE00\"}", "{\"a\":\"\\ud7ff\\ue000\"}", "{\"a\":\"\\u0001\"}", "{\"a\":\"\xed\x9f\xbf\"}" },
      { "{\"a\":\"\\ud83d\"}", "{\"a\":\"\\ude00\"}", "{\"a\":\"\\ud83d\\u0041\"}", "{\"a\":\"\\u0000\"}", "{\"a\":\"\xff\"}",
        "{\"a\":\"\xc3(\"}", "{\"a\":\"\xc0\x80\"}", "{\"a\":\"\xed\xa0\x80\"}", "{\"a\":\"\xf4\x90\x80\x80\"}",
            "{\"a\":\"\xe0\x80\x80\"}",
        "{\"a\":\"\xf0\x9f\x98\"}", "{\"a\":\"\x80\"}" } },
    { "true", { "{}", "[]", "1", "\"a\"", "null", "true", "false", "-0.5", "[1,[2,[3]]]" }, { "", "nul", "nulll", "[1 2]", "]" } },
    { "{\"type\":\"string\"}", { "\"\"", "\"a\"", "\"" U "\"" }, { "1", "null", "\"", "\"a\"b" } },
    { "{\"type\":[\"integer\",\"null\"]}", { "0", "-1", "12345", "null" },
      { "1.5", "-0", "01", "\"1\"", "1234567890123456789", "true" } },
    { "{\"type\":\"number\"}", { "0", "-0.5", "1e5", "9.99e299", "12.25", "0.00012345678901234567", "5e-324" },
      { "1e", "1e400", "123456789e100", "--1", "1..2", "Infinity" } },
    { "{\"type\":\"boolean\"}", { "true", "false" }, { "null", "1", "True" } },
    { "{\"type\":\"string\",\"nullable\":true}", { "\"a\"", "null" }, { "1" } },
    { "{\"enum\":[\"a\",\"ab\",\"b\\n\",1,12,1.5,null,true,{\"k\":[1,2]},0.1]}",
      { "\"a\"", "\"ab\"", "\"b\\n\"", "1", "12", "1.5", "null", "true", "{\"k\":[1,2]}", "0.1" },
      { "\"\"", "\"abc\"", "2", "1.50", "false", "{\"k\": [1,2]}", "\"b\n\"", "\"\\u0061\"" } },
    { "{\"const\":\"x\\\"y\"}", { "\"x\\\"y\"" }, { "\"x\"", "\"x\\u0022y\"" } },
    { "{\"type\":\"integer\",\"enum\":[1,\"a\",2.5,3]}", { "1", "3" }, { "\"a\"", "2.5" } },
    { "{\"type\":\"string\",\"maxLength\":2,\"enum\":[\"a\",\"abc\",1]}", { "\"a\"" }, { "\"abc\"", "1" } },
    { "{\"enum\":[{\"a\":1},{\"a\":\"x\"},{}],\"properties\":{\"a\":{\"type\":\"integer\"}}}", { "{\"a\":1}", "{}" },
      { "{\"a\":\"x\"}" } },

    { "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"},\"c\":{\"type\":\"null\"}},"
      "\"required\":[\"b\"],\"additionalProperties\":false}",
      { "{\"b\":\"\"}", "{\"a\":1,\"b\":\"x\"}", "{\"b\":\"\",\"c\":null}", "{\"a\":1, \"b\":\"\", \"c\":null}" },
      { "{}", "{\"a\":1}", "{\"b\":1}", "{\"b\":\"\",\"a\":1}", "{\"b\":\"\",\"d\":1}", "{\"b\":\"\",}", "{\"a\":1,\"c\":null}",
        "{\"b\":\"\",\"b\":\"\"}" } },
    { "{\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"integer\"}}}",
      { "{}", "{\"a\":1}", "{\"b\":1}", "{\"a\":1,\"b\":2}" }, { "1", "{\"c\":1}", "{\"b\":1,\"a\":2}", "{,\"b\":1}" } },
    { "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}", { "{}", "{\"x\":1,\"y\":2}" },
      { "{\"x\":\"\"}", "{\"x\":1  }" } },
    { "{\"properties\":{\"ab\":{\"type\":\"integer\"},\"" U "\":{\"type\":\"integer\"}},\"additionalProperties\":{\"type\":\"strin"
      "g\"}}",
      { "{\"ab\":1}", "{\"a\":\"\"}", "{\"abc\":\"\"}", "{\"\":\"\"}", "{\"ab\":1,\"x\":\"\",\"y\":\"\"}", "{\"" U U "\":\"\"}",
        "{\"\xc3\xa8\":\"\"}",
        "{\"a\\n\":\"\"}", "{\"\\\"\":\"\"}", "{\"" U "\":1,\"" SMILE "\":\"\"}" },
      { "{\"ab\":\"\"}", "{\"ab\":1,\"ab\":\"\"}", "{\"a\":1}", "{\"\\u0061b\":\"\"}", "{\"" U "\":\"\"}",
        "{\"a\\u0062\":\"\"}" } },
    { "{\"type\":\"object\",\"required\":[\"z\"]}", { "{\"z\":1}", "{\"z\":[]}" }, { "{}", "{\"y\":1}" } },
    { "{\"type\":\"object\",\"properties\":{\"a\":false,\"b\":true},\"additionalProperties\":true}",
      { "{}", "{\"b\":[]}", "{\"c\":1}" }, { "{\"a\":1}" } },
    { "{\"type\":\"object\",\"minProperties\":1,\"maxProperties\":2}", { "{\"a\":1}", "{\"a\":1,\"b\":2}" },
      { "{}", "{\"a\":1,\"b\":2,\"c\":3}" } },
    { "{\"type\":\"object\",\"propertyNames\":{\"pattern\":\"^[a-z]+$\"}}", { "{}", "{\"ab\":1}" }, { "{\"A\":1}", "{\"\":1}" } },
    { "{\"type\":\"object\",\"patternProperties\":{\"^x-\":{\"type\":\"integer\"}},\"additionalProperties\":false}",
      { "{}", "{\"x-a\":1,\"x-\":2}" }, { "{\"y\":1}", "{\"x-a\":\"\"}" } },

    { "{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", { "[]", "[1]", "[1,2, 3]", "[\n  1,\n  2\n]" },
      { "[\"a\"]", "[1,]", "[,1]", "[1" } },
    { "{\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":3}", { "[1,2]", "[1,2,3]" }, { "[]", "[1]", "[1,2,3,4]" } },
    { "{\"type\":\"array\",\"maxItems\":0}", { "[]" }, { "[1]" } },
    { "{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],\"items\":{\"type\":\"null\"},\"minItems\":1}",
      { "[1]", "[1,\"\"]", "[1,\"\",null,null]" }, { "[]", "[\"\"]", "[1,1]", "[1,\"\",1]" } },
    { "{\"type\":\"array\",\"items\":[{\"type\":\"integer\"}],\"additionalItems\":false}", { "[]", "[1]" }, { "[1,1]" } },
    { "{\"prefixItems\":[true,true,true],\"minItems\":2,\"maxItems\":2}", { "[1,2]" }, { "[1]", "[1,2,3]" } },
    { "{\"type\":\"array\",\"items\":false}", { "[]" }, { "[1]" } },

    { "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", { "\"ab\"", "\"" U SMILE "\"", "\"\\n\\u0041\\ud83d\\ude00\"" },
      { "\"a\"", "\"abcd\"", "\"" U U U U "\"" } },
    { "{\"type\":\"string\",\"maxLength\":0}", { "\"\"" }, { "\"a\"" } },
    { "{\"pattern\":\"^[a-c]+\\\\d{2,3}$\"}", { "\"a12\"", "\"abc123\"" },
      { "\"12\"", "\"a1\"", "\"a1234\"", "\"d12\"", "\"a12 \"" } },
    { "{\"pattern\":\"b\"}", { "\"b\"", "\"abc\"", "\"aabb\"" }, { "\"\"", "\"ac\"" } },
    { "{\"pattern\":\"^(foo|ba[rz])?$|^x\"}", { "\"\"", "\"foo\"", "\"baz\"", "\"x\"", "\"xyz\"" },
      { "\"fo\"", "\"bax\"", "\"ax\"" } },
    { "{\"pattern\":\"^[^a\\\\-/]$\"}", { "\"b\"", "\"" U "\"", "\"\\\"\"", "\"\\\\\"", "\"\\n\"" },
      { "\"a\"", "\"-\"", "\"/\"", "\"bb\"", "\"\\u0062\"" } },
    { "{\"pattern\":\"^\\\\S\\\\.\\\\u00e9.\\\\/$\"}", { "\"a." U "x/\"" },
      { "\" ." U "x/\"", "\"ab" U "x/\"", "\"a." U "\\n/\"" } },
    { "{\"pattern\":\"^(?:a|(?<n>b))*?c{2}$\",\"type\":\"string\"}", { "\"cc\"", "\"abacc\"" }, { "\"c\"", "\"accc\"" } },
    { "{\"pattern\":\"^[A-Z][a-z]*$\",\"maxLength\":3,\"minLength\":2}", { "\"Ab\"", "\"Abc\"" }, { "\"A\"", "\"Abcd\"" } },
    { "{\"pattern\":\"^[\\\\u4e00-\\\\u9fff]{1,2}$\"}", { "\"\xe6\x97\xa5\xe6\x9c\xac\"" }, { "\"a\"", "\"\"", "\"\xe6\x97\"" } },
    { "{\"pattern\":\"^[]a$|^b$\"}", { "\"b\"" }, { "\"a\"", "\"\"" } },
    { "{\"pattern\":\"^[^]$\"}", { "\"a\"", "\"\\n\"" }, { "\"\"", "\"ab\"" } },
    { "{\"pattern\":\"^(a*)*(b|)+$\"}", { "\"\"", "\"aabb\"" }, { "\"c\"", "\"aba\"" } },

    { "{\"type\":\"string\",\"format\":\"date\"}", { "\"2024-02-29\"", "\"2023-12-31\"", "\"2000-02-29\"" },
      { "\"2023-02-29\"", "\"1900-02-29\"", "\"2024-13-01\"", "\"2024-04-31\"", "\"24-01-01\"" } },
    { "{\"type\":\"string\",\"format\":\"time\"}", { "\"23:59:59Z\"", "\"00:00:00.123+01:30\"" },
      { "\"24:00:00Z\"", "\"12:00:00\"" } },
    { "{\"type\":\"string\",\"format\":\"date-time\"}", { "\"2024-01-31T12:34:56Z\"" }, { "\"2024-01-31 12:34:56Z\"" } },
    { "{\"type\":\"string\",\"format\":\"duration\"}", { "\"P1Y2M3DT4H5M6S\"", "\"PT1M\"", "\"P3W\"" },
      { "\"P\"", "\"P1\"", "\"PT\"", "\"P1YT\"" } },
    { "{\"type\":\"string\",\"format\":\"uuid\"}", { "\"123e4567-e89b-12d3-a456-426614174000\"" },
      { "\"123e4567e89b12d3a456426614174000\"" } },
    { "{\"type\":\"string\",\"format\":\"email\"}", { "\"a.b+c@ex-ample.org\"" },
      { "\"a@b\"", "\"@b.de\"", "\"a@-b.de\"", "\".a@b.de\"" } },
    { "{\"type\":\"string\",\"format\":\"hostname\"}", { "\"a\"", "\"www.example.org\"" }, { "\"-a\"", "\"a..b\"", "\"a_b\"" } },
    { "{\"type\":\"string\",\"format\":\"ipv4\"}", { "\"127.0.0.1\"", "\"255.255.255.255\"" },
      { "\"256.0.0.1\"", "\"1.2.3\"", "\"01.2.3.4\"" } },
    { "{\"type\":\"string\",\"format\":\"ipv6\"}", { "\"::1\"", "\"fe80::1:2\"", "\"1:2:3:4:5:6:7:8\"", "\"::\"" },
      { "\"1::2::3\"", "\"1:2:3\"", "\":1\"" } },
    { "{\"type\":\"string\",\"format\":\"binary\"}", { "\"any\"" }, { "1" } },

    { "{\"type\":\"integer\",\"minimum\":3,\"maximum\":117}", { "3", "9", "10", "99", "100", "117" },
      { "2", "0", "118", "200", "1000", "-3", "03" } },
    { "{\"type\":\"integer\",\"minimum\":-12,\"exclusiveMaximum\":5}", { "-12", "-1", "0", "4" }, { "5", "-13", "-0", "10" } },
    { "{\"type\":\"integer\",\"exclusiveMinimum\":0}", { "1", "999999999999999999" }, { "0", "-1", "1000000000000000000" } },
    { "{\"type\":\"integer\",\"minimum\":0.5,\"maximum\":2.5,\"multipleOf\":1}", { "1", "2" }, { "0", "3" } },
    { "{\"type\":\"integer\",\"maximum\":-100}", { "-100", "-12345" }, { "-99", "0", "100" } },
    { "{\"type\":\"number\",\"minimum\":0,\"maximum\":1}", { "0", "1", "0.5", "0.999", "1.0", "1.00", "0.0" },
      { "1.01", "-0.1", "2", "1e0", "-0", "." } },
    { "{\"type\":\"number\",\"exclusiveMinimum\":0,\"exclusiveMaximum\":0.25}", { "0.1", "0.2499", "0.001", "0.24" },
      { "0", "0.25", "0.250", "0.0", "0.3", "1" } },
    { "{\"type\":\"number\",\"minimum\":-1.5,\"maximum\":12.05}", { "-1.5", "-1.50", "-1.49", "-0.5", "0", "11.99", "12", "12.05",
                                                                    "12.049" },
      { "-1.51", "-2", "12.06", "12.051", "13", "12.1" } },
    { "{\"type\":\"number\",\"minimum\":5,\"exclusiveMinimum\":true,\"maximum\":7}", { "5.1", "6", "7" }, { "5", "5.0", "7.1" } },
    { "{\"type\":\"number\",\"minimum\":1.25,\"maximum\":1.5}", { "1.25", "1.3", "1.5", "1.4999" },
      { "1", "1.2", "1.24", "1.51", "1.6" } },
    { "{\"type\":\"number\",\"minimum\":1e20}", { NULL }, { NULL } },

    { "{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":1}]}", { "1", "\"a\"" }, { "\"ab\"", "null" } },
    { "{\"oneOf\":[{\"properties\":{\"k\":{\"const\":\"a\"},\"n\":{\"type\":\"integer\"}},\"required\":[\"k\",\"n\"]},"
      "{\"properties\":{\"k\":{\"const\":\"b\"},\"s\":{\"type\":\"string\"}},\"required\":[\"k\",\"s\"]}]}",
      { "{\"k\":\"a\",\"n\":1}", "{\"k\":\"b\",\"s\":\"\"}" }, { "{\"k\":\"a\",\"s\":\"\"}", "{\"k\":\"b\",\"n\":1}" } },
    { "{\"anyOf\":[{\"type\":\"array\",\"items\":{\"type\":\"integer\"}},{\"type\":\"array\",\"items\":{\"type\":\"string\"}}]}",
      { "[]", "[1,2]", "[\"a\",\"b\"]" }, { "[1,\"a\"]", "[\"a\",1]" } },
    { "{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\"}},\"required\":[\"a\"]},"
      "{\"properties\":{\"b\":{\"type\":\"string\"},\"a\":{\"minimum\":3,\"type\":\"integer\"}}}]}",
      { "{\"a\":3}", "{\"a\":4,\"b\":\"\"}" }, { "{}", "{\"a\":2}", "{\"a\":3.5}", "{\"b\":\"\"}" } },
    { "{\"allOf\":[{\"properties\":{\"a\":{\"type\":\"integer\"}},\"additionalProperties\":false},{\"properties\":{\"b\":{}}}]}",
      { "{}", "{\"a\":1}" }, { "{\"b\":1}", "{\"a\":1,\"b\":1}" } },
    { "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"integer\"}},\"anyOf\":[{\"required\":["
      "\"a\"]},{\"required\":[\"b\"]}]}",
      { "{\"a\":1}", "{\"b\":1}", "{\"a\":1,\"b\":1}" }, { "{}" } },
    { "{\"anyOf\":[{\"minimum\":3},{\"maximum\":-3}],\"oneOf\":[{\"maximum\":5},{\"maximum\":-5}],\"type\":\"integer\"}",
      { "3", "5", "-3", "-7" }, { "0", "6" } },
    { "{\"type\":[\"string\",\"integer\"],\"allOf\":[{\"type\":[\"integer\",\"null\"]}]}", { "1" }, { "\"a\"", "null" } },
    { "{\"allOf\":[{\"enum\":[1,2,3]},{\"enum\":[3,2,4]}]}", { "2", "3" }, { "1", "4" } },

    { "{\"$defs\":{\"n\":{\"type\":\"integer\"}},\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/n\",\"description\":\"d\"}}",
      { "[1]" }, { "[\"a\"]" } },
    { "{\"definitions\":{\"a/b~c d\":{\"type\":\"null\"}},\"$ref\":\"#/definitions/a~1b~0c%20d\"}", { "null" }, { "1" } },
    { "{\"$ref\":\"#/$defs/n\",\"maximum\":5,\"$defs\":{\"n\":{\"type\":\"integer\",\"minimum\":3}}}", { "3", "5" }, { "2", "6" } },
    { "{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}"
      "]}},"
      "\"required\":[\"v\",\"next\"],\"additionalProperties\":false}",
      { "{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}" }, { "{\"v\":1}", "{\"v\":1,\"next\":{}}" } },
    { "{\"$defs\":{\"t\":{\"properties\":{\"c\":{\"items\":{\"$ref\":\"#/$defs/t\"}}},\"required\":[\"c\"]}},\"$ref\":\"#/$defs/t"
      "\"}",
      { "{\"c\":[]}", "{\"c\":[{\"c\":[]},{\"c\":[{\"c\":[]}]}]}" }, { "{}", "{\"c\":[1]}" } },
    { "{\"$defs\":{\"b\":{\"properties\":{\"id\":{\"type\":\"integer\"}}},\"t\":{\"allOf\":[{\"$ref\":\"#/$defs/b\"},"
      "{\"properties\":{\"c\":{\"$ref\":\"#/$defs/t\"}}}]}},\"$ref\":\"#/$defs/t\"}",
      { "{}", "{\"id\":1,\"c\":{\"id\":2,\"c\":{}}}" }, { "{\"c\":{\"x\":1}}" } },
    { "{\"title\":\"t\",\"description\":\"d\",\"default\":1,\"examples\":[1],\"$schema\":\"s\",\"$id\":\"i\",\"x-any\":1,\"readOnl"
      "y\":true,\"type\":\"null\"}",
      { "null" }, { "1" } },
};

static void test_tables(void) {
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        const takes *x = &tables[i];
        shk_grammar *g;
        shk_error err;
        shk_match state;
        shk_status status = shk_grammar_new(&g, tokenizer, x->schema, &err);
        if (!x->yes[0]) {
            CHECK(status == SHK_E_UNSUPPORTED && strstr(err.message, "no value"), "%s: %s", x->schema, status ? err.message :
                  "taken");
            continue;
        }
        CHECK(!status, "%s: %s", x->schema, err.message);
        if (status) continue;
        for (const char *const *s = x->yes; *s; s++) {
            size_t n = feed(g, *s, &state);
            CHECK(n == strlen(*s) && state != SHK_MATCH_OPEN, "%s: %s ends after %zu bytes, state %d", x->schema, *s, n, state);
        }
        for (const char *const *s = x->no; *s; s++) {
            size_t n = feed(g, *s, &state);
            CHECK(n < strlen(*s) || state == SHK_MATCH_OPEN, "%s takes %s", x->schema, *s);
        }
        shk_grammar_free(g);
    }
}

static const struct {
    const char *schema;
    shk_status status;
    const char *says;
} refused[] = {
    { "", SHK_E_FORMAT, "JSON" },
    { "{\"type\":", SHK_E_FORMAT, "line 1" },
    { "{} {}", SHK_E_FORMAT, "JSON" },
    { "{\"type\":\"string\",\"type\":\"null\"}", SHK_E_FORMAT, "duplicate" },
    { "1", SHK_E_FORMAT, "#: it must be a schema" },
    { "false", SHK_E_UNSUPPORTED, "no value" },
    { "{\"type\":\"text\"}", SHK_E_FORMAT, "#/type" },
    { "{\"type\":[]}", SHK_E_FORMAT, "#/type" },
    { "{\"properties\":{\"a\":{\"items\":{\"minLength\":-1}}}}", SHK_E_FORMAT, "#/properties/a/items/minLength" },
    { "{\"properties\":{\"a\":[]}}", SHK_E_FORMAT, "#/properties/a: it must be a schema" },
    { "{\"properties\":[]}", SHK_E_FORMAT, "#/properties" },
    { "{\"required\":[1]}", SHK_E_FORMAT, "#/required" },
    { "{\"anyOf\":{}}", SHK_E_FORMAT, "#/anyOf" },
    { "{\"anyOf\":[]}", SHK_E_UNSUPPORTED, "no value" },
    { "{\"enum\":[]}", SHK_E_UNSUPPORTED, "no value" },
    { "{\"not\":{}}", SHK_E_UNSUPPORTED, "#/not" },
    { "{\"if\":{}}", SHK_E_UNSUPPORTED, "#/if" },
    { "{\"$defs\":{\"x\":{\"items\":{\"uniqueItems\":true}}},\"$ref\":\"#/$defs/x\"}", SHK_E_UNSUPPORTED,
      "#/$defs/x/items/uniqueItems" },
    { "{\"minLenght\":1}", SHK_E_UNSUPPORTED, "#/minLenght" },
    { "{\"type\":\"number\",\"multipleOf\":0.5}", SHK_E_UNSUPPORTED, "#/multipleOf" },
    { "{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", SHK_E_UNSUPPORTED, "no value" },
    { "{\"type\":\"array\",\"minItems\":3,\"maxItems\":2}", SHK_E_UNSUPPORTED, "no value" },
    { "{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", SHK_E_UNSUPPORTED, "no value" },
    { "{\"required\":[\"a\"],\"additionalProperties\":false}", SHK_E_UNSUPPORTED, "no value" },
    { "{\"$ref\":\"#\"}", SHK_E_FORMAT, "refers to itself" },
    { "{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", SHK_E_FORMAT, "refers to itself" },
    { "{\"allOf\":[{\"$ref\":\"#\"}]}", SHK_E_LIMIT, "allOf and $ref" },
    { "{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", SHK_E_UNSUPPORTED, "no value" },
    { "{\"$ref\":\"#/$defs/x\"}", SHK_E_FORMAT, "#/$defs/x is not there" },
    { "{\"$ref\":\"http://x/y\"}", SHK_E_UNSUPPORTED, "#/$ref" },
    { "{\"$ref\":\"#name\"}", SHK_E_UNSUPPORTED, "#/$ref" },
    { "{\"pattern\":\"(\"}", SHK_E_FORMAT, "#/pattern: the pattern's byte 1" },
    { "{\"pattern\":\"a)\"}", SHK_E_FORMAT, "group" },
    { "{\"pattern\":\"[b-a]\"}", SHK_E_FORMAT, "range" },
    { "{\"pattern\":\"[a\"}", SHK_E_FORMAT, "class" },
    { "{\"pattern\":\"*\"}", SHK_E_FORMAT, "repeat" },
    { "{\"pattern\":\"a**\"}", SHK_E_FORMAT, "repeat" },
    { "{\"pattern\":\"a{3,2}\"}", SHK_E_FORMAT, "count" },
    { "{\"pattern\":\"a{9999999999}\"}", SHK_E_LIMIT, "count" },
    { "{\"pattern\":\"(?=a)\"}", SHK_E_UNSUPPORTED, "ahead" },
    { "{\"pattern\":\"(a)\\\\1\"}", SHK_E_UNSUPPORTED, "references" },
    { "{\"pattern\":\"\\\\bx\"}", SHK_E_UNSUPPORTED, "word" },
    { "{\"pattern\":\"\\\\p{L}\"}", SHK_E_UNSUPPORTED, "escape" },
    { "{\"pattern\":\"(^a)\"}", SHK_E_UNSUPPORTED, "ends" },
    { "{\"pattern\":\"(a?){99}\"}", SHK_E_UNSUPPORTED, "empty" },
    { "{\"pattern\":\"\\\\\"}", SHK_E_FORMAT, "backslash" },
    { "{\"pattern\":\"^a*b*$\",\"maxLength\":5}", SHK_E_UNSUPPORTED, "maxLength" },
    { "{\"allOf\":[{\"pattern\":\"a\"},{\"pattern\":\"b\"}]}", SHK_E_UNSUPPORTED, "#/allOf/1/pattern" },
    { "{\"type\":\"object\",\"minProperties\":2}", SHK_E_UNSUPPORTED, "#/minProperties" },
    { "{\"type\":\"object\",\"properties\":{\"a\":{}},\"additionalProperties\":true,\"maxProperties\":1}", SHK_E_UNSUPPORTED,
      "#/maxProperties" },
    { "{\"allOf\":[{\"prefixItems\":[{}]},{\"items\":{\"type\":\"null\"}}]}", SHK_E_UNSUPPORTED, "#/allOf/1/items" },
    { "{\"minimum\":1e-70}", SHK_E_UNSUPPORTED, "#/minimum" },
};

static void test_refused(void) {
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        shk_grammar *g = NULL;
        shk_error err = { 0 };
        shk_status status = shk_grammar_new(&g, tokenizer, refused[i].schema, &err);
        CHECK(status == refused[i].status && !g, "%s: status %d, %s", refused[i].schema, status, err.message);
        CHECK(strstr(err.message, refused[i].says), "%s: %s", refused[i].schema, err.message);
        CHECK(shk_grammar_new(&g, tokenizer, refused[i].schema, NULL) == status, "%s without a message", refused[i].schema);
        if (!status) shk_grammar_free(g);
    }
}

/* All tokens at once: what the mask says of each against what a fork does with it, along random walks. */
static void test_masks(void) {
    for (size_t k = 0; k < WALK_SCHEMAS; k++) {
        shk_grammar *g;
        shk_matcher *m, *fork;
        shk_error err;
        unsigned long long seed = k + 1;
        uint32_t bits[(J_COUNT + 31) / 32], again[(J_COUNT + 31) / 32 + 2];
        float logits[J_COUNT + 40];
        size_t wrong = 0, moved = 0;
        NEED(!shk_grammar_new(&g, tokenizer, walk_schemas[k], &err) && !shk_matcher_new(&m, g, &err), "%s", err.message);
        for (int step = 0; step < 30; step++) {
            NEED(!shk_matcher_mask(m, bits, J_COUNT, &err), "%s", err.message);
            int32_t next = -1;
            for (int32_t id = 0; id < J_COUNT; id++) {
                NEED(!shk_matcher_fork(&fork, m, &err), "%s", err.message);
                bool taken = !shk_matcher_accept(fork, id, &err);
                wrong += taken != allowed(bits, id);
                moved += !taken && shk_matcher_state(fork) != shk_matcher_state(m);
                shk_matcher_free(fork);
            }
            NEED(!shk_matcher_mask(m, again, J_COUNT + 40, &err), "%s", err.message);
            moved += memcmp(bits, again, sizeof bits) != 0 || again[J_COUNT / 32 + 1];
            for (int32_t id = 0; id < J_COUNT + 40; id++) logits[id] = 1;
            NEED(!shk_matcher_apply(m, logits, J_COUNT + 40, &err), "%s", err.message);
            for (int32_t id = 0; id < J_COUNT + 40; id++) wrong += (logits[id] == 1) != (id < J_COUNT && allowed(bits, id));
            while (next < 0 || !allowed(bits, next)) next = (int32_t)(test_random(&seed) % J_COUNT);
            NEED(!shk_matcher_accept(m, next, &err), "%s", err.message);
        }
        CHECK(wrong == 0, "%s: %zu tokens are not as the mask says", walk_schemas[k], wrong);
        CHECK(moved == 0, "%s: looking has changed something %zu times", walk_schemas[k], moved);
        shk_matcher_free(m);
        shk_grammar_free(g);
    }
}

/* Threads that share a grammar, and make its vocabulary's tree at the same time, see what one sees. */
typedef struct walker {
    const shk_grammar *g;
    const shk_tokenizer *t;
    char *texts[20];
} walker;

static void *walk_some(void *arg) {
    walker *w = arg;
    size_t n;
    for (int i = 0; i < 20; i++) w->texts[i] = walk_text(w->g, w->t, 1 + (unsigned)i, 30, &n);
    return NULL;
}

static void *make_one(void *arg) {
    walker *w = arg;
    shk_grammar *g;
    NEED(!shk_grammar_new(&g, w->t, NULL, NULL), "a grammar");
    shk_grammar_free(g);
    return NULL;
}

static void run_threads(walker *w, void *(*f)(void *)) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) NEED(!pthread_create(&threads[i], NULL, f, &w[i]), "a thread");
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

static void test_threads(void) {
    shk_tokenizer *fresh = json_tokenizer();
    shk_grammar *g;
    walker w[4] = { 0 };
    NEED(fresh && !shk_grammar_new(&g, tokenizer, NULL, NULL), "a grammar");
    for (int i = 0; i < 4; i++) w[i] = (walker){ .g = g, .t = fresh };
    run_threads(w, make_one);
    for (int i = 0; i < 4; i++) w[i].t = tokenizer;
    run_threads(w, walk_some);
    for (int k = 0; k < 20; k++)
        for (int i = 0; i < 4; i++) CHECK(!strcmp(w[i].texts[k], w[0].texts[k]), "%s and %s", w[i].texts[k], w[0].texts[k]);
    for (int k = 0; k < 80; k++) free(w[k / 20].texts[k % 20]);
    shk_grammar_free(g);
    shk_tokenizer_free(fresh);
}

int main(void) {
    tokenizer = json_tokenizer();
    NEED(tokenizer, "a tokenizer");
    test_masks();
    test_threads();
    check_walks(tokenizer, test_short() ? 20 : 300);
    test_tables();
    test_refused();
    shk_tokenizer_free(tokenizer);
    return test_done();
}
