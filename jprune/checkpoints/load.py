"""Models and what comes with them, from whatever form they are stored in."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable
from typing import Any, Literal, get_args

from etils import epath

from jprune.checkpoints import hub
from jprune.checkpoints.abstract import abstract_checkpoint
from jprune.checkpoints.hf_import import CONFIG, import_huggingface
from jprune.checkpoints.manifest import EMPTY_RECIPE, MANIFEST, read_manifest
from jprune.checkpoints.orbax import restore_orbax, save_orbax
from jprune.checkpoints.peft import ADAPTER, Adapter, Adapters, attach, check_fits, read_adapter
from jprune.checkpoints.peft_config import ADAPTER_CONFIG
from jprune.checkpoints.safetensors_io import INDEX, read_headers
from jprune.checkpoints.tokenizer import Tokenizer, load_tokenizer
from jprune.core.errors import InputError, nearest, unknown
from jprune.core.files import RUN, PathLike, as_path, is_remote, read_json, sha256_file, sha256_json
from jprune.core.paths import resolved
from jprune.core.processes import together
from jprune.core.progress import log
from jprune.core.remote import check_finished
from jprune.llama.model import Llama
from jprune.llama.zeros import fold_masks, has_masks, mask_zeros

Form = Literal["huggingface", "orbax", "peft"]

# Files by which other Orbax checkpoints are recognised.
_ORBAX_FILES = ("_CHECKPOINT_METADATA", "_METADATA")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model with what was stored beside it.

    Attributes:
      llama: the model.
      tokenizer: a `Tokenizer`, or None if the folder has none.
      recipe: the JSON form of how it was made, or None.
      path: its folder; for a Hub model that of the download, for an adapter the adapter's.
      name: the last component of the folder or Hub id, which is also the source of its origins.
      filled: of an adapter that was folded onto a sparse base, loads what it is without the base's
        zeros; else None.
    """

    llama: Llama
    tokenizer: Any
    recipe: dict[str, Any] | None
    path: epath.Path
    name: str
    filled: Callable[[], Llama] | None = None

    @functools.cached_property
    def sha256(self) -> str:
        """See `checkpoint_sha256`; computed when first asked for, since it reads every byte."""
        return checkpoint_sha256(self.path)


def load(
    path: PathLike, dtype: Any = None, *, shardings: Any = None, adapters: Adapters = "fold"
) -> Llama:
    """The model at `path`; see `load_checkpoint`."""
    return load_checkpoint(path, dtype, shardings=shardings, adapters=adapters).llama


def load_checkpoint(
    path: PathLike, dtype: Any = None, *, shardings: Any = None, adapters: Adapters = "fold"
) -> Checkpoint:
    """The model at `path` with its tokenizer and recipe.

    Args:
      path: a Hugging Face folder, a folder that `save` wrote, the folder of a PEFT LoRA adapter
        (which is loaded with its base), or a Hub id (`org/name`) of a model or an adapter.
      dtype: of the parameters: None for float32 on CPU and the checkpoint's elsewhere,
        `"checkpoint"` for the checkpoint's, or a dtype or its name. The checkpoint's is one for
        all of a Hugging Face model, which is then loaded bit for bit unless the checkpoint mixes
        dtypes (the log says what is cast); a folder that `save` wrote keeps every array's own. An
        adapter's is its base's.
      shardings: where the parameters go, see `placement.placement`; by default the ambient
        mesh (`jax.set_mesh`), without one the default device. "host" leaves them in files or
        host memory, as NumPy arrays: for what goes through a model block by block (perplexity,
        `sparsify`) if the model is larger than the device. For an adapter they are the base's; the
        factors are replicated.
      adapters: what becomes of a PEFT adapter: "fold" adds it to its base's kernels in float32
        and rounds once, which gives a plain model; "keep" makes these kernels `Lora`. On a base
        whose kernels have zeros (see `jprune.llama.zeros.mask_zeros`) they stay zero: what the
        adapter would add there is left out, and the log says so.

    Raises:
      InputError: nothing there, or not a model that jprune can read; of several processes all
        raise what one of them met with.
    """
    if adapters not in get_args(Adapters):
        raise unknown("value of adapters", adapters, get_args(Adapters))
    return together(lambda: _load_checkpoint(path, dtype, shardings, adapters))


