"""Writes on where prompts end.

jprune generate --model=DIR --prompt="Once upon a time" --max_new_tokens=64
jprune generate --model=DIR --prompt="One" --prompt="Two" --temperature=0.8 --top_p=0.95 --seed=1
"""

from absl.flags import FlagValues

from jprune.cli import common, flag, output
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.evaluate import generate_texts
from jprune.llama import Sampling


def define(flags: FlagValues) -> None:
    """The flags of `jprune generate`."""
    common.define_common(flags, "file for the texts, JSON")
    flag.repeated(flags, "prompt", "what the text begins with; may be given several times")
    flag.integer(flags, "max_new_tokens", 64, "at most so many for each prompt", at_least=1)
    flag.number(flags, "temperature", 0.0, "of the sampling; 0 takes the most likely tokens")
    flag.integer(flags, "top_k", None, "sample among so many of the most likely", at_least=1)
    flag.number(flags, "top_p", 1.0, "sample among the most likely that have this probability")
    flag.switch(flags, "ignore_eos", "go on where the model would end the text")
    flag.integer(flags, "batch_size", 64, "prompts at a time", at_least=1)


def run(flags: Flags) -> int:
    """Generates, prints, writes."""
    output.check_out_file(flags.out)
    common.need(flags, "model")
    if not flags.prompt:
        raise InputError('--prompt=... is missing: what the text begins with, also --prompt=""')
    sampling = Sampling(flags.temperature, flags.top_k, flags.top_p)
    checkpoint = common.load(flags)
    samples = generate_texts(
        checkpoint.llama,
        checkpoint.tokenizer,
        flags.prompt,
        flags.max_new_tokens,
        sampling=sampling,
        stop_at_eos=not flags.ignore_eos,
        seed=flags.seed,
        batch_size=flags.batch_size,
    )
    print("\n\n".join(sample.prompt + sample.text for sample in samples))
    model = {"path": flags.model, "name": checkpoint.name}
    texts = [sample.to_json() for sample in samples]
    output.write(flags, {"model": model, "samples": texts})
    return 0
