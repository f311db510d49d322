"""The scripts of tpu/ against a stand-in for gcloud that records its calls and really runs, in a
folder for each worker, what ssh would run there."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.standins.tpus import PYTHON, ROOT, finished, one_line, until

# Creating and deleting.


def test_create_asks_for_what_its_flags_say_and_waits(cloud):
    cloud["coming"] = "WAITING_FOR_RESOURCES\nWAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE"
    shown = finished(
        cloud("create", "t", "--zone", "us-east5-b", "--type=v6e-16", "--spot", "--", "--tags=a b")
    )
    assert shown.count("WAITING_FOR_RESOURCES") == shown.count("PROVISIONING") == 1
    (call,) = cloud.calls("create")
    assert call == [
        *("compute", "tpus", "queued-resources", "create", "t", "--node-id=t"),
        *("--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e", "--spot", "--tags=a b"),
        *("--zone=us-east5-b", "--project=my-project", "--quiet"),
    ]
    # The same again waits for the same; another TPU of that name is refused.
    again = ["create", "t", "--zone=us-east5-b", "--type=v6e-16", "--spot", "--", "--tags=a b"]
    finished(cloud(*again))
    assert "other settings" in one_line(cloud("create", "t", "--zone=us-east5-b"))
    assert len(cloud.calls("create")) == 1


@pytest.mark.parametrize(
    "type, runtime",
    [
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v4-8", "tpu-ubuntu2204-base"),
    ],
)
def test_the_runtime_fits_the_type(cloud, type, runtime):
    finished(cloud("create", "t", "--zone=z", f"--type={type}", "--project=other"))
    (call,) = cloud.calls("create")
    assert {f"--accelerator-type={type}", f"--runtime-version={runtime}"} <= set(call)
    assert "--project=other" in call and "--spot" not in call


def test_create_says_when_no_tpu_came(cloud):
    cloud["coming"] = "WAITING_FOR_RESOURCES\nFAILED"
    done = cloud("create", "t", "--zone=z")
    assert done.returncode == 2 and "t did not come up; tpu/delete.sh t" in done.stderr


def test_delete_may_be_repeated(cloud):
    finished(cloud("create", "t", "--zone=us-west4-a"))
    assert "deleted" in finished(cloud("delete", "t"))
    assert "nothing to delete in us-west4-a of project my-project" in finished(cloud("delete", "t"))
    (call,) = cloud.calls("delete")
    assert {"queued-resources", "--force", "--zone=us-west4-a"} <= set(call)


def test_delete_finds_a_node_without_a_request(cloud):
    cloud["node"] = "READY"
    finished(cloud("delete", "t", "--zone=z"))
    assert cloud.calls("tpu-vm", "delete", "t")


# Setting up.


def test_setup_installs_this_checkout_on_all_workers(cloud):
    finished(cloud("create", "t", "--zone=z"))
    cloud["checkout/pyproject.toml"] = "changed"
    cloud["checkout/new.py"] = cloud["checkout/ignored"] = ""
    before = cloud.git("status", "--porcelain")
    finished(cloud("setup", "t"))
    assert cloud.git("status", "--porcelain") == before  # the user's index is as it was
    for worker in range(2):
        home = cloud.folder / f"worker-{worker}"
        source = home / "jprune-tpu/source"
        assert (source / "pyproject.toml").read_text() == "changed"
        assert (source / "new.py").exists() and not (source / "ignored").exists()
        assert f"install --quiet {source}[tpu]" in cloud.read(worker, "pip")
        assert cloud.read(worker, "checked") == "2\n"  # the number of workers
    finished(cloud("setup", "t", "--ref=HEAD"))
    assert cloud.read(0, "jprune-tpu/source/pyproject.toml") == "first"


def test_setup_fails_where_one_worker_does(cloud):
    finished(cloud("create", "t", "--zone=z"))
    cloud.program("worker-bin/python3", PYTHON.replace('echo "$2" >>~/checked', "[[ ~ != *1 ]]"))
    done = cloud("setup", "t")
    assert done.returncode == 1 and "is set up" not in done.stderr


def test_without_a_new_python_uv_brings_one(cloud):
    finished(cloud("create", "t", "--zone=z"))
    for python in ("python3", "python3.11", "python3.12", "python3.13"):
        cloud.program(f"worker-bin/{python}", "#!/bin/bash\nexit 1\n")
    cloud.program("worker-bin/uv", '#!/bin/bash\necho "$@" >~/uv; new-python -m venv "${@: -1}"\n')
    # What the address of uv gives is a script that installs it.
    script = 'mkdir "$UV_UNMANAGED_INSTALL" && cp "$(command -v uv)" "$UV_UNMANAGED_INSTALL"'
    cloud.program("worker-bin/curl", f"#!/bin/bash\necho '{script}'\n")
    cloud.program("worker-bin/new-python", PYTHON.replace("$0", "$(command -v new-python)"))
    finished(cloud("setup", "t"))
    assert "venv --quiet --seed --python 3.12" in cloud.read(1, "uv")
    assert "[tpu]" in cloud.read(1, "pip")


def test_the_check_of_devices_refuses_other_devices(cloud):
    home = cloud.folder / "worker-0"
    python = home / "venv/bin/python"
    python.parent.mkdir(parents=True)
    shutil.copy(ROOT / "tpu/on_worker.sh", home)
    cloud.program(str(python), f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = ["bash", home / "on_worker.sh", "check", "1"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "JAX found no TPU, only cpu" in done.stderr, done.stderr
    assert "worker 0 of 1" in done.stdout


# Running.


def test_the_words_of_a_command_arrive_as_given(tpu):
    words = ["it's", 'a "b"  $HOME', "*", "", "back\\slash", "two\nlines", "é", "--a=;&|", "--"]
    words = ["say", "x", "0", *words]
    finished(tpu("run", "my-tpu", "jprune", *words))
    finished(tpu("follow", "my-tpu"))
    for worker in range(2):
        assert tpu.words(worker) == words


def test_follow_shows_the_log_and_ends_with_the_status(tpu):
    shown = finished(tpu("run", "my-tpu", "jprune", "wait"))
    assert "nothing in this command is on gs://" in shown
    following = tpu.start("follow", "my-tpu", "--worker=1")
    assert following.stdout.readline() == "waiting\n"
    # The connection that started it is gone, and the command is still there: no second one.
    again = tpu("run", "my-tpu", "jprune", "say", "gs://more")
    assert again.returncode == 2 and again.stderr.count("a command is running") == 2
    assert "gs://" not in again.stderr and tpu.words(1) == ["wait"]
    assert tpu("setup", "my-tpu").returncode == 2
    assert following.poll() is None
    tpu["worker-1/go"] = ""
    assert following.wait(30) == 0
    tpu["worker-0/go"] = ""
    tpu("follow", "my-tpu")
    finished(tpu("run", "my-tpu", "jprune", "say", "gs://more", "3"))
    done = tpu("follow", "my-tpu")
    assert (done.returncode, done.stdout) == (3, "saying gs://more\n")


def test_one_busy_worker_keeps_the_others_from_starting(tpu):
    finished(tpu("run", "my-tpu", "jprune", "wait"))
    tpu["worker-0/go"] = ""
    tpu("follow", "my-tpu")
    done = tpu("run", "my-tpu", "jprune", "say", "x")
    assert done.returncode == 2 and "started" not in done.stdout


def test_stop_lets_the_command_save(tpu):
    finished(tpu("run", "my-tpu", "jprune", "wait"))
    until(lambda: "waiting" in tpu.read(0, "jprune-tpu/job/log"))
    finished(tpu("stop", "my-tpu"))
    done = tpu("follow", "my-tpu")
    assert done.returncode == 75 and "saved" in done.stdout


def test_a_killed_command_is_said_to_be_killed(tpu):
    finished(tpu("run", "my-tpu", "jprune", "wait"))
    tpu.preempt()
    tpu["node"] = "READY"
    assert tpu("follow", "my-tpu").returncode == 137


def test_run_needs_setup_first(cloud):
    finished(cloud("create", "t", "--zone=z"))
    done = cloud("run", "t", "jprune", "say", "x")
    assert done.returncode == 2 and "run tpu/setup.sh" in done.stderr


# Coming back.


def test_resume_after_preemption_runs_the_same_again(tpu):
    words = ["wait", "a 'b'  c"]
    finished(tpu("run", "my-tpu", "jprune", *words))
    tpu["checkout/pyproject.toml"] = "changed meanwhile"
    (before,) = tpu.calls("create")
    tpu.preempt()
    tpu["coming"] = "SUSPENDING\nSUSPENDED"
    finished(tpu("resume", "my-tpu"))
    assert tpu.calls("create") == [before, before]
    steps = [call[3] for call in tpu.calls("--quiet") if call[3] not in ("describe", "ssh")]
    assert steps == ["create", "scp", "delete", "create", "scp"]
    until(lambda: tpu.words(0) == tpu.words(1) == words)
    assert tpu.read(0, "jprune-tpu/source/pyproject.toml") == "first"
    # Again: it runs, so nothing happens.
    assert "the command runs" in finished(tpu("resume", "my-tpu"))
    assert len(tpu.calls("create")) == 2


def test_resume_in_a_loop_ends_when_the_command_has(tpu):
    finished(tpu("run", "my-tpu", "jprune", "wait"))
    loop = tpu.start("resume", "my-tpu", "--loop")
    assert loop.stdout.readline() == "waiting\n"
    (tpu.folder / "worker-0/words").unlink()
    tpu.preempt()
    until(lambda: tpu.words(0))
    for worker in range(2):
        tpu[f"worker-{worker}/go"] = ""
    _, shown = loop.communicate(timeout=60)
    assert loop.returncode == 0 and "the command has finished" in shown
    assert len(tpu.calls("create")) == 2


def test_resume_does_not_repeat_what_failed(tpu):
    finished(tpu("run", "my-tpu", "jprune", "say", "x", "2"))
    tpu("follow", "my-tpu")
    assert tpu("resume", "my-tpu", "--loop").returncode == 2
    assert tpu.words(0) == ["say", "x", "2"]
