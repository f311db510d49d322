"""jprune's models in lm-evaluation-harness, under the name `jprune`; no PyTorch is needed.

python -m jprune.evaluate.lm_eval_adapter --model jprune --model_args pretrained=DIR --tasks piqa

is lm-eval's own command line, to which the model is made known first: lm-eval looks for models of
other packages nowhere by itself. In Python, importing this module is enough for
`lm_eval.simple_evaluate(model="jprune", model_args={"pretrained": "DIR"}, tasks=["piqa"])`.
"""

import sys
from collections.abc import Sequence
from typing import Any

from jprune.checkpoints import Checkpoint, load_checkpoint
from jprune.core.errors import InputError
from jprune.core.progress import log
from jprune.evaluate.encoding import Request, TextEncoder
from jprune.evaluate.log_likelihoods import log_likelihoods
from jprune.llama import DecodeLayout, Sampling, decode_layout, generate

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import (
        handle_stop_sequences,
        normalize_gen_kwargs,
        postprocess_generated_text,
    )
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise InputError(
        f"lm-evaluation-harness is not installed ({error}); pip install 'jprune[eval]', or "
        "pip install lm-eval"
    ) from None

# How prompts are generated for together unless lm-eval says so.
BATCH_SIZE = 16
# What lm-eval's tasks may ask of generation and is done; anything else is logged.
_GENERATION = {"until", "do_sample", "max_gen_toks", "temperature", "top_k", "top_p"}


@register_model("jprune")
class JpruneLM(TemplateLM):
    """A model as lm-evaluation-harness asks it.

    Texts become tokens as with lm-eval's own backend for Hugging Face models, and log-likelihoods
    are those of `jprune.evaluate.log_likelihoods`. Each process runs all requests: on a mesh they
    share the work.
    """

    def __init__(
        self,
        pretrained: str | Checkpoint,
        dtype: str | None = None,
        batch_size: int | str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        **ignored: Any,
    ):
        """Loads a model.

        Args:
          pretrained: a path or hub id that `load_checkpoint` takes, or what it gave.
          dtype: of the parameters, as for `load_checkpoint`; "auto" is its default.
          batch_size: of generation; log-likelihoods are packed into what suits the device.
          max_length: tokens that the model reads; by default its maximum.
          max_gen_toks: tokens to generate where a task does not say.
          add_bos_token: whether texts get special tokens; by default as the tokenizer does.
          prefix_token_id: stands for an empty context; by default BOS, else EOS.
          ignored: what lm-eval hands to every model (`device`, `max_batch_size`).

        Raises:
          InputError: no such model, or one without a tokenizer.
        """
        super().__init__()
        if not isinstance(pretrained, Checkpoint):
            dtype = None if dtype == "auto" else dtype
            pretrained = load_checkpoint(pretrained, dtype=dtype)
        unknown = sorted(ignored.keys() - {"device", "max_batch_size", "trust_remote_code"})
        if unknown:
            raise InputError(f"model_args has {', '.join(unknown)}, which jprune does not know")
        self._checkpoint = pretrained
        self._llama = pretrained.llama
        self._layout: DecodeLayout | None = None
        self._encoder = TextEncoder(
            pretrained.tokenizer, add_bos=add_bos_token, prefix_id=prefix_token_id
        )
        self._max_length, self._max_gen_toks = max_length, max_gen_toks
        sizes = str(batch_size)  # a number, "auto", "auto:4" or None
        self.batch_size = int(sizes) if sizes.isdigit() else BATCH_SIZE

    @property
    def tokenizer(self) -> Any:
        """The tokenizer as an object of transformers."""
        own = self._checkpoint.tokenizer
        return getattr(own, "hf", own)

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval names its caches after."""
        return str(self._checkpoint.name).replace("/", "__")

    @property
    def max_length(self) -> int:
        """How many tokens the model reads."""
        return self._max_length or self._llama.config.max_position_embeddings

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._checkpoint.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context."""
        return self._encoder.prefix_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The ids of a text."""
        return self._encoder.encode([string], add_special_tokens)[0]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text, by the tokenizer's template."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside the results."""
        return {"model_dtype": str(self._llama.dtype), "model_source": str(self._checkpoint.name)}

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """log p(continuation | context) of each request, and whether it is the greedy one."""
        pairs = [request.args for request in requests]
        found = self._encoder.pairs(pairs)
        rows = [
            (pair, list(one.context), list(one.continuation))
            for pair, one in zip(pairs, found, strict=True)
        ]
        return self._loglikelihood_tokens(rows)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        rows = [Request(tuple(context), tuple(new)) for _, context, new in requests]
        found = log_likelihoods(self._llama, rows, max_length=self.max_length)
        answers = list(zip(found.values.tolist(), found.greedy.tolist(), strict=True))
        for (pair, _, _), answer in zip(requests, answers, strict=True):
            if pair is not None:
                self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """log p of each text, in windows of the model's length, every token predicted once."""
        texts = [request.args[0] for request in requests]
        windows, owners = [], []
        for number, ids in enumerate(self._encoder.encode(texts)):
            for window in get_rolling_token_windows(
                ids, self.prefix_token_id, self.max_length, context_len=1
            ):
                context, predicted = make_disjoint_window(window)
                windows.append((None, context, predicted))
                owners.append(number)
        totals = [0.0] * len(texts)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first of its stop sequences."""
        by_settings: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            by_settings.setdefault(repr(request.args[1]), []).append(number)
        texts = [""] * len(requests)
        for numbers in by_settings.values():
            arguments = [requests[number].args for number in numbers]
            found = self._generated([context for context, _ in arguments], arguments[0][1])
            for number, pair, text in zip(numbers, arguments, found, strict=True):
                texts[number] = text
                self.cache_hook.add_partial("generate_until", pair, text)
        return texts

    def _generated(self, contexts: list[str], settings: dict[str, Any]) -> list[str]:
        chosen: dict[str, Any] = dict(normalize_gen_kwargs(settings, self._max_gen_toks))
        if unused := sorted(chosen.keys() - _GENERATION):
            log.warning("generation does without %s, which jprune lacks", ", ".join(unused))
        tokenizer, new = self._checkpoint.tokenizer, chosen["max_gen_toks"]
        room = self.max_length - new
        if room < 1:
            raise InputError(
                f"{new} new tokens leave no room for a prompt in the {self.max_length} that the "
                "model reads; give a smaller max_gen_toks"
            )
        end = self.eot_token_id
        eos = None if end is None else tokenizer.decode([end], skip_special_tokens=False)
        until = handle_stop_sequences(chosen["until"], eos=eos)
        prompts = [ids[-room:] or [self.prefix_token_id] for ids in self._encoder.encode(contexts)]
        if self._layout is None:
            self._layout = decode_layout(self._llama)
        found = generate(
            self._layout, prompts, new, sampling=_sampling(chosen), batch_size=self.batch_size
        )
        texts = (tokenizer.decode(ids, skip_special_tokens=True) for ids in found)
        return [postprocess_generated_text(text, until, None) for text in texts]


def _sampling(settings: dict[str, Any]) -> Sampling:
    if not settings["do_sample"]:
        return Sampling()
    top_k: Any = int(settings.get("top_k") or 0) or None  # 0 means all
    return Sampling(
        float(settings.get("temperature", 1.0)), top_k, float(settings.get("top_p", 1.0))
    )


def main() -> int:
    """lm-eval's command line, which knows the model `jprune` now. Returns the exit status."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except InputError as error:
        print(f"jprune: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
