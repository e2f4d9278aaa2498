# `cmake --install`, and a program of somebody else's built against what it installed.
. "$(dirname "$0")/lib.sh"
check cmake --install "$STRATA_BUILD" --prefix "$folder/prefix" >/dev/null
expect 0 'strata [0-9]' "$folder/prefix/bin/strata" --version
check cmake -S "$(dirname "$0")/consumer" -B "$folder/build" -DCMAKE_PREFIX_PATH="$folder/prefix" >/dev/null
check cmake --build "$folder/build" >/dev/null
expect 0 '' "$folder/build/consumer" "$config" "$folder/from-c++"
expect 2 'nowhere.yaml' "$folder/build/consumer" "$folder/nowhere.yaml" "$folder/none"
expect 0 'active' "$folder/build/consumer" "$folder"/from-c++/saes/*
check train
check cmp "$folder"/from-c++/saes/*/sae_weights.safetensors "$folder"/run/saes/*/sae_weights.safetensors
finish
