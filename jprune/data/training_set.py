"""Windows of tokens to train on, with what counts in the loss and where documents end."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from jprune.core.files import sha256_array


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

    @property
    def sha256(self) -> list[str]:
        """What identifies the content."""
        arrays = (self.ids, self.mask, self.segments)
        return [sha256_array(x) for x in arrays if x is not None]
