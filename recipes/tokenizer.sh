#!/bin/sh
# recipes/tokenizer.sh NAME WORDS FILE...: trains NAME.model, a byte-exact BPE vocabulary, on text files in which a line
# <|endoftext|> ends a document (docs/TRAINING.md).
set -eu
name=$1 words=$2
shift 2
grep -hvxF '<|endoftext|>' "$@" >"$name.sentences"
spm_train --input="$name.sentences" --model_prefix="$name" --vocab_size="$words" --model_type=bpe --byte_fallback=true \
    --split_digits=true --add_dummy_prefix=false --normalization_rule_name=identity --remove_extra_whitespaces=false \
    --allow_whitespace_only_pieces=true --pad_id=0 --eos_id=1 --bos_id=2 --unk_id=3 --input_sentence_size=300000 \
    --shuffle_input_sentence=true --max_sentence_length=16384
rm "$name.sentences"
