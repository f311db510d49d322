#!/usr/bin/env bash
# Installs jprune on all workers of a TPU and checks that JAX sees all its devices.
#
#   tpu/setup.sh NAME [--ref=REF] [--zone=ZONE] [--project=ID]
#
# --ref  a branch, tag or commit; by default this checkout as it is, with changes not committed and
#        files that git does not ignore
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"

# Packs jprune and the worker's script. The pack stays here, so that resume.sh sets up the same.
pack() {
  local tree=$1 content=$scratch/jprune-tpu
  if [[ -z $tree ]]; then
    # An index of its own leaves what the user has staged alone.
    tree=$(export GIT_INDEX_FILE=$scratch/index &&
      git -C "$checkout" add --all && git -C "$checkout" write-tree)
  fi
  mkdir -p "$content/source" "$memory"
  git -C "$checkout" archive "$tree" | tar -xf - -C "$content/source"
  cp "$folder/on_worker.sh" "$content/"
  # Without COPYFILE_DISABLE macOS adds files of its own.
  COPYFILE_DISABLE=1 tar -czf "$memory/jprune-tpu.tar.gz" -C "$scratch" jprune-tpu
}

zone="" project="" ref=""
read_arguments "zone= project= ref=" "$@"
locate
git -C "$checkout" rev-parse --verify --quiet "${ref:-HEAD}^{tree}" >/dev/null ||
  die "${ref:-this folder} is no commit of a git checkout at $checkout; --ref=BRANCH, TAG or COMMIT"

on all "test ! -f jprune-tpu/on_worker.sh || bash jprune-tpu/on_worker.sh idle"
pack "$ref"
install
say "$NAME is set up; next: tpu/run.sh $NAME jprune run --config=... --workdir=gs://..."
