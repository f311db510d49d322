"""Merging models: whole ones, ranges of layers, single layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jprune.core.errors import InputError, unknown
from jprune.llama.model import Llama
from jprune.scores.units import parse_layers
from jprune.transforms.combine import combination, combine, copy_of
from jprune.transforms.merge_registry import find_method
from jprune.transforms.mergeable import check_mergeable, model_names, same_vocabulary
from jprune.transforms.transform import Sources, find_source, transform

ENDS = ("merge", "base")
# What a range may say beside options of its method.
_LAYERS, _METHOD = "layers", "method"


@transform
def merge(
    method: str | None,
    models: Any,
    *,
    layers: Any = None,
    ends: str | None = None,
    vocab: str = "same",
    sources: Sources | None = None,
    **options: Any,
) -> Callable[[Llama], Llama]:
    """Merges the model at this step with others, or others on it as their base.

    >>> merge("ties", [1, 2, 3], density=0.2, sources={1: math, 2: code, 3: chat})(base)
    >>> merge("linear", [0, 1], weights=[2, 1], sources={1: other})(llama)

    Args:
      method: see `merge_models`, also for `layers`, `ends`, `vocab` and the options.
      models: those that are merged, as indices into the sources of the recipe. 0 is the model at
        this step; where it is not among them, it is the base.
      layers: where.
      ends: embeddings, final norm and head.
      vocab: whether vocabularies may differ.
      sources: the further models by index, or a function that loads them; no part of the recipe.
      **options: of the method.

    Raises:
      InputError: see `merge_models`; a source that is not there.
    """
    wrong = [index for index in models if type(index) is not int or index < 0]
    if wrong or not models:
        what = repr(wrong[0]) if wrong else "none"
        raise InputError(f"models of a merge are indices of sources, 0 and up, not {what}")

    def apply(llama: Llama) -> Llama:
        given = [find_source(sources, index, "merge") if index else llama for index in models]
        base = None if 0 in models else llama
        return merge_models(
            given, method, base=base, layers=layers, ends=ends, vocab=vocab, **options
        )

    return apply


def merge_models(
    models: Sequence[Llama],
    method: str | None,
    *,
    base: Llama | None = None,
    names: Sequence[str] | None = None,
    layers: Any = None,
    ends: str | None = None,
    vocab: str = "same",
    **options: Any,
) -> Llama:
    """One model from several of the same shape, tensor by tensor.

    Everything that the method does not touch, and config, form, dtypes, placement and origins, are
    those of the base, without one those of the first model. Adapters are folded first.

    >>> merge_models([math, code], "slerp", t=0.3)
    >>> merge_models([math, code, chat], "task_arithmetic", base=llama, factor=0.4, layers="4-11")
    >>> merge_models([math, code], None, layers=[
    ...     {"layers": "0-9", "method": "linear", "weights": [2, 1]},
    ...     {"layers": "10-19", "method": "slerp", "t": [0.1 * i for i in range(10)]}])

    Args:
      models: t_1, t_2, ... of `jprune.transforms.merge_methods`.
      method: a name of `METHODS`, or 'module:function', see `find_method`; None where `layers`
        names one for each range.
      base: t0.
      names: of the base, if there is one, and the models, for messages.
      layers: where to merge: indices or a text such as '0-3,-2'; or a list of ranges, each
        {"layers": ..., "method": ..., option: value, ...}, where method and options default to
        those given beside. All layers by default.
      ends: 'merge' merges embeddings, final norm and head like the layers, 'base' leaves them. The
        default is 'merge' where `layers` is not given and 'base' where it is.
      vocab: 'same', or 'intersect': the vocabulary is cropped to the tokens that all begin with.
      **options: of the method. In place of a number, and of the list of weights, a list of them is
        one for each layer of the range, in order.

    Raises:
      InputError: models that differ, an unknown method or option, a wrong number of models, an
        option out of its range, no base where one is needed, ranges that overlap.
    """
    if not models:
        raise InputError("there is no model to merge")
    sources = [*([] if base is None else [base]), *models]
    check_mergeable(names or model_names(sources), sources, vocab)
    if vocab == "intersect":
        sources = same_vocabulary(sources)
    first = len(sources) - len(models)
    base_at, variants = (0 if first else None), tuple(range(first, len(sources)))
    plan = [copy_of(0)] * sources[0].num_layers
    for layer, name, values in _layer_options(layers, method, options, len(plan)):
        plan[layer] = combination(name, values, base_at, variants)
    chosen = ends or ("merge" if layers is None else "base")
    if chosen not in ENDS:
        raise unknown("value of ends", chosen, ENDS)
    of_ends = copy_of(0)
    if chosen == "merge":
        of_ends = combination(_named(method), _of_ends(method, options), base_at, variants)
    return combine(sources, list(enumerate(plan)), of_ends)


def _layer_options(
    layers: Any, method: str | None, options: Mapping[str, Any], num_layers: int
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Every layer that is merged, by which method and with which options."""
    seen: set[int] = set()
    for which, name, values in _ranges(layers, method, options):
        indices = range(num_layers) if which is None else parse_layers(which, num_layers)
        for position, layer in enumerate(indices):
            if layer in seen:
                raise InputError(f"layer {layer} is in two ranges of layers")
            seen.add(layer)
            yield layer, name, _at(position, len(indices), name, values)


def _ranges(
    layers: Any, method: str | None, options: Mapping[str, Any]
) -> Iterator[tuple[Any, str, Mapping[str, Any]]]:
    """Which layers go together, their method and its options."""
    if not isinstance(layers, list | tuple) or not any(isinstance(x, Mapping) for x in layers):
        yield layers, _named(method), options
        return
    for row in layers:
        if not isinstance(row, Mapping) or row.get(_LAYERS) is None:
            raise InputError(
                f'a range of layers is {{"layers": "4-7", "method": ..., ...}}, not {row!r}'
            )
        own = {key: value for key, value in row.items() if key not in (_LAYERS, _METHOD)}
        name = _named(row.get(_METHOD, method))
        yield row[_LAYERS], name, {**options, **own} if name == method else own


def _named(method: str | None) -> str:
    if method is None:
        raise InputError(
            "there is no method: give one, or one in each range of layers together with ends='base'"
        )
    return method


def _at(position: int, number: int, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one layer of a range of `number`."""
    values = dict(options)
    for key in _per_layer(name, options):
        if len(options[key]) != number:
            raise InputError(
                f"{key} of {name} has {len(options[key])} values for {number} layers; "
                "give one for each, or one for all"
            )
        values[key] = options[key][position]
    return values


def _of_ends(name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in _per_layer(name, options):
        raise InputError(
            f"{key} of {name} has a value for each layer, which says nothing of embeddings, final "
            "norm and head; give ends='base' as well, or one value for all"
        )
    return options


def _per_layer(name: str, options: Mapping[str, Any]) -> list[str]:
    """The options that have a value for each layer."""
    if find_method(name).options is None:  # a function of the user's knows what its lists mean
        return []
    return [
        key
        for key, value in options.items()
        if isinstance(value, list | tuple)
        and (key != "weights" or any(isinstance(item, list | tuple) for item in value))
    ]
