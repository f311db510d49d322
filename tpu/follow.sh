#!/usr/bin/env bash
# Shows the log of the command on a TPU until the command ends, and ends with its exit status.
#
#   tpu/follow.sh NAME [--worker=0] [--zone=ZONE] [--project=ID]
#
# Worker 0 is the one that speaks for all; the others log only errors. Ctrl-C ends the watching, not
# the command. Exit status: the command's; 137 if it was killed; gcloud's if there is no connection.
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"

zone="" project="" worker=0
read_arguments "zone= project= worker=" "$@"
locate
[[ $worker =~ ^[0-9]+$ ]] || die "--worker=$worker is no worker: 0, 1, ..."
on "$worker" "$(on_worker follow)"
