import os
import pathlib
import subprocess
import sys

from jprune.core import compilation

COMPILE = """
import jax, jax.numpy as jnp
from jprune.core import enable_compilation_cache
print(enable_compilation_cache())
def f(x):
    for i in range(60):
        x = jnp.sin(x) @ x + i
    return x
print(float(jax.jit(f)(jnp.zeros((3, 3)))[0, 0]))
"""


def run(**env: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "JPRUNE_", "XDG_"))}
    return subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=clean | {"JAX_PLATFORMS": "cpu"} | env,
        capture_output=True,
        text=True,
    )


def test_programs_are_stored(tmp_path):
    done = run(JPRUNE_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "xla")
    assert [p for p in (tmp_path / "xla").iterdir() if "jit_f" in p.name]


def test_default_folder_is_the_users_cache(tmp_path):
    assert run(XDG_CACHE_HOME=str(tmp_path)).stdout.splitlines()[0] == str(
        tmp_path / "jprune" / "xla"
    )


def test_off_and_unwritable(tmp_path):
    assert run(JPRUNE_CACHE="off").stdout.splitlines()[0] == "None"
    (tmp_path / "file").write_text("")
    assert run(JPRUNE_CACHE=str(tmp_path / "file")).stdout.splitlines()[0] == "None"


def test_the_users_own_setting_stays(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/somewhere/else")
    assert compilation.enable_compilation_cache() == pathlib.Path("/somewhere/else")


def test_cublas_is_preferred_where_jax_runs_on_nvidia_cards(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    monkeypatch.setattr(compilation, "_CUDA_PLUGINS", ("no_such_plugin",))
    compilation.prefer_cublas()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=here"
    monkeypatch.setattr(compilation, "_CUDA_PLUGINS", ("no_such_plugin", "json"))
    compilation.prefer_cublas()
    compilation.prefer_cublas()
    expected = "--xla_dump_to=here --xla_gpu_enable_triton_gemm=false"
    assert os.environ["XLA_FLAGS"] == expected


def test_the_users_own_choice_of_kernels_stays(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=true")
    monkeypatch.setattr(compilation, "_CUDA_PLUGINS", ("json",))
    compilation.prefer_cublas()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_enable_triton_gemm=true"


def test_xla_knows_the_flag():
    """It would end the process otherwise."""
    done = run(JPRUNE_CACHE="off", XLA_FLAGS=f"--{compilation._TRITON}=false")
    assert done.returncode == 0, done.stderr


def test_determinism_where_jax_runs_on_nvidia_cards(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    monkeypatch.setattr(compilation, "_CUDA_PLUGINS", ("no_such_plugin",))
    compilation.prefer_determinism()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=here"
    monkeypatch.setattr(compilation, "_CUDA_PLUGINS", ("json",))
    compilation.prefer_determinism()
    compilation.prefer_determinism()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=here --xla_gpu_deterministic_ops=true"
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
    compilation.prefer_determinism()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=false"
