"""What the scripts of tpu/ say when something is wrong."""

import shutil

import pytest

from tests.standins.tpus import one_line


@pytest.mark.parametrize(
    "words, said",
    [
        (["create"], "the name of the TPU is missing"),
        (["create", "t"], "which zone? e.g. --zone=us-west4-a"),
        (["create", "t", "--zone"], "--zone needs a value"),
        (["create", "t", "--zone=z", "--sopt"], "unknown flag --sopt; "),
        (["create", "T_1", "--zone=z"], "T_1 is no name for a TPU"),
        (["create", "t", "--zone=z", "--type=h100"], "no --runtime=VERSION is known"),
        (["setup", "t"], "create.sh was not run for it here, so give --zone=ZONE"),
        (["setup", "t", "u"], "u is one word too many"),
        (["setup", "t", "--zone=z", "--ref=nowhere"], "nowhere is no commit"),
        (["run", "--zone=z", "t"], "which command?"),
        (["follow", "t", "--zone=z", "--worker=all"], "--worker=all is no worker"),
        (["stop", "t", "--", "x"], "nothing may follow --"),
        (["resume", "t"], "nothing to resume: tpu/create.sh was not run for t here"),
    ],
)
def test_wrong_usage_is_one_line(cloud, words, said):
    assert said in one_line(cloud(*words))
    assert not cloud.calls("compute")


def test_a_missing_project_and_a_missing_gcloud_are_one_line(cloud, monkeypatch):
    cloud["project"] = ""
    assert "no project: gcloud config set project ID" in one_line(cloud("create", "t", "--zone=z"))
    (cloud.folder / "bin/gcloud").unlink()
    for tool in ("bash", "awk", "basename", "dirname", "mktemp", "rm"):
        (cloud.folder / "bin" / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", "")
    assert "gcloud is missing; https://" in one_line(cloud("create", "t", "--zone=z"))


@pytest.mark.parametrize("script", ["create", "setup", "run", "follow", "stop", "delete", "resume"])
def test_help_is_the_comment_at_the_top(cloud, script):
    done = cloud(script, "--help")
    assert done.returncode == 0 and f"tpu/{script}.sh" in done.stdout
    assert "shellcheck" not in done.stdout


def test_what_gcloud_says_is_passed_on(cloud):
    cloud["refuse"] = "create: RESOURCE_EXHAUSTED: Quota limit has been exceeded"
    done = cloud("create", "t", "--zone=z")
    assert done.returncode == 1 and "Quota limit has been exceeded" in done.stderr
    # Only a certain absence is one.
    cloud["refuse"] = "describe: PERMISSION_DENIED: who are you?"
    done = cloud("delete", "t")
    assert done.returncode == 1 and "who are you?" in done.stderr
    assert "nothing to delete" not in done.stderr
