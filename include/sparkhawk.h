/* sparkhawk: runs Gemma, RecurrentGemma, Griffin and Spark Transformer models.
 *
 *   shk_model    weights, mapped from a file; immutable, shared by any number of sessions
 *   shk_session  what one sequence remembers: KV windows, recurrent state, position
 *   shk_sampler  turns logits into token ids
 *   shk_tokenizer  bytes <-> token ids
 *   shk_grammar  which JSON texts are allowed; a shk_matcher follows one text and says which tokens may come next
 *
 * Errors: functions that can fail return a shk_status and, where `err` is not NULL, leave a message of one line in it that
 * names the file and the field. The library never prints, exits or aborts. Unless said otherwise a pointer argument must
 * not be NULL, an object may be used by one thread at a time, and different objects by different threads at once. */
#ifndef SPARKHAWK_H
#define SPARKHAWK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SHK_VERSION "0.1.0"
#if defined(__GNUC__)
#define SHK_API __attribute__((visibility("default")))
#else
#define SHK_API
#endif

typedef enum shk_status {
    SHK_OK = 0,
    SHK_E_IO,          /* a file could not be opened, read or written */
    SHK_E_FORMAT,      /* a file's content is not what its format or its config says */
    SHK_E_UNSUPPORTED, /* well-formed, but of a kind that this build does not run */
    SHK_E_MEMORY,
    SHK_E_ARGUMENT,    /* the caller's value is out of range */
    SHK_E_LIMIT,       /* the session's context or another fixed capacity is full */
    SHK_E_NUMERIC,     /* the model computed a NaN or an infinity */
    SHK_E_DEVICE       /* a GPU that cannot be used, or that failed */
} shk_status;

typedef struct shk_error {
    shk_status status;
    char message[512];
} shk_error;

SHK_API const char *shk_version(void);

/* A line that names the version and the instruction sets that the CPU kernels use. Written to buf, always terminated.
 * Fails when the environment variable SHK_CPU names no known tier. */
SHK_API shk_status shk_build_info(char *buf, size_t size, shk_error *err);

/* ---- tokenizer ---- */

typedef struct shk_tokenizer shk_tokenizer;

/* Loads the tokenizer of a GGUF file, a tokenizer.json, a tokenizer.model, or a directory that holds one of the latter two
 * (tokenizer.json first). The caller frees it. */
SHK_API shk_status shk_tokenizer_load(shk_tokenizer **out, const char *path, shk_error *err);
SHK_API void shk_tokenizer_free(shk_tokenizer *t); /* NULL is allowed */

SHK_API int32_t shk_tokenizer_vocab_size(const shk_tokenizer *t);

/* Ids of the special tokens; -1 where the vocabulary has none. */
SHK_API int32_t shk_tokenizer_bos(const shk_tokenizer *t);
SHK_API int32_t shk_tokenizer_eos(const shk_tokenizer *t);
/* Whether `id` ends a generation: eos, or an end-of-turn token. */
SHK_API int shk_tokenizer_is_end(const shk_tokenizer *t, int32_t id);

enum {
    SHK_TOKENIZE_BOS = 1,    /* put the bos token first, if the vocabulary has one and wants it */
    SHK_TOKENIZE_SPECIAL = 2 /* the text is in the vocabulary's own notation: see below */
};

/* Token ids of n bytes of text (any bytes, zeros included; need not be UTF-8). *ids is malloc'd and the caller's to free()
 * also when *n_ids is 0. The time is n log n, about. At most 2 GiB. Thread-safe.
 *
 * Plain text stands for itself: "<start_of_turn>" is those fifteen characters, and the character U+2581 is that character, in
 * byte tokens. With SHK_TOKENIZE_SPECIAL the text is read as the vocabularies' own tools read it: "<start_of_turn>" is the
 * special token and U+2581 is a space, which their files write so. That is for text that the caller vouches for. */
SHK_API shk_status shk_tokenize(const shk_tokenizer *t, const char *text, size_t n, unsigned flags, int32_t **ids, size_t *n_ids,
                                shk_error *err);

