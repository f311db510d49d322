#!/usr/bin/env bash
# Starts a command on all workers of a TPU and returns; it runs on when the connection is lost.
#
#   tpu/run.sh [--zone=ZONE] [--project=ID] NAME COMMAND...
#   tpu/run.sh my-tpu jprune run --config=shortened_llama:ppl --workdir=gs://bucket/run
#
# Everything after NAME is the command; spaces and quotes arrive as given. It is remembered for
# resume.sh. One command at a time: while one runs, a second is refused.
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"

zone="" project=""
read_arguments "zone= project= COMMAND" "$@"
locate
((${#REST[@]} > 0)) || die "which command? e.g. tpu/run.sh $NAME jprune demo"

# All workers are asked before any starts: a command that ran on some of them would wait for ever.
on all "$(on_worker idle)"
mkdir -p "$memory"
quoted "${REST[@]}" >"$memory/command"
start
[[ "${REST[*]}" == *gs://* ]] ||
  say "warning: nothing in this command is on gs://: what it writes is lost with the TPU"
say "$NAME runs it; tpu/follow.sh $NAME shows the log, tpu/stop.sh $NAME stops it"
