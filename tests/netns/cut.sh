# A link that is cut in mid-run ends the ranks of all hosts, and mpirun: by the settings of docs/cluster.md within the time
# that they state, before the watchdog; without them the ranks by the watchdog, within run.watchdog and 20 s, and not mpirun. The
# last checkpoint is continued on one host.
. "$(dirname "$0")/../programs/lib.sh"
. "$(dirname "$0")/hosts.sh"
trap 'stop_hosts; rm -rf "$folder"' EXIT
start_hosts "strata$$-" 2 || { echo "no network namespaces"; exit 1; }

arguments=(train "$config" --set "run.output=$folder/run" --set train.tokens=1e9 --resume)
ranks() { pgrep -f "^$STRATA .*run.output=$folder/run" | wc -l; }
all() { pgrep -f "run.output=$folder/run" | wc -l; } # ranks, mpirun and what started them

# cut_link OPTION... -- ARGUMENT...: starts a run, with options of mpirun, and cuts the link after its first checkpoint.
cut_link() {
  local options=()
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  rm -rf "$folder/run/checkpoints"
  on_hosts 2 1 "${options[@]}" "$STRATA" "${arguments[@]}" "$@" >"$folder/log" 2>&1 &
  pid=$!
  while kill -0 $pid 2>/dev/null && ! ls "$folder"/run/checkpoints/*/manifest.json >/dev/null 2>&1; do sleep 0.05; done
  ip -n "${hosts_name}2" link set eth0 down
}
# gone WHAT SECONDS: what is left is gone within so many.
gone() {
  for ((i = 0; i < 10 * $2; i++)); do [ "$($1)" -gt 0 ] || break; sleep 0.1; done
  check test "$($1)" -eq 0
  [ "$($1)" -eq 0 ] || pgrep -af "run.output=$folder/run"
}

# As in docs/cluster.md, in less time.
mapfile -t keepalive < <(grep -oE -- '--mca oob_tcp_keepalive_[a-z]+' "$STRATA_SOURCE/docs/cluster.md" | sort -u | cut -d' ' -f2)
check test "${keepalive[*]}" = "oob_tcp_keepalive_intvl oob_tcp_keepalive_probes oob_tcp_keepalive_time"
cut_link --mca oob_tcp_keepalive_time 2 --mca oob_tcp_keepalive_intvl 1 --mca oob_tcp_keepalive_probes 2 -- --set run.watchdog=60
gone all 20
wait $pid
check test $? -ne 0
check test -z "$(grep 'error: ' "$folder/log")" # the watchdog's
check grep -q 'lost communication with a remote daemon' "$folder/log"
ip -n "${hosts_name}2" link set eth0 up

cut_link -- --set run.watchdog=3
gone ranks 23
check grep -qE 'error: .*rank [01]' "$folder/log"
stop_hosts # ends mpirun
wait $pid
check test $? -ne 0
expect 75 'continuing from' mpirun -q -n 2 "$STRATA" "${arguments[@]}" --set run.time_limit=1
finish
