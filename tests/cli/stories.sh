#!/usr/bin/env bash
# The model in models/, which was trained: what random weights cannot show.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

model=$root/models/sparkhawk-stories-q4_0.gguf
prompt="Once upon a time there was a king, who had three"
check "the file is below 24 MB" [ "$(stat -c %s "$model")" -lt 24000000 ]

# skipping what is inactive changes nothing but the order of sums
sparkhawk run -m "$model" -p "$prompt" -n 60 --exact --kv f32
check "it runs" [ $status = 0 ]
mv out skipping
sparkhawk run -m "$model" -p "$prompt" -n 60 --exact --kv f32 --dense
check "the same text with every neuron computed" cmp -s skipping out
sparkhawk run -m "$model" -p "$prompt" -n 60 --exact --kv f32 -t 1
check "the same text with one thread" cmp -s skipping out
check "the text is words of the alphabet" grep -qE '^([ A-Za-z,."'"'"';:?!-]+)$' skipping

# held-out prose: English, and 8 % of the neurons
cat >prose <<'END'
The old man sat by the window and looked out upon the sea. He had been a sailor for forty years, and he knew every ship that
came into the harbour. "There will be a storm tonight," he said to his daughter, who was busy with the supper. She laughed and
told him that the sky was clear; but before the clock had struck eight, the wind began to rise, and the rain beat upon the roof.
END
ids=$("$SPARKHAWK" tokenize -m "$model" <prose)
sparkhawk debug active -m "$model" --tokens "$ids" -o active
sparkhawk debug logits -m "$model" --tokens "$ids" -o logits
python3 - "$ids" >shares <<'END'
import array, json, math, sys
ids = [int(i) for i in sys.argv[1].split()]
z = array.array("f", open("logits", "rb").read())
vocab, loss = len(z) // len(ids), 0.0
for t in range(len(ids) - 1):
    row = z[t * vocab:(t + 1) * vocab]
    top = max(row)
    loss += top + math.log(sum(math.exp(v - top) for v in row)) - row[ids[t + 1]]
loss /= len(ids) - 1
print("loss", "low" if loss < 3.4 else loss)
for layer, counts in json.load(open("active"))["ffn"].items():
    share = sum(counts) / len(counts) / 2304
    print("layer", layer, "8" if 0.06 < share < 0.10 else share)
END
check "each next word is expected at 3.4 nats or less" grep -qx 'loss low' shares
check "all ten layers have between 6 and 10 % of their neurons active" [ "$(grep -c '^layer [0-9]* 8$' shares)" = 10 ]

# what is kept of a text
sparkhawk run -m "$model" -p "$prompt" -n 20 --state-save state
mv out first
sparkhawk run -m "$model" -p "$prompt" -n 40
check "a longer text begins with the shorter one" [ "$(head -c "$(($(wc -c <first) - 1))" out)" = "$(cat first)" ]
check "the state is of a fixed size" [ "$(stat -c %s state)" -lt 2000000 ]

finish
