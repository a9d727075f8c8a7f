#!/usr/bin/env bash
# Training as several processes: the same steps as one process takes, whoever fails ends all, and checkpoints serve any number.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

# Open MPI as root, in a container, with more ranks than cores, and with nothing but shared memory
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_plm=isolated OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_orte_tmpdir_base=$work
mpi=$(dirname "$SPARKHAWK")/mpi/sparkhawk

# what a rank runs: it notes its process, and ranks other than 0 may have arguments of their own
cat >rank <<'END_OF_RANK'
#!/bin/bash
rank=$OMPI_COMM_WORLD_RANK own=()
echo $$ >pid.$rank
[ -e "own.$rank" ] && mapfile -t own <"own.$rank"
exec "$@" "${own[@]}"
END_OF_RANK
chmod +x rank

# ranks N ARGUMENT...: the program as N processes: status, files out and err
ranks() {
    local n=$1
    shift
    timeout 120 mpirun -q -np "$n" ./rank "$mpi" "$@" </dev/null >out 2>all
    status=$?
    grep -v '^\[hwloc/' all >err # in a container without /sys
}
same() { cmp -s "$1/step-00000018/model.safetensors" "$2/step-00000018/model.safetensors" &&
    cmp -s "$1/step-00000018/state.safetensors" "$2/step-00000018/state.safetensors"; }
train() { ranks "$1" train train.json "${@:2}"; }

speaking sparkhawk
for i in $(seq 60); do
    for _ in $(seq $((i % 7 + 1))); do echo "document $i counts $i, $((i + 1)), $((i + 2))"; done
    echo '<|endoftext|>'
done >text
"$SPARKHAWK" tokenize -m speaking --shards shards --held-out 10 text >/dev/null
cat >train.json <<'END_OF_CONFIG'
{"model": "speaking", "data": "shards", "batch": 6, "length": 48, "steps": 18, "rate": 2e-3, "warmup": 4, "threads": 1,
 "log_every": 1, "eval_every": 6, "eval_batches": 2, "save_every": 6, "keep": 9, "z_loss": 1e-4, "out": "one"}
END_OF_CONFIG

train 1
check "one process under the launcher trains" [ $status = 0 ]
"$mpi" train train.json --set out=alone -q 2>err
check "and without it" same one alone
"$SPARKHAWK" train train.json --set out=plain -q
check "and one that knows no others, to the same bytes" same one plain
train 2 --set out=two
check "two processes train" [ $status = 0 ]
check "one of them says so" [ "$(grep -c '^step 18/18  loss .* -> two/step-00000018$' err)" = 1 ]
train 3 --set out=three -q
check "three processes train" [ $status = 0 -a ! -s err ]
"$SPARKHAWK" train train.json --set out=divided --set batch=2 --set accumulate=3 --set eval_batches=6 -q
"$SPARKHAWK" train train.json --set out=single --set batch=1 --set accumulate=6 --set eval_batches=12 -q

# curve RUN KEY: its values, one a line
curve() { sed -nE "s/.*[{,]\"$2\":([-+0-9.e]+)[,}].*/\1/p" "$1/metrics.jsonl"; }
# apart RUN RUN KEY: the largest difference of two curves, relative to the value, and at least that of the digits
apart() {
    paste <(curve "$1" "$3") <(curve "$2" "$3") | awk '{ d = ($1 - $2) / $1; if (d < 0) d = -d; if (d > m) m = d }
        END { print NR == 0 ? "nothing" : m < 1e-6 ? 1e-6 : m }'
}
first() { curve "$1" loss | head -n 1; }
for run in two three; do
    check "the first loss of $run is that of one process" [ "$(first $run)" = "$(first one)" ]
    for key in loss norm held_out; do
        check "$run has as many values of $key" [ "$(curve $run $key | wc -l)" = "$(curve one $key | wc -l)" ]
        # how far rounding leads apart is seen where one process adds the same gradients in another order
        check "$run has the same $key, but for rounding" awk -v d="$(apart one $run $key)" -v a="$(apart one divided $key)" \
            -v b="$(apart one single $key)" 'BEGIN { exit !(d <= 4 * (a > b ? a : b)) }'
    done
done
check "the whole batch counts" [ "$(curve two tokens)" = "$(curve one tokens)" ]
check "and the activity of all" [ "$(curve two active | head -n 1)" = "$(curve one active | head -n 1)" ]

