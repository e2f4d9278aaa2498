# Training over several hosts, network namespaces of this machine, by real TCP between them: the result is that of one host
# at the same number of ranks, to rounding, since hosts add their gradients and the ranks of one make each once. The bytes on
# the wire are those of the gradients; with a rate limit a step takes their time.
. "$(dirname "$0")/../programs/lib.sh"
. "$(dirname "$0")/hosts.sh"
trap 'stop_hosts; rm -rf "$folder"' EXIT
start_hosts "strata$$-" 4 || { echo "no network namespaces"; exit 1; }

run() { # RUN HOSTS RANKS ARGUMENT...
  local run=$1 hosts=$2 ranks=$3
  shift 3
  local command=(on_hosts "$hosts" "$ranks")
  [ "$hosts" -gt 1 ] || command=(mpirun -q -n "$ranks")
  "${command[@]}" "$STRATA" train "$config" --set "run.output=$folder/$run" "$@" >"$folder/$run.log" 2>&1 ||
    { tail -n 20 "$folder/$run.log"; return 1; }
}
sent() { ip netns exec "$hosts_name$1" cat /sys/class/net/eth0/statistics/tx_bytes; }

check run one2 1 2
check run two1 2 1
check close "$folder/one2" "$folder/two1" 1e-5
# A rank's share of the cores tells how many of them it believes to be on its host.
check grep -q '2 ranks on cpu, 1 thread' "$folder/one2.log"
[ "$(nproc)" -lt 2 ] || check grep -q "2 ranks on cpu, $(nproc) threads" "$folder/two1.log"

check run one4 1 4
check run two2 2 2 # ranks of a host share its weights, and each sums its slice with its like on the other host
check close "$folder/one4" "$folder/two2" 1e-5
check run four1 4 1 --set parallel.threads=1 # with a core to spare, the sums go on beside the step
check close "$folder/one4" "$folder/four1" 1e-5

# What two hosts saved when their time was over is continued on one.
expect 75 'step 1 of 80' on_hosts 2 2 "$STRATA" train "$config" --quiet --set "run.output=$folder/parts" --set run.time_limit=1
check run parts 1 4 --resume
check close "$folder/one4" "$folder/parts" 1e-5

# 20 Mbit/s. Of two hosts each sends the whole gradient once: half of it reduced, half of it gathered. The plan says how much, and how
# long a step takes; times are told, not judged.
stop_hosts
start_hosts "strata$$-" 2 20mbit
wide=(--set sae.width=1024 --set train.tokens=10240 --set train.checkpoint_every=1000 --set parallel.threads=1)
check run one2wide 1 2 "${wide[@]}"
before=$(sent 1)
check run two1wide 2 1 "${wide[@]}"
bytes=$((($(sent 1) - before) / 20)) # a step
gradient=$((4 * (2 * 32 * 1024 + 1024 + 32)))
check close "$folder/one2wide" "$folder/two1wide" 1e-5
check test $bytes -gt $gradient -a $bytes -lt $((gradient * 3 / 2))
seconds=$(grep -oE '[0-9.]+ rows/s' "$folder/two1wide.log" | tail -1 | awk '{ print 512 / $1 }')
read -r sent planned < <("$STRATA" plan "$config" "${wide[@]}" --ranks 2 --ranks-per-host 1 --link-rate 0.0025 --json 2>"$folder/log" |
  /usr/bin/python3 -c 'import json, sys; j = json.load(sys.stdin)["jobs"][0]; print(int(j["step_bytes"]["sent_by_host"]), j["seconds_per_step"])')
# Beside it headers, and what steps and the start of a run send whatever the width.
check test $bytes -ge $sent -a $((100 * bytes)) -lt $((135 * sent))
awk -v b=$bytes -v g=$gradient -v s="$seconds" -v p="$sent" -v t="$planned" 'BEGIN {
  printf "a step: %d bytes sent for a gradient of %d, %d planned; %.3f s, the wire alone %.3f s, %.3f s planned\n", b, g, p, s, b * 8 / 20e6, t }'
finish
