#!/usr/bin/env python3
"""A stand-in for gcloud and the TPUs behind it, on this machine: run as `gcloud ...`.

It works in the folder $GCLOUD_STANDIN:
  calls.jsonl         every call, one JSON list of its words each
  queued, node        state of the request and of its node; no file: there is none
  coming              states that the next looks at the request find, one a line
  workers             how many the TPU has
  refuse              `WORD: message`: calls with that word fail with that message
  worker-0, -1, ...   the home folders of the workers; gone with the TPU

`ssh --command` really runs the command there, in a bash of its own session which is then hung up
on, as sshd does it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

CLOUD = Path(os.environ["GCLOUD_STANDIN"])


def main(words: list[str]) -> int:
    with (CLOUD / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    word, _, message = read("refuse").partition(": ")
    if word and word in words:
        return fail(message)
    if words[:3] == ["config", "get-value", "project"]:
        print(read("project") or "(unset)")
        return 0
    group, verb, *rest = words[2:]
    flags = dict(word[2:].partition("=")[::2] for word in rest if word.startswith("--"))
    return VERBS[f"{group} {verb}"]([word for word in rest if not word.startswith("--")], flags)


def create(names, flags) -> int:
    if read("queued"):
        return fail("ALREADY_EXISTS: Resource already exists")
    (CLOUD / "queued").write_text("ACTIVE")
    (CLOUD / "node").write_text("READY")
    return 0


def describe_request(names, flags) -> int:
    coming = read("coming").split()
    if coming and read("queued"):
        (CLOUD / "coming").write_text("\n".join(coming[1:]))
        (CLOUD / "queued").write_text(coming[0])
    return tell(read("queued"), f"queuedResources/{names[0]}")


def describe_node(names, flags) -> int:
    if flags["format"] == "value(networkEndpoints.len())":
        return tell(read("workers"), f"nodes/{names[0]}")
    assert flags["format"] == "value(state)"
    return tell(read("node"), f"nodes/{names[0]}")


def delete(names, flags) -> int:
    for file in ("queued", "node"):
        (CLOUD / file).unlink(missing_ok=True)
    for home in homes("all"):
        shutil.rmtree(home)
    return 0


def copy(names, flags) -> int:
    *sources, target = names
    assert target.endswith(":")  # the home folder
    for home in homes(flags["worker"]):
        for source in sources:
            shutil.copy(source, home)
    return 0


def run(names, flags) -> int:
    if read("node") != "READY":
        return fail("FAILED_PRECONDITION: the TPU is not READY") and 255
    started = [
        subprocess.Popen(
            ["bash", "-c", flags["command"]],
            cwd=home,
            env=os.environ | {"HOME": str(home), "PATH": f"{CLOUD}/worker-bin:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        for home in homes(flags["worker"])
    ]
    statuses = [process.wait() for process in started]
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGHUP)
    return next(filter(None, statuses), 0)


def homes(worker: str) -> list[Path]:
    indices = range(int(read("workers"))) if worker == "all" else [int(worker)]
    folders = [CLOUD / f"worker-{index}" for index in indices]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    return folders


def tell(value: str, resource: str) -> int:
    if not value:
        return fail(f"NOT_FOUND: Resource '{resource}' was not found")
    print(value)
    return 0


def fail(message: str) -> int:
    print(f"ERROR: (gcloud) {message}", file=sys.stderr)
    return 1


def read(name: str) -> str:
    try:
        return (CLOUD / name).read_text().strip()
    except FileNotFoundError:
        return ""


VERBS = {
    "queued-resources create": create,
    "queued-resources describe": describe_request,
    "queued-resources delete": delete,
    "tpu-vm describe": describe_node,
    "tpu-vm delete": delete,
    "tpu-vm scp": copy,
    "tpu-vm ssh": run,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
