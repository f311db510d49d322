#!/usr/bin/env bash
# Asks the command on a TPU to stop (SIGTERM): jprune saves what is finished and ends with 75.
#
#   tpu/stop.sh NAME [--zone=ZONE] [--project=ID]
#
# The TPU stays, and costs money, until delete.sh. resume.sh runs the command again.
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"

zone="" project=""
read_arguments "zone= project=" "$@"
locate
on all "$(on_worker stop)"
