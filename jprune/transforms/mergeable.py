"""Whether models fit together tensor by tensor, and a common vocabulary where they do not."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jprune.core.errors import InputError, unknown
from jprune.core.progress import log
from jprune.llama.blockwise import block_shapes
from jprune.llama.config import Rope
from jprune.llama.kernels import fold_kernels
from jprune.llama.model import Linear, Llama
from jprune.llama.names import named_params
from jprune.llama.widths import Width, widths

VOCABULARIES = ("same", "intersect")

# What merged models must agree in, most telling first; then their blocks must.
_AGREE: tuple[tuple[str, Callable[[Llama], Any]], ...] = (
    ("family", lambda llama: llama.config.family),
    ("vocabulary size", lambda llama: llama.embed.shape[0]),
    ("number of layers", lambda llama: llama.num_layers),
    ("hidden size", lambda llama: llama.embed.shape[1]),
    ("head dimension", lambda llama: llama.config.head_dim),
    ("RoPE theta", lambda llama: llama.config.rope.theta),
    ("RoPE scaling", lambda llama: _scaling(llama.config.rope)),
    ("tied embeddings", lambda llama: "yes" if llama.lm_head is None else "no"),
    ("sliding window", lambda llama: llama.config.sliding_window),
    ("activation", lambda llama: llama.config.hidden_act),
)
_WIDTHS: tuple[tuple[str, Callable[[Width], int]], ...] = (
    ("attention heads", lambda width: width.heads * width.group),
    ("key-value heads", lambda width: width.heads),
    ("neurons", lambda width: width.neurons),
)
_HINT = "only models of one shape and kind can be merged"


def check_mergeable(names: Sequence[str], models: Sequence[Llama], vocab: str = "same") -> None:
    """Raises InputError, naming the difference, if models do not fit the first of them.

    Args:
      names: of the models.
      models: any number of them, in any form; shapes suffice.
      vocab: with "intersect" they may differ in vocabulary size, see `same_vocabulary`.
    """
    if vocab not in VOCABULARIES:
        raise unknown("value of vocab", vocab, VOCABULARIES)
    for name, model in zip(names[1:], models[1:], strict=True):
        for what, of in _AGREE:
            first, other = of(models[0]), of(model)
            if first == other or (what == "vocabulary size" and vocab == "intersect"):
                continue
            hint = _HINT
            if what == "vocabulary size":
                hint = "--vocab=intersect crops all to the tokens that they begin with"
            raise InputError(f"{names[0]} and {name} differ in {what}: {first} and {other}; {hint}")
        _check_blocks(names[0], models[0], name, model)
        epsilons = [m.config.rms_norm_eps for m in (models[0], model)]
        if epsilons[0] != epsilons[1]:  # often an accident of a conversion
            log.warning(
                "%s and %s differ in the epsilon of their norms: %g and %g; the former counts",
                *(names[0], name, *epsilons),
            )


def same_vocabulary(models: Sequence[Llama]) -> list[Llama]:
    """The models with only as many tokens as the one with the fewest: the first of each."""
    size = min(model.embed.shape[0] for model in models)
    return [model if model.embed.shape[0] == size else _cropped(model, size) for model in models]


def model_names(models: Sequence[Llama]) -> list[str]:
    """Names for messages: where the blocks come from if that is one model, else the number."""
    found = [{origin.source for origin in model.origins if origin} for model in models]
    single = [next(iter(names)) if len(names) == 1 else None for names in found]
    return [
        name if name and single.count(name) == 1 else f"model {number}"
        for number, name in enumerate(single)
    ]


def _check_blocks(first_name: str, first: Llama, name: str, model: Llama) -> None:
    """By tree and shapes: pruned models lack sublayers, or heads and neurons of some blocks."""
    wanted, found = (
        named_params(Llama(m.config, None, block_shapes(m), None, None)) for m in (first, model)
    )
    for tensor in {**wanted, **found}:
        if tensor not in wanted or tensor not in found:
            holder, other = (first_name, name) if tensor in wanted else (name, first_name)
            raise InputError(f"{holder} has {tensor}, which {other} does not have; {_HINT}")
    for layer, pair in enumerate(zip(widths(first), widths(model), strict=True)):
        for what, of in _WIDTHS:
            one, two = map(of, pair)
            if one != two:
                raise InputError(
                    f"{first_name} and {name} differ in {what} of layer {layer}: {one} and {two}; "
                    f"{_HINT}"
                )


def _scaling(rope: Rope) -> str:
    if rope.kind == "none":
        return "none"
    text = f"{rope.kind} with factor {rope.factor}"
    if rope.kind == "llama3":
        text += (
            f", low_freq_factor {rope.low_freq_factor}, high_freq_factor {rope.high_freq_factor}, "
            f"original_max_position_embeddings {rope.original_max_position_embeddings}"
        )
    return text


def _cropped(llama: Llama, size: int) -> Llama:
    config = dataclasses.replace(llama.config, vocab_size=size)
    head = llama.lm_head
    if head is not None:
        head = fold_kernels(head)
        bias = None if head.bias is None else head.bias[:size]
        head = Linear(head.kernel[:, :size], bias)
    return llama.replace(config=config, embed=llama.embed[:size], lm_head=head)
