# What only the CUDA and NCCL stand-ins of the CPU (tests/cuda_on_cpu) can show of runs on GPUs: what is said where there is no
# GPU, other orders of blocks, errors of NCCL. gpu_runs.sh has the rest.
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
gpu_check() { on_gpu env CUDA_ON_CPU_DEVICES=0 "$STRATA_SOURCE/scripts/gpu-check" "$@" "$folder/results"; }
expect 2 'strata is not there: build' gpu_check "$folder"
mkdir -p "$folder/build/tests/cuda"
ln -s "$STRATA" "$folder/build/strata"
ln -s "$(type -P true)" "$folder/build/tests/cuda/gpu_tests"
expect 1 'FAIL +no GPU: nothing else can be checked' gpu_check "$folder/build"
expect 2 'results has to be a new folder' gpu_check "$folder/build"
expect 0 'GPUs +CUDA 13.0, driver for 13.0; NCCL 2' on_gpu "$STRATA" info
expect 2 'run.device: cuda: rank 0 has no GPU: built without CUDA' \
  env STRATA_GPU_BACKEND="$folder/nowhere.so" "$STRATA" train "$config" --set run.device=cuda
check test ! -e "$folder/run"
expect 2 'tf32 is for GPUs' train --set run.device=cpu --set run.encoder=tf32
# Ranks that would share one; a launcher that gives each rank one GPU to see looks alike but for its identity.
expect 2 'run.device: 2 ranks on the host of rank 0 and 1 GPU for them; a GPU serves one rank: start 1 rank there' \
  on_gpu env CUDA_ON_CPU_DEVICES=1 mpirun -q -n 2 "$STRATA" train "$config" --quiet
check test "$(on_gpu env CUDA_ON_CPU_DEVICES=1 mpirun -q -n 2 "$STRATA" train "$config" --quiet 2>&1 | grep -c 'run.device')" -eq 1

run_on_gpus
check "$STRATA" train "$config" --quiet --set run.output="$folder/cpu" --set run.device=cpu
check on_gpu env CUDA_ON_CPU_ORDER=7 "$STRATA" train "$config" --quiet --set run.output="$folder/permuted"
check close "$folder/cpu" "$folder/permuted" 1e-5

# Without NCCL beside the backend gradients go through host memory.
ln -s "$backend" "$folder/alone.so"
expect 0 'GPUs +CUDA .*; built without NCCL' env STRATA_GPU_BACKEND="$folder/alone.so" "$STRATA" info
expect 0 'rank 0 has no NCCL .*summed by MPI through host memory' env STRATA_GPU_BACKEND="$folder/alone.so" \
  mpirun -q -n 2 "$STRATA" train "$config" --quiet --set run.output="$folder/alone"
check mpirun -q -n 2 "$STRATA" train "$config" --quiet --set run.output="$folder/two" --set run.device=cpu
check close "$folder/two" "$folder/alone" 1e-5

# An error that only NCCL knows of ends all ranks, with one message; the checkpoint before is as it was.
expect 1 'rank 1 of 2: .*remote process exited' on_gpu env NCCL_ON_CPU_FAULT=error@1:370 mpirun -q -n 2 "$STRATA" train "$config" --quiet
check test "$(cat "$folder"/run/logs/* | grep -c ' error: ')" -eq 1
check test -e "$folder/run/checkpoints/step-20/manifest.json"
# The first sum, of the counts by which the threshold of a batch is found, never comes: nobody waits for it for ever.
expect 1 'rank [01] of 2: the sums over ranks: not done after .* another rank, or the link to it, does not answer' \
  on_gpu env NCCL_ON_CPU_FAULT=hang@1:0 mpirun -q -n 2 "$STRATA" train "$config" --quiet \
  --set run.output="$folder/hung" --set run.watchdog=0.5
finish
