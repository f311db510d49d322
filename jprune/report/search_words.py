"""A search in words: what it found, and whether that beats what it is set beside."""

import math
from collections.abc import Sequence

from jprune.report import tables
from jprune.report.names import brief_names
from jprune.report.objectives import (
    BASE,
    RESULT,
    Measured,
    measured_models,
    perplexity,
    reference_of,
    report_data,
    retained,
)
from jprune.report.reading import RunRecord
from jprune.report.searches import Search, SearchCurve


def search_method(run: RunRecord) -> str:
    """The method, for example: stitched from 3 variants and the base, evolution, 300 trials."""
    search = run.search
    if search is None:
        return ""
    count = len(search.variants)
    noun = "variant" if count == 1 else "variants"
    what = f"stitched from {count} {noun} and the base" if count else "removal by a search"
    sampler = run.setting("sampler")
    return ", ".join([what, *([str(sampler)] if sampler else []), f"{search.num_trials} trials"])


def search_notes(run: RunRecord) -> list[str]:
    """Paragraphs: the result, how it did on the search windows, how it does on the report data."""
    search = run.search
    if search is None:
        return []
    notes = [f"{_trials_text(search)} {_candidate_text(run, search)}", _score_text(search)]
    data = report_data(run)
    models = measured_models(run, data)
    if models:
        notes.append(verdict(models, data))
    return notes


def verdict(models: Sequence[Measured], data: Sequence[str]) -> str:
    """Whether the result beats what it is set beside, by the mean NLL on the report data.

    A difference below sqrt(se_a^2 + se_b^2) is inside the noise, and no win or loss. That ignores
    that both were measured on the same windows, and is therefore rather too large.
    """
    result = next((model for model in models if model.key == RESULT), None)
    if result is None:
        return ""
    rivals = [m for m in models if not m.is_variant and m.key not in (BASE, RESULT)]
    on = "the report data" if len(data) == 1 else f"the mean of {_list(_names(data))}"
    sentences = [
        f"On {on} the {result.name} has an NLL of {result.mean:.3f} (PPL "
        f"{tables.ppl(perplexity(result.mean))})."
    ]
    sentences.append(_at_this_size(result, rivals))
    sentences += _single_data(result, rivals, data) if len(data) > 1 else []
    sentences += _unpruned(result, models)
    return " ".join(sentences)


def _at_this_size(result: Measured, rivals: Sequence[Measured]) -> str:
    if not rivals:
        return "It was set beside no other model of its size (see the key compare)."
    beaten: list[str] = []
    tied: list[str] = []
    lost: list[str] = []
    for other in rivals:
        difference, noise = other.mean - result.mean, _noise(result, other)
        inside = difference == 0 or (noise is not None and abs(difference) < noise)
        (tied if inside else beaten if difference > 0 else lost).append(_against(result, other))
    if len(beaten) == len(rivals):
        return f"At this size it beats all that it is set beside: {_list(beaten)}."
    if len(lost) == len(rivals):
        return f"At this size it beats nothing that it is set beside: {_list(lost)}."
    parts = [
        f"{words} {_list(found)}"
        for words, found in (
            ("it beats", beaten),
            ("it cannot be told by these windows whether it is better than", tied),
            ("it does not beat", lost),
        )
        if found
    ]
    return f"At this size {'; '.join(parts)}."


def _noise(result: Measured, other: Measured) -> float | None:
    errors = (result.mean_error, other.mean_error)
    return None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1])


def _against(result: Measured, other: Measured) -> str:
    difference, noise = other.mean - result.mean, _noise(result, other)
    if difference == 0:
        return f"{_the(other)} (NLL {other.mean:.3f}, the same)"
    text = f"{abs(difference):.3f} {'higher' if difference > 0 else 'lower'}"
    if noise is not None and abs(difference) < noise:
        text += f", inside the noise of ± {noise:.3f}"
    return f"{_the(other)} (NLL {other.mean:.3f}: {text})"


def _single_data(result: Measured, rivals: Sequence[Measured], data: Sequence[str]) -> list[str]:
    """Where another model of its size is better on one of the data sources."""
    words = []
    for one, name in zip(data, _names(data), strict=True):
        best = min(rivals, key=lambda model: model.nll[one], default=None)
        if best and best.nll[one] < result.nll[one]:
            words.append(
                f"on {name} {_the(best)} is better ({best.nll[one]:.3f} against "
                f"{result.nll[one]:.3f})"
            )
    if not words:
        return ["None of them is better on any of these data alone."] if rivals else []
    text = _list(words)
    return [f"{text[:1].upper()}{text[1:]}."]


