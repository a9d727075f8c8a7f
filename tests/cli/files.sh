#!/usr/bin/env bash
# sparkhawk info, tokenize, convert and init.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

spark=$(golden spark) griffin=$(golden griffin)
speaking spark

# tokenize
gives '^2 78 111$' tokenize -m speaking Hi
gives '^78 111$' tokenize -m speaking --no-bos Hi
gives '^78 111 262 78 111$' tokenize -m speaking --no-bos Hi Hi
gives '^66 104 117 121 68$' tokenize -m speaking --no-bos '<bos>'
gives '^2$' tokenize -m speaking --no-bos --special '<bos>'
gives '^2$' tokenize -m speaking
gives '^{"tokens":\[2,78,111\],"text":"Hi"}$' tokenize -m speaking --json Hi
gives '^2 78 111$' tokenize -m speaking/tokenizer.json Hi
printf 'a\0\377\n' >bytes
"$SPARKHAWK" tokenize -m speaking <bytes >ids
check "any bytes are text" [ "$(cat ids)" = "2 103 6 261 16" ]
"$SPARKHAWK" tokenize -m speaking --decode <ids >out
check "and come back" cmp -s out bytes
xargs "$SPARKHAWK" tokenize -m speaking --decode <ids >out
check "also from operands" cmp -s out bytes
"$SPARKHAWK" tokenize -m speaking --json <bytes >out
check "as JSON they are JSON" valid_json out
gives '^<bos>Hi$' tokenize -m speaking --decode --special 2 78 111
refuses 1 "'x' is no token id" tokenize -m speaking --decode x
refuses 1 '320' tokenize -m speaking --decode 320
refuses 1 'missing: No such file' tokenize -m missing Hi
refuses 1 "$spark" tokenize -m "$spark" Hi

# info
for name in gemma gemma2 gemma3 gemma3n recurrentgemma griffin hawk spark spark-ffn topk-ffn sparkhawk; do
    gives '^parameters *[0-9,]*$' info "$(golden $name)"
    check "info $name shows the state" grep -qE '^  at 1,048,576 tokens +[0-9.]+ [kMG]?B$' out
    gives '"parameters":[0-9]' info --json "$(golden $name)"
    check "info $name --json is JSON" valid_json out
done
gives '^mixers  *.*recurrent, recurrent, local' info "$griffin"
gives '^mlps  *4x spark$' info "$spark"
gives '^vocabulary  *320$' info -m speaking
check "a tokenizer is shown" grep -qE '^tokenizer +320 tokens$' out

# convert: what comes out computes the same
"$SPARKHAWK" debug logits -m "$spark" --tokens "2 5 9" -o logits
for out in spark.gguf spark.f32; do
    sparkhawk convert -m "$spark" -o $out --type f32
    check "convert to $out succeeds" [ $status = 0 -a ! -s err ]
    "$SPARKHAWK" debug logits -m $out --tokens "2 5 9" -o again
    check "$out computes the same" cmp -s again logits
done
sparkhawk convert -m speaking -o speaking.gguf
gives '^2 78 111$' tokenize -m speaking.gguf Hi
refuses 1 'q8_0' convert -m "$spark" -o spark.q8 --type q8_0
refuses 1 'missing' convert -m missing -o out.gguf
refuses 1 'nowhere' convert -m "$spark" -o nowhere/out.gguf
sparkhawk convert -m "$spark" -o parts --shard-size 300k
check "weights are divided" [ $status = 0 -a -s parts/model-00001-of-00003.safetensors -a ! -e parts/model.safetensors ]
check "into files of at most that size" [ -z "$(find parts -name '*.safetensors' -size +300000c)" ]
check "with an index" valid_json parts/model.safetensors.index.json
sparkhawk convert -m parts -o joined
sparkhawk convert -m "$spark" -o direct
check "and come together again" cmp -s joined/model.safetensors direct/model.safetensors
sparkhawk convert -m "$spark" -o parts-of-one --shard-size 1
check "a tensor is not divided" [ $status = 0 ]
"$SPARKHAWK" debug logits -m parts-of-one --tokens "2 5 9" -o again
check "each in a file computes the same" cmp -s again logits
sparkhawk convert -m "$spark" -o undivided --shard-size 1G
check "what fits into one file is one" [ -s undivided/model.safetensors -a ! -e undivided/model.safetensors.index.json ]
refuses 1 'belongs to another model' convert -m "$spark" -o parts --shard-size 300k
refuses 1 'GGUF file is not divided' convert -m "$spark" -o parts.gguf --shard-size 300k
for size in 0 x 15MB -1 99999999999999999999 ''; do
    refuses 2 'is no size, such as 15M' convert -m "$spark" -o other --shard-size="$size"
done
mkdir kept
refuses 1 'config.json' convert -m kept -o kept/out.gguf
check "nothing was left behind" [ -z "$(ls -A kept)" ]

# init
gives '^[a-z0-9.-]*$' init
check "presets are listed" [ "$(wc -l <out)" -ge 3 ]
sparkhawk init "$spark/config.json" -o one.gguf --seed 1
check "init succeeds" [ $status = 0 ]
sparkhawk init "$spark/config.json" -o two.gguf --seed 1
check "a seed repeats" cmp -s one.gguf two.gguf
sparkhawk init "$spark/config.json" -o two.gguf --seed 2
check "another seed differs" [ "$(cmp one.gguf two.gguf 2>&1 | wc -l)" = 1 ]
sparkhawk run -m one.gguf --tokens "2 5 9" -n 4
check "what init makes runs" [ $status = 0 -a "$(wc -w <out)" -ge 1 ]
refuses 1 'no-such-preset' init no-such-preset -o three.gguf
check "nothing was made" [ ! -e three.gguf ]

finish