def _load_checkpoint(path: PathLike, dtype: Any, shardings: Any, adapters: Adapters) -> Checkpoint:
    folder, name = find(path)
    if form_of(folder) == "peft":
        load = functools.partial(_load_adapted, folder, name, dtype, shardings, adapters)
        llama, sparse = load()
        filled = (lambda: load(fill=True)[0]) if sparse and adapters == "fold" else None
        return Checkpoint(llama, find_tokenizer(folder), None, folder, name, filled)
    llama, recipe = _load_model(folder, name, dtype, shardings)
    return Checkpoint(llama, load_tokenizer(folder), recipe, folder, name)


def _load_model(
    folder: epath.Path, name: str, dtype: Any, shardings: Any
) -> tuple[Llama, dict[str, Any] | None]:
    """A model that is no adapter, and its recipe."""
    recipe = find_recipe(folder)
    if form_of(folder) == "orbax":
        return restore_orbax(folder, dtype, shardings=shardings), recipe
    return import_huggingface(folder, dtype, shardings=shardings, source=name), recipe


def find_recipe(folder: epath.Path) -> dict[str, Any] | None:
    """The recipe in the folder of a model; None if there is none, and for adapters."""
    form = form_of(folder)
    if form == "orbax":
        return read_manifest(folder).get("recipe")
    file = folder / "recipe.json"
    recipe = read_json(file) if form != "peft" and file.exists() else None
    return None if recipe == EMPTY_RECIPE else recipe


def _load_adapted(
    folder: epath.Path,
    name: str,
    dtype: Any,
    shardings: Any,
    adapters: Adapters,
    fill: bool = False,
) -> tuple[Llama, bool]:
    """An adapter on its base, and whether zeros of that one were kept.

    All of the adapter is checked before the base is read. With `fill` zeros are not kept.
    """
    adapter = read_adapter(folder)
    base, base_name = find_base(adapter)
    check_fits(adapter, abstract_checkpoint(base, name), base_name)
    llama, _ = _load_model(base, name, dtype, shardings)
    sparse = llama if fill or has_masks(llama) else mask_zeros(llama)
    if sparse is llama:
        return attach(adapter, llama, adapters), False
    log.warning("base %s is sparse: what the adapter adds to its zeros is left out", base_name)
    adapted = attach(adapter, sparse, adapters)
    return (adapted if adapters == "keep" else fold_masks(adapted)), True


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
    check_finished(folder)
    return folder, hub.model_name(folder)


def find_base(adapter: Adapter) -> tuple[epath.Path, str]:
    """The local folder of an adapter's base, and the base's name.

    base_model_name_or_path is a path, taken as it is if it is absolute and else from the adapter's
    folder, that folder's parent or the current directory, whichever has it first; or a hub id.

    Raises:
      InputError: no such model, or one that is an adapter itself.
    """
    settings, folder = adapter.settings, adapter.folder
    where = f"{folder / ADAPTER_CONFIG}: base_model_name_or_path {settings.base!r}"
    for root in (folder, folder.parent, as_path(".")):
        # An absolute path stays what it is.
        base = as_path(settings.base) if is_remote(settings.base) else root / settings.base
        base = resolved(base) if is_remote(base) else base  # `..` means nothing to a store
        if base.is_dir():
            break
    else:
        if not hub.is_hub_id(settings.base):
            raise InputError(
                f"{where} is no folder (also not from {folder} or {folder.parent}); edit it to "
                "the folder of the base model or its hub id"
            )
        try:
            base = hub.download(settings.base, settings.revision)
        except InputError as error:
            raise InputError(f"{where}: {error}, and edit base_model_name_or_path") from error
    if form_of(base) == "peft":
        raise InputError(
            f"{where} is an adapter itself; export the base first (jprune export --model={base} "
            "--out=BASE) and edit base_model_name_or_path to BASE"
        )
    return base, hub.model_name(resolved(base))


