"""TPUs for the tests of the scripts."""

import shutil

import pytest

from tests.standins.tpus import Cloud, finished


@pytest.fixture(scope="session")
def clouds(tmp_path_factory):
    """A cloud with no TPU, and one in which my-tpu is set up: to be copied, which is quicker."""
    if not all(map(shutil.which, ("bash", "flock", "git", "setsid"))):
        pytest.skip("the scripts need bash and git here, flock and setsid on the workers (Linux)")
    none, one = (Cloud(tmp_path_factory.mktemp(name)).build() for name in ("none", "one"))
    finished(one("create", "my-tpu", "--zone=us-west4-a", "--spot"))
    finished(one("setup", "my-tpu"))
    return none, one


@pytest.fixture
def cloud(tmp_path, clouds):
    yield from clouds[0].copied(tmp_path)


@pytest.fixture
def tpu(tmp_path, clouds):
    yield from clouds[1].copied(tmp_path)
