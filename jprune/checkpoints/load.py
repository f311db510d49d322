"""Models and what comes with them, from whatever form they are stored in."""

import dataclasses
import functools
import hashlib
import os
from typing import Any, Literal

from etils import epath

from jprune.checkpoints import hub
from jprune.checkpoints.hf_import import CONFIG, import_huggingface
from jprune.checkpoints.manifest import EMPTY_RECIPE, MANIFEST, read_manifest
from jprune.checkpoints.orbax import restore_orbax, save_orbax
from jprune.checkpoints.safetensors_io import INDEX, read_headers
from jprune.checkpoints.tokenizer import load_tokenizer
from jprune.core.errors import InputError, nearest
from jprune.core.files import PathLike, as_path, read_json, sha256_file
from jprune.llama.model import Llama

Form = Literal["huggingface", "orbax"]

# Files by which other Orbax checkpoints are recognised.
_ORBAX_FILES = ("_CHECKPOINT_METADATA", "_METADATA")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model with what was stored beside it.

    Attributes:
      llama: the model.
      tokenizer: a `Tokenizer`, or None if the folder has none.
      recipe: the JSON form of how it was made, or None.
      path: its folder; for a Hub model that of the download.
      name: the last component of the folder or Hub id, which is also the source of its origins.
    """

    llama: Llama
    tokenizer: Any
    recipe: dict[str, Any] | None
    path: epath.Path
    name: str

    @functools.cached_property
    def sha256(self) -> str:
        """See `checkpoint_sha256`; computed when first asked for, since it reads every byte."""
        return checkpoint_sha256(self.path)


def load(path: PathLike, dtype: Any = None, *, shardings: Any = None) -> Llama:
    """The model at `path`; see `load_checkpoint`."""
    return load_checkpoint(path, dtype, shardings=shardings).llama


def load_checkpoint(path: PathLike, dtype: Any = None, *, shardings: Any = None) -> Checkpoint:
    """The model at `path` with its tokenizer and recipe.

    Args:
      path: a Hugging Face folder, a folder that `save` wrote, or a Hub id (`org/name`).
      dtype: of the parameters: None for float32 on CPU and the checkpoint's elsewhere,
        `"checkpoint"` for the checkpoint's, or a dtype or its name. The checkpoint's is one for
        all of a Hugging Face model, which is then loaded bit for bit unless the checkpoint mixes
        dtypes (the log says what is cast); a folder that `save` wrote keeps every array's own.
      shardings: where the parameters go, see `placement.by_name`; by default the default device.

    Raises:
      InputError: nothing there, or not a model that jprune can read.
    """
    folder, name = find(path)
    if form_of(folder) == "orbax":
        llama = restore_orbax(folder, dtype, shardings=shardings)
        recipe = read_manifest(folder).get("recipe")
    else:
        llama = import_huggingface(folder, dtype, shardings=shardings, source=name)
        file = folder / "recipe.json"
        recipe = read_json(file) if file.exists() else None
        recipe = None if recipe == EMPTY_RECIPE else recipe
    return Checkpoint(llama, load_tokenizer(folder), recipe, folder, name)


def save(path: PathLike, llama: Llama, tokenizer: Any = None, recipe: Any = None) -> None:
    """Writes an Orbax checkpoint, which keeps the structure exactly; see `save_orbax`."""
    save_orbax(path, llama, tokenizer, recipe)


def find(path: PathLike) -> tuple[epath.Path, str]:
    """The local folder of a model and the model's name; Hub models are downloaded.

    Raises InputError if there is none, with the nearest name beside it.
    """
    folder = as_path(path)
    if not folder.exists():
        if hub.is_hub_id(path):
            return hub.download(os.fspath(path)), folder.name
        raise InputError(_missing(folder))
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give the folder of the checkpoint")
    return folder, hub.model_name(folder)


def form_of(folder: PathLike) -> Form:
    """Which kind of checkpoint a folder holds. Raises InputError if none that jprune reads."""
    folder = as_path(folder)
    if (folder / MANIFEST).exists():
        return "orbax"
    if (folder / "adapter_config.json").exists() and not _has_weights(folder):
        raise InputError(
            f"{folder} is a PEFT adapter, which is not supported yet; merge it into its base with "
            "peft (AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload()"
            ".save_pretrained(...)) and give the merged model"
        )
    if (folder / CONFIG).exists():
        return "huggingface"
    if any((folder / name).exists() for name in (*_ORBAX_FILES, "arrays")):
        read_manifest(folder)  # says what is wrong with it
    raise InputError(f"{folder} holds no model: expected {CONFIG} with safetensors, or {MANIFEST}")


def checkpoint_sha256(path: PathLike) -> str:
    """SHA-256 over the names and contents of the files that make up a model.

    These are config.json and the safetensors (with their index), or jprune.json and the Orbax
    arrays. The folder's own name does not count. Files are streamed; nothing is cached.
    """
    folder, _ = find(path)
    if form_of(folder) == "orbax":
        names = {MANIFEST, *read_manifest(folder).get("files", ())}
    else:
        names = {CONFIG, *(tensor.file.name for tensor in read_headers(folder).values())}
        names |= {INDEX} if (folder / INDEX).exists() else set()
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name} {sha256_file(folder / name)}\n".encode())
    return digest.hexdigest()


def _has_weights(folder: epath.Path) -> bool:
    return any(folder.glob("model*.safetensors"))


def _missing(folder: epath.Path) -> str:
    """The message for a folder that does not exist, with the nearest one beside it."""
    message = f"no such checkpoint: {folder}"
    parent = folder.parent
    if not parent.is_dir():
        return f"{message}, nor the folder {parent}"
    close = nearest(folder.name, [child.name for child in parent.iterdir() if child.is_dir()])
    return f"{message}; did you mean {parent / close}?" if close else message