/* The text of n ids: *text is malloc'd, terminated by a zero that *n_text does not count, and the caller's to free().
 * Control tokens and the unknown token give nothing unless `special`. Ids outside the vocabulary are SHK_E_ARGUMENT.
 * Thread-safe.
 *
 * detokenize(tokenize(x)) == x for every x, where the vocabulary has byte tokens and does not rewrite text. All of Gemma's are
 * such. A tokenizer.model may ask for rewriting (NFKC, runs of spaces made one) and then that is what comes back. */
SHK_API shk_status shk_detokenize(const shk_tokenizer *t, const int32_t *ids, size_t n, int special, char **text, size_t *n_text,
                                  shk_error *err);

/* The bytes of one token as it stands inside a text: *text points into the tokenizer. Control tokens and the unknown token
 * give 0 bytes unless `special`, ids outside the vocabulary give 0. Those of many tokens in a row are shk_detokenize's text,
 * but for one thing: where the vocabulary puts a space before every text, shk_detokenize drops it. Thread-safe. */
SHK_API size_t shk_token_bytes(const shk_tokenizer *t, int32_t id, int special, const char **text);

typedef struct shk_message {
    const char *role; /* "system", "user", "assistant" (or "model") */
    const char *text; /* UTF-8, terminated */
} shk_message;

/* Token ids of the prompt that Gemma's chat template makes of a conversation, ending with the opening of the model's turn if
 * `add_generation_prompt`. A system message is put before the user message that follows it. `flags` is 0 or SHK_TOKENIZE_BOS.
 * The turn markers are put as tokens and the messages are plain text, so that no message can forge a turn. *ids is malloc'd.
 * SHK_E_UNSUPPORTED if the vocabulary has no turn markers. Thread-safe. */
SHK_API shk_status shk_chat_tokens(const shk_tokenizer *t, const shk_message *messages, size_t n, int add_generation_prompt,
                                   unsigned flags, int32_t **ids, size_t *n_ids, shk_error *err);

/* ---- model ---- */

typedef struct shk_model shk_model;

typedef enum shk_device {
    SHK_DEVICE_CPU,
    SHK_DEVICE_CUDA /* the first NVIDIA GPU that the CUDA runtime shows (CUDA_VISIBLE_DEVICES chooses); weights are copied to it */
} shk_device;

typedef struct shk_model_params {
    int threads;      /* compute threads; 0: one for each CPU that the process may use */
    int window_extra; /* added to the window of every local layer (1: RecurrentGemma as its first release attends) */
    int dense;        /* 1: compute sparse layers densely, with equal results; for comparisons */
    int exact;        /* 1: keep activations in f32. Otherwise they are rounded to 8 bits, in blocks of 32 with a scale each, where
                       * they meet quantized matrices (several times as fast, and an error below that of the quantized weights), and
                       * to bf16 where they meet bf16 on a CPU that multiplies it */
    const char *kv_type; /* of the keys and values that sessions keep: "f32", "bf16" (NULL: this) or "q8_0" */
    shk_device device; /* where it runs; a state saved on one device can be continued on another */
} shk_model_params;

/* Maps the model at `path`: a GGUF file, or a Hugging Face directory (config.json and safetensors). The mapping lives as long
 * as the model; the files must not be changed meanwhile. params may be NULL. */
SHK_API shk_status shk_model_load(shk_model **out, const char *path, const shk_model_params *params, shk_error *err);
SHK_API void shk_model_free(shk_model *m); /* after all its sessions; NULL is allowed */

/* The tokenizer that came with the model, NULL if none did. Owned by the model. */
SHK_API const shk_tokenizer *shk_model_tokenizer(const shk_model *m);

SHK_API int32_t shk_model_vocab_size(const shk_model *m);
SHK_API int32_t shk_model_layers(const shk_model *m);
SHK_API int32_t shk_model_width(const shk_model *m); /* of the residual stream */
/* Tells models apart whose sessions must not be exchanged: the same for the same weights, config and kv_type, everywhere. Of large
 * tensors it reads a sample: weights that differ in a few rows of one matrix alone may have the same. */
SHK_API uint64_t shk_model_fingerprint(const shk_model *m);
/* The longest sequence that a session of this model takes by default; 0: no bound (no layer attends to everything). */
SHK_API uint64_t shk_model_context(const shk_model *m);