# a checkpoint is the run, for as many processes
cp -r two resumed
rm -r resumed/step-0000001[28]
train 2 --set out=resumed -q
check "a run of two goes on" [ $status = 0 ]
check "to the bit" same resumed two
for n in 1 3; do
    cp -r two by-$n
    rm -r by-$n/step-0000001[28]
    train $n --set out=by-$n -q
    check "$n go on where two were" [ $status = 0 ]
    check "to the same losses, but for rounding" awk -v d="$(apart two by-$n loss)" -v a="$(apart one divided loss)" \
        -v b="$(apart one single loss)" 'BEGIN { exit !(d <= 4 * (a > b ? a : b)) }'
done

# one that fails ends all
printf '%s\n' --set data=no-data >own.1
train 2 --set out=other
check "an error of one rank ends all" [ $status = 1 ]
check "and is told once, with its rank" [ "$(grep -c '^sparkhawk: rank 1: no-data/train-00000.safetensors' err)" = 1 ]
check "and nothing else is" [ "$(grep -c '^sparkhawk: ' err)" = 1 ]
rm own.1
train 4 --set out=other
check "a batch that cannot be divided is refused" grep -q '^sparkhawk: train.json: a batch of 6 cannot be divided among 4' err
OMPI_COMM_WORLD_RANK=0 refuses 1 'built without MPI' train train.json --set out=other

# background: starts a long run of two in the directory $1, and waits for its first line
background() {
    rm -f pid.*
    timeout 60 mpirun -q -np 2 ./rank "$mpi" train train.json --set out="$1" \
        --set steps=1000000 --set save_every=1000000 </dev/null >out 2>err &
    launcher=$!
    for _ in $(seq 200); do grep -q '^step' err && break; sleep 0.05; done
}
ended() { wait $launcher && status=0 || status=$?; }
background killed
kill -9 "$(cat pid.1)"
ended
check "a rank that is killed ends the run" [ $status != 0 -a $status != 124 ]
for _ in $(seq 100); do [ -d "/proc/$(cat pid.0)" ] || break; sleep 0.1; done
check "and the other rank" [ ! -d "/proc/$(cat pid.0)" ]
for rank in 0 1; do
    background stopped-$rank
    kill -TERM "$(cat pid.$rank)"
    ended
    check "SIGTERM to rank $rank ends all with status 130" [ $status = 130 ]
    check "and a checkpoint" grep -qE -- "-> stopped-$rank/step-[0-9]+\$" err
    train 2 --set out=stopped-$rank --set steps=1 -q
    check "that can be read" [ $status = 0 ]
done

# A token that makes NaN, in one document alone: its embedding overflows. Every rank tells the document that one process would.
# (Without attention: that multiplies what it does not see by 0, which a NaN survives.)
cat >poison.py <<'END_OF_POISON'
import json, shutil, struct, sys
shutil.copytree(sys.argv[1], "poisoned")
with open("poisoned/model.safetensors", "r+b") as f:
    n = struct.unpack("<Q", f.read(8))[0]
    t = json.loads(f.read(n))["model.embed_tokens.weight"]
    size = {"BF16": 2, "F32": 4}[t["dtype"]]
    f.seek(8 + n + t["data_offsets"][0] + (6 + ord("~")) * t["shape"][1] * size)
    f.write(struct.pack("<f", 4.4e37)[4 - size:])  # times 8, the root of the width
END_OF_POISON
python3 poison.py "$(golden hawk)"
said() { sed -nE 's/^sparkhawk: (rank [0-9]+: )?(step .*)$/\2/p' err; }
for i in 12 25; do
    sed "s/^document $i counts.*/document ~/" text >text-$i
    "$SPARKHAWK" tokenize -m speaking --shards shards-$i --held-out 0 text-$i >/dev/null
    poisoned=(--set model=poisoned --set tokenizer=speaking --set "data=shards-$i" --set eval_every=0 --set steps=60
              --set spike=0 -q)
    sparkhawk train train.json "${poisoned[@]}" --set out=nan-$i
    check "a loss that is not finite stops one process" one_line "the loss of token .* is not finite (document $((i - 1)))"
    want=$(said) sequence=$(sed -nE 's/.*in sequence ([0-9]+).*/\1/p' err)
    train 2 "${poisoned[@]}" --set out=nan-two-$i
    check "and two" [ $status = 1 ]
    check "with the same words: $want" [ "$(said)" = "$want" ]
    rank=$(sed -nE 's/^sparkhawk: rank ([0-9]+): .*/\1/p' err)
    check "from the rank that has sequence $sequence" [ "${rank:-0}" = $((sequence / 3)) ]
done
finish
