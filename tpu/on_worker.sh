#!/usr/bin/env bash
# The part that runs on the workers of a TPU: installs jprune, starts one command, tells how it is.
# setup.sh puts it into ~/jprune-tpu; the other scripts call it over ssh.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
job=$root/job # lock, log, pid and status of the command
bin=$root/venv/bin

die() {
  echo "$(hostname): $*" >&2
  exit 2
}

# Makes the virtual environment if there is none, and installs what setup.sh sent.
install() {
  require_idle
  rm -f "$root/installed"
  [[ -x $bin/python ]] || make_venv || { rm -rf "$root/venv" && die "no virtual environment"; }
  "$bin/python" -m pip --disable-pip-version-check install --quiet "$root/source[tpu]"
  touch "$root/installed"
}

# jprune needs Python 3.11, and the images of TPU VMs may have an older one: uv brings its own.
make_venv() {
  local python
  for python in python3 python3.13 python3.12 python3.11; do
    "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
      continue
    "$python" -m venv "$root/venv"
    return
  done
  curl -LsSf https://astral.sh/uv/install.sh | UV_UNMANAGED_INSTALL=$root/uv sh &&
    "$root/uv/uv" venv --quiet --seed --python 3.12 "$root/venv"
}

# check WORKERS: that JAX runs on the TPU and this worker has found all the others.
check() {
  require_idle
  "$bin/python" - "$1" <<'PYTHON'
import socket
import sys

import jax

from jprune.core.processes import initialise

initialise("auto")
place = f"{socket.gethostname()}: worker {jax.process_index()} of {jax.process_count()}"
kind = jax.devices()[0].device_kind
print(f"{place}, {jax.local_device_count()} of {jax.device_count()} devices, {kind}")
if jax.default_backend() != "tpu":
    sys.exit(f"{place}: JAX found no TPU, only {jax.default_backend()}")
if jax.process_count() != int(sys.argv[1]):
    sys.exit(f"{place}, but the TPU has {sys.argv[1]} workers")
PYTHON
}

# The command holds the lock as long as it or a child of it lives, and no longer: unlike the file
# of a process id, it cannot outlive a reboot.
is_running() { [[ -d $job ]] && ! flock --nonblock "$job/lock" true; }

require_idle() {
  ! is_running || die "a command is running; tpu/follow.sh shows it, tpu/stop.sh stops it"
}

start() {
  [[ -f $root/installed ]] || die "not set up: run tpu/setup.sh"
  mkdir -p "$job"
  exec 9>>"$job/lock"
  flock --nonblock 9 || die "a command is running; nothing was started"
  rm -f "$job/status" "$job/pid"
  [[ ! -f $job/log ]] || mv -f "$job/log" "$job/log.previous"
  # A session of its own and no terminal: nothing of the connection is left that could end it.
  setsid bash "$root/on_worker.sh" supervise "$@" </dev/null >"$job/log" 2>&1 &
  # Before it is in that session, a hang-up would still take it along.
  until [[ -s $job/pid ]]; do
    kill -0 $! || die "the command did not start"
    sleep 0.05
  done
  echo "$(hostname): started"
}

# Runs the command and writes down how it ended.
supervise() {
  local status=0
  trap : TERM # so that the command gets it, and its status is still written
  echo $$ >"$job/pid"
  cd "$HOME"
  PATH=$bin:$PATH PYTHONUNBUFFERED=1 "$@" || status=$?
  echo "$status" >"$job/status.new"
  mv "$job/status.new" "$job/status"
}

stop() {
  is_running || { echo "$(hostname): nothing is running" && return; }
  kill -TERM -- "-$(cat "$job/pid")"
  echo "$(hostname): asked to stop"
}

follow() {
  [[ -f $job/log ]] || die "no command was started here; tpu/run.sh starts one"
  if is_running; then
    tail --lines=100 --follow --pid="$(cat "$job/pid")" "$job/log"
  else
    tail --lines=100 "$job/log"
  fi
  [[ -f $job/status ]] || { echo "$(hostname): the command was killed" >&2 && exit 137; }
  exit "$(cat "$job/status")"
}

# One of: absent (not set up), none (nothing started yet), running, ended STATUS, killed.
state() {
  if [[ ! -f $root/installed ]]; then
    echo absent
  elif is_running; then
    echo running
  elif [[ -f $job/status ]]; then
    echo "ended $(cat "$job/status")"
  elif [[ -f $job/log ]]; then
    echo killed
  else
    echo none
  fi
}

case ${1:-} in
  install | check | start | supervise | stop | follow | state) "$@" ;;
  idle) require_idle ;;
  *) die "usage: on_worker.sh install|check WORKERS|idle|start COMMAND...|stop|follow|state" ;;
esac
