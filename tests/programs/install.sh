# `cmake --install`, and a program of somebody else's built against what it installed.
. "$(dirname "$0")/lib.sh"
check cmake --install "$STRATA_BUILD" --prefix "$folder/prefix" >/dev/null
expect 0 'strata [0-9]' "$folder/prefix/bin/strata" --version
check train
check cmake -S "$(dirname "$0")/consumer" -B "$folder/build" -DCMAKE_PREFIX_PATH="$folder/prefix" >/dev/null
check cmake --build "$folder/build" >/dev/null
expect 0 'active' "$folder/build/consumer" "$folder"/run/saes/*
finish
