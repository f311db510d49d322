#!/usr/bin/env bash
# Brings the last command of run.sh back to work, whatever became of its TPU: deletes a preempted
# TPU, creates it again, sets it up with the same jprune, and starts the same command.
#
#   tpu/resume.sh NAME [--loop]
#
# --loop  follows the command and brings it back after every preemption, until it has ended
#
# jprune goes on where it was if --workdir is on gs://. Nothing is started while the command runs.
# Exit status: 0 if it runs or has finished; the command's own if it failed.
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"

zone="" project="" loop=""
read_arguments "loop" "$@"
for needed in settings:create.sh jprune-tpu.tar.gz:setup.sh command:run.sh; do
  [[ -f $memory/${needed%:*} ]] ||
    die "nothing to resume: tpu/${needed#*:} was not run for $NAME here (no $memory/${needed%:*})"
done
locate

# Each step brings the TPU one state further, and then it is asked anew where it is: the next
# preemption may cut any step short.
requested=""
while true; do
  now=$(tpu_state)
  say "$NAME: ${now#* }"
  case $now in
    absent*)
      request
      requested=1
      ;;
    dead*)
      [[ -z $requested || -n $loop ]] || die "$NAME did not come up; try later, or with --loop"
      [[ -z $requested ]] || sleep "$poll"
      remove
      ;;
  esac
  if [[ $now != ready* ]]; then
    wait_until_ready || true
    continue
  fi
  status=0
  job=$(on 0 "test -f jprune-tpu/on_worker.sh || { echo absent; exit; }; $(on_worker state)") ||
    status=$?
  case $job in
    absent) install || status=$? ;;
    none | killed | "ended 75") start || status=$? ;;
    running)
      say "$NAME: the command runs: $(cat "$memory/command")"
      [[ -n $loop ]] || exit 0
      on 0 "$(on_worker follow)" || true
      ;;
    "ended 0")
      say "$NAME: the command has finished; tpu/delete.sh $NAME ends the costs"
      exit 0
      ;;
    ended*) status=${job#ended } ;;
  esac
  ((status != 0)) || continue
  # A worker that is taken away makes the others fail a little before the TPU counts as preempted.
  sleep "$poll"
  now=$(tpu_state)
  if [[ $now == ready* ]]; then
    say "$NAME: failed with status $status; the TPU is still there, and costs money"
    exit "$status"
  fi
done
