# slurm/train.sbatch on a real Slurm: the line of README.md; then a job that is preempted, requeued and ends with the bits
# of one that never stopped.
. "$(dirname "$0")/../programs/lib.sh"
. "$(dirname "$0")/cluster.sh"
# The ranks share this machine's cores and inherit no MPI settings from a launcher.
trap 'stop_cluster; rm -rf "$folder"' EXIT
chmod 755 "$folder"
start_cluster "$folder/cluster" 32 || { echo "the cluster did not start"; exit 1; }
cd "$folder"
ln -s "$STRATA_SOURCE/slurm" slurm
export STRATA SBATCH_WAIT=1

line=$(grep '^sbatch ' "$STRATA_SOURCE/README.md")
sed "s|run: {output: .*}|run: {output: $folder/first}|" "$config" >example.yaml
check bash -c "$line"
check test -f runs/by-slurm/summary.json

submit() { sbatch --ntasks-per-node=2 --cpus-per-task=1 "$@" slurm/train.sbatch "$config" --set train.tokens=2e6 --set "run.output=$folder/$run"; }
run=whole
check submit
run=parts
unset SBATCH_WAIT
submit
while ! ls parts/checkpoints/*/manifest.json >/dev/null 2>&1; do sleep 0.02; done
job=$(squeue -h -o %A)
scancel --batch --signal=USR1 "$job" # as Slurm does before it preempts, and before the time limit
# Requeued, the job has a life after the one that was waited for.
for ((i = 0; i < 600; i++)); do
  [ -f parts/summary.json ] && [ -z "$(squeue -h)" ] && break
  sleep 0.1
done
check grep -q 'continuing from' "slurm-$job.out"
check cmp whole/saes/*/sae_weights.safetensors parts/saes/*/sae_weights.safetensors
[ $failures -eq 0 ] || { tail -n 10 slurm-*.out cluster/*.log; squeue; }
finish
