#!/bin/bash
# recipes/35m/compare.sh SPARKHAWK WORK FILE...: trains dense, spark, griffin and sparkhawk (35.5M parameters each) on the text
# files and draws WORK/training.svg. One after the other on one device; DEVICE=cuda for a GPU, GPUS=4 for four at once. Run again,
# it goes on.
set -eu
sparkhawk=$(realpath "$1") work=$(realpath -m "$2") recipe=$(dirname "$(realpath "$0")")
shift 2
mkdir -p "$work"
[ -f "$work/tokenizer.model" ] || "$recipe/../tokenizer.sh" "$work/tokenizer" 16384 "$@"
[ -d "$work/shards" ] || "$sparkhawk" tokenize -m "$work/tokenizer.model" --shards "$work/shards" "$@"
cd "$work"
kinds=(dense spark griffin sparkhawk)
for i in "${!kinds[@]}"; do
    kind=${kinds[i]}
    [ -d "start-$kind" ] || "$sparkhawk" init "$recipe/$kind.json" -o "start-$kind" --type f32
    CUDA_VISIBLE_DEVICES=$((i % ${GPUS:-1})) "$sparkhawk" train "$recipe/train.json" --set device="${DEVICE:-cpu}" \
        --set model="start-$kind" --set tokenizer=tokenizer.model --set out="$kind" >"$kind.log" 2>&1 &
    [ $(((i + 1) % ${GPUS:-1})) != 0 ] || wait
done
wait
"$recipe/../../tools/compare_runs.py" "${kinds[@]}" -o training.svg
