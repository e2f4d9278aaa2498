# Groups of a host that train on one dataset read its rows once, however many they are, and whatever becomes of one of them:
# their SAEs are those that each would train alone; a group that is stopped stops no other.
. "$(dirname "$0")/lib.sh"
# Compressed, so that reading is work; the memory that groups share holds twice as many rows as the dataset has.
"$STRATA" data synth --out "$folder/rows.h5" --rows 80000 --n 32 --features 64 --active 4 >/dev/null 2>&1
/usr/bin/python3 - "$folder/rows.h5" "$folder/packed.h5" <<'PY'
import sys, h5py
with h5py.File(sys.argv[1]) as one, h5py.File(sys.argv[2], "w") as two:
    rows = one["resid_post/0"][:]
    two.create_dataset("resid_post/0", data=rows, chunks=(64, rows.shape[1]), compression="gzip", shuffle=True)
PY
suite=(--set "data.files=[$folder/packed.h5]" --set data.shuffle_rows=160000 --set train.tokens=50000
  --set 'suite=[{k: [1, 2, 3, 4]}]' --set parallel.saes_per_job=1 --set parallel.threads=1)
run() { # GROUPS RUN ARGUMENT...
  local groups=$1 run=$2
  shift 2
  mpirun -q -n "$groups" "$STRATA" train "$config" --quiet "${suite[@]}" --set "parallel.groups=$groups" --set "run.output=$folder/$run" "$@"
}
# The share of rows that the ranks of a run read from files, of all that they read, in thousandths.
share() {
  cat "$folder/$1"/logs/*.log | sed -nE 's/.* ([0-9]+) rows read from files, ([0-9]+) taken .*/\1 \2/p' |
    awk '{ read += $1; taken += $2 } END { if (NR) print int(1000 * read / (read + taken)) }'
}
same() { # RUN OTHER
  local sae
  for sae in "$folder/$1"/saes/*; do check cmp "$sae/sae_weights.safetensors" "$folder/$2/saes/$(basename "$sae")/sae_weights.safetensors"; done
  check cmp <(metrics "$folder/$1" | sort) <(metrics "$folder/$2" | sort)
}

check run 1 one
check test -z "$(share one)" # a group alone shares with nobody
check run 2 two
check run 4 four
same one two
same one four
echo "thousandths of the rows read from files: two groups $(share two), four groups $(share four)"
# The same four jobs, two or four at a time. A group by itself would take two thirds from memory, what it comes back to; of the other
# third, 344, two read a half, 172, and four a quarter, 86, where none falls far behind.
check test "$(share two)" -le 290 -a "$(share four)" -le 145

# One of two groups is stopped in mid-run; the other ends its job, and all is as it was when the first goes on.
long=(--set train.tokens=1e6 --set 'suite=[{k: [1, 2]}]' --set run.watchdog=0)
check run 2 undisturbed "${long[@]}"
run 2 stopped "${long[@]}" &
pid=$!
begun() { grep -qs '"sae":"resid_post.0.batch_topk.w128.k'"$1" "$folder/stopped/metrics.jsonl"; }
until begun 1 && begun 2 || ! kill -0 $pid 2>/dev/null; do sleep 0.01; done
second=$(for rank in $(pgrep -f "^$STRATA .*run.output=$folder/stopped "); do ! grep -qz '^OMPI_COMM_WORLD_RANK=1$' "/proc/$rank/environ" || echo "$rank"; done)
kill -STOP "$second"
for ((i = 0; i < 1200; i++)); do [ "$(grep -c '"event":"done"' "$folder/stopped/journal.jsonl")" -lt 1 ] || break; sleep 0.05; done
check test "$(grep -c '"event":"done"' "$folder/stopped/journal.jsonl")" -eq 1
check test "$(awk '{ print $3 }' "/proc/$second/stat")" = T
kill -CONT "$second"
wait $pid
check test $? -eq 0
same undisturbed stopped
finish
