#!/usr/bin/env bash
# Hugging Face transformers reads what training and conversion write, and computes the same from it.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

if ! python3 -c 'import torch, transformers' 2>/dev/null; then
    skip "what transformers makes of our models: torch or transformers is not installed"
    finish
fi
speaking gemma2
for i in $(seq 20); do printf 'document %d counts %d, %d\n<|endoftext|>\n' "$i" "$i" $((i + 1)); done >text
"$SPARKHAWK" tokenize -m speaking --shards shards text >/dev/null
cat >train.json <<'END'
{"model": "speaking", "tokenizer": "speaking", "data": "shards", "batch": 2, "length": 32, "steps": 8, "rate": 2e-3, "warmup": 2}
END
for name in gemma gemma2 gemma3 recurrentgemma; do
    sparkhawk train train.json --set model="$(golden $name)" --set out=$name -q
    check "$name trains" [ $status = 0 ]
    "$SPARKHAWK" convert -m $name/step-00000008 -o $name.gguf
    "$SPARKHAWK" convert -m $name.gguf -o $name-parts --type bf16 --shard-size 100k
    for model in $name/step-00000008 $name-parts; do
        python3 "$root/tools/check_export.py" "$SPARKHAWK" $model >out 2>err
        status=$?
        check "transformers computes the same from $model: $(cat out)" [ $status = 0 ]
    done
done
finish
