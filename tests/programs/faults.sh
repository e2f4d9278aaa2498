# A run that is killed at random moments, on one rank or two groups of one, resumed each time, ends as one never disturbed: the
# same bits, every step logged once, every job done once, nothing half-written. Then what a run may lose while it goes on: its data, the room on its disk.
. "$(dirname "$0")/lib.sh"

seed=${STRATA_FAULTS_SEED:-20240817}
wanted=30
RANDOM=$seed
echo "seed $seed"

/usr/bin/python3 - "$data" "$folder/layers.h5" <<'PY'
import sys, h5py
with h5py.File(sys.argv[1]) as one, h5py.File(sys.argv[2], "w") as two:
    rows = one["resid_post/0"][:]
    for layer, values in enumerate((rows, rows[::-1] * 2)):
        two.create_dataset(f"resid_post/{layer}", data=values, chunks=(256, rows.shape[1]))
PY
suite=(--set "data.files=[$folder/layers.h5]" --set 'data.datasets=[resid_post/*]' --set 'suite=[{width: [64, 96]}]'
  --set train.tokens=4e5)
run_on() { mpirun -q -n "$1" "$STRATA" train "$config" --quiet "${suite[@]}" --set "run.output=$2" --resume; }
lines() { metrics "$1" | sort; } # groups write as they come
ranks_of() { pgrep -f "^$STRATA train .*run.output=$1 "; }
alive() { kill -0 "$1" 2>/dev/null; }

files_of() { (cd "$1" && find . -not -path './checkpoints/*' -o -name '*.tmp' | sort); }

