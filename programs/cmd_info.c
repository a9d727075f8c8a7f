/* sparkhawk info: what a model is and what it costs. A field that the library does not report is left out. */
#include "json_output.h"
#include "models.h"

typedef struct info_args {
    model_args model;
    bool json;
} info_args;

#define AT(field) offsetof(info_args, field)

static const option info_options[] = {
    MODEL_ROW,
    KV_ROW,
    { "json", 0, OPT_FLAG, AT(json), 0, 0, NULL, "print the description as one JSON object" },
    { 0 }
};

enum { LABEL = 13 };

static const char *string_of(const json_t *object, const char *key) {
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "?";
}

/* 0 if it is missing. */
static double number_of(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }

/* "1,234,567" */
static const char *grouped(double v, char *buf, size_t size) {
    char digits[40];
    size_t n = (size_t)snprintf(digits, sizeof digits, "%.0f", v), to = 0;
    for (size_t i = 0; i < n && to + 2 < size; i++) {
        if (i && (n - i) % 3 == 0) buf[to++] = ',';
        buf[to++] = digits[i];
    }
    buf[to] = 0;
    return buf;
}

/* "177.3 M": three or four digits and a power of 1000. */
static const char *scaled(double v, const char *unit, char *buf, size_t size) {
    static const char *const prefixes[] = { "", "k", "M", "G", "T", "P" };
    size_t i = 0;
    while (v >= 999.95 && i + 1 < sizeof prefixes / sizeof *prefixes) v /= 1000, i++;
    snprintf(buf, size, i ? "%.1f %s%s" : "%.0f %s%s", v, prefixes[i], unit);
    return buf;
}

/* ---- layers ---- */

/* Columns of the table of layer kinds: two layers are of one kind if they agree in all of them. */
static const struct { const char *key, *heading; } columns[] = {
    { "mixer", "mixer" }, { "window", "window" }, { "heads", "heads" }, { "kv_heads", "kv heads" }, { "head_dim", "head dim" },
    { "width", "width" }, { "attn_k", "attended" }, { "mlp", "mlp" }, { "ffn", "neurons" }, { "ffn_k", "active" },
};
enum { COLUMNS = sizeof columns / sizeof *columns };

static bool is_text(size_t column) { return strstr("mixer mlp", columns[column].key) != NULL; }

/* A cell as text; "" for what is missing, null or zero. */
static const char *cell(const json_t *layer, size_t column, char *buf, size_t size) {
    const json_t *v = json_object_get(layer, columns[column].key);
    *buf = 0;
    if (json_is_string(v)) snprintf(buf, size, "%s", json_string_value(v));
    else if (json_number_value(v) != 0) grouped(json_number_value(v), buf, size);
    return buf;
}

static bool same_layer(const json_t *a, const json_t *b) {
    char x[64], y[64];
    for (size_t i = 0; i < COLUMNS; i++)
        if (strcmp(cell(a, i, x, sizeof x), cell(b, i, y, sizeof y))) return false;
    return true;
}

/* "8x(recurrent, recurrent, local), recurrent": the shortest beginning whose repetition gives all layers, the last one cut. */
static void put_pattern(const json_t *layers, const char *key) {
    size_t n = json_array_size(layers), period = 1;
    for (size_t i = 0; i + period < n;) {
        const json_t *a = json_array_get(layers, i), *b = json_array_get(layers, i + period);
        if (strcmp(string_of(a, key), string_of(b, key))) period++, i = 0;
        else i++;
    }
    size_t times = n / period;
    if (times > 1) putf(period > 1 ? "%zux(" : "%zux ", times);
    for (size_t i = 0; i < period; i++) putf("%s%s", i ? ", " : "", string_of(json_array_get(layers, i), key));
    if (times > 1 && period > 1) putf(")");
    for (size_t i = times * period; i < n; i++) putf(", %s", string_of(json_array_get(layers, i), key));
    putf("\n");
}

static void put_kinds(const json_t *layers) {
    char buf[64];
    size_t width[COLUMNS] = { 0 }, n = json_array_size(layers);
    for (size_t c = 0; c < COLUMNS; c++)
        for (size_t i = 0; i < n; i++) {
            size_t length = strlen(cell(json_array_get(layers, i), c, buf, sizeof buf));
            if (length && width[c] < strlen(columns[c].heading)) width[c] = strlen(columns[c].heading);
            if (width[c] < length) width[c] = length;
        }
    putf("\nlayers");
    for (size_t c = 0; c < COLUMNS; c++)
        if (width[c]) putf("  %*s", is_text(c) ? -(int)width[c] : (int)width[c], columns[c].heading);
    putf("\n");
    for (size_t i = 0; i < n; i++) {
        const json_t *layer = json_array_get(layers, i);
        size_t count = 0, before = 0;
        for (size_t j = 0; j < n; j++) {
            bool same = same_layer(layer, json_array_get(layers, j));
            count += same, before += same && j < i;
        }
        if (before) continue;
        putf("%6zu", count);
        for (size_t c = 0; c < COLUMNS; c++)
            if (width[c]) putf("  %*s", is_text(c) ? -(int)width[c] : (int)width[c], cell(layer, c, buf, sizeof buf));
        putf("\n");
    }
}

/* ---- the rest ---- */

