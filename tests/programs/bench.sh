# `strata bench`: that it times every kind, compares what it should, and what it refuses. Its times are not looked at.
. "$(dirname "$0")/lib.sh"
shape=(--rows 256 --n 32 --width 128 --k 4 --warm-steps 2 --repeats 1)
bench() { "$STRATA" bench "${shape[@]}" --data "$data" "$@"; }
says() { # EXPRESSION ARGUMENTS...: a Python expression of the result r
  local expression=$1
  shift
  bench --json "$@" >"$folder/bench.json" 2>"$folder/log" || cat "$folder/log"
  /usr/bin/python3 -c "import json; r = json.load(open('$folder/bench.json')); assert $expression, r"
}

for kind in topk batch_topk matryoshka; do check says "abs(r['l0_of_rank'] - 4) < 0.1 and r['checked']" --kind $kind --check; done
for kind in relu jumprelu gated; do check says "not r['dense'] and r['l0_of_rank'] > 1" --kind $kind; done
check says "r['dense']" --kind relu --form dense
check says "r['seconds']['encode + gate'] <= r['seconds']['step'] and 2 < r['auxiliary_of_row'] <= 8" --dead 0.1 --aux-k 8
expect 0 '2 ranks' mpirun -n 2 "$STRATA" bench "${shape[@]}" --data "$data" --atm --threads 1
expect 2 'compares selections' bench --kind relu --check

# The weights of a trained SAE: as many are active as when it was trained.
sed -i 's/^sae: .*/sae: {kind: jumprelu, width: 128, l0_target: 4}/' "$config"
check train
sae=$(echo "$folder"/run/saes/*)
trained=$(sed -n '$s/.*"l0":\([^,]*\),.*/\1/p' "$folder/run/metrics.jsonl")
check says "abs(r['l0_of_rank'] - $trained) < 0.25 * $trained" --kind jumprelu --sae "$sae"
expect 2 'latents have no code in these rows; give at most' \
  "$STRATA" bench --rows 512 --n 32 --width 128 --k 100 --kind topk --data "$data" --sae "$sae" --dead 0.5
expect 2 'relu has no auxiliary loss' bench --kind relu --dead 0.1
expect 1 'expected one with cfg.json' bench --sae "$folder/none"
expect 2 'reads rows of 32 with 128 latents' "$STRATA" bench --rows 256 --n 32 --width 64 --data "$data" --sae "$sae"
finish
