#!/usr/bin/env bash
# sparkhawk run: goldens, JSON, prompts from everywhere, stored states, limits, interruption.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

json_ids() { sed -E 's/.*"tokens":\[([^]]*)\].*/\1/; s/,/ /g' out; }
json_has() { grep -qE "$1" out; }

# the reference's greedy continuations, and what the JSON says of them
for name in gemma gemma2 gemma3 gemma3n recurrentgemma griffin hawk spark spark-ffn topk-ffn sparkhawk; do
    expected=$(golden_ids $name greedy)
    n=$(wc -w <<<"$expected")
    sparkhawk run -m "$(golden $name)" --tokens "$(golden_ids $name tokens)" -n "$n" --ignore-eos --kv f32 -q
    check "$name continues as its reference does" [ "$(cat out)" = "$expected" ]
    check "--quiet is quiet" [ ! -s err ]
    sparkhawk run -m "$(golden $name)" --tokens "$(golden_ids $name tokens)" -n "$n" --ignore-eos --kv f32 --json
    check "$name: the JSON has the same ids" [ "$(json_ids)" = "$expected" ]
done
check "the JSON has the text" json_has '^\{"text":"",'
check "the JSON has the length of the prompt" json_has '"prompt_tokens":48,'
check "the JSON has times" json_has '"prefill_s":[0-9.e-]+,"decode_s":[0-9.e-]+,'
check "the JSON says why it stopped" json_has '"stop":"length"\}$'
check "the JSON is JSON" valid_json out
check "with --json nothing else is said" [ ! -s err ]

spark=$(golden spark) hawk=$(golden hawk)
sparkhawk run -m "$spark" --tokens "2 5 9" -n 3
check "the speed is on standard error" \
    grep -qE '^prompt: 3 tokens, [0-9.]+ tok/s; generated: 3 tokens, [0-9.]+ tok/s$' err
cp out three
sparkhawk run -m "$spark" --tokens $'2,5\n 9\t' -n 3
check "ids may be separated by commas and any space" cmp -s out three
SPARKHAWK_MODEL=$spark sparkhawk run --tokens "2 5 9" -n 3
check "the model may come from the environment" cmp -s out three
sparkhawk run -m "$spark" --tokens "2 5 9" -n 3 --threads 1
check "the number of threads changes nothing" cmp -s out three
sparkhawk run -m "$spark" --tokens "2 5 9" -n 3 --dense
check "dense computation changes nothing" cmp -s out three
sparkhawk run -m "$spark" --tokens "2 5 9" -n 0
check "-n 0 generates nothing" [ $status = 0 -a ! -s out ]
sparkhawk run -m "$spark" --tokens "2 5 9" -n 3 -q --device cuda
if [ $status = 0 ]; then check "a GPU generates as many" [ "$(wc -w <out)" = 3 ]
else check "where no GPU can be used, a line says why" one_line 'GPU'; fi
first=$(cut -d ' ' -f 1 three)
sparkhawk run -m "$spark" --tokens "2 5 9" -n 3 --logit-bias "$first=-inf"
check "a forbidden token does not appear" [ -z "$(grep -w "$first" out)" ]
sparkhawk run -m "$spark" --tokens "2 5 9" -n 3 --logit-bias 7=1000000
check "a favoured token does" [ "$(cat out)" = "7 7 7" ]

# the dice
sample() { sparkhawk run -m "$spark" --tokens "2 5 9" -n 40 --ignore-eos --temp 2 -q "$@"; }
sample --seed 7 && cp out seven
sample --seed 7
check "a seed repeats" cmp -s out seven
sample --seed 8
check "another seed differs" [ "$(cat out)" != "$(cat seven)" ]
sample && cp out unseeded
sample
check "no seed differs from itself" [ "$(cat out)" != "$(cat unseeded)" ]
sample --seed 7 --top-k 1 && cp out likeliest
sparkhawk run -m "$spark" --tokens "2 5 9" -n 40 --ignore-eos -q
check "top-k 1 is greedy" cmp -s out likeliest

# bad ids
refuses 1 'token 320 of the prompt is not in the vocabulary of 320' run -m "$spark" --tokens "2 320"
refuses 1 "'x' is no token id" run -m "$spark" --tokens "2 x"
refuses 1 "'-1' is no token id" run -m "$spark" --tokens "2 -1"
refuses 1 "'2147483648' is no token id" run -m "$spark" --tokens 2147483648
refuses 1 'the prompt is empty' run -m "$spark" --tokens ''
refuses 1 'token 320 is not in the vocabulary' run -m "$spark" --tokens 2 --logit-bias 320=1
refuses 1 'no tokenizer' run -m "$spark" -p hello

# contexts
refuses 1 'the prompt has 4 tokens, and the context of 3 has room for 3' run -m "$spark" --tokens "2 5 9 8" --context 3
sparkhawk run -m "$spark" --tokens "2 5 9" -n 10 --context 8
check "generation ends where the context does" [ $status = 0 -a "$(wc -w <out)" = 5 ]

