# Where a transcoder begins: one whose targets are its inputs as the SAE does, but for the ridge of its map, at any number of ranks.
. "$(dirname "$0")/lib.sh"
first() { losses "$folder/$1" | head -n 1; }
near() { # A B: are the first losses of two runs within 1 %?
  awk -v a="$(first "$1")" -v b="$(first "$2")" 'BEGIN { print "first loss:", a, b; d = (a - b) / a; exit !(a > 0 && d < 0.01 && d > -0.01) }'
}
begun() { # RANKS NAME OPTIONS...: two steps of a run
  local ranks=$1 name=$2
  shift 2
  check mpirun -q -n "$ranks" "$STRATA" train "$config" --quiet --set run.output="$folder/$name" --set train.tokens=1024 \
    --set train.log_every=1 "$@"
}
keep=$config
for kind in batch_topk jumprelu gated; do
  config=$folder/$kind.yaml
  sed "s/^sae: .*/sae: {kind: $kind, width: 256}/" "$keep" >"$config"
  for place in mean zero; do
    begun 1 $kind.$place --set sae.b_dec_init=$place
    for ranks in 1 $([ $place = zero ] || echo 2 3 4); do
      begun $ranks $kind.$place.$ranks --set data.target=resid_post/0 --set sae.b_dec_init=$place
      check near $kind.$place $kind.$place.$ranks
    done
  done
done
begun 1 random --set data.target=resid_post/0 --set sae.encoder_init=random
check awk -v a="$(first gated.mean)" -v b="$(first random)" 'BEGIN { exit !(b > 1.2 * a) }'
finish
