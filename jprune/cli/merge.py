"""Merges finetunes of one model into one.

    jprune merge --model=BASE --variants=MATH,CODE,CHAT --method=ties --density=0.2 --out=MERGED
    jprune merge --model=MATH --variants=CODE --method=slerp --t=0.3 --out=MERGED

Methods that go by differences to a base (task_arithmetic, ties, dare, breadcrumbs, model_stock)
take --model for it; linear, slerp and passthrough merge --model with the others. Adapters are
variants too. `jprune run --config=merge` evaluates all of them as well.
"""

from typing import Any

from absl.flags import FlagValues

from jprune.checkpoints import load_checkpoint
from jprune.cli import common, flag
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.transforms import Recipe, merge
from jprune.transforms.merge import ENDS
from jprune.transforms.merge_registry import METHODS, THEN, find_method
from jprune.transforms.mergeable import VOCABULARIES, check_mergeable

# Flags that are options of methods.
OPTIONS = ("weights", "t", "factor", "density", "gamma", "scale", "then")


def define(flags: FlagValues) -> None:
    """The flags of `jprune merge`."""
    common.define_common(flags, "folder for the merged model")
    flag.texts(flags, "variants", "the models that are merged with --model")
    flag.text(flags, "method", None, f"{', '.join(METHODS)}, or module:function")
    flag.texts(flags, "weights", "linear: a number for each model; by default all are equal")
    flag.number(flags, "t", None, "slerp: from the first model (0) to the second (1)")
    flag.number(flags, "factor", None, "what differences to the base are multiplied by")
    flag.number(flags, "density", None, "ties, dare, breadcrumbs: the share of them that is kept")
    flag.number(flags, "gamma", None, "breadcrumbs: the share of the largest that is dropped")
    flag.number(flags, "scale", None, "passthrough: what the tensors are multiplied by")
    flag.text(flags, "then", None, f"dare: {' or '.join(THEN)}")
    flag.text(flags, "layers", None, "where to merge, as in 0-3,-2; everywhere by default")
    flag.text(flags, "ends", None, "embeddings, final norm and head: merge, or base; see README")
    flag.text(flags, "vocab", None, "same, or intersect: crop to the tokens that all begin with")
    common.define_format(flags)


def run(flags: Flags) -> int:
    """Loads, merges, saves, prints."""
    common.one_of(flags, "to", common.FORMATS)
    common.one_of(flags, "ends", ENDS)
    common.one_of(flags, "vocab", VOCABULARIES)
    common.need(flags, "model", "variants", "method")
    method = find_method(flags.method)
    options = _options(flags)
    models = list(range(method.needs_base, len(flags.variants) + 1))
    method.check(options, len(models), method.needs_base)
    common.check_out_folder(flags, flags.variants)
    base = common.load(flags, default_dtype="checkpoint")
    dtype = flags.dtype or "checkpoint"
    others = [load_checkpoint(path, dtype=dtype) for path in flags.variants]
    names = [checkpoint.name for checkpoint in (base, *others)]
    vocab = flags.vocab or "same"
    check_mergeable(names, [base.llama, *(other.llama for other in others)], vocab)
    recipe, indices = Recipe.of(base).with_sources(*others)
    loaded = dict(zip(indices, (other.llama for other in others), strict=True))
    where = {name: flags[name].value for name in ("layers", "ends") if flags[name].value}
    transform = merge(
        flags.method,
        [0] * (not method.needs_base) + indices,
        vocab=vocab,
        sources=loaded,
        **where,
        **options,
    )
    merged = transform(base.llama)
    common.save_model(flags.out, flags.to, merged, base.tokenizer, recipe.then(transform))
    print(f"{flags.method} of {', '.join(names)}\n")
    print(common.size_table(base.llama, merged))
    return 0


def _options(flags: Flags) -> dict[str, Any]:
    """Those options of methods that are given; the seed goes to methods that draw."""
    options = {name: flags[name].value for name in OPTIONS if flags[name].value not in (None, [])}
    if "weights" in options:
        given: list[str] = flags.weights
        try:
            options["weights"] = [float(weight) for weight in given]
        except ValueError:
            raise InputError(f"--weights are numbers such as 2,1, not {','.join(given)}") from None
    if find_method(flags.method).is_seeded:
        options["seed"] = flags.seed
    return options