/* What the model is, as a JSON object (layers and kinds, parameters, bytes, state sizes, work per token): docs/FORMAT.md
 * lists the fields. *json is malloc'd. */
SHK_API shk_status shk_model_describe(const shk_model *m, char **json, shk_error *err);

typedef struct shk_convert_options {
    const char *type;     /* what matrices become: "f32", "bf16", "f16", "q8_0", "q4_0", "q4_k"; NULL: each keeps its own */
    uint64_t shard_bytes; /* of a directory: no file of weights is larger, unless one tensor alone is; 0: one file */
} shk_convert_options;

/* Reads the model `in` and writes it to `out`: a name that ends in .gguf gives a GGUF file, any other a directory with
 * config.json and model.safetensors, or model-00001-of-0000N.safetensors... and their index. safetensors holds f32, bf16 and f16
 * only. options may be NULL. Nothing is left behind on failure. */
SHK_API shk_status shk_convert(const char *in, const char *out, const shk_convert_options *options, shk_error *err);

/* Writes a model with random weights: `what` is a preset's name or the path of a config.json. The same seed gives the same file. */
SHK_API shk_status shk_init(const char *what, const char *out, const char *type, uint64_t seed, shk_error *err);
/* Preset names, in order; NULL past the end. */
SHK_API const char *shk_preset_name(size_t i);

/* What the kernels have read and computed for a model since it was loaded: counted, not estimated. A sparse layer counts the rows
 * that it read, a pass of several tokens each weight once. Not while another thread is in shk_advance. */
typedef struct shk_work {
    double weight_bytes, state_bytes, flops;
} shk_work;
SHK_API shk_work shk_model_work(const shk_model *m);

/* What this machine can do, measured in about a second: bytes read per second from memory far larger than the caches, and
 * multiply-adds (2 operations each) per second: of the CPU with `threads` threads (0: all) in f32, of a GPU in bf16 on its tensor
 * cores. */
typedef struct shk_ceilings {
    double bytes_per_s, flops_per_s;
} shk_ceilings;
SHK_API shk_status shk_probe(shk_ceilings *out, shk_device device, int threads, shk_error *err);

/* ---- session ---- */

typedef struct shk_session shk_session;

/* A new, empty sequence. `context` bounds its length (0: shk_model_context); address space for it is reserved here, memory is
 * used as the sequence grows, and layers without global attention use a fixed amount. The model must outlive it. */
SHK_API shk_status shk_session_new(shk_session **out, shk_model *m, uint64_t context, shk_error *err);
SHK_API void shk_session_free(shk_session *s); /* NULL is allowed */
SHK_API void shk_session_reset(shk_session *s); /* back to position 0 */

/* For measurements at a depth: as if `position` tokens had been consumed, with random numbers (of variance 1, a function of the
 * seed) in the state. */
SHK_API shk_status shk_session_simulate(shk_session *s, uint64_t position, uint64_t seed, shk_error *err);

SHK_API shk_model *shk_session_model(const shk_session *s);
SHK_API uint64_t shk_session_position(const shk_session *s); /* tokens consumed so far */
SHK_API uint64_t shk_session_context(const shk_session *s);  /* 0: unbounded */
SHK_API uint64_t shk_session_bytes(const shk_session *s);    /* what its state occupies now */

/* What it would occupy if every layer kept the keys and values of all positions, as in a transformer without windows. */
SHK_API uint64_t shk_session_dense_bytes(const shk_session *s);

/* Goes back to an earlier position, as if what came after it had never been read. Not before shk_session_earliest: recurrent layers
 * know no past, and those with a window have kept little more than it. SHK_E_ARGUMENT for other positions. */
SHK_API shk_status shk_session_truncate(shk_session *s, uint64_t position, shk_error *err);
SHK_API uint64_t shk_session_earliest(const shk_session *s);

/* An independent copy at the same position; the two continue as if they had never been one. */
SHK_API shk_status shk_session_fork(shk_session **out, const shk_session *s, shk_error *err);

/* The state as a file, and back (in any process, with the same model and kv_type). A file of another model is refused. */
SHK_API shk_status shk_session_save(const shk_session *s, const char *path, shk_error *err);
SHK_API shk_status shk_session_restore(shk_session *s, const char *path, shk_error *err);

