"""Drops blocks or sublayers of a model and saves what is left.

    jprune prune --model=DIR --blocks=21-24 --out=PRUNED
    jprune prune --model=DIR --attention=5,7 --mlp=-2 --out=PRUNED
    jprune prune --model=DIR --scores=scores.json --remove=4 --out=PRUNED

The tensors that stay are those of the model, bit for bit, unless --dtype says otherwise or the
checkpoint mixes dtypes: then all are saved in one, and the log says what was cast.
"""

from absl.flags import FlagValues

from jprune.checkpoints import Checkpoint
from jprune.cli import common, flag
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.core.files import read_json
from jprune.report.sections import unit_list
from jprune.scores import Scores, parse_layers, select, units
from jprune.transforms import Recipe, Transform, drop_units, removed_units

# Flags that name layers -> the part of them that goes.
PARTS = {"blocks": "block", "attention": "attention", "mlp": "mlp"}


def define(flags: FlagValues) -> None:
    """The flags of `jprune prune`."""
    common.define_common(flags, "folder for the pruned model")
    flag.text(flags, "blocks", None, "blocks to drop: indices and ranges, as in 3,21-24,-2")
    flag.text(flags, "attention", None, "layers whose attention is dropped")
    flag.text(flags, "mlp", None, "layers whose MLP is dropped")
    flag.text(flags, "scores", None, "drop what matters least by this file of jprune score")
    flag.integer(flags, "remove", None, "with --scores: how many units", at_least=0)
    common.define_format(flags)


def run(flags: Flags) -> int:
    """Drops, saves, prints."""
    common.one_of(flags, "to", common.FORMATS)
    scores = _check_choice(flags)
    common.need(flags, "model")
    common.check_out_folder(flags)
    checkpoint = common.load(flags, default_dtype="checkpoint")
    transform = _named(flags, checkpoint) if scores is None else _least(flags, scores, checkpoint)
    pruned = transform(checkpoint.llama)
    recipe = Recipe.of(checkpoint).then(transform)
    common.save_model(flags.out, flags.to, pruned, checkpoint.tokenizer, recipe)
    removed = unit_list(removed_units(checkpoint.llama, pruned))
    print(f"{checkpoint.name} without {removed or 'nothing'}\n")
    print(common.size_table(checkpoint.llama, pruned))
    return 0


def _check_choice(flags: Flags) -> Scores | None:
    """The scores to go by, if any, once it is clear what is to be dropped."""
    named = any(flags[name].value is not None for name in PARTS)
    if named == bool(flags.scores):
        raise InputError(
            "say what to drop: either --blocks=21-24 (or --attention, --mlp), "
            "or --scores=s.json --remove=4"
        )
    if named and flags.remove is not None:
        raise InputError("--remove goes with --scores=s.json, which jprune score writes")
    if named:
        return None
    if flags.remove is None:
        raise InputError("--scores goes with --remove=N, the number of units to drop")
    return Scores.from_json(read_json(flags.scores))


def _named(flags: Flags, checkpoint: Checkpoint) -> Transform:
    layers = checkpoint.llama.num_layers
    return drop_units(
        (layer, part)
        for name, part in PARTS.items()
        for layer in parse_layers(flags[name].value, layers)
    )


def _least(flags: Flags, scores: Scores, checkpoint: Checkpoint) -> Transform:
    expected = units(checkpoint.llama, scores.granularity)
    if scores.units != expected:
        raise InputError(
            f"{flags.scores} has scores of {len(scores.units)} units, but {checkpoint.name} has "
            f"{len(expected)}: they are of another model; run jprune score on this one"
        )
    return drop_units(select(scores, flags.remove))
