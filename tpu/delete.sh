#!/usr/bin/env bash
# Deletes a TPU, or its request in the queue, with all that is on its disks. Safe to repeat.
#
#   tpu/delete.sh NAME [--zone=ZONE] [--project=ID]
#
# What was written to gs:// stays, and so does the remembered command: resume.sh would create the
# TPU again and go on.
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"

zone="" project=""
read_arguments "zone= project=" "$@"
locate
now=$(tpu_state)
if [[ $now == absent* ]]; then
  say "$NAME: nothing to delete in $zone of project $project"
  exit 0
fi
remove
now=$(tpu_state)
[[ $now == absent* ]] || die "$NAME is still ${now#* }; run tpu/delete.sh $NAME again in a minute"
say "$NAME: deleted"