typedef struct shk_span {
    shk_session *session;
    const int32_t *tokens; /* [n] */
    size_t n;              /* > 0 */
    float *logits;         /* [vocab] for the last token, or [n, vocab] if all_logits; NULL: not wanted */
    int all_logits;
    /* NULL, or what chooses the next token: *sampled becomes what shk_sampler_sample would say to the last token's logits. It is
     * not accepted yet. If `logits` is NULL, those that cannot be chosen need not be computed, and on a GPU the choice is made
     * there: the id alone comes to the host. A sampler is of the model's vocabulary, may appear once, and not with all_logits. */
    struct shk_sampler *sampler;
    int32_t *sampled;
    float *hidden; /* [n, width] what the logits are products of: every token's state behind the final norm; NULL: not wanted */
    /* [layers] the share of a layer's FFN neurons that were active at the last token, -1 where all are; NULL: not wanted */
    float *active;
} shk_span;

/* Advances several sessions of one model, each by its own tokens, in one pass over the weights. Results are identical to
 * advancing them one by one, and to any other division of the tokens into calls. A session may appear once. On failure no
 * session has moved, except for SHK_E_NUMERIC, SHK_E_DEVICE and, while recording or on a GPU, SHK_E_MEMORY; and for a sampler to
 * which every token is forbidden (SHK_E_ARGUMENT): its *sampled is -1, others of its pass (128 tokens) have chosen. Calls on one
 * model from several threads take turns. */
SHK_API shk_status shk_advance(shk_model *m, const shk_span *spans, size_t n, shk_error *err);

/* Active units of the sparse layers, counted since shk_model_record(m, 1), as a JSON object:
 * {"ffn": {"LAYER": [n per position]}, "attn": {"LAYER": [[n per head] per position]}}, positions in the order in which they were
 * computed. Recording costs time and memory and is off at first; each call of shk_model_record forgets what was counted. *json is
 * malloc'd. Not while another thread advances the model. */
SHK_API void shk_model_record(shk_model *m, int on);
SHK_API shk_status shk_model_recorded(const shk_model *m, char **json, shk_error *err);

/* ---- sampling ---- */

typedef struct shk_bias {
    int32_t id;
    float add; /* to the logit; -INFINITY forbids the token */
} shk_bias;

typedef struct shk_sampling {
    float temperature;    /* 0: greedy */
    int top_k;            /* 0: all */
    float top_p;          /* 1: all */
    float min_p;          /* 0: all */
    float repeat_penalty; /* 1: none */
    int repeat_last_n;    /* how many recent tokens the penalties look at */
    uint64_t seed;
    const shk_bias *bias; /* [n_bias], copied */
    size_t n_bias;
    float presence_penalty;  /* 0: none; taken off the logit of every recent token */
    float frequency_penalty; /* 0: none; taken off for each time that it appears among them */
} shk_sampling;

SHK_API shk_sampling shk_sampling_default(void); /* greedy */

typedef struct shk_sampler shk_sampler;
SHK_API shk_status shk_sampler_new(shk_sampler **out, const shk_sampling *s, int32_t vocab_size, shk_error *err);
SHK_API void shk_sampler_free(shk_sampler *s); /* NULL is allowed */
/* Tells the sampler of a token that is now part of the text, its own choices included. */
SHK_API void shk_sampler_accept(shk_sampler *s, int32_t id);
/* The next token id for logits [vocab_size], which are not changed. The order of operations: bias, repetition penalty,
 * presence and frequency penalties, temperature, top-k, top-p, min-p. Ties go to the lower id; an infinite logit wins. Fails
 * (SHK_E_NUMERIC) if a logit is NaN and (SHK_E_ARGUMENT) if every token is forbidden. */
SHK_API shk_status shk_sampler_sample(shk_sampler *s, const float *logits, int32_t *id, shk_error *err);

/* ---- structured output ---- */

/* A JSON schema, compiled for a tokenizer: immutable, and shared by any number of threads. docs/STRUCTURED.md lists the keywords,
 * how texts are written, and the limits. */
typedef struct shk_grammar shk_grammar;

