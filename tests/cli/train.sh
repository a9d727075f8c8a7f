#!/usr/bin/env bash
# From text to a model: shards, a training run that is killed and goes on, and what it refuses.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

speaking sparkhawk

# text: 60 documents, among them one that is longer than a sequence and one that is empty
for i in $(seq 60); do
    for _ in $(seq $((i % 7 + 1))); do echo "document $i counts $i, $((i + 1)), $((i + 2))"; done
    echo '<|endoftext|>'
    [ "$i" != 9 ] || echo '<|endoftext|>'
done >text
gives '^54 documents of [0-9]* tokens, 6 of [0-9]* held out$' tokenize -m speaking --shards shards --held-out 10 text
cp out first
gives '^5' tokenize -m speaking --shards again --held-out 10 --threads 1 text
check "shards do not depend on threads" cmp -s shards/train-00000.safetensors again/train-00000.safetensors
check "the counts are the same" cmp -s out first
gives '^59 documents of [0-9]* tokens, 1 of [0-9]* held out$' tokenize -m speaking --shards last text
gives '^60 documents of [0-9]* tokens, 0 of 0 held out$' tokenize -m speaking --shards small --held-out 0 --shard-tokens 1000 text
check "shards are closed when they are full" [ -s small/train-00003.safetensors ]
refuses 1 'there are shards already' tokenize -m speaking --shards shards text
echo alone >alone
refuses 1 'none that is not held out' tokenize -m speaking --shards other alone
refuses 1 'missing: No such file' tokenize -m speaking --shards other missing
refuses 2 'wants text files' tokenize -m speaking --shards other

cat >train.json <<'END'
{"model": "speaking", "data": "shards", "batch": 2, "length": 48, "accumulate": 2, "steps": 24, "rate": 2e-3, "warmup": 4,
 "log_every": 2, "eval_every": 8, "eval_batches": 2, "save_every": 6, "keep": 2, "z_loss": 1e-4, "out": "whole"}
END
train() { sparkhawk train train.json "$@" </dev/null; }

train
check "a run succeeds" [ $status = 0 ]
check "it says what it does" grep -qE '^step 24/24  loss [0-9.]+  held out [0-9.]+ .* -> whole/step-00000024$' err
check "it keeps the last checkpoints" [ "$(echo whole/step-*)" = "whole/step-00000018 whole/step-00000024" ]
check "each logged step is a line" [ "$(wc -l <whole/metrics.jsonl)" = 12 ]
while read -r line; do echo "$line" >line.json && check "a line of metrics is JSON" valid_json line.json; done <whole/metrics.jsonl
loss() { sed -nE "s/.*\"step\":$1,.*\"loss\":([0-9.]+).*/\1/p" whole/metrics.jsonl; }
check "the loss falls" awk "BEGIN { exit !($(loss 24) < $(loss 2) - 0.3) }"
cat >layers.py <<'END'
import json
for p in map(json.loads, open("whole/metrics.jsonl")):
    shares, attended = p["active_layers"], p["attended_layers"]
    assert len(shares) == 3 and abs(p["active"] - sum(shares) / 3) < 1e-5, p  # of four digits, below 0.1
    assert attended[:2] == [None, None] and 1 <= attended[2] <= 48, p
END
check "metrics tell what each sparse layer did" python3 layers.py
check "there is a picture" grep -q '</svg>' whole/loss.svg
check "and a page with it" grep -q '</svg>' whole/index.html
check "which is XML" python3 -c 'import xml.dom.minidom as x; x.parse("whole/loss.svg")'
gives . run -m whole/step-00000024 -p document -n 8
gives '^parameters' info whole/step-00000024

# a checkpoint is the run: killed at any moment and started again it comes to the same bytes
same() { cmp -s "$1/step-00000024/model.safetensors" whole/step-00000024/model.safetensors &&
    cmp -s "$1/step-00000024/state.safetensors" whole/step-00000024/state.safetensors; }
for delay in 0.15 0.3 0.45 0.6; do
    "$SPARKHAWK" train train.json --set out=killed --set save_every=3 -q </dev/null >/dev/null 2>&1 &
    pid=$!
    sleep $delay
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    for file in killed/step-*/train.json; do [ ! -e "$file" ] || check "$file is whole" valid_json "$file"; done
done
train --set out=killed --set save_every=3 --set threads=1 -q
check "a killed run ends as one that was not" same killed
check "with --quiet it says nothing" [ ! -s err ]
metrics() { sed -E 's/,"tokens_per_s":[^,}]*//' "$1/metrics.jsonl"; }
check "and its metrics are those of one run" [ "$(metrics killed)" = "$(metrics whole)" ]

# what a checkpoint needs of an earlier one outlives it, and what somebody else has put there goes with it
train --set out=long --set save_every=2 --set keep=1 --set steps=4 -q
mkdir -p long/step-00000004/.cache/deep
echo note >long/step-00000004/.cache/deep/note
train --set out=long --set save_every=2 --set keep=1 --set steps=12 -q
check "a run goes on over a checkpoint with other things in it" [ $status = 0 ]
check "of which nothing stays" [ "$(ls -d long/step-* long/unfinished 2>/dev/null)" = long/step-00000012 ]
gives . run -m long/step-00000012 -p document -n 8
refuses 1 'tokeniser.model: No such file' train train.json --set out=other --set tokenizer=tokeniser.model