# states: what was stored goes on as if it had never stopped
sparkhawk run -m "$spark" --tokens "2 5 9" -n 6 --ignore-eos --state-save state -q
generated=$(cat out)
sparkhawk run -m "$spark" --tokens "2 5 9 $generated 17 18" -n 6 --ignore-eos -q && cp out whole
sparkhawk run -m "$spark" --tokens "17 18" -n 6 --ignore-eos -q --state-load state
check "a stored state continues where it stopped" cmp -s out whole
sparkhawk run -m "$spark" --tokens "2 5 9" -n 0 --state-save state -q
sparkhawk run -m "$spark" --tokens "$generated 17 18" -n 6 --ignore-eos -q --state-load state
check "a stored prompt continues" cmp -s out whole
refuses 1 'state' run -m "$hawk" --tokens 5 --state-load state
refuses 1 'missing: No such file' run -m "$spark" --tokens 5 --state-load missing
head -c 100 state >torn
refuses 1 'torn' run -m "$spark" --tokens 5 --state-load torn
sparkhawk run -m "$spark" --tokens "2 5" -n 1 --state-save nowhere/state -q
check "a state that cannot be written is a failure" [ $status = 1 ] && check "and is told" one_line 'nowhere/state'

# text
speaking spark
sparkhawk run -m speaking -p 'Hi ü' -n 30 --ignore-eos -q && cp out greeting
echo -n 'Hi ü' >file
sparkhawk run -m speaking -f file -n 30 --ignore-eos -q
check "a prompt from a file" cmp -s out greeting
for from in -p -f; do
    "$SPARKHAWK" run -m speaking $from - -n 30 --ignore-eos -q <file >out 2>err
    check "a prompt from standard input with $from -" cmp -s out greeting
done
sparkhawk run -m speaking --tokens "$("$SPARKHAWK" tokenize -m speaking 'Hi ü')" -n 30 --ignore-eos -q
check "a prompt from tokenize" cmp -s out greeting
sparkhawk run -m speaking -p '' -n 5
check "an empty prompt is the bos token" [ $status = 0 ]
: >empty
sparkhawk run -m speaking -f empty -n 5 --json
check "and so is an empty file" json_has '"prompt_tokens":1,'
sparkhawk run -m speaking -p 'Hi' --json -n 60 --ignore-eos
check "text that is not UTF-8 gives JSON nevertheless" valid_json out
check "with replacement characters" grep -q $'\xef\xbf\xbd' out
sparkhawk run -m speaking -p $'a<eos>' --json -n 1
check "special tokens in a prompt are text" json_has '"prompt_tokens":7,'
sparkhawk run -m speaking -p $'a<eos>' --special --json -n 1
check "unless --special says otherwise" json_has '"prompt_tokens":3,'
sparkhawk run -m speaking --chat -p 'Hi' --json -n 1
check "--chat wraps a message" json_has '"prompt_tokens":18,'
printf 'a\0b' >zero
sparkhawk run -m speaking -f zero --json -n 1
check "a zero byte is text" json_has '"prompt_tokens":4,'
refuses 1 'zero byte' run -m speaking --chat -f zero
refuses 1 'missing.txt: No such file' run -m speaking -f missing.txt
refuses 1 "$work: Is a directory" run -m speaking -f "$work"
yes 0123456789abcdef | head -c 10000000 >long
refuses 1 'the prompt has 10000001 tokens, and the context of' run -m speaking -f long

# stop strings and end tokens
text=$(tr -dc '<unsed0-9>' <greeting | grep -o '<unused[0-9]*>' | head -n 1)
sparkhawk run -m speaking -p 'Hi ü' -n 30 --ignore-eos --stop "$text" --stop nothing --json
check "a stop string stops" json_has '"stop":"string"\}$'
check "and is not part of the text" [ "$(grep -c "$text" out)" = 0 ]
sparkhawk run -m speaking -p 'Hi ü' -n 30 --logit-bias 1=1000000 --json
check "an end token ends" json_has '"tokens":\[1\],.*"stop":"end"'

# Ctrl-C, as soon as the program catches it
interrupted() {
    set -m # without it a background job ignores the signal
    "$SPARKHAWK" run -m "$hawk" --tokens 2 -n 1000000000 --ignore-eos "$@" >out 2>err &
    set +m
    for _ in $(seq 100); do
        ((0x0$(awk '/^SigCgt/ { print $2 }' /proc/$!/status) & 2)) && break
        sleep 0.1
    done
    sleep 0.5
    kill -INT $!
    wait $!
    status=$?
}
interrupted
check "Ctrl-C ends with status 130" [ $status = 130 ]
check "Ctrl-C leaves the tokens" [ "$(wc -w <out)" -gt 1 ]
check "Ctrl-C leaves the line about the speed" grep -q '^prompt: 1 tokens, .* tok/s$' err
interrupted --json
check "Ctrl-C leaves JSON" json_has '"stop":"interrupt"\}$'

# structured output, of a model that knows nothing of it
echo '{"type":"object","properties":{"n":{"type":"integer","maximum":99},"s":{"enum":["a","b"]}},"required":["n","s"]}' >schema
sparkhawk run -m speaking -p hello --json-schema schema --temp 2 --seed 3 -q
check "the text fits the schema" grep -qzE '^\{\s*"n": ?-?[0-9]+,\s*"s": ?"[ab]"\s*\}\s*$' out
check "it is JSON" valid_json out
sparkhawk run -m speaking -p hello --json-schema schema --json
check "it ends by itself" json_has '"stop":"end"\}$'
sparkhawk run -m speaking -p hello --json-object -n 1 -q
check "a JSON object begins with a brace" [ "$(cat out)" = "{" ]
echo '{"properties":{"a":{"not":{}}}}' >schema
refuses 1 'schema: schema: #/properties/a/not: the keyword is not supported' run -m speaking -p hello --json-schema schema
refuses 1 'nowhere' run -m speaking -p hello --json-schema nowhere
refuses 1 'no tokenizer' run -m "$spark" --tokens "2 5" --json-object
refuses 2 'only one of --json-object and --json-schema' run -m speaking -p hello --json-object --json-schema schema

finish