/* `schema` is a JSON schema, terminated; NULL: any JSON object. SHK_E_FORMAT: it is not JSON or no schema. SHK_E_UNSUPPORTED: it
 * restricts by a keyword that is not supported, which the message names with its path; or no value fits it. SHK_E_LIMIT: it is too
 * large. The tokenizer must outlive the grammar. The first grammar of a tokenizer takes longer: it makes what all of them share. */
SHK_API shk_status shk_grammar_new(shk_grammar **out, const shk_tokenizer *t, const char *schema, shk_error *err);
SHK_API void shk_grammar_free(shk_grammar *g); /* after all its matchers; NULL is allowed */

/* Where one text stands. The grammar must outlive it. */
typedef struct shk_matcher shk_matcher;
SHK_API shk_status shk_matcher_new(shk_matcher **out, const shk_grammar *g, shk_error *err); /* at an empty text */
SHK_API shk_status shk_matcher_fork(shk_matcher **out, const shk_matcher *m, shk_error *err); /* an independent copy */
SHK_API void shk_matcher_free(shk_matcher *m); /* NULL is allowed */

/* Which tokens may come next: bit i & 31 of bits[i >> 5] for token i, for `vocab` tokens, so (vocab + 31) / 32 words. Those behind
 * the tokenizer's vocabulary may not, nor may control tokens; end tokens may where the text is complete. SHK_E_LIMIT: finding it
 * out takes too long, for a schema made so. SHK_E_UNSUPPORTED: no token goes on, for a vocabulary that cannot spell the text. */
SHK_API shk_status shk_matcher_mask(shk_matcher *m, uint32_t *bits, int32_t vocab, shk_error *err);
/* The same, put into logits [vocab]: those of tokens that may not come next become -INFINITY. */
SHK_API shk_status shk_matcher_apply(shk_matcher *m, float *logits, int32_t vocab, shk_error *err);
/* Goes on by one token. SHK_E_ARGUMENT: it may not come next; the matcher has not moved. An end token of a complete text moves to
 * SHK_MATCH_DONE, where further end tokens may follow. */
SHK_API shk_status shk_matcher_accept(shk_matcher *m, int32_t id, shk_error *err);

typedef enum shk_match {
    SHK_MATCH_OPEN,     /* the text is the beginning of one */
    SHK_MATCH_COMPLETE, /* it is one, and may also go on (as the number 12 may) */
    SHK_MATCH_DONE      /* it is one, and nothing but an end token may follow */
} shk_match;
SHK_API shk_match shk_matcher_state(const shk_matcher *m);

/* ---- generation ---- */

typedef enum shk_stop { SHK_STOP_LENGTH, SHK_STOP_END, SHK_STOP_STRING, SHK_STOP_CALLER } shk_stop;

typedef struct shk_generation {
    const int32_t *prompt; /* [n_prompt], consumed before the first token; at least one */
    size_t n_prompt;
    size_t max_tokens;
    shk_sampling sampling;
    const char *const *stop; /* [n_stop] strings; generation ends before the first that appears */
    size_t n_stop;
    int ignore_end; /* 1: end tokens do not end it */
    const shk_grammar *grammar; /* NULL, or what the text must be. Generation ends (SHK_STOP_END) as soon as nothing may follow */
    /* Called with the text as it becomes certain (whole UTF-8 characters, nothing that may be the start of a stop string); n
     * is 0 for tokens that add no text yet, and now and then while a long prompt is read. A non-zero return ends the
     * generation: one more call may bring text that had been held back, and not all of the prompt may have been consumed.
     * May be NULL. */
    int (*on_text)(void *user, const char *text, size_t n);
    void *user;
} shk_generation;

typedef struct shk_generated {
    int32_t *tokens; /* [n_tokens], malloc'd */
    size_t n_tokens;
    char *text; /* [n_text], malloc'd, terminated; empty where the model has no tokenizer */
    size_t n_text;
    shk_stop stop;
    double prefill_s, decode_s;
} shk_generated;

/* Prefills and generates. On success the caller frees out with shk_generated_clear; the session has consumed the prompt and
 * every generated token but the last. */
SHK_API shk_status shk_generate(shk_session *s, const shk_generation *g, shk_generated *out, shk_error *err);
SHK_API void shk_generated_clear(shk_generated *out);

#ifdef __cplusplus
}
#endif
#endif
