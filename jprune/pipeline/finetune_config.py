"""What a finetuning run is asked to do, checked before anything is loaded."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jprune.checkpoints import as_dtype
from jprune.core.errors import InputError, unknown
from jprune.evaluate import PROTOCOLS
from jprune.pipeline.groups import LoraConfig, filled, lora_settings, strings, train_settings
from jprune.retrain import TrainSettings
from jprune.retrain.settings import LEAST, check_fields, check_settings

# The least that an integer takes, where it is not 1.
_LEAST = {"window_length": 2} | LEAST


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """The keys of a config for finetuning with LoRA.

    Attributes:
      model: folder or hub id of the base.
      data: source of the text; of a known name the part that is not for evaluation.
      eval: sources of the perplexities before and after, the first one's also of the validation on
        the way.
      lora: see `LoraConfig`.
      train: see `TrainSettings`; the keys of `AdamW` are among them.
      name: of the adapter; None for the model's with "-lora".
      window_length: tokens of a training window, at most the model's maximum.
      num_windows: at most so many training windows, the first; None for all of the data.
      validation_windows: at most so many, evenly spread over the held-out text.
      protocol: of perplexity, a name of `jprune.evaluate.PROTOCOLS`.
      eval_windows: at most so many windows of each data source; None for all.
      adapter_dtype: of the saved factors.
      export_folded: also write a whole model, with the adapter added to its weights.
      dtype: the base is run in; None for float32 on CPU and the checkpoint's elsewhere.
      mesh: devices that share the work, for example "data:2,fsdp:4"; None for a single one.
      seed: of the adapters' first numbers, of the data order and of dropout.
      data_dir: folder with local copies of known data sources.
    """

    model: str
    data: str
    eval: tuple[str, ...]
    lora: LoraConfig
    train: TrainSettings
    name: str | None = None
    window_length: int = 256
    num_windows: int | None = None
    validation_windows: int = 96
    protocol: str = "shortened"
    eval_windows: int | None = 256
    adapter_dtype: str = "float32"
    export_folded: bool = False
    dtype: str | None = None
    mesh: str | None = None
    seed: int = 0
    data_dir: str | None = None


def finetune_config(values: Mapping[str, Any]) -> FinetuneConfig:
    """The config that these keys give.

    Raises:
      InputError: an unknown key or a missing one, or a value that cannot be.
    """
    fields = dict(values)
    if not fields.get("model"):
        raise InputError("which model? give --config.model=FOLDER (or a Hugging Face hub id)")
    if not fields.get("data"):
        raise InputError("nothing to train on: give --config.data=SOURCE")
    check_fields(FinetuneConfig, fields, "config key '{}'", _LEAST)
    fields["eval"] = strings(fields.get("eval"))
    if not fields["eval"]:
        raise InputError("nothing to evaluate on: give --config.eval=SOURCE (or several, a,b)")
    fields["lora"] = lora_settings(fields.get("lora"))
    fields["train"] = train_settings(fields.get("train"), fields.get("seed", 0))
    config = filled(FinetuneConfig, fields, "", _LEAST)
    if config.protocol not in PROTOCOLS:
        raise unknown("protocol", config.protocol, PROTOCOLS)
    as_dtype(config.adapter_dtype)
    if config.dtype not in (None, "checkpoint"):
        as_dtype(config.dtype)
    check_settings(config.train, "config key 'train.{}'")
    return config
