"""The whole of `jprune run` on the bundled model: no network, a few minutes on two CPU cores.

A small Llama that has read Python's standard library loses two of its blocks. Every criterion is
tried, and shown beside random removal. Then a search cuts and stitches three finetunes of it into
one model without three of its blocks, in the folder `stitch` of the results.
"""

from jprune.cli import configs, flag
from jprune.cli.flag import FlagValues
from jprune.cli.parsing import Flags
from jprune.cli.run import execute
from jprune.core.files import as_path

CONFIG, STITCH = "demo", "demo_stitch"
WORKDIR = "jprune-demo"


def define(flags: FlagValues) -> None:
    """Defines the flags of `jprune demo`."""
    flag.text(flags, "workdir", WORKDIR, "folder of the results")
    flag.text(flags, "until", None, "stop after this stage, and stitch nothing")


def run(flags: Flags) -> int:
    """Runs the demo and prints what came out."""
    execute(configs.load_config(CONFIG), flags.workdir, CONFIG, until=flags.until)
    if not flags.until:
        folder = as_path(flags.workdir) / "stitch"
        execute(configs.load_config(STITCH), str(folder), STITCH)
    return 0
