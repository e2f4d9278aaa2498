# A link that is cut in mid-run ends the ranks of all hosts, and mpirun, within run.watchdog and 20 s; the last checkpoint is
# continued on one host.
. "$(dirname "$0")/../programs/lib.sh"
. "$(dirname "$0")/hosts.sh"
trap 'stop_hosts; rm -rf "$folder"' EXIT
start_hosts "strata$$-" 2 || { echo "no network namespaces"; exit 1; }

arguments=(train "$config" --set "run.output=$folder/run" --set train.tokens=1e9)
left() { pgrep -f "run.output=$folder/run" | wc -l; } # ranks, mpirun and what started them
on_hosts 2 1 "$STRATA" "${arguments[@]}" --set run.watchdog=3 >"$folder/log" 2>&1 &
pid=$!
while kill -0 $pid 2>/dev/null && ! ls "$folder"/run/checkpoints/*/manifest.json >/dev/null 2>&1; do sleep 0.05; done
ip -n "${hosts_name}2" link set eth0 down
for ((i = 0; i < 230; i++)); do [ "$(left)" -gt 0 ] || break; sleep 0.1; done
check test "$(left)" -eq 0
[ "$(left)" -eq 0 ] || pgrep -af "run.output=$folder/run"
stop_hosts # ends what is left
wait $pid
check test $? -ne 0
check grep -qE 'error: .*rank [01]' "$folder/log"
expect 75 'continuing from' mpirun -q -n 2 "$STRATA" "${arguments[@]}" --resume --set run.time_limit=1
finish
