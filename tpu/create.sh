#!/usr/bin/env bash
# Creates a TPU and waits until it is there.
#
#   tpu/create.sh NAME --zone=ZONE [--type=v5litepod-8] [--spot] [--project=ID] [--runtime=VERSION]
#                 [-- GCLOUD FLAGS]
#
# --zone     where, e.g. us-west4-a
# --type     accelerator type: v5litepod-8 (v5e), v6e-8, v5p-8, v4-8, ...
# --spot     much cheaper; may be taken away at any time (see resume.sh)
# --project  by default that of `gcloud config`
# --runtime  software of the VM; by default the one for the type
# What follows -- goes to `gcloud compute tpus queued-resources create`: --reserved, --network=...
#
# The request waits in a queue until there is room; Ctrl-C leaves it there, and the same command
# goes on waiting.
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"

zone="" project="" type=v5litepod-8 runtime="" spot=""
read_arguments "zone= project= type= runtime= spot EXTRA" "$@"
[[ -n $zone ]] || die "which zone? e.g. --zone=us-west4-a for v5litepod, --zone=us-east5-b for v6e"
[[ -n $project ]] || project=$(default_project)
if [[ -z $runtime ]]; then
  case $type in
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v[234]-*) runtime=tpu-ubuntu2204-base ;;
    *) die "no --runtime=VERSION is known for --type=$type; a type is v5litepod-8, v6e-8, ..." ;;
  esac
fi
extra=""
((${#REST[@]} == 0)) || extra=$(quoted "${REST[@]}")
settings=$(
  printf '%s=%q\n' zone "$zone" project "$project" type "$type" runtime "$runtime" spot "$spot"
  echo "extra=($extra)"
)
remember() {
  mkdir -p "$memory"
  printf '%s\n' "$settings" >"$memory/settings"
}

now=$(tpu_state)
case $now in
  absent*)
    remember
    request
    say "$NAME: requested; waiting for $type in $zone (Ctrl-C leaves the request in the queue)"
    ;;
  dead*)
    die "$NAME is there and ${now#* }: tpu/resume.sh $NAME goes on, tpu/delete.sh $NAME ends it"
    ;;
  *)
    [[ ! -f $memory/settings || $settings == "$(cat "$memory/settings")" ]] ||
      die "$NAME is there with other settings ($memory/settings); delete it or take another name"
    remember
    ;;
esac
wait_until_ready || {
  tpus queued-resources describe "$NAME" --format='value(state)' >&2 || true
  die "$NAME did not come up; tpu/delete.sh $NAME, then try later or in another zone"
}
say "$NAME is ready, and costs money until tpu/delete.sh $NAME; next: tpu/setup.sh $NAME"
