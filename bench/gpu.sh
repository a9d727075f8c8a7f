#!/bin/bash
# bench/gpu.sh SPARKHAWK FOLDER: inference on a GPU, for docs/RESULTS.md. Beside Hugging Face transformers first
# (tools/compare_transformers.py; wants torch and transformers: PYTHON, or python3), then models of published sizes with random
# weights, which stay in FOLDER (24 GB): prefill, sequences at once, depths, types, sampling, Spark and dense in turn.
set -u
sparkhawk=$(realpath "$1") folder=$(realpath -m "$2") here=$(dirname "$(realpath "$0")")
mkdir -p "$folder"
make_model() { [ -f "$folder/$1-$2.gguf" ] || "$sparkhawk" init "$1" -o "$folder/$1-$2.gguf" --type "$2" >/dev/null; }
for model in gemma2-2b spark-gemma2-2b recurrentgemma-2b; do make_model $model bf16 & done
for type in q8_0 q4_0; do
    make_model gemma2-2b $type &
    make_model spark-gemma2-2b $type &
done
wait
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
bench() {
    echo "--- $*"
    local model=$1
    shift
    "$sparkhawk" bench --device cuda -m "$folder/$model.gguf" "$@"
}
timeout "${PATIENCE:-600}" "${PYTHON:-python3}" "$here/../tools/compare_transformers.py" "$sparkhawk" "$folder"
for model in gemma2-2b spark-gemma2-2b recurrentgemma-2b; do
    bench $model-bf16 --prefill 512 -n 48 -b "1 2 4 8 16 32 64"
    bench $model-bf16 --prefill 0 -n 48 -d 4096
done
bench recurrentgemma-2b-bf16 --prefill 0 -n 48 -d 1000000
bench spark-gemma2-2b-bf16 --vs "$folder/gemma2-2b-bf16.gguf" --prefill 0 -n 48 -d "0 4096"
bench spark-gemma2-2b-bf16 --dense --prefill 0 -n 48 -b "2 4 8" # whole matrices where a list is the rule
for type in q8_0 q4_0; do bench spark-gemma2-2b-$type --vs "$folder/gemma2-2b-$type.gguf" --prefill 0 -n 48; done
bench gemma2-2b-bf16 --prefill 0 -n 48 -b "1 16" --temp 1 --top-k 64 --top-p 0.95
bench gemma2-2b-bf16 --prefill 0 -n 48 -b "1 16" --temp 1
