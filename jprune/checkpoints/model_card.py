"""The model card (README.md) of an exported model."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jprune.checkpoints.hf_widths import padded_widths
from jprune.llama.model import Llama, count_params

_PROTOCOL_WORDS = (
    ("split", "{} split"),
    ("window_length", "windows of {}"),
    ("num_windows", "{} windows"),
    ("join", "joined by {!r}"),
    ("bos", "BOS {}"),
    ("dtype", "{}"),
    ("normaliser", "per {}"),
)


def model_card(
    name: str,
    llama: Llama,
    *,
    recipe: Mapping[str, Any] | None = None,
    figures: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
    sparsity: Sequence[str] = (),
) -> str:
    """The text of README.md: what the model is made from, how, what it reaches, how to load it.

    Args:
      name: of the model.
      llama: the model; its origins name the base and the layers that are left.
      recipe: the recipe's JSON form.
      figures: results in the form of `jprune eval`: `{"perplexity": [...], "tasks": [...]}`, each
        with an optional "label" that says which model it is of, for example "before".
      notes: removed sublayers that the files hold as zeros.
      sparsity: paragraphs on how sparse the model is and what that saves, as
        `jprune.report.sparsity_notes` gives.
    """
    sources = _sources(llama, recipe)
    sections = [
        _front_matter(sources),
        f"# {name}\n\n{_summary(llama, sources)}",
        _recipe_section(recipe),
        _sparsity_section(sparsity),
        _notes_section(notes),
        _padding_section(padded_widths(llama)),
        _perplexity_section(figures),
        _task_section(figures),
        _usage(name),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def describe_step(step: Mapping[str, Any]) -> str:
    """One step of a recipe in words.

    >>> describe_step({"op": "drop_blocks", "args": {"blocks": [21, 22, 23]}})
    'removes blocks 21-23'
    """
    op, args = step.get("op", "?"), step.get("args") or {}
    if op == "drop_blocks" and args.get("blocks"):
        return f"removes blocks {ranges(args['blocks'])}"
    if op == "drop_sublayers":
        parts = [
            f"the {word} of blocks {ranges(args[key])}"
            for key, word in (("attention", "attention"), ("mlp", "feed-forward network"))
            if args.get(key)
        ]
        if parts:
            return f"removes {' and '.join(parts)}"
    if op == "narrow":
        parts = [
            f"{_span(args[key])} {word}"
            for key, word in (("heads", "key-value heads"), ("neurons", "neurons"))
            if any(args.get(key) or ())
        ]
        if parts:
            return f"keeps {' and '.join(parts)} of narrowed blocks"
    if op == "merge" and args.get("models"):
        return f"merges {_models(args['models'])} by {_method(args)}"
    if op == "stitch" and args.get("plan"):
        layers = args["plan"]["layers"] if "layers" in args["plan"] else args["plan"]
        number = f"{len(layers)} layer{'s' * (len(layers) != 1)}"
        return f"stitches {number} together from the model and its variants"
    if op == "add_lora":
        return f"adds adapters of rank {args.get('rank', 8)}, to be trained"
    if op == "fold_lora":
        return "adds the adapters to the weights"
    if op == "lora_weights":
        return f"adds trained adapters to the weights of {len(args.get('blocks') or ())} blocks"
    if op == "trained_weights":
        return "puts trained weights in the place of some or all"
    if op == "sparse_weights" and args.get("blocks"):
        adjusted = ", and adjusts those that stay" * bool(args.get("adjusted"))
        return f"sets the pruned weights of {len(args['blocks'])} blocks to zero{adjusted}"
    return f"{op} {json.dumps(args)}" if args else str(op)


def _models(indices: Sequence[int]) -> str:
    """What is merged, by the numbers of the sources."""
    others = ranges(index for index in indices if index)
    named = f"source{'s' * (len(set(indices) - {0}) != 1)} {others}"
    return f"it with {named}" if 0 in indices else f"{named} on it as the base"


def _method(args: Mapping[str, Any]) -> str:
    """A method with its options."""
    rest = {key: value for key, value in args.items() if key not in ("models", "method")}
    options = ", ".join(f"{key} {json.dumps(value)}" for key, value in rest.items())
    return f"{args.get('method') or 'several methods'}{options and f' ({options})'}"


def _span(kept: Iterable[Sequence[int] | None]) -> str:
    """How many stay, from the least to the most."""
    sizes = [len(one) for one in kept if one]
    return str(min(sizes)) if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"


def ranges(indices: Iterable[int]) -> str:
    """Indices in order, consecutive ones joined.

    >>> ranges([5, 1, 2, 3])
    '1-3, 5'
    """
    parts: list[list[int]] = []
    for index in sorted(set(indices)):
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def protocol_words(protocol: Mapping[str, Any]) -> str:
    """A perplexity protocol in a few words.

    >>> protocol_words({"window_length": 128, "num_windows": 256, "bos": "first"})
    'windows of 128, 256 windows, BOS first'
    """
    return ", ".join(
        words.format(protocol[key])
        for key, words in _PROTOCOL_WORDS
        if protocol.get(key) is not None
    )


def _sources(llama: Llama, recipe: Mapping[str, Any] | None) -> list[str]:
    """Names of the models that this one is made from."""
    named = [str(s["name"]) for s in (recipe or {}).get("sources") or () if s.get("name")]
    found = [origin.source for origin in llama.origins if origin is not None]
    return list(dict.fromkeys(named or found))


def _front_matter(sources: Sequence[str]) -> str:
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if sources:
        # A JSON string is a YAML string too, whatever the name holds.
        lines += ["base_model:", *(f"- {json.dumps(source)}" for source in sources)]
    lines += ["tags:", "- llama", "- pruned", "- jprune"]
    return "\n".join(["---", *lines, "---"])


def _summary(llama: Llama, sources: Sequence[str]) -> str:
    size = f"{llama.num_layers} layers, {count_params(llama):,} parameters"
    if not sources:
        return f"A {llama.config.family} model with {size}."
    base = " and ".join(f"`{source}`" for source in sources)
    text = f"Made from {base} with jprune: {size}."
    origins = [origin for origin in llama.origins if origin is not None]
    if len({origin.source for origin in origins}) == 1 and len(origins) == llama.num_layers:
        original = "the original" if len(sources) == 1 else f"`{origins[0].source}`"
        text += f" Its layers are layers {ranges(o.index for o in origins)} of {original}."
    return text


def _recipe_section(recipe: Mapping[str, Any] | None) -> str:
    steps = (recipe or {}).get("steps") or ()
    if not steps:
        return ""
    lines = [f"{number}. {describe_step(step)}" for number, step in enumerate(steps, 1)]
    after = "Indices are those of the model at that step. `recipe.json` has the recipe in full."
    return "\n".join(["## How it was made", "", *lines, "", after])


def _sparsity_section(paragraphs: Sequence[str]) -> str:
    return "\n\n".join(["## Sparsity", *paragraphs]) if paragraphs else ""


def _notes_section(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    lead = (
        "Stock models have no form for a block without attention or feed-forward network. These "
        "sublayers are removed; the files hold them with all projections zero, so that they add "
        "nothing, but still take memory and time:"
    )
    return "\n".join(["## Removed sublayers", "", lead, "", *(f"- {note}" for note in notes)])


def _padding_section(padded: Sequence[str]) -> str:
    if not padded:
        return ""
    lead = (
        "Stock models have one width for all layers. These have fewer heads or neurons; the files "
        "hold the missing ones as zeros, which add nothing, but still take memory and time:"
    )
    return "\n".join(["## Padded layers", "", lead, "", *(f"- {item}" for item in padded)])


def _perplexity_section(figures: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            figure.get("label", ""),
            row.get("data", ""),
            _value(row.get("ppl")),
            f"{row['tokens']:,}" if row.get("tokens") is not None else "",
            protocol_words(row.get("protocol") or {}),
        ]
        for figure in figures
        for row in figure.get("perplexity") or ()
    ]
    return _table("## Perplexity", ["model", "data", "perplexity", "tokens", "protocol"], rows)


def _task_section(figures: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            figure.get("label", ""),
            row.get("task", ""),
            row.get("metric", ""),
            _value(row.get("value")),
            _value(row.get("stderr")),
            row.get("n", ""),
        ]
        for figure in figures
        for row in figure.get("tasks") or ()
    ]
    header = ["model", "task", "metric", "value", "standard error", "items"]
    return _table("## Tasks", header, rows)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    cells = ("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)
    return "\n".join([title, "", *cells])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _value(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"


def _usage(name: str) -> str:
    return f"""## Loading it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({json.dumps(name)}, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)})
```

In JAX: `import jprune; llama = jprune.load({json.dumps(name)})`."""
