# Runs on GPUs as their users start them, on CUDA and NCCL stand-ins of the CPU (tests/cuda_on_cpu): what is said where there is
# no GPU, runs of every kind beside those of the CPU, checkpoints that move between the two, errors of NCCL.
. "$(dirname "$0")/lib.sh"
backend=$STRATA_BUILD/tests/cuda_on_cpu/libstrata_cuda_on_cpu.so
on_gpu() { STRATA_GPU_BACKEND=$backend "$@"; }

# Why there is none.
expect 0 'GPUs +none: built without CUDA .*nowhere.so' env STRATA_GPU_BACKEND="$folder/nowhere.so" "$STRATA" info
echo 'no library' >"$folder/broken.so"
expect 0 'GPUs +none: .*broken.so' env STRATA_GPU_BACKEND="$folder/broken.so" "$STRATA" info
expect 0 'GPUs +none: no NVIDIA driver' on_gpu env CUDA_ON_CPU_DRIVER=0 "$STRATA" info
expect 0 'GPUs +none: driver older than runtime: it serves CUDA 12.4, ' on_gpu env CUDA_ON_CPU_DRIVER=12040 "$STRATA" info
expect 0 'GPUs +none: .*cudaErrorNoDevice' on_gpu env CUDA_ON_CPU_DEVICES=0 "$STRATA" info
expect 0 'GPUs +CUDA 13.0, driver for 13.0; NCCL 2' on_gpu "$STRATA" info
expect 2 'run.device: cuda: rank 0 has no GPU: built without CUDA' \
  env STRATA_GPU_BACKEND="$folder/nowhere.so" "$STRATA" train "$config" --set run.device=cuda
check test ! -e "$folder/run"
expect 2 'tf32 is for GPUs' train --set run.device=cpu --set run.encoder=tf32
# Ranks that would share one; a launcher that gives each rank one GPU to see looks alike but for its identity.
expect 2 'run.device: 2 ranks on the host of rank 0 and 1 GPU for them; a GPU serves one rank: start 1 rank there' \
  on_gpu env CUDA_ON_CPU_DEVICES=1 mpirun -q -n 2 "$STRATA" train "$config" --quiet
check test "$(on_gpu env CUDA_ON_CPU_DEVICES=1 mpirun -q -n 2 "$STRATA" train "$config" --quiet 2>&1 | grep -c 'run.device')" -eq 1

# Small ones: a GPU is emulated.
"$STRATA" data synth --out "$folder/few.h5" --rows 1000 --n 32 --features 64 --active 4 >/dev/null 2>&1
cat >"$config" <<YAML
run: {output: $folder/run, device: cuda}
data: {files: ["$folder/few.h5"], datasets: [resid_post/0], eval_rows: 200, shuffle_rows: 512, lanes: 16}
train: {batch_size: 48, tokens: 2400, log_every: 1, checkpoint_every: 20}
sae: {kind: batch_topk, width: 64, k: 4, aux_k: 8, dead_after_tokens: 480}
YAML
beside() { # RANKS NAME OPTIONS...: the same run on the CPU and on GPUs
  local ranks=$1 name=$2
  shift 2
  check mpirun -q -n "$ranks" "$STRATA" train "$config" --quiet --set run.output="$folder/$name.cpu" --set run.device=cpu "$@"
  check on_gpu mpirun -q -n "$ranks" "$STRATA" train "$config" --quiet --set run.output="$folder/$name.gpu" "$@"
  check test "$(wc -l <"$folder/$name.gpu/metrics.jsonl")" -eq 50
  check close "$folder/$name.cpu" "$folder/$name.gpu" 1e-5
}
for kind in topk matryoshka; do beside 1 $kind --set sae.kind=$kind; done
of_width() { sed "s/^sae: .*/sae: {kind: $1, width: 64}/" "$config" >"$folder/kind.yaml"; }
keep=$config
for kind in relu jumprelu gated; do
  of_width $kind
  config=$folder/kind.yaml
  beside 1 $kind
  config=$keep
done
CUDA_ON_CPU_ORDER=7 beside 1 permuted
beside 2 two
beside 4 four
# Averages are taken by each rank of its latents, and used by all.
held_out() { grep -oE '"fvu": ?[0-9.e-]+' "$1/summary.json" | sed 's/.*://'; }
beside 2 averaged --set optimizer.kind=adam_schedule_free
check awk -v a="$(held_out "$folder/averaged.cpu")" -v b="$(held_out "$folder/averaged.gpu")" \
  'BEGIN { d = (a - b) / a; exit !(a > 0 && d < 1e-5 && d > -1e-5) }'

# Without NCCL beside the backend gradients go through host memory.
ln -s "$backend" "$folder/alone.so"
expect 0 'GPUs +CUDA .*; built without NCCL' env STRATA_GPU_BACKEND="$folder/alone.so" "$STRATA" info
expect 0 'rank 0 has no NCCL .*summed by MPI through host memory' env STRATA_GPU_BACKEND="$folder/alone.so" \
  mpirun -q -n 2 "$STRATA" train "$config" --quiet --set run.output="$folder/alone"
check close "$folder/two.cpu" "$folder/alone" 1e-5

# What one device saved the other goes on from.
for way in "cpu cuda" "cuda cpu"; do
  read -r from to <<<"$way"
  run=$folder/moved.$from
  check cp -r "$folder/permuted.${from/cuda/gpu}" "$run"
  forget "$run" 50
  expect 0 'continuing from .*step-40' on_gpu "$STRATA" train "$config" --set run.output="$run" --set run.device="$to" --resume
  check test "$(wc -l <"$run/metrics.jsonl")" -eq 50
  check close "$folder/permuted.cpu" "$run" 1e-5
done

# So do other numbers of ranks, whether they share the weights or each holds its own: moments are divided among both.
for way in "3 cuda" "2 cpu"; do
  read -r ranks to <<<"$way"
  run=$folder/divided.$ranks
  check cp -r "$folder/two.gpu" "$run"
  forget "$run" 50
  expect 0 'continuing from .*step-40' on_gpu mpirun -q -n "$ranks" "$STRATA" train "$config" --set run.output="$run" --set run.device="$to" --resume
  check close "$folder/two.cpu" "$run" 1e-5
done

# What is saved is used on either.
sae=$(echo "$folder"/permuted.gpu/saes/*)
fvu() { on_gpu "$STRATA" eval "$sae" --data "$folder/few.h5" --rows 200 --device "$1" --json | sed -E 's/.*"fvu":([^,]*),.*/\1/'; }
check awk -v a="$(fvu cpu)" -v b="$(fvu cuda)" 'BEGIN { d = (a - b) / a; exit !(a > 0 && d < 1e-6 && d > -1e-6) }'

# An error that only NCCL knows of ends all ranks, with one message; the checkpoint before is as it was.
expect 1 'rank 1 of 2: .*remote process exited' on_gpu env NCCL_ON_CPU_FAULT=error@1:370 mpirun -q -n 2 "$STRATA" train "$config" --quiet
check test "$(cat "$folder"/run/logs/* | grep -c ' error: ')" -eq 1
check test -e "$folder/run/checkpoints/step-20/manifest.json"
finish
