import ml_dtypes
import numpy as np
import pytest

from jprune.checkpoints.dtypes import as_dtype, safetensors_name, target_dtype
from jprune.core.errors import InputError

BF16 = np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("name", ["bfloat16", "bf16", "torch.bfloat16", BF16, ml_dtypes.bfloat16])
def test_every_name_of_bfloat16(name):
    assert as_dtype(name) == BF16


@pytest.mark.parametrize("name", ["int8", np.float64, "float8"])
def test_dtypes_that_parameters_cannot_have(name):
    with pytest.raises(InputError, match="unknown dtype.*one of float32, bfloat16, float16"):
        as_dtype(name)


def test_a_misspelt_dtype_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        as_dtype("bfloat61")


def test_the_default_is_float32_on_cpu_and_the_checkpoints_own_elsewhere(monkeypatch):
    assert target_dtype(None, BF16) == np.float32
    assert target_dtype("checkpoint", BF16) == BF16
    assert target_dtype("float16", BF16) == np.float16
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert target_dtype(None, BF16) == BF16


def test_names_in_safetensors_headers():
    names = [safetensors_name(d) for d in (np.float32, BF16, np.float16)]
    assert names == ["F32", "BF16", "F16"]