static void put_bytes(const json_t *parts, double total) {
    const char *key;
    json_t *v;
    char buf[40];
    json_object_foreach((json_t *)(uintptr_t)parts, key, v) {
        double n = json_number_value(v);
        if (n > 0 && total > 0) putf("  %-*s%10s  %5.1f %%\n", LABEL - 2, key, scaled(n, "B", buf, sizeof buf), 100 * n / total);
    }
}

static void put_state(const json_t *state, const char *kv_type) {
    const char *key;
    json_t *v;
    char tokens[40], bytes[40];
    if (!json_object_size(state)) return;
    putf("\nstate of a sequence, keys and values in %s\n", kv_type);
    json_object_foreach((json_t *)(uintptr_t)state, key, v)
        putf("  at %*s tokens %10s\n", LABEL - 5 + 1, grouped(strtod(key, NULL), tokens, sizeof tokens),
             scaled(json_number_value(v), "B", bytes, sizeof bytes));
}

/* Two columns if skipping inactive units changes anything. */
static void put_work(const json_t *work) {
    static const struct { const char *label, *unit, *dense, *skipping; } rows[] = {
        { "computes", "FLOP", "flops_dense", "flops_skipping" }, { "reads", "B", "bytes_dense", "bytes_skipping" }
    };
    char buf[40];
    double skipped = number_of(work, "bytes_dense") - number_of(work, "bytes_skipping");
    if (!json_object_size(work)) return;
    putf("\na generated token%s\n", skipped > 0 ? "       dense    skipping" : "");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        putf("  %-*s%14s", LABEL - 2, rows[i].label, scaled(number_of(work, rows[i].dense), rows[i].unit, buf, sizeof buf));
        if (skipped > 0) putf("%12s", scaled(number_of(work, rows[i].skipping), rows[i].unit, buf, sizeof buf));
        putf("\n");
    }
}

static void put_number(const json_t *object, const char *key, const char *label) {
    char buf[40];
    double v = number_of(object, key);
    if (v > 0) putf("%-*s%s\n", LABEL, label, grouped(v, buf, sizeof buf));
}

static void put_table(const json_t *j) {
    const json_t *layers = json_object_get(j, "layers"), *bytes = json_object_get(j, "bytes");
    const json_t *tokenizer = json_object_get(j, "tokenizer");
    char buf[40];
    double total = number_of(bytes, "total");
    putf("%-*s%s\n", LABEL, "family", string_of(j, "family"));
    if (json_string_length(json_object_get(j, "name"))) putf("%-*s%s\n", LABEL, "name", string_of(j, "name"));
    put_number(j, "parameters", "parameters");
    put_number(j, "hidden", "hidden");
    put_number(j, "vocab", "vocabulary");
    put_number(j, "context", "context");
    if (json_is_object(tokenizer))
        putf("%-*s%s tokens\n", LABEL, "tokenizer", grouped(number_of(tokenizer, "size"), buf, sizeof buf));
    if (json_array_size(layers)) {
        putf("%-*s", LABEL, "mixers"), put_pattern(layers, "mixer");
        putf("%-*s", LABEL, "mlps"), put_pattern(layers, "mlp");
        put_kinds(layers);
    }
    if (json_object_size(bytes)) putf("\nparts\n"), put_bytes(bytes, total);
    if (json_object_size(json_object_get(j, "types"))) putf("\ntypes\n"), put_bytes(json_object_get(j, "types"), total);
    put_state(json_object_get(j, "state_bytes"), string_of(j, "kv_type"));
    if (number_of(j, "copy_bytes") > 0)
        putf("\na copy to choose tokens by\n  %-*s%10s\n", LABEL - 2, "output",
             scaled(number_of(j, "copy_bytes"), "B", buf, sizeof buf));
    put_work(json_object_get(j, "per_token"));
}

static int info_run(const void *p, const strings *operands) {
    const info_args *a = p;
    model_args model = a->model;
    if (operands->n && model.path) return misuse(&cmd_info, "the model is named twice");
    if (operands->n) model.path = operands->items[0];
    model.threads = 1; /* nothing is computed */
    shk_model *m = model_open(&model);
    char *text = NULL;
    json_t *j = NULL;
    json_error_t wrong;
    shk_error err;
    int status = EXIT_FAILURE;
    if (!m) goto done;
    if (shk_model_describe(m, &text, &err)) {
        fail("%s", err.message);
        goto done;
    }
    if (!(j = json_loads(text, 0, &wrong))) {
        fail("the description of the model is no JSON: %s", wrong.text);
        goto done;
    }
    status = EXIT_SUCCESS;
    if (a->json) put_json(json_incref(j));
    else put_table(j);
done:
    json_decref(j);
    free(text);
    shk_model_free(m);
    return status;
}

const command cmd_info = {
    .name = "info",
    .summary = "describe a model",
    .operands = "[MODEL]",
    .description = "Describes a model: its layers, parameters, bytes by part and by type, the state that a sequence takes, "
                   "and what a generated token computes and reads, densely and with the skipping of inactive units.",
    .options = info_options,
    .defaults = &(const info_args){ .model = { 0 } },
    .size = sizeof(info_args),
    .max_operands = 1,
    .operand_files = true,
    .run = info_run,
};