def _unpruned(result: Measured, models: Sequence[Measured]) -> list[str]:
    reference = reference_of(models)
    if reference is None:
        return []
    share = retained(reference.mean, result.mean)
    name = reference.name if reference.is_variant else "the base"
    what = f"{name}, the best unpruned variant" if reference.is_variant else name
    text = f"Of the PPL of {what}, {share:.1f}% is retained"
    base = next((model for model in models if model.key == BASE), None)
    if base is None or base is reference:
        return [f"{text}."]
    word = "better" if result.mean < base.mean else "not better"
    return [f"{text}; it is {word} than the unpruned base (NLL {base.mean:.3f})."]


def _trials_text(search: Search) -> str:
    complete = search.trials.get("complete", 0)
    other = {"pruned": "ended early", "failed": "failed", "lost": "lost", "running": "running"}
    counts = [f"{complete} evaluated on all windows"]
    counts += [f"{search.trials[s]} {word}" for s, word in other.items() if search.trials.get(s)]
    return f"{search.num_trials} candidates were tried: {', '.join(counts)}."


def _candidate_text(run: RunRecord, search: Search) -> str:
    layers = run.pair("layers")[0]
    blocks = [layer for layer, part in search.removed if part == "block"]
    if not search.variants or not isinstance(layers, int):
        noun = "unit" if len(search.removed) == 1 else "units"
        return f"The best removes {len(search.removed)} {noun}."
    kept = layers - len(blocks)
    own = kept - len(search.mixes)
    merged = sum(mix.factor is not None for mix in search.mixes)
    single = [mix.variants[0] for mix in search.mixes if mix.factor is None]
    taken = [
        f"{single.count(number)} of {name}"
        for number, name in enumerate(search.variants)
        if number in single
    ]
    gone = ", ".join(map(str, blocks))
    where = f" ({'layer' if len(blocks) == 1 else 'layers'} {gone})" if gone else ""
    text = f"The best drops {len(blocks)} of {layers} layers{where}. Of the {kept} that stay, "
    text += f"{own} {'is' if own == 1 else 'are'} the base's own, {len(single)} "
    text += f"{'is' if len(single) == 1 else 'are'} taken from one variant"
    text += f" ({', '.join(taken)})" if taken else ""
    return f"{text}, and {merged} merged of several.{_uniform_text(search, own)}"


def _uniform_text(search: Search, own: int) -> str:
    """What to call a result that a search was not needed to mix."""
    mixes = {(mix.variants, mix.factor) for mix in search.mixes}
    if len(mixes) + (own > 0) != 1:
        return ""
    if own:
        return f" It is {search.base_name} with layers dropped."
    variants, factor = mixes.pop()
    names = _list([search.variants[number] for number in variants])
    if factor is None:
        return f" It is {names} with layers dropped."
    return f" All are the same mix: it is a plain merge of {names} with layers dropped."


def _score_text(search: Search) -> str:
    text = (
        f"On the windows that were searched on, its score is {search.score:.4f}: the mean over the "
        "objectives of its NLL to the base's."
    )
    best = next(iter(search.removal_curves), None)
    if best is None or best.curve is None:
        return text
    trials = min(max(c.trials, default=0) for c in (search.curve, best.curve))
    own, other = score_after(search.curve, trials), score_after(best.curve, trials)
    if own is None or other is None:
        return text
    word = "below" if own < other else "above" if own > other else "equal to"
    return (
        f"{text} After {trials} trials it was {own:.4f}, {word} the {other:.4f} of the best search "
        f"that only removes (of {best.model})."
    )


def score_after(curve: SearchCurve, trials: int) -> float | None:
    """The best score after so many trials; None if there was none yet."""
    found = [s for t, s in zip(curve.trials, curve.score, strict=True) if t <= trials]
    return found[-1] if found else None


def _names(data: Sequence[str]) -> list[str]:
    return list(brief_names(data).values())


def _the(model: Measured) -> str:
    return f"the {model.label}" if model.label.startswith("best ") else model.label


def _list(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)
