"""What all tests share. JAX reads its settings when it is first imported, so they come first."""

import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "jprune-test-xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Eight devices for the tests of meshes; all others run on the first.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import pytest


def _check_types_at_run_time() -> None:
    """Checks every annotated shape of the package while the tests run."""
    if os.environ.get("JPRUNE_TYPECHECK", "1") == "0":
        return
    try:
        import beartype  # noqa: F401
        from jaxtyping import install_import_hook
    except ImportError:
        return
    install_import_hook("jprune", "beartype.beartype")


_check_types_at_run_time()


# Every compiled program takes a few of the memory maps that Linux gives a process, 65,530 in all;
# without any left, compilation crashes.
MOST_MAPS = 20_000


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Lets compiled programs go when there are many: the cache on disk has them."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        import gc

        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def gcs_server():
    """A stand-in for Google Cloud Storage, one for all: TensorStore keeps to the first it saw."""
    pytest.importorskip("gcsfs", reason="gs:// needs gcsfs, which is not installed")
    from tests.standins.gcs import serving

    with serving() as store:
        yield store


@pytest.fixture
def gcs(gcs_server, monkeypatch):
    """An empty stand-in for Google Cloud Storage, where gs:// goes."""
    gcs_server.clear()
    for name, value in gcs_server.environment.items():
        monkeypatch.setenv(name, value)
    # jprune sets it, once, when it first meets gs://, which another test may have made it do.
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", gcs_server.url)
    yield gcs_server
    gcs_server.clear()


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder with the models, data and reference figures that are not in the repository."""
    named = os.environ.get("JPRUNE_SHARED")
    beside = pathlib.Path(__file__).resolve().parents[2] / "shared"
    folder = pathlib.Path(named) if named else beside
    if not (folder / "models").is_dir():
        pytest.skip(f"no shared models and data at {folder} (set JPRUNE_SHARED)")
    return folder
