"""A tiny model and some text, and a depth pruning config on them."""

import shutil

import pytest

from jprune.pipeline.job import run_config
from jprune.retrain import batch_indices, loop
from tests.cli.conftest import model, text  # noqa: F401  (fixtures)


@pytest.fixture(scope="session")
def config(model, text):  # noqa: F811
    """A function (changes) -> config of a run that takes about a second."""

    def make(**changes):
        base = {
            "job": "depth",
            "model": str(model),
            "calibration": str(text),
            "eval": (str(text),),
            "criterion": "perplexity",
            "remove": 1,
            "num_windows": 3,
            "window_length": 16,
            "sample": "stream",
            "eval_windows": 5,
            "curve_windows": 2,
            "curve_seeds": 2,
        }
        return base | changes

    return make


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory, config):
    workdir = tmp_path_factory.mktemp("finished") / "W"
    return workdir, run_config(config(), workdir, name="test")


@pytest.fixture
def finished(tmp_path, finished_once):
    """A finished workdir and its run.json."""
    workdir, record = finished_once
    return shutil.copytree(workdir, tmp_path / "W"), record


@pytest.fixture(scope="session")
def sparse_config(model, text):  # noqa: F811
    """A function (changes) -> config of a run that makes half of the weights zero."""

    def make(**changes):
        base = {
            "job": "sparse",
            "model": str(model),
            "calibration": str(text),
            "eval": (str(text),),
            "criterion": "wanda",
            "allocation": "dlp",
            "sparsity": 0.5,
            "compare": ("uniform",),
            "num_windows": 3,
            "window_length": 16,
            "sample": "stream",
            "eval_windows": 5,
            "curve_windows": 2,
            "curve_sparsities": (0.25, 0.5),
        }
        return base | changes

    return make


@pytest.fixture(scope="module")
def sparse_run(tmp_path_factory, sparse_config):
    """A finished workdir of such a run, and its run.json; not to be changed."""
    workdir = tmp_path_factory.mktemp("sparse") / "W"
    return workdir, run_config(sparse_config(), workdir, name="test")


@pytest.fixture
def sparse_run_copy(tmp_path, sparse_run):
    """A workdir like that of `sparse_run` that may be changed."""
    workdir, record = sparse_run
    return shutil.copytree(workdir, tmp_path / "W"), record


@pytest.fixture
def steps_run(monkeypatch):
    """The steps (from 0) that training goes through."""
    steps = []

    def counted(*args):
        steps.append(args[3])
        return batch_indices(*args)

    monkeypatch.setattr(loop, "batch_indices", counted)
    return steps
