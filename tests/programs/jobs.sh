# Several SAEs on one stream, several datasets one after the other: each SAE is the one it would be alone, whatever else
# is trained beside it, also when the run is stopped in the second dataset and continued.
. "$(dirname "$0")/lib.sh"
/usr/bin/python3 - "$data" "$folder/layers.h5" <<'PY'
import sys, h5py
with h5py.File(sys.argv[1]) as one, h5py.File(sys.argv[2], "w") as two:
    rows = one["resid_post/0"][:]
    two.create_dataset("resid_post/2", data=rows, chunks=(256, rows.shape[1]))
    two.create_dataset("resid_post/10", data=rows[::-1] * 2, chunks=(256, rows.shape[1]))
PY
layers=(--set "data.files=[$folder/layers.h5]" --set 'data.datasets=[resid_post/*]')
suite='suite=[{kind: batch_topk, width: [64, 128], k: [2, 4.5]}, {kind: topk, width: 96, k: 3}]'

suite() { # RANKS OUTPUT ...
  local ranks=$1 output=$2
  shift 2
  mpirun -q -n "$ranks" "$STRATA" train "$config" --quiet "${layers[@]}" --set "$suite" --set "run.output=$folder/$output" "$@"
}
saes_of() { /usr/bin/python3 -c "import json; print(len(json.load(open('$folder/$1/summary.json'))['saes']))"; }
sorted_metrics() { metrics "$1" | sort; }
same() { # RUN OTHER
  for sae in "$folder/$1"/saes/*; do
    cmp "$sae/sae_weights.safetensors" "$folder/$2/saes/$(basename "$sae")/sae_weights.safetensors" || return 1
  done
  cmp <(sorted_metrics "$folder/$1") <(sorted_metrics "$folder/$2")
}

check suite 2 together --set parallel.groups=1
check test "$(ls "$folder/together/saes" | wc -l)" -eq 10
check test "$(saes_of together)" -eq 10

alone() { # DATASET KIND WIDTH K NAME
  check mpirun -q -n 2 "$STRATA" train "$config" --quiet "${layers[@]}" --set "data.datasets=[$1]" --set "sae.kind=$2" \
    --set "sae.width=$3" --set "sae.k=$4" --set "run.output=$folder/alone.$5"
  check cmp "$folder/alone.$5/saes/$5/sae_weights.safetensors" "$folder/together/saes/$5/sae_weights.safetensors"
}
alone resid_post/2 batch_topk 64 4.5 resid_post.2.batch_topk.w64.k4.5
alone resid_post/10 batch_topk 128 2 resid_post.10.batch_topk.w128.k2
alone resid_post/10 topk 96 3 resid_post.10.topk.w96.k3

# Groups of ranks: however the SAEs are divided among however many groups of one rank, the bits of a run of one.
check suite 1 single
check suite 2 groups2
check suite 4 groups4 --set parallel.groups=4 --set parallel.saes_per_job=1
check suite 3 groups3 --set parallel.groups=3 --set parallel.saes_per_job=2
for run in groups2 groups4 groups3; do
  check same single $run
  check test "$(saes_of $run)" -eq 10
done
check test -z "$(ls "$folder/groups4/checkpoints")" # finished jobs leave none
check test "$(grep -c '"event":"start"' "$folder/groups4/journal.jsonl")" -eq 10
check test "$(grep -c '"event":"done"' "$folder/groups4/journal.jsonl")" -eq 10
# Uneven groups of several ranks: 3 ranks, groups of one and two.
check suite 3 uneven --set parallel.groups=2
check test "$(saes_of uneven)" -eq 10

# Stopped in the middle by a signal to one group's rank, which stops all, and continued by other groups: the same.
long=(--set train.tokens=3e5 --set parallel.saes_per_job=1 --set parallel.groups=2)
check suite 2 undisturbed "${long[@]}"
suite 2 parts "${long[@]}" &
pid=$!
while kill -0 $pid 2>/dev/null && [ "$(ls -d "$folder"/parts/checkpoints/*/step-*/manifest.json 2>/dev/null | wc -l)" -lt 1 ]; do sleep 0.01; done
kill -USR1 "$(pgrep -n -f "run.output=$folder/parts")"
wait $pid
check test $? -eq 75
check grep -q '"event":"stop"' "$folder/parts/journal.jsonl"
check test "$(grep -c '"event":"done"' "$folder/parts/journal.jsonl")" -lt 10
check suite 3 parts --resume --set train.tokens=3e5 --set parallel.saes_per_job=5 --set parallel.groups=3
check same undisturbed parts
check test "$(saes_of parts)" -eq 10
check test "$(grep -c '"event":"done"' "$folder/parts/journal.jsonl")" -eq 10

# What is read from files in training does not grow with the SAEs on a stream; each is calibrated on 18000 rows of its own.
reads() { # bytes of all processes of a run
  bash -c '"$@" >/dev/null 2>&1; awk "/rchar/ { print \$2 }" /proc/$$/io' - "$STRATA" train "$config" --quiet \
    "${layers[@]}" --set "data.datasets=[resid_post/2]" --set train.tokens=400000 "$@"
}
one=$(reads --set "run.output=$folder/reads1")
six=$(reads --set "run.output=$folder/reads6" --set 'suite=[{k: [1, 2, 3, 4, 5, 6]}]')
rows=$((400000 * 32 * 2)) # bytes of one stream
check test "$one" -gt $rows
check test "$six" -lt $((one + rows / 3))

# Memory does not grow with the steps, once it has its size: in the first hundreds some 4 MB come, sooner or later.
peak() { /usr/bin/python3 -c 'import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)' "$STRATA" train "$config" --quiet "$@"; }
short=$(peak --set "run.output=$folder/short" --set train.checkpoint_every=1000000 --set train.tokens=5e5)
long=$(peak --set "run.output=$folder/long" --set train.checkpoint_every=1000000 --set train.tokens=2e6)
check test "$long" -lt $((short + 2048)) # KiB; four times the steps
finish
