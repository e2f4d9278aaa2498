# `strata plan`: what it says, what it refuses, and that it leaves nothing behind. Its times are not looked at.
. "$(dirname "$0")/lib.sh"
plan() { "$STRATA" plan "$config" --calibrate 0.01 "$@"; }
rates=(--product-rate 100 --memory-rate 10)
says() { # EXPRESSION ARGUMENTS...: a Python expression of the plan p
  local expression=$1
  shift
  "$STRATA" plan "$config" --json "$@" >"$folder/plan.json" 2>"$folder/log" || cat "$folder/log"
  /usr/bin/python3 -c "import json; p = json.load(open('$folder/plan.json')); j = p['jobs']; assert $expression, p"
}

expect 0 'memory of the first rank of resid_post.0:' plan
expect 0 '1 job, 80 steps each' plan
check says "p['times'] == 'calibration' and j[0]['seconds_per_step'] > 0 and p['hours'] > 0" --calibrate 0.01
check says "sum(v for k, v in j[0]['memory'].items() if k != 'total') == j[0]['memory']['total']" "${rates[@]}"
check test ! -e "$folder/run"

# Each kind's step is tried.
for kind in topk matryoshka; do expect 0 '1 job' plan --set sae.kind=$kind; done
for kind in relu jumprelu gated; do
  sed "s/^sae: .*/sae: {kind: $kind, width: 128}/" "$config" >"$folder/$kind.yaml"
  expect 0 '1 job' "$STRATA" plan "$folder/$kind.yaml" --calibrate 0.01
done

# Three SAEs on one stream read its rows once.
suite=(--set 'suite=[{width: [64, 96, 128]}]')
check says "len(j) == 1 and len(j[0]['saes']) == 3 and abs(3 * j[0]['file_bytes_per_second_and_sae'] - j[0]['file_bytes_per_second']) < 1" "${rates[@]}" "${suite[@]}"
# Jobs in the order in which they are handed out, on two groups.
check says "[len(x['saes']) for x in j] == [1, 1, 1] and [x['group'] for x in j] == [0, 1, 1]" "${rates[@]}" --ranks 2 \
  "${suite[@]}" --set parallel.groups=2 --set parallel.saes_per_job=1
check says "[x['saes'][0].split('.')[3] for x in j] == ['w128', 'w96', 'w64']" "${rates[@]}" --ranks 2 \
  "${suite[@]}" --set parallel.groups=2 --set parallel.saes_per_job=1
# Groups that train on one dataset share the rows that they read; on hosts of their own, or on different datasets, they do not.
check says "p['memory']['shared_rows'] > 2 * 18000 * 2 * 32" "${rates[@]}" --ranks 2 "${suite[@]}" --set parallel.groups=2 --set parallel.saes_per_job=1 --set data.shuffle_rows=50000
check says "p['memory']['shared_rows'] == 0" "${rates[@]}" --ranks 2 --ranks-per-host 1 "${suite[@]}" --set parallel.groups=2 --set parallel.saes_per_job=1
check says "p['memory']['shared_rows'] == 0" "${rates[@]}" --ranks 2 --set parallel.groups=1 "${suite[@]}"
# Only what lies on several hosts sends.
check says "p['hosts'] == 1 and j[0]['step_bytes']['sent_by_host'] == 0" "${rates[@]}" --ranks 4
check says "p['hosts'] == 2 and j[0]['step_bytes']['sent_by_host'] == 8 * 32 * 128" "${rates[@]}" --ranks 4 --ranks-per-host 2

# On GPUs weights, moments and gradients lie there, each rank with all of them; the host keeps rows and checkpoints.
gpus=("${rates[@]}" --gpu-memory 80 --ranks 4)
check says "p['gpu_memory']['free'] == 80 << 30 and p['gpu_memory']['needed'] == j[0]['gpu_memory']['total']" "${gpus[@]}"
check says "j[0]['gpu_memory']['weights'] == 8 * 32 * 128 and j[0]['memory']['weights'] == 0 < j[0]['memory']['stream']" "${gpus[@]}"
check says "p['gpu_memory'] is None and j[0]['gpu_memory'] is None" "${gpus[@]}" --set run.device=cpu
expect 0 'memory of the fullest GPU: ' "$STRATA" plan "$config" "${gpus[@]}"
expect 2 'memory: a GPU with 1.00 GiB free .* weights .*would fit: sae.width: at most [0-9]+' "$STRATA" plan "$config" \
  "${rates[@]}" --gpu-memory 1 --set sae.width=1000000 --set sae.k=4
# Micro-batches, where whole batches have no room.
many=("${rates[@]}" --gpu-memory 3 --set data.shuffle_rows=256 --set train.batch_size=1000000 --set sae.aux_k=64)
check says "p['micro_batch'] == 0" "${gpus[@]}"
check says "p['micro_batch'] == 250008 and p['gpu_memory']['needed'] <= p['gpu_memory']['room']" "${many[@]}"
expect 2 'memory: a GPU .*would fit: parallel.micro_batch: auto' "$STRATA" plan "$config" "${many[@]}" --set parallel.micro_batch=1000000
# Where the rows of a batch are too many: each of the changes that are named is enough, and less is not.
rows=("${rates[@]}" --gpu-memory 3 --set data.shuffle_rows=256 --set sae.aux_k=0 --set train.batch_size=6000000)
expect 2 'memory: a GPU .*would fit: train.batch_size: at most [0-9]+; or [0-9]+ ranks, each with such a GPU$' "$STRATA" plan "$config" "${rows[@]}"
read -r most ranks < <("$STRATA" plan "$config" "${rows[@]}" 2>&1 | sed -nE 's/.*at most ([0-9]+); or ([0-9]+) ranks.*/\1 \2/p')
expect 0 '1 job' "$STRATA" plan "$config" "${rows[@]}" --set train.batch_size="$most"
expect 2 'memory: a GPU' "$STRATA" plan "$config" "${rows[@]}" --set train.batch_size=$((most + 64))
expect 0 '1 job' "$STRATA" plan "$config" "${rows[@]}" --ranks "$ranks"
expect 2 'memory: a GPU' "$STRATA" plan "$config" "${rows[@]}" --ranks $((ranks / 2))

expect 2 'memory: .*would fit: sae.width: at most [0-9]+' plan --memory 0.2 --set sae.width=1000000 --set sae.k=4
expect 2 'sae.k' plan --set sae.k=129
expect 2 'nowhere.yaml' "$STRATA" plan "$folder/nowhere.yaml"
expect 2 'product-rate requires' plan --product-rate 100
# A run is refused by the same judgement, before anything is written.
expect 2 'memory: .*weights.*would fit: sae.width: at most [0-9]+' train --set sae.width=2e9
check test ! -e "$folder/run"
finish