def model_folder(folder: PathLike) -> epath.Path:
    """The folder with a model's config and weights: for an adapter its base's, else `folder`."""
    folder = as_path(folder)
    return find_base(read_adapter(folder))[0] if form_of(folder) == "peft" else folder


def find_tokenizer(folder: PathLike) -> Tokenizer | None:
    """The tokenizer of a checkpoint folder: an adapter without one has its base's."""
    folder = as_path(folder)
    own = load_tokenizer(folder)
    return own if own or form_of(folder) != "peft" else load_tokenizer(model_folder(folder))


def form_of(folder: PathLike) -> Form:
    """Which kind of checkpoint a folder holds.

    Raises:
      InputError: none that jprune reads, or an adapter and a whole model in one.
    """
    folder = as_path(folder)
    if (folder / ADAPTER_CONFIG).exists():
        whole = _whole_model(folder)
        if whole:
            raise InputError(
                f"{folder} holds an adapter ({ADAPTER_CONFIG}) and a whole model ({whole}), and "
                "only one of them can be meant: move the files of the other to another folder"
            )
        return "peft"
    if (folder / MANIFEST).exists():
        return "orbax"
    if (folder / RUN).exists():
        raise InputError(f"{folder} is the workdir of a run; its model is {folder / 'model'}")
    if (folder / CONFIG).exists():
        return "huggingface"
    if any((folder / name).exists() for name in (*_ORBAX_FILES, "arrays")):
        read_manifest(folder)  # says what is wrong with it
    raise InputError(
        f"{folder} holds no model: expected {CONFIG} with safetensors, "
        f"{ADAPTER_CONFIG} with {ADAPTER}, or {MANIFEST}"
    )


def checkpoint_sha256(path: PathLike) -> str:
    """SHA-256 over the names and contents of the files that make up a model.

    These are config.json and the safetensors (with their index), or jprune.json and the Orbax
    arrays; of an adapter the tensors, what its config says of them, and its base's SHA-256. Names
    and places of folders do not count. Files are streamed; nothing is cached.
    """
    folder, _ = find(path)
    form = form_of(folder)
    if form == "peft":
        return _adapter_sha256(folder)
    if form == "orbax":
        names = {MANIFEST, *read_manifest(folder).get("files", ())}
    else:
        names = {CONFIG, *(tensor.file.name for tensor in read_headers(folder).values())}
        names |= {INDEX} if (folder / INDEX).exists() else set()
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name} {sha256_file(folder / name)}\n".encode())
    return digest.hexdigest()


def _adapter_sha256(folder: epath.Path) -> str:
    adapter = read_adapter(folder)
    settings = dataclasses.asdict(adapter.settings)
    moved = {key: value for key, value in settings.items() if key not in ("base", "revision")}
    base = checkpoint_sha256(find_base(adapter)[0])
    return sha256_json({"base": base, "settings": moved, ADAPTER: sha256_file(folder / ADAPTER)})


def _whole_model(folder: epath.Path) -> str | None:
    """The name of a file by which a folder holds all weights of a model; None without one."""
    files = (folder / MANIFEST, folder / INDEX, *sorted(folder.glob("model*.safetensors")))
    return next((file.name for file in files if file.exists()), None)


def _missing(folder: epath.Path) -> str:
    """The message for a folder that does not exist, with the nearest one beside it."""
    message = f"no such checkpoint: {folder}"
    parent = folder.parent
    if not parent.is_dir():
        return f"{message}, nor the folder {parent}"
    close = nearest(folder.name, [child.name for child in parent.iterdir() if child.is_dir()])
    return f"{message}; did you mean {parent / close}?" if close else message
