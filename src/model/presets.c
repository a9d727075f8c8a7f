#include "model/presets.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "mem.h"

/* As a config.json would have it; single quotes stand for double ones. What a family's published default is, is left out. */
#define IDS "'bos_token_id':2,'eos_token_id':1,'pad_token_id':0"
#define NATIVE "'model_type':'sparkhawk','final_logit_softcapping':30," IDS
#define SIZE_25M "'vocab_size':8192,'hidden_size':384,'num_hidden_layers':12,'num_attention_heads':6," \
                 "'num_key_value_heads':1,'head_dim':64," \
                 "'sliding_window':512,'rope_fraction':0.5,'lru_width':512,'lru_blocks':8"
#define SIZE_150M "'vocab_size':32000,'hidden_size':896,'num_hidden_layers':12,'num_attention_heads':7," \
                  "'num_key_value_heads':1,'head_dim':128," \
                  "'sliding_window':1024,'rope_fraction':0.5,'lru_width':1152,'lru_blocks':9"
#define SIZE_2B "'vocab_size':256000,'hidden_size':2560,'num_hidden_layers':26,'num_attention_heads':10," \
                "'num_key_value_heads':1,'head_dim':256," \
                "'sliding_window':2048,'rope_fraction':0.5,'lru_width':2560,'lru_blocks':10"
#define GRIFFIN "'mixers':['recurrent','recurrent','local']"
#define HAWK "'mixers':['recurrent']"

static const struct {
    const char *name, *config;
} presets[] = {
    { "gemma2-2b", "{'model_type':'gemma2'," IDS "}" },
    { "spark-gemma2-2b", "{" NATIVE ",'vocab_size':256000,'hidden_size':2304,'intermediate_size':13824,'num_hidden_layers':26,"
                         "'num_attention_heads':8,'num_key_value_heads':4,'head_dim':256,'max_position_embeddings':8192,"
                         "'mixers':['spark'],'mlps':['spark'],'spark_ffn_rank':1024,'spark_ffn_k':1106,"
                         "'spark_attn_rank':128,'spark_attn_k':256}" },
    { "recurrentgemma-2b", "{'model_type':'recurrent_gemma','lru_width':2560,'num_key_value_heads':1," IDS "}" },
    { "recurrentgemma-9b", "{'model_type':'recurrent_gemma','lru_width':4096,'num_key_value_heads':1,'hidden_size':4096,"
                           "'intermediate_size':24576,"
                           "'num_hidden_layers':38,'num_attention_heads':16," IDS "}" },
    { "gemma3n-e2b", "{'model_type':'gemma3n_text','intermediate_size':8192,'num_hidden_layers':30,'num_kv_shared_layers':10," IDS
                     "}" },
    { "griffin-25m", "{" NATIVE "," SIZE_25M ",'intermediate_size':1152," GRIFFIN ",'mlps':['gated']}" },
    { "griffin-150m", "{" NATIVE "," SIZE_150M ",'intermediate_size':2688," GRIFFIN ",'mlps':['gated']}" },
    { "griffin-2b", "{" NATIVE "," SIZE_2B ",'intermediate_size':7680," GRIFFIN ",'mlps':['gated']}" },
    { "hawk-25m", "{" NATIVE "," SIZE_25M ",'intermediate_size':1152," HAWK ",'mlps':['gated']}" },
    { "hawk-150m", "{" NATIVE "," SIZE_150M ",'intermediate_size':2688," HAWK ",'mlps':['gated']}" },
    { "hawk-2b", "{" NATIVE "," SIZE_2B ",'intermediate_size':7680," HAWK ",'mlps':['gated']}" },
    /* neurons 1.5 times a gated layer's make the same number of parameters; 8 % of them are active */
    { "sparkhawk-25m", "{" NATIVE "," SIZE_25M ",'intermediate_size':1728," GRIFFIN
                      ",'mlps':['spark'],'spark_ffn_rank':128,'spark_ffn_k':138}" },
    { "sparkhawk-150m", "{" NATIVE "," SIZE_150M ",'intermediate_size':4032," GRIFFIN
                       ",'mlps':['spark'],'spark_ffn_rank':384,'spark_ffn_k':323}" },
    { "sparkhawk-2b", "{" NATIVE "," SIZE_2B ",'intermediate_size':11520," GRIFFIN
                     ",'mlps':['spark'],'spark_ffn_rank':1024,'spark_ffn_k':922}" },
};

const char *shk_preset_name(size_t i) { return i < sizeof presets / sizeof *presets ? presets[i].name : NULL; }

shk_status shk_preset_read(shk_config *c, const char *name, bool *found, shk_error *err) {
    memset(c, 0, sizeof *c);
    *found = false;
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        if (strcmp(name, presets[i].name) != 0) continue;
        *found = true;
        char *text = shk_strdup(presets[i].config);
        for (char *p = text; p && *p; p++)
            if (*p == '\'') *p = '"';
        json_t *root = text ? json_loads(text, 0, NULL) : NULL;
        shk_status st = root ? shk_config_from_json(c, root, presets[i].name, err)
                             : shk_fail(err, SHK_E_MEMORY, "%s: no memory", name);
        json_decref(root);
        free(text);
        return st;
    }
    return SHK_OK;
}
