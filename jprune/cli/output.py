"""What commands print and write: tables, bars, and JSON in a common envelope."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, is_remote, write_json
from jprune.core.processes import on_writer
from jprune.core.progress import log
from jprune.core.version import __version__
from jprune.report.tables import Cell, render

SCHEMA_VERSION = 1
BAR_WIDTH = 24


def table(rows: Iterable[Sequence[Cell]], headers: Sequence[str]) -> str:
    """Rows as aligned plain text under their headers."""
    return render(headers, rows, "text")


def envelope(flags: Flags, protocol: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """What every result says about how it came to be."""
    import flax
    import jax
    import jaxlib

    device = jax.devices()[0]
    return {
        "schema_version": SCHEMA_VERSION,
        "command_line": flags.command_line,
        "versions": {
            "jprune": __version__,
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "flax": flax.__version__,
            "python": platform.python_version(),
        },
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
        "seconds": round(flags.elapsed, 3),
        "protocol": protocol,
    }


def write(
    flags: Flags, result: Mapping[str, Any], protocol: Mapping[str, Any] | str | None = None
) -> dict[str, Any]:
    """Adds the envelope to a result, writes it to the file `--out` if given, and returns it."""
    full = envelope(flags, protocol) | dict(result)
    if flags.out:
        write_json(flags.out, full)
        say(f"wrote {flags.out}")
    return full


def check_out_file(out: str | None) -> None:
    """Raises InputError, before any work is done, unless `--out` may become a result.

    A file that is there is replaced only if it is the result of an earlier command. A local one
    must be in a folder that can be written, or made.
    """
    if not out:
        return
    on_writer(lambda: _check_out_file(out))


def _check_out_file(out: str) -> None:
    path = as_path(out)
    if path.is_dir():
        raise InputError(f"--out={out} is a folder; give the name of a JSON file")
    if path.exists() and not _is_result(path):
        raise InputError(f"--out={out} exists and is no result of jprune; give another name")
    if is_remote(out):
        return
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        reason = "cannot be written" if above.is_dir() else "is a file"
        raise InputError(f"cannot write --out={out}: {above} {reason}; give another name")


def _is_result(path: Any) -> bool:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"schema_version", "command_line"} <= found.keys()


def say(message: str) -> None:
    """A line about what was done, on stderr: stdout holds only results."""
    log.info("%s", message)


def how_to_load(folder: PathLike, stock: bool) -> str:
    """How a model that was just written is loaded; `stock`: also by transformers.

    transformers reads no object stores: from there the model is copied first.
    """
    if not stock:
        return f"load it with jprune.load({str(folder)!r})"
    if not is_remote(folder):
        return f"load it with AutoModelForCausalLM.from_pretrained({str(folder)!r})"
    return (
        f"load it with jprune.load({str(folder)!r}), or copy it (gcloud storage cp -r {folder} .) "
        "for AutoModelForCausalLM.from_pretrained"
    )


def bars(values: Sequence[float | None]) -> list[str]:
    """One text bar per value from zero to the largest, empty for what is not above zero.

    A few values far above all others would flatten the rest: bars beyond twice the third largest
    are cut, and end in "+".
    """
    finite = sorted((v for v in values if v is not None and 0 < v < float("inf")), reverse=True)
    if not finite:
        return [""] * len(values)
    top = min(finite[0], 2 * finite[2]) if len(finite) > 4 else finite[0]
    return [_bar(value, top) for value in values]


def _bar(value: float | None, top: float) -> str:
    if value is None or not value > 0:
        return ""
    full, part = _glyphs()
    if value > top:
        return full * (BAR_WIDTH - 1) + "+"
    eighths = round(8 * BAR_WIDTH * value / top)
    return full * (eighths // 8) + part[eighths % 8]


def _glyphs() -> tuple[str, Sequence[str]]:
    """A full cell and the cells for 0 to 7 eighths; plain ASCII where stdout takes no more."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    if encoding.startswith("utf"):
        return "█", ["", *"▏▎▍▌▋▊▉"]
    return "#", ["", "", "", "", "#", "#", "#", "#"]
