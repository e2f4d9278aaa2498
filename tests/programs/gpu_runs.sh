# Runs of every kind on GPUs beside those of the CPU, and checkpoints that move between the two, at the STRATA_GPUS ranks that
# there are GPUs for.
. "$(dirname "$0")/lib.sh"
gpus=${STRATA_GPUS:-1}
of_ranks() { # RANKS COMMAND...; one rank needs no launcher
  local ranks=$1
  shift
  if [ "$ranks" -eq 1 ]; then "$@"; else mpirun -q -n "$ranks" "$@"; fi
}

run_on_gpus
beside() { # RANKS NAME OPTIONS...: the same run on the CPU and on GPUs
  local ranks=$1 name=$2
  shift 2
  echo "$name, $ranks ranks:"
  check of_ranks "$ranks" "$STRATA" train "$config" --quiet --set run.output="$folder/$name.cpu" --set run.device=cpu "$@"
  check of_ranks "$ranks" "$STRATA" train "$config" --quiet --set run.output="$folder/$name.gpu" "$@"
  check test "$(wc -l <"$folder/$name.gpu/metrics.jsonl")" -eq 50
  check close "$folder/$name.cpu" "$folder/$name.gpu" 1e-5
}
# NAME: runs that beside() made agree on held-out rows.
same_held_out() {
  held_out() { grep -oE '"fvu": ?[0-9.e-]+' "$1/summary.json" | sed 's/.*://'; }
  awk -v a="$(held_out "$folder/$1.cpu")" -v b="$(held_out "$folder/$1.gpu")" \
    'BEGIN { d = (a - b) / a; exit !(a > 0 && d < 1e-5 && d > -1e-5) }'
}
# NAME: and on how often latents are active, at the first step.
same_frequencies() {
  first() { head -n 1 "$1/metrics.jsonl" | grep -oE '"dense_fraction":[^,]*'; }
  test "$(first "$folder/$1.cpu")" = "$(first "$folder/$1.gpu")" && ! first "$folder/$1.gpu" | grep -q ':0\(\.0\)\?$'
}
beside 1 one
beside 1 transcoder --set data.target=resid_post/0
# Of 48 rows 12 at a time, on the GPU alone.
beside 1 micro_batches --set parallel.micro_batch=12
check same_held_out micro_batches
check grep -q 'GPUs hold at most 12 rows of a batch at a time' "$folder"/micro_batches.gpu/logs/*
check grep -q '"micro_batch":12' "$folder/micro_batches.gpu/journal.jsonl"
check grep -q '"micro_batch":0' "$folder/micro_batches.cpu/journal.jsonl"
for kind in topk matryoshka; do beside 1 $kind --set sae.kind=$kind; done
keep=$config
for kind in relu jumprelu gated; do
  config=$folder/kind.yaml
  sed "s/^sae: .*/sae: {kind: $kind, width: 64}/" "$keep" >"$config"
  parts=()
  [ $kind = relu ] || parts=(--set parallel.micro_batch=24)
  beside 1 $kind "${parts[@]}"
  check same_held_out $kind
  check same_frequencies $kind
  config=$keep
done
if [ "$gpus" -ge 2 ]; then
  beside 2 two
  [ "$gpus" -eq 2 ] || beside "$gpus" all
  # Averages are taken by each rank of its latents, and used by all.
  beside 2 averaged --set optimizer.kind=adam_schedule_free
  check same_held_out averaged
fi

# moved FROM DEVICE RANKS: what one device saved the other goes on from. So do other numbers of ranks, whether they share the
# weights or each holds its own: moments are divided among both.
moved() {
  local run=$folder/$1.to.$2.$3
  check cp -r "$folder/$1" "$run"
  forget "$run" 50
  expect 0 'continuing from .*step-40' of_ranks "$3" "$STRATA" train "$config" --set run.output="$run" --set run.device="$2" --resume
  check test "$(wc -l <"$run/metrics.jsonl")" -eq 50
  check close "$folder/${1%.*}.cpu" "$run" 1e-5
}
moved one.cpu cuda 1
moved micro_batches.gpu cuda 1
moved one.gpu cpu 1
if [ "$gpus" -ge 2 ]; then
  moved two.gpu cpu 2
  moved two.gpu cuda $((gpus > 2 ? 3 : 1))
fi

# What is saved is used on either.
sae=$(echo "$folder"/one.gpu/saes/*)
fvu() { "$STRATA" eval "$sae" --data "$folder/few.h5" --rows 200 --device "$1" --json | sed -E 's/.*"fvu":([^,]*),.*/\1/'; }
check awk -v a="$(fvu cpu)" -v b="$(fvu cuda)" 'BEGIN { d = (a - b) / a; exit !(a > 0 && d < 1e-6 && d > -1e-6) }'
finish