# a signal saves
"$SPARKHAWK" train train.json --set out=stopped --set save_every=1000 --set steps=100000 </dev/null >out 2>stopped.err &
pid=$!
for _ in $(seq 100); do grep -q '^step' stopped.err && break; sleep 0.05; done
refuses 1 'stopped: another run writes there' train train.json --set out=stopped
kill -TERM $pid
wait $pid
status=$?
check "SIGTERM ends with status 130" [ $status = 130 ]
check "and a checkpoint" grep -qE -- '-> stopped/step-[0-9]+$' stopped.err
train --set out=recomputed --set recompute=true -q
check "recomputation changes nothing" same recomputed
train --set out=bf16 --set compute=bf16 -q
check "bf16 products train" [ $status = 0 ]
cmp -s bf16/step-00000024/model.safetensors whole/step-00000024/model.safetensors
check "and are something else" [ $? = 1 ]
"$root/tools/compare_runs.py" whole rounded=bf16 -o runs.svg >out 2>err
status=$?
check "runs can be compared" [ $status = 0 ]
check "in a table" grep -qE '^rounded +24 +4\.608k +[0-9.]+ +[0-9.]+ ' out
check "and a picture" python3 -c 'import xml.dom.minidom as x; x.parse("runs.svg")'
"$root/tools/compare_runs.py" --apart whole itself=whole rounded=bf16 >out 2>err
check "or told apart" grep -qE '^rounded +24 +[0-9.]+ +[0-9.]+( +[0-9.]+e[-+][0-9]+){4} +[1-9][0-9.]*e-[0-9]+ ' out
check "where they are not the same" grep -qE '^itself +24 +[0-9.]+ +[0-9.]+( +0\.0e\+00){6}$' out
# four sequences make one step, however they are divided: but for rounding
first_step() { sed -nE 's/^\{"step":1,.*"loss":([0-9.]+),.*"norm":([0-9.]+),.*/\1 \2/p' "$1/metrics.jsonl"; }
for batch in 1 4; do
    train --set out=by-$batch --set batch=$batch --set accumulate=$((4 / batch)) --set log_every=1 --set steps=1 -q
done
check "accumulated gradients are those of the whole batch" awk -v a="$(first_step by-1)" -v b="$(first_step by-4)" 'BEGIN {
    split(a, x); split(b, y); exit !(x[1] > 0 && (x[1] - y[1])^2 < 1e-9 && (x[2] / y[2] - 1)^2 < 1e-9) }'
"$SPARKHAWK" convert -m whole/step-00000024 -o tuned.gguf --type q8_0
"$SPARKHAWK" convert -m speaking -o copy.gguf --type f32
gives '^loss [0-9.]*$' debug grads -m speaking --tokens "2 5 9 30 7" -o grads
gives '^loss [0-9.]*$' debug grads -m copy.gguf --tokens "2 5 9 30 7" -o grads.gguf
check "a GGUF file has the gradients of what it was made from" cmp -s grads grads.gguf
refuses 1 'a loss needs 2' debug grads -m speaking --tokens 2 -o grads
train --set model=tuned.gguf --set out=tuned --set schedule=constant --set decay_steps=4 -q
check "a GGUF file can be trained on" [ $status = 0 ]
gives . run -m tuned/step-00000024 -p document -n 4
for name in gemma gemma2 gemma3 recurrentgemma griffin topk-ffn; do
    train --set model="$(golden $name)" --set tokenizer=speaking --set out=of-$name --set steps=2 --set accumulate=1 -q
    check "$name can be trained on" [ $status = 0 ]
    sparkhawk run -m of-$name/step-00000002 -p document -n 2
    check "and runs" [ $status = 0 ]
done

# what is wrong is said
train --set out=jump --set spike=0.002 --set rate=0.05 --set steps=400 -q
check "a jump of the loss stops" [ $status = 1 ]
check "and says where" one_line 'step [0-9]*: the loss jumped to .* from an average of .* document [0-9]'
check "what was saved before stays" compgen -G "jump/step-*/train.json" >/dev/null
train --set out=nan --set rate=10 --set spike=0 --set clip=0 --set weight_decay=10 --set steps=2000 -q
check "a loss that is not finite stops" [ $status = 1 ]
check "and says where it was" one_line 'step [0-9]*: .* not finite'
refuses 1 'there is no setting lenght' train train.json --set lenght=3
refuses 1 'batch must be a whole number from 1' train train.json --set batch=0
refuses 1 'schedule is "linear", must be one of cosine|constant' train train.json --set schedule=linear
refuses 1 'recompute is neither true nor false' train train.json --set recompute=1
refuses 1 'not KEY=VALUE' train train.json --set batch
refuses 1 'no-data/train-00000.safetensors' train train.json --set out=other --set data=no-data
refuses 1 'tensor\|family' train train.json --set out=other --set model="$(golden gemma3n)"
refuses 1 'missing.json' train missing.json
echo '{"model": "speaking"}' >short.json
refuses 1 'short.json: data is missing' train short.json
finish
