# Whether this machine and user can make the hosts of hosts.sh: exit status 0.
folder=$(mktemp -d)
. "$(dirname "$0")/hosts.sh"
trap 'stop_hosts; rm -rf "$folder"' EXIT
start_hosts "strata-probe$$-" 1 1gbit
