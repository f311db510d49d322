"""Measures the perplexity of a model on one or several data sources.

jprune eval --model=DIR --data=wikitext2,ptb --protocol=shortened --out=eval.json
"""

from collections.abc import Sequence
from typing import Any

from absl.flags import FlagValues

from jprune.checkpoints import Checkpoint
from jprune.cli import common, flag, output
from jprune.cli.parsing import Flags
from jprune.core.progress import log
from jprune.evaluate import PROTOCOLS, evaluate_sources
from jprune.llama.model import Llama
from jprune.report.sections import protocol_text
from jprune.report.tables import plus_minus, ppl


def define(flags: FlagValues) -> None:
    """The flags of `jprune eval`."""
    common.define_common(flags, "file for the figures, JSON")
    flag.texts(flags, "data", "known names, files, or file.npz:key")
    flag.text(flags, "data_dir", None, "folder with files of the known names")
    flag.text(
        flags,
        "protocol",
        "shortened",
        "shortened: windows of 128 tokens; gptq: of 2048, or the model's maximum if that is less",
    )
    flag.integer(
        flags, "num_windows", None, "the first so many windows of each source, not all", at_least=1
    )


def run(flags: Flags) -> int:
    """Evaluates, prints, writes."""
    output.check_out_file(flags.out)
    common.need(flags, "model", "data")
    common.one_of(flags, "protocol", PROTOCOLS)
    checkpoint = common.load(flags)
    figures = _figures(flags, checkpoint, checkpoint.llama)
    if checkpoint.filled:
        whole = _figures(flags, checkpoint, checkpoint.filled())
        for before, after in zip(whole, figures, strict=True):
            log.info(
                "%s: NLL %.4f with all that the adapter adds, %.4f with the zeros of its base",
                *(after["data"], before["nll"], after["nll"]),
            )
    print(table(figures))
    model = {"path": flags.model, "name": checkpoint.name}
    output.write(flags, {"model": model, "perplexity": figures, "tasks": []}, flags.protocol)
    return 0


def _figures(flags: Flags, checkpoint: Checkpoint, llama: Llama) -> list[dict[str, Any]]:
    measured = evaluate_sources(
        llama,
        checkpoint.tokenizer,
        flags.data,
        flags.protocol,
        num_windows=flags.num_windows,
        data_dir=flags.data_dir,
    )
    return [result.to_json(protocol) for protocol, result in measured]


def table(figures: Sequence[dict[str, Any]]) -> str:
    """One row per data source: perplexity and NLL with its standard error; then the protocols."""
    rows = [
        (
            figure["data"],
            ppl(figure["ppl"]),
            plus_minus(figure["nll"], figure["standard_error"]),
            figure["tokens"],
        )
        for figure in figures
    ]
    protocols: dict[str, list[str]] = {}
    for figure in figures:
        protocols.setdefault(protocol_text(figure["protocol"]), []).append(figure["data"])
    lines = [
        f"protocol of {', '.join(data)}: {text}" if len(protocols) > 1 else f"protocol: {text}"
        for text, data in protocols.items()
    ]
    return "\n".join([output.table(rows, ("data", "PPL", "NLL", "tokens")), "", *lines])
