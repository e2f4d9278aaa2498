# What a run takes of memory, against `strata plan`.
. "$(dirname "$0")/lib.sh"
check /usr/bin/python3 "$(dirname "$0")/memory.py" "$STRATA" "$folder"
finish
