"""Saves a model in another format.

    jprune export --model=DIR --to=hf --out=EXPORTED

hf: safetensors that stock transformers loads, with config, tokenizer and model card. orbax: a
jprune checkpoint, which also keeps what stock Llama has no form for. Tensors are saved bit for bit,
unless --dtype says otherwise or the checkpoint mixes dtypes: then all are saved in one, and the log
says what was cast.
"""

from absl.flags import FlagValues

from jprune.cli import common, flag, output
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.llama.model import count_params
from jprune.report.tables import count
from jprune.transforms import Recipe


def define(flags: FlagValues) -> None:
    """The flags of `jprune export`."""
    common.define_common(flags, "folder for the exported model")
    flag.text(flags, "to", "hf", "format: hf or orbax")
    flag.switch(flags, "strict", "refuse sublayers that hf could only hold as zeros")


def run(flags: Flags) -> int:
    """Loads, saves, prints."""
    common.one_of(flags, "to", common.FORMATS)
    if flags.strict and flags.to == "orbax":
        raise InputError("--strict is for --to=hf: orbax keeps every structure")
    common.need(flags, "model")
    common.check_out_folder(flags)
    checkpoint = common.load(flags, default_dtype="checkpoint")
    llama, recipe = checkpoint.llama, Recipe.of(checkpoint)
    common.save_model(flags.out, flags.to, llama, checkpoint.tokenizer, recipe, flags.strict)
    row = (checkpoint.name, llama.num_layers, count(count_params(llama)), str(llama.dtype))
    print(output.table([row], ("model", "blocks", "parameters", "dtype")))
    return 0
