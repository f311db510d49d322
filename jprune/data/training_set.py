"""Windows of tokens to train on, with what counts in the loss and where documents end."""

import dataclasses
import io

import numpy as np
from jaxtyping import Bool, Int

from jprune.core.errors import InputError
from jprune.core.files import (
    TRAINING_SET,
    PathLike,
    as_path,
    is_complete,
    is_remote,
    new_dir,
    open_new,
    read_bytes,
    read_json,
    sha256_array,
    write_json,
)
from jprune.core.processes import is_writer

VERSION = 1


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """What a training run reads.

    Attributes:
      ids: token ids; those of a file may be mapped rather than read.
      mask: which tokens the model should learn to predict.
      segments: the number of the document that a token belongs to, from 1 on in every window, and 0
        for padding. Attention and positions stay within a document, and its first token is not
        predicted. None: every window is one document.
    """

    ids: Int[np.ndarray, "windows length"]
    mask: Bool[np.ndarray, "windows length"]
    segments: Int[np.ndarray, "windows length"] | None = None

    @classmethod
    def of(cls, ids: Int[np.ndarray, "windows length"]) -> "TrainingSet":
        """Windows of one document each, every token of which counts."""
        return cls(ids, np.ones(ids.shape, bool))

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self.ids)

    def save(self, path: PathLike) -> None:
        """Writes a folder: ids.npy, mask.npy, perhaps segments.npy, and jprune_training_set.json.

        Raises:
          InputError: `path` holds anything else.
        """
        arrays = {name: x for name, x in vars(self).items() if x is not None}
        with new_dir(path) as folder:
            if not is_writer():
                return
            for name, array in arrays.items():
                with open_new(folder / f"{name}.npy") as file:
                    np.save(file, np.asarray(array), allow_pickle=False)
            shape = dict(zip(("windows", "length"), self.ids.shape, strict=True))
            write_json(folder / TRAINING_SET, {"version": VERSION, "arrays": [*arrays]} | shape)

    @classmethod
    def load(cls, path: PathLike) -> "TrainingSet":
        """What `save` wrote. Local files are mapped: of them only what is used is ever read.

        Raises:
          InputError: there is no such folder, or it is of another version or damaged.
        """
        folder = as_path(path)
        record = read_json(folder / TRAINING_SET) if is_complete(folder) else None
        if record is None:
            raise InputError(f"no training set at {folder}")
        if record.get("version") != VERSION:
            raise InputError(
                f"{folder} is a training set of version {record.get('version')}; this jprune reads "
                f"version {VERSION}: make it again"
            )
        shape = (record["windows"], record["length"])
        return cls(**{name: _read(folder / f"{name}.npy", shape) for name in record["arrays"]})

    @property
    def sha256(self) -> list[str]:
        """What identifies the content."""
        arrays = (self.ids, self.mask, self.segments)
        return [sha256_array(x) for x in arrays if x is not None]


def _read(path, shape: tuple[int, int]) -> np.ndarray:
    try:
        if is_remote(path) or 0 in shape:  # nothing can be mapped of an array without numbers
            array = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is missing or damaged ({error}); make it again") from None
    if array.shape != shape:
        raise InputError(f"{path} has the shape {list(array.shape)}, not {list(shape)}")
    return array
