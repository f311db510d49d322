"""The model that a job starts from: found and identified before anything is loaded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jprune.checkpoints import (
    Checkpoint,
    Tokenizer,
    checkpoint_sha256,
    find,
    load_checkpoint,
    target_dtype,
)
from jprune.checkpoints.abstract import abstract_checkpoint
from jprune.checkpoints.hf_import import known_tensors, own_dtype, read_config
from jprune.checkpoints.load import find_base, find_recipe, find_tokenizer, form_of
from jprune.checkpoints.manifest import read_manifest
from jprune.checkpoints.peft import check_fits, read_adapter
from jprune.checkpoints.safetensors_io import read_headers
from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, read_json, sha256_file, sha256_json
from jprune.core.paths import resolved
from jprune.core.remote import versions
from jprune.llama.model import Llama
from jprune.llama.stack import unstack

# The files of a tokenizer that decide which ids a text has.
VOCABULARY = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True)
class SourceModel:
    """A model on disk.

    Attributes:
      name: the last component of its folder or hub id.
      path: as the user gave it.
      folder: where its files are.
      weights: where its config and weights are: `folder`, or that of an adapter's base.
      sha256: of its config and weights.
      num_layers: how many blocks it has.
      own_dtype: of its weights on disk.
      dtype: that it is run in.
      signature: names, sizes and times of its files, by which a known sha256 is taken over.
      shardings: where its parameters go, see `load_checkpoint`.
    """

    name: str
    path: str
    folder: Any
    weights: Any
    sha256: str
    num_layers: int
    own_dtype: np.dtype
    dtype: np.dtype
    signature: str
    shardings: Any = None

    @property
    def identity(self) -> dict[str, Any]:
        """What a workdir records of it."""
        return {
            "name": self.name,
            "path": self.path,
            "sha256": self.sha256,
            "signature": self.signature,
        }

    @property
    def keys(self) -> dict[str, Any]:
        """What results depend on."""
        return {"model": self.sha256, "dtype": str(self.dtype)}

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer beside the weights; an adapter may have its own."""
        return find_tokenizer(self.folder)

    def tokenizer_sha256(self) -> str | None:
        """SHA-256 over what decides the ids of a text; None if there is no tokenizer."""
        tokenizer = self.tokenizer()
        if tokenizer is None:
            return None
        return _sha256_of(file for file in tokenizer.files if file.name in VOCABULARY)

    def companions_sha256(self) -> str | None:
        """SHA-256 over all that is copied beside a model made from this one; None if nothing is."""
        tokenizer = self.tokenizer()
        return None if tokenizer is None else _sha256_of(tokenizer.files)

    def recipe(self) -> dict[str, Any] | None:
        """How the model was made, as it is stored with it."""
        return find_recipe(self.folder)

    def load(self) -> Checkpoint:
        """The model in `dtype`, block by block as scores take it."""
        return load_checkpoint(self.folder, self.dtype, shardings=self.shardings)

    @property
    def is_exact(self) -> bool:
        """Whether the model in `dtype` is as exact as its files."""
        return self.dtype in (self.own_dtype, np.dtype("float32"))

    def load_exact(self) -> Llama:
        """The model as exact as its files, in single blocks."""
        loaded = load_checkpoint(self.folder, "checkpoint", shardings=self.shardings)
        return unstack(loaded.llama, consume=True)

    def abstract(self) -> Llama:
        """The model's shapes, in the dtype of its files, none of whose tensors are loaded."""
        return abstract_checkpoint(self.weights, self.name)


def find_model(
    path: PathLike,
    dtype: Any,
    known: Mapping[str, Any] | None = None,
    shardings: Any = None,
) -> SourceModel:
    """The model at a path or hub id.

    Args:
      path: see `jprune.checkpoints.load_checkpoint`.
      dtype: to run it in, see `jprune.checkpoints.target_dtype`.
      known: the `identity` of an earlier run. If the files have not changed since, its sha256 is
        taken over, which saves reading them all.
      shardings: see `SourceModel`.

    Raises:
      InputError: nothing there, or nothing that jprune reads.
    """
    folder, name = find(path)
    weights = folder
    if form_of(folder) == "peft":
        adapter = read_adapter(folder)
        weights, base = find_base(adapter)
        check_fits(adapter, abstract_checkpoint(weights, name), base)
    own, num_layers = _own_dtype_and_layers(weights)
    signature = _signature(*dict.fromkeys((folder, weights)))
    known = known or {}
    if signature and known.get("signature") == signature and known.get("sha256"):
        sha256 = known["sha256"]
    else:
        sha256 = checkpoint_sha256(folder)
    running = target_dtype(dtype, own)
    return SourceModel(
        name=name,
        path=str(path),
        folder=folder,
        weights=weights,
        sha256=sha256,
        num_layers=num_layers,
        own_dtype=own,
        dtype=running,
        signature=signature,
        shardings=shardings,
    )


def _own_dtype_and_layers(folder: Any) -> tuple[np.dtype, int]:
    """The dtype of the weights in a folder, and how many blocks they make."""
    if form_of(folder) != "orbax":
        config, num_layers = read_config(folder)
        return own_dtype(config, known_tensors(read_headers(folder))), num_layers
    manifest = read_manifest(folder)
    dtypes = [entry["dtype"] for entry in manifest["arrays"].values()]
    own = np.dtype(jnp.dtype(next(d for d in dtypes if d != "bool")))
    return own, sum(len(part["origins"]) for part in manifest["blocks"])


def known_identity(workdir: PathLike) -> Mapping[str, Any]:
    """The model's identity that a workdir has on record; empty if none."""
    file = as_path(workdir) / "config.json"
    try:
        recorded = read_json(file) if file.exists() else {}
    except InputError:
        return {}
    model = recorded.get("model") if isinstance(recorded, dict) else None
    return model if isinstance(model, dict) else {}


def _sha256_of(files: Iterable[Any]) -> str:
    return sha256_json({file.name: sha256_file(file) for file in files})


def _signature(*folders: Any) -> str:
    """What a hash of names and versions of all files gives: it changes whenever one is written."""
    return sha256_json([[str(resolved(folder)), versions(folder)] for folder in folders])
