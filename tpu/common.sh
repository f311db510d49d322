# What the scripts of this folder share; sourced by them, not run.
# shellcheck shell=bash
# Nothing here needs more than bash 3.2, which is what macOS has.
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(dirname "$folder")
poll=${JPRUNE_TPU_POLL:-30} # seconds between two looks at a TPU
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say() { printf '%s\n' "$*" >&2; }

# Ends with one line that says what is wrong and what would be right.
die() {
  say "$(basename "$0"): error: $*"
  exit 2
}

# The comment at the top of a script is its help.
usage() { awk 'NR > 1 { if (!/^#/ || /shellcheck/) exit; sub(/^# ?/, ""); print }' "$0"; }

# read_arguments FLAGS ARGUMENT...
# Sets NAME and a variable for each flag. FLAGS names them: `zone=` takes a value, `spot` takes
# none; `COMMAND` means that whatever follows NAME is a command, `EXTRA` that `--` may come before
# flags for gcloud. REST is that command, or those flags.
read_arguments() {
  local flags=" $1 " flag
  shift
  NAME="" REST=()
  while (($# > 0)); do
    flag=${1#--}
    flag=${flag%%=*}
    case $1 in
      -h | --help) usage && exit 0 ;;
      --)
        [[ $flags == *" EXTRA "* ]] || die "nothing may follow --; $0 --help shows the usage"
        REST=("${@:2}")
        break
        ;;
      --*)
        if [[ $flags == *" $flag "* && $1 != *=* ]]; then
          printf -v "$flag" 1
        elif [[ $flags != *" $flag= "* ]]; then
          die "unknown flag $1; $0 --help lists them"
        elif [[ $1 == *=* ]]; then
          printf -v "$flag" %s "${1#*=}"
        else
          (($# > 1)) || die "$1 needs a value: $1=..."
          printf -v "$flag" %s "$2"
          shift
        fi
        ;;
      *)
        [[ -z $NAME ]] || die "$1 is one word too many after $NAME; $0 --help shows the usage"
        NAME=$1
        if [[ $flags == *" COMMAND "* ]]; then
          REST=("${@:2}")
          break
        fi
        ;;
    esac
    shift
  done
  [[ -n $NAME ]] || die "the name of the TPU is missing; $0 --help shows the usage"
  [[ $NAME =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
    die "$NAME is no name for a TPU: lower-case letters, digits and dashes, a letter first"
  [[ $flags != *" COMMAND "* || ${REST[0]:-} != -- ]] || REST=("${REST[@]:1}")
  memory=$checkout/.tpu/$NAME # what resume.sh needs; git ignores it
  command -v gcloud >/dev/null || die "gcloud is missing; https://cloud.google.com/sdk/docs/install"
}

# Finds the TPU: zone and project from the flags, or else as create.sh remembers them.
locate() {
  local flag_zone=$zone flag_project=$project
  # shellcheck source=/dev/null
  [[ ! -f $memory/settings ]] || source "$memory/settings"
  zone=${flag_zone:-$zone} project=${flag_project:-$project}
  [[ -n $zone ]] || die "where is $NAME? create.sh was not run for it here, so give --zone=ZONE"
  [[ -n $project ]] || project=$(default_project)
}

default_project() {
  local id
  id=$(gcloud config get-value project 2>/dev/null) || id=""
  [[ -n $id && $id != "(unset)" ]] ||
    die "no project: gcloud config set project ID, or --project=ID"
  printf '%s\n' "$id"
}

tpus() { gcloud compute tpus "$@" --zone="$zone" --project="$project" --quiet; }

# look KIND FIELD: what gcloud says of it, or `absent`. Only a certain absence counts as one: with
# the wrong account, say, a TPU that costs money must not look deleted.
look() {
  local answer
  if answer=$(tpus "$1" describe "$NAME" --format="value($2)" 2>"$scratch/errors"); then
    printf '%s\n' "$answer"
  elif grep -q NOT_FOUND "$scratch/errors"; then
    echo absent
  else
    cat "$scratch/errors" >&2
    return 1
  fi
}

# One of `absent`, `pending` (wait), `ready`, `dead` (to be deleted), and what gcloud calls it.
tpu_state() {
  local queued node
  queued=$(look queued-resources state.state) || return
  case $queued in
    ACTIVE | absent)
      node=$(look tpu-vm state) || return
      case $queued/$node in
        absent/absent) echo "absent NOT_FOUND" ;;
        */READY) echo "ready $node" ;;
        */absent | */PREEMPTED | */TERMINATED | */STOPPED) echo "dead $node" ;;
        *) echo "pending $node" ;;
      esac
      ;;
    SUSPENDED | FAILED) echo "dead $queued" ;;
    *) echo "pending $queued" ;;
  esac
}

# Waits while the TPU is pending and shows each change; fails if it does not become ready.
wait_until_ready() {
  local now before=""
  while true; do
    now=$(tpu_state) || return
    [[ $now == pending* ]] || break
    [[ $now == "$before" ]] || say "$NAME: ${now#* }"
    before=$now
    sleep "$poll"
  done
  [[ $now == ready* ]]
}

# Puts the request that create.sh remembers into the queue.
request() {
  local type runtime spot extra
  # shellcheck source=/dev/null
  source "$memory/settings"
  tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$type" \
    --runtime-version="$runtime" ${spot:+--spot} ${extra[@]+"${extra[@]}"}
}

# Deletes the request and its node, or a node that has no request.
remove() {
  local queued node
  queued=$(look queued-resources state.state) || return
  if [[ $queued != absent ]]; then
    tpus queued-resources delete "$NAME" --force
    return
  fi
  node=$(look tpu-vm state) || return
  [[ $node == absent ]] || tpus tpu-vm delete "$NAME"
}

# on WORKER COMMAND: runs a line of shell on that worker, or on `all`. Its exit status is that of
# the line, or of one worker where it failed.
on() {
  tpus tpu-vm ssh "$NAME" --worker="$1" --command="$2" \
    --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=4 </dev/null
}

quoted() { printf '%q ' "$@"; }

# The words that follow `on_worker`, as a command line for `on`.
on_worker() {
  local missing="echo 'not set up: run tpu/setup.sh' >&2; exit 2"
  printf '%s' "{ test -f jprune-tpu/on_worker.sh || { $missing; }; } && "
  printf '%s' "bash jprune-tpu/on_worker.sh $(quoted "$@")"
}

# Installs on all workers what pack (setup.sh) left, and checks that JAX sees the whole slice.
install() {
  local workers
  workers=$(look tpu-vm 'networkEndpoints.len()') || return
  say "$NAME: copying jprune to $workers worker(s)"
  tpus tpu-vm scp "$memory/jprune-tpu.tar.gz" "$NAME:" --worker=all || return
  say "$NAME: installing"
  on all "rm -rf jprune-tpu/source && tar -xzf jprune-tpu.tar.gz && $(on_worker install)" || return
  on all "$(on_worker check "$workers")"
}

# Starts the remembered command on all workers.
start() { on all "$(on_worker start) $(cat "$memory/command")"; }