same() { # WHOLE RUN
  local sae
  for sae in "$1"/saes/*; do
    check cmp "$sae/sae_weights.safetensors" "$2/saes/$(basename "$sae")/sae_weights.safetensors"
  done
  check cmp <(lines "$1") <(lines "$2")
  # Nothing is left over. A polite end makes checkpoints at other steps.
  check diff <(files_of "$1") <(files_of "$2")
  check test "$(ls "$2/checkpoints" | wc -l)" -eq "$(ls "$2"/checkpoints/ | grep -c '^step-')"
  check test "$(ls "$2/checkpoints" | wc -l)" -eq "$(find "$2/checkpoints" -name manifest.json | wc -l)"
  check test "$(grep -c '"event":"done"' "$2/journal.jsonl")" -eq "$(grep -c '"event":"done"' "$1/journal.jsonl")"
  check /usr/bin/python3 - "$2" <<'PY'
import collections, json, sys
lines = collections.Counter((line["sae"], line["step"]) for line in map(json.loads, open(f"{sys.argv[1]}/metrics.jsonl")))
names = collections.Counter(sae["sae"] for sae in json.load(open(f"{sys.argv[1]}/summary.json"))["saes"])
assert set(lines.values()) == {1} and set(names.values()) == {1}, (lines, names)
PY
}

# kill_one RUN PID: a rank, or mpirun with all ranks, or a polite end, by chance.
kill_one() {
  local ranks
  mapfile -t ranks < <(ranks_of "$1")
  case $((RANDOM % 4)) in
    0 | 1) [ ${#ranks[@]} -eq 0 ] || kill -KILL "${ranks[RANDOM % ${#ranks[@]}]}" ;;
    2) kill -KILL -- "-$2" ;;
    3) kill -TERM "$2" ;;
  esac 2>/dev/null
}

# end_of PID RUN: waits for mpirun. Where a rank is killed while it greets PMIx's server, mpirun ends the others and then waits for
# ever on a lock of that server as it closes it (PMIx 4.2): one that has had no ranks for half a minute is killed.
end_of() {
  local idle=0
  while alive "$1" && [ $idle -lt 300 ]; do
    [ -n "$(ranks_of "$2")" ] && idle=0 || idle=$((idle + 1))
    sleep 0.1
  done
  [ $idle -lt 300 ] || kill -KILL -- "-$1"
  wait "$1"
}

for ranks in 1 2; do check run_on $ranks "$folder/whole$ranks"; done
kills=0
runs=0
while [ $kills -lt $wanted ] && [ $failures -eq 0 ]; do
  runs=$((runs + 1))
  ranks=$((1 + runs % 2))
  run=$folder/run$runs
  status=1
  while [ $status -ne 0 ] && [ $failures -eq 0 ]; do
    setsid mpirun -q -n $ranks "$STRATA" train "$config" --quiet "${suite[@]}" --set "run.output=$run" --resume >"$folder/log" 2>&1 &
    pid=$!
    moment=$((RANDOM % 1300)) # from the start of MPI to the end of a run
    [ $kills -ge $wanted ] || sleep "$((moment / 1000)).$(printf '%03d' $((moment % 1000)))"
    if [ $kills -lt $wanted ] && alive $pid; then
      kill_one "$run" $pid
      kills=$((kills + 1))
    fi
    end_of $pid "$run" 2>/dev/null
    status=$?
    # Ranks may outlive mpirun by the time that they take to see it gone.
    for ((i = 0; i < 200; i++)); do [ -n "$(ranks_of "$run")" ] || break; sleep 0.05; done
    check test -z "$(ranks_of "$run")"
    # A run that is killed says nothing of its own; nothing that it finds may be damaged.
    check test -z "$(grep 'error: ' "$folder/log")"
  done
  same "$folder/whole$ranks" "$run"
done
echo "$kills kills, $runs runs"
[ $failures -eq 0 ] || cat "$folder/log"

# Data lost in mid-run: the run ends with the file's name, and goes on where it was once the file is back.
suite=(--set "data.files=[$folder/lost.h5]" --set train.tokens=1e6)
cp "$data" "$folder/lost.h5"
check run_on 2 "$folder/unlost"
cut() { truncate --size=200000 "$folder/lost.h5"; }
spoil() { dd if=/dev/urandom of="$folder/lost.h5" bs=1000 seek=200 count=800 conv=notrunc status=none; }
for loss in cut spoil; do
  run=$folder/$loss
  run_on 2 "$run" >"$folder/log" 2>&1 &
  pid=$!
  while alive $pid && ! ls "$run"/checkpoints/*/manifest.json >/dev/null 2>&1; do sleep 0.01; done
  $loss
  wait $pid
  check test $? -eq 1
  check grep -q 'error: .*lost.h5: resid_post/0: rows' "$folder/log"
  expect 0 ': failed: 0 jobs done, 0 running' "$STRATA" status "$run"
  cat "$data" >"$folder/lost.h5"
  check run_on 2 "$run"
  check cmp "$folder"/unlost/saes/*/sae_weights.safetensors "$run"/saes/*/sae_weights.safetensors
done
mv "$folder/lost.h5" "$folder/elsewhere.h5"
forget "$folder/cut" 1954
expect 2 'lost.h5: no such file' run_on 2 "$folder/cut"
mv "$folder/elsewhere.h5" "$folder/lost.h5"
check run_on 2 "$folder/cut"
check cmp "$folder"/unlost/saes/*/sae_weights.safetensors "$folder"/cut/saes/*/sae_weights.safetensors

# A disk that is full, then may not be written to, then has room again.
if [ -n "$STRATA_SMALL_DISKS" ]; then
  mkdir "$folder/disk"
  mount -t tmpfs -o size=700k tmpfs "$folder/disk"
  trap 'umount "$folder/disk"; rm -rf "$folder"' EXIT
  suite=(--set train.keep_checkpoints=9 --set train.checkpoint_every=10)
  check run_on 2 "$folder/roomy"
  expect 1 'No space left' run_on 2 "$folder/disk/run"
  check ls "$folder"/disk/run/checkpoints/step-10/manifest.json >/dev/null
  check test -z "$(find "$folder/disk" -name '*.tmp')"
  mount -o remount,ro "$folder/disk"
  expect 2 'disk/run.*Read-only file system' run_on 2 "$folder/disk/run"
  mount -o remount,rw,size=9m "$folder/disk"
  expect 0 '' run_on 2 "$folder/disk/run"
  same "$folder/roomy" "$folder/disk/run"
fi
finish
