#!/bin/bash
# recipes/stories/train.sh SPARKHAWK WORK FILE...: trains the model of models/README.md on the text files and writes
# WORK/sparkhawk-stories-q4_0.gguf. DEVICE=cuda for a GPU. Run again, it goes on.
set -eu
sparkhawk=$(realpath "$1") work=$(realpath -m "$2") recipe=$(dirname "$(realpath "$0")")
shift 2
mkdir -p "$work"
[ -f "$work/tokenizer.model" ] || "$recipe/../tokenizer.sh" "$work/tokenizer" 8192 "$@"
[ -d "$work/shards" ] || "$sparkhawk" tokenize -m "$work/tokenizer.model" --shards "$work/shards" "$@"
cd "$work"
[ -d start ] || "$sparkhawk" init "$recipe/model.json" -o start --type f32
"$sparkhawk" train "$recipe/train.json" --set device="${DEVICE:-cpu}" --set tokenizer=tokenizer.model
"$sparkhawk" convert -m run/step-00004600 -o sparkhawk-stories-q4_0.gguf --type q4_0
