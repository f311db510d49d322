"""Flags that commands share, and what the commands do with them."""

from collections.abc import Iterable
from typing import Any

from absl.flags import FlagValues

from jprune.checkpoints import Checkpoint, export_huggingface, load_checkpoint, save
from jprune.checkpoints.dtypes import PARAMETER_DTYPES, as_dtype
from jprune.cli import flag
from jprune.cli.output import how_to_load, say, table
from jprune.cli.parsing import Flags, unknown_value
from jprune.core.errors import InputError
from jprune.core.files import as_path, check_replaceable
from jprune.core.paths import resolved
from jprune.core.processes import on_writer
from jprune.llama.model import Llama, count_params
from jprune.report.tables import change, count
from jprune.scores import present
from jprune.transforms import Recipe

FORMATS = ("hf", "orbax")
MESH = "data:2,fsdp:4,tensor:1"


def define_common(flags: FlagValues, out: str) -> None:
    """Defines the flags that all commands on a model have; `out` says what that one is."""
    flag.text(
        flags,
        "model",
        None,
        "a Hugging Face folder or hub id, a PEFT adapter, or a jprune checkpoint",
    )
    dtypes = ", ".join(PARAMETER_DTYPES)
    flag.text(flags, "dtype", None, f"of the parameters: {dtypes}, or checkpoint: as stored")
    flag.integer(flags, "seed", 0, "of every random choice", at_least=0)
    flag.text(flags, "out", None, out)
    flag.text(flags, "mesh", None, f"devices that share the work, as in {MESH}; -1: all others")
    define_distributed(flags)


def define_distributed(flags: FlagValues) -> None:
    """Defines --distributed."""
    flag.text(
        flags,
        "distributed",
        "auto",
        "several processes, one for each host, run this command together: on, off, or auto: as "
        "the environment says (Cloud TPU, Slurm, Open MPI, JAX_COORDINATOR_ADDRESS)",
    )


def define_format(flags: FlagValues) -> None:
    """Defines --to for commands whose result may lack single sublayers."""
    flag.text(
        flags,
        "to",
        None,
        "format: hf (Hugging Face) or orbax; by default hf, but orbax for a model without some of "
        "its attention or MLP sublayers, for which hf has no form",
    )


def need(flags: Flags, *names: str) -> None:
    """Raises InputError unless every one of these flags is given."""
    for name in names:
        if flags[name].value in (None, "", []):
            raise InputError(f"--{name}=... is missing: {flags[name].help}")


def one_of(flags: Flags, name: str, choices: Any) -> None:
    """Raises InputError if a flag is given and its value is none of `choices`."""
    value = flags[name].value
    if value is not None and value not in choices:
        raise unknown_value(name, value, choices)


def load(flags: Flags, default_dtype: str | None = None) -> Checkpoint:
    """The checkpoint of --model in --dtype."""
    need(flags, "model")
    dtype = flags.dtype or default_dtype
    if dtype not in (None, "checkpoint"):
        as_dtype(dtype)  # an unknown one is refused before anything is read
    return load_checkpoint(flags.model, dtype=dtype)


def check_out_folder(flags: Flags, others: Iterable[str] = ()) -> None:
    """Raises InputError, before any work is done, if writing --out would cost anybody anything.

    The output replaces an earlier folder of that name: it must not be the model, or one of the
    `others` that are read, or hold it, and must be one that jprune wrote.
    """
    need(flags, "out")
    for path in filter(None, (flags.model, *others)):
        out, model = resolved(flags.out), resolved(path)
        if model.exists() and (out == model or out in model.parents):
            raise InputError(
                f"--out={flags.out} would overwrite the model {path}; give another folder"
            )
    on_writer(lambda: check_replaceable(flags.out))


def save_model(
    out: str, to: str | None, llama: Llama, tokenizer: Any, recipe: Recipe, strict: bool = False
) -> None:
    """Writes a model in a format, by default the one that `define_format` tells, and says so."""
    incomplete = not all(all(parts) for parts in present(llama))
    chosen = to or ("orbax" if incomplete else "hf")
    if chosen == "orbax":
        save(out, llama, tokenizer=tokenizer, recipe=recipe.to_json())
    else:
        export_huggingface(out, llama, tokenizer, recipe.to_json(), strict=strict)
    say(f"wrote {as_path(out)}; {how_to_load(as_path(out), stock=chosen == 'hf')}")


def size_table(before: Llama, after: Llama) -> str:
    """What a transform did to the size of a model."""
    sizes = [(llama.num_layers, count_params(llama)) for llama in (before, after)]
    (old_blocks, old), (new_blocks, new) = sizes
    rows = [
        ("blocks", str(old_blocks), str(new_blocks), change(new_blocks, old_blocks)),
        ("parameters", count(old), count(new), change(new, old)),
    ]
    return table(rows, ("", "before", "after", "change"))
