# A link that is cut in mid-run ends the ranks of all hosts within run.watchdog and a few seconds, and the run is continued
# from its last checkpoint on one host.
. "$(dirname "$0")/../programs/lib.sh"
. "$(dirname "$0")/hosts.sh"
trap 'stop_hosts; rm -rf "$folder"' EXIT
start_hosts "strata$$-" 2 || { echo "no network namespaces"; exit 1; }
train_on() { "$@" "$STRATA" train "$config" --set "run.output=$folder/$run" --resume; }
ranks() { pgrep -f "train .*run.output=$folder/$run" | wc -l; }

run=whole
check train_on mpirun -q -n 2 >"$folder/log" 2>&1

run=cut
on_hosts 2 1 "$STRATA" train "$config" --set "run.output=$folder/cut" --set run.watchdog=3 --set train.tokens=1e9 >"$folder/log" 2>&1 &
pid=$!
while ! ls "$folder"/cut/checkpoints/*/manifest.json >/dev/null 2>&1; do sleep 0.05; done
ip -n "${hosts_name}2" link set eth0 down
for ((i = 0; i < 200; i++)); do
  [ "$(ranks)" -gt 0 ] || break
  sleep 0.1
done
check test "$(ranks)" -eq 0
check timeout 10 tail --pid=$pid -f /dev/null # mpirun, too
wait $pid
check test $? -ne 0
check grep -q 'rank [01]' "$folder/log"
finish
