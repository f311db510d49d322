"""The adapters of a Llama as a PEFT folder, which `peft` loads on the base and so does jprune."""

import collections
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jprune.checkpoints import hf_names
from jprune.checkpoints.dtypes import as_dtype
from jprune.checkpoints.peft import ADAPTER
from jprune.checkpoints.peft_config import ADAPTER_CONFIG
from jprune.checkpoints.safetensors_io import PlannedTensor, write_file
from jprune.core.errors import InputError
from jprune.core.files import ADAPTER_RECORD, PathLike, as_path, new_dir, write_json, write_text
from jprune.core.processes import to_host
from jprune.llama.kernels import Kernel, Lora, Masked, kernel_shape
from jprune.llama.linears import linear_kernels
from jprune.llama.model import Llama
from jprune.llama.stack import LayerSlice, layers_of

RECORD_VERSION = 1


def export_peft(
    path: PathLike,
    llama: Llama,
    base: str,
    *,
    revision: str | None = None,
    dtype: Any = None,
    card: str | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Writes the adapters of `llama`, and nothing else of it, in PEFT's form.

    The folder holds adapter_config.json and adapter_model.safetensors, with lora_A = a^T and
    lora_B = b^T, alpha = scale * rank. It is a model of its own: `load(path)` puts it on the base.
    The folder appears when it is complete, in place of an earlier one.

    Args:
      path: the folder.
      llama: a model with `Lora` kernels, in any form; masks over them are the base's.
      base: what adapter_config.json says that the adapter is for: a folder, absolute or as seen
        from the adapter's, or a hub id.
      revision: of the base on the hub.
      dtype: of the written factors; None for that of the arrays.
      card: text of README.md; None for no such file.
      record: how the adapter came about, for the file `jprune_adapter.json`.

    Raises:
      InputError: no adapters, adapters of different dropout rates, or a folder that jprune did not
        write in the place of `path`.
    """
    modules = dict(_modules(llama))
    adapters = {module: lora for module, lora in modules.items() if lora is not None}
    if not adapters:
        raise InputError("the model has no adapters to save; add_lora puts some on it")
    values = _config(modules, adapters) | {"base_model_name_or_path": base, "revision": revision}
    tensors = [
        planned
        for module, lora in adapters.items()
        for planned in (_planned(module, "A", lora.a, dtype), _planned(module, "B", lora.b, dtype))
    ]
    path = as_path(path)
    try:
        with new_dir(path) as folder:
            write_file(folder / ADAPTER, tensors)
            write_json(folder / ADAPTER_CONFIG, values)
            if card is not None:
                write_text(folder / "README.md", card)
            write_json(folder / ADAPTER_RECORD, {"version": RECORD_VERSION} | dict(record or {}))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _modules(llama: Llama) -> Iterator[tuple[str, Lora | None]]:
    """Every projection by the name of its module in Hugging Face's model, with its adapter."""
    for index, block in enumerate(layers_of(llama)):
        for name, kernel in linear_kernels(block).items():
            yield f"model.layers.{index}.{name}", _lora(kernel)
    if llama.lm_head is not None:
        yield "lm_head", _lora(llama.lm_head.kernel)


def _lora(kernel: Kernel) -> Lora | None:
    if isinstance(kernel, Masked):
        return _lora(kernel.kernel)
    return kernel if isinstance(kernel, Lora) else None


def _config(modules: Mapping[str, Lora | None], adapters: Mapping[str, Lora]) -> dict[str, Any]:
    """What adapter_config.json says of the adapters."""
    rates = sorted({lora.dropout for lora in adapters.values()})
    if len(rates) > 1:
        found = ", ".join(map(str, rates))
        raise InputError(f"PEFT has one dropout rate for all adapters, and these have {found}")
    ranks = {module: kernel_shape(lora.a)[-1] for module, lora in adapters.items()}
    alphas = {module: _number(lora.scale * ranks[module]) for module, lora in adapters.items()}
    rank, alpha = _most(ranks), _most(alphas)
    words = set(map(_last, adapters))
    # The last words of names will do if they mean no module that has no adapter.
    short = all(module in adapters for module in modules if _last(module) in words)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": rates[0],
        "target_modules": list(dict.fromkeys(_last(m) if short else m for m in adapters)),
        "rank_pattern": {module: value for module, value in ranks.items() if value != rank},
        "alpha_pattern": {module: value for module, value in alphas.items() if value != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _last(module: str) -> str:
    return module.rpartition(".")[2]


def _most(values: Mapping[str, Any]) -> Any:
    """The most frequent value."""
    return collections.Counter(values.values()).most_common(1)[0][0]


def _number(value: float) -> int | float:
    """`value`, as an integer where it is one but for rounding."""
    return round(value) if abs(value - round(value)) < 1e-9 * abs(value) else value


def _planned(module: str, side: str, factor: Any, dtype: Any) -> PlannedTensor:
    stored = as_dtype(_dtype(factor) if dtype is None else dtype)

    def read() -> np.ndarray:
        values = factor.read() if isinstance(factor, LayerSlice) else factor
        return hf_names.convert(to_host(values), stored, transpose=True)

    name = f"base_model.model.{module}.lora_{side}.weight"
    return PlannedTensor(name, factor.shape[::-1], stored, read)


def _dtype(factor: Any) -> np.dtype:
    return factor.array.dtype if isinstance(factor, LayerSlice) else factor.dtype
