"""The shapes of a stored model, none of whose tensors are loaded."""

from typing import Any

import jax
import jax.numpy as jnp

from jprune.checkpoints.hf_import import known_tensors, own_dtype, read_config, with_true_tie
from jprune.checkpoints.manifest import MANIFEST, parse_config, read_manifest
from jprune.checkpoints.orbax import rebuild
from jprune.checkpoints.safetensors_io import read_headers
from jprune.core.files import PathLike, as_path
from jprune.llama.model import Llama
from jprune.llama.params import abstract


def abstract_checkpoint(folder: PathLike, source: str) -> Llama:
    """The Llama of shapes of a Hugging Face folder or one that `save` wrote, in its own dtype.

    Args:
      folder: the checkpoint; for an adapter, that of its base.
      source: the model's name, for the origins of a Hugging Face model's blocks.

    Raises:
      InputError: the config, the manifest or a header is wrong.
    """
    folder = as_path(folder)
    if (folder / MANIFEST).exists():  # any structure is possible: the manifest says which
        return _abstract_orbax(read_manifest(folder))
    config, num_layers = read_config(folder)
    stored = known_tensors(read_headers(folder))
    config = with_true_tie(config, stored, folder)
    return abstract(config, num_layers, own_dtype(config, stored), source=source)


def _abstract_orbax(manifest: dict[str, Any]) -> Llama:
    arrays = {
        name: jax.ShapeDtypeStruct(tuple(entry["shape"]), jnp.dtype(entry["dtype"]))
        for name, entry in manifest["arrays"].items()
    }
    config = parse_config(manifest["config"])
    wrappers, blocks = manifest["wrappers"], manifest["blocks"]
    return jax.eval_shape(lambda named: rebuild(config, named, wrappers, blocks), arrays)
