"""A checkout with the scripts of tpu/, and the TPUs of the stand-in for gcloud."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A Python that makes environments in which pip and the check of devices write down what they are
# asked.
PYTHON = """#!/bin/bash
case "$1 $2" in
  "-c "*) exit 0 ;;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") echo "$@" >>~/pip ;;
  "- "*) echo "$2" >>~/checked ;;
esac
"""

# In place of jprune: writes down its words, and does what the first of them says.
JPRUNE = """#!/bin/bash
printf '%s\\0' "$@" >>~/words
case $1 in
  say) echo "saying $2" && exit "${3:-0}" ;;
  wait) trap 'echo saved; exit 75' TERM; echo waiting; while [[ ! -f ~/go ]]; do sleep 0.05; done ;;
esac
"""


class Cloud:
    """A checkout with the scripts in it, and the folder of the stand-in for gcloud."""

    def __init__(self, folder: Path):
        self.folder, self.checkout = folder, folder / "checkout"

    def build(self) -> "Cloud":
        shutil.copytree(ROOT / "tpu", self.checkout / "tpu")
        self["checkout/pyproject.toml"] = "first"
        self["checkout/.gitignore"] = ".tpu/\nignored\n"
        self.git("init", "--quiet")
        self.git("add", "--all")
        self.git("-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "--message=one")
        gcloud = (ROOT / "tests/standins/gcloud.py").read_text()
        # Without site-packages, which it does not need, it starts quickly.
        self.program("bin/gcloud", f"#!{sys.executable} -S\n{gcloud}")
        self.program("worker-bin/python3", PYTHON)
        self.program("worker-bin/jprune", JPRUNE)
        self["project"] = "my-project"
        self["workers"] = "2"
        return self

    def copied(self, folder: Path) -> Iterator["Cloud"]:
        """A copy in another folder; at the end nothing runs in it any more."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        copy = Cloud(folder)
        yield copy
        copy.preempt()

    def __setitem__(self, name: str, content: str) -> None:
        (self.folder / name).write_text(content)

    def program(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(exist_ok=True)
        self[name] = text
        (self.folder / name).chmod(0o755)

    def git(self, *words: str) -> str:
        command = ["git", "-C", str(self.checkout), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def start(self, script: str, *words: str) -> subprocess.Popen:
        env = os.environ | {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "GCLOUD_STANDIN": str(self.folder),
            "JPRUNE_TPU_POLL": "0.1",
        }
        command = [self.checkout / f"tpu/{script}.sh", *words]
        return subprocess.Popen(command, env=env, stdout=-1, stderr=-1, text=True)

    def __call__(self, script: str, *words: str) -> subprocess.CompletedProcess:
        process = self.start(script, *words)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def calls(self, *words: str) -> list[list[str]]:
        """The calls of gcloud so far that have all of `words`."""
        file = self.folder / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [call for call in map(json.loads, lines) if set(words) <= set(call)]

    def read(self, worker: int, name: str) -> str:
        """A file of the home folder of a worker."""
        return (self.folder / f"worker-{worker}" / name).read_text()

    def words(self, worker: int) -> list[str]:
        """What the stand-in for jprune was called with on a worker."""
        file = self.folder / f"worker-{worker}/words"
        return file.read_text().split("\0")[:-1] if file.exists() else []

    def preempt(self) -> None:
        """Takes the TPU away, with all that runs on it."""
        self["node"], self["queued"] = "PREEMPTED", "SUSPENDED"
        for file in self.folder.glob("worker-*/jprune-tpu/job/pid"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(file.read_text()), signal.SIGKILL)


def until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def finished(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stderr


def one_line(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr
