"""Calibration windows of a run: drawn once, and kept in its workdir."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from jprune.checkpoints import Checkpoint
from jprune.core.files import PathLike, as_path, sha256_array, write_bytes
from jprune.data import calibration_windows, check_vocabulary, find_source
from jprune.llama.config import LlamaConfig
from jprune.pipeline.lazy import Lazy
from jprune.pipeline.pruning_config import PruningConfig
from jprune.pipeline.stages import Stage

CALIBRATION = "calibration.npz"
WINDOW_LENGTH = 2048  # tokens, where the config leaves it open and the model reads as many


class Calibration:
    """The windows that criteria and statistics read.

    Args:
      config: of the run; says where they come from.
      workdir: of the run.
      checkpoint: the model, whose tokenizer counts.
      tokenizer: SHA-256 of that tokenizer.
    """

    def __init__(
        self,
        config: PruningConfig,
        workdir: PathLike,
        checkpoint: Lazy[Checkpoint],
        tokenizer: str | None,
    ):
        self.config = config
        self.root = as_path(workdir)
        self.checkpoint = checkpoint
        self.tokenizer = tokenizer

    def stages(self) -> list[Stage]:
        """The stage that draws them; none if the config names no data."""
        config = self.config
        if not config.calibration:
            return []
        names = ("calibration", "num_windows", "window_length", "sample", "seed")
        keys = {name: getattr(config, name) for name in names}
        source = find_source(config.calibration, "calibration", config.data_dir)
        keys |= {
            "data": source.fingerprint(),
            "tokenizer": None if source.is_tokens else self.tokenizer,
        }
        return [Stage("calibration", keys, self.draw, ("model",), (CALIBRATION,))]

    def draw(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Draws the windows and keeps their ids."""
        config, llama = self.config, self.checkpoint().llama
        assert config.calibration is not None  # else there is no such stage
        ids = calibration_windows(
            config.calibration,
            self.checkpoint().tokenizer,
            *calibration_shape(config, llama.config),
            sample=config.sample,
            seed=config.seed,
            data_dir=config.data_dir,
            bos=llama.config.bos,
        )
        check_vocabulary(ids, llama.embed.shape[0], config.calibration)
        buffer = io.BytesIO()
        np.savez(buffer, ids=ids)
        write_bytes(self.root / CALIBRATION, buffer.getvalue())
        return {
            "data": config.calibration,
            "sample": config.sample,
            "seed": config.seed,
            "num_windows": ids.shape[0],
            "window_length": ids.shape[1],
            "ids_sha256": sha256_array(ids),
        }

    def ids(self) -> Int[np.ndarray, "windows length"]:
        """The windows that were drawn."""
        with (self.root / CALIBRATION).open("rb") as file, np.load(file) as arrays:
            return arrays["ids"]


def calibration_shape(config: PruningConfig, llama: LlamaConfig) -> tuple[int, int]:
    """Windows and tokens of each."""
    most = min(WINDOW_LENGTH, llama.max_position_embeddings)
    return config.num_windows, config.window_length or most
