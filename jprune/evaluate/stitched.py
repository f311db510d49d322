"""The loss of models stitched together from several, without building them.

Layer by layer: a block is made of the sources' where it is not one of them, all windows run through
it, and it is let go. Its program and that of mixing are compiled once for all candidates. Those
that begin alike share the residual streams there.
"""

import hashlib
from collections.abc import Collection, Hashable, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jprune.core.mesh import batch_parts, paced, put_batch
from jprune.core.processes import to_host
from jprune.evaluate.batches import batched, window_batch_size
from jprune.evaluate.candidates import MAX_STATE_BYTES
from jprune.evaluate.perplexity import check_windows
from jprune.evaluate.plans import Candidate, Plan, Removal, candidate_of
from jprune.evaluate.prefixes import Prefixes, States, default_limit
from jprune.evaluate.sources import Sources
from jprune.llama.blockwise import advance, nll_sums, start
from jprune.llama.forward import Context
from jprune.llama.kernels import ArrayLike
from jprune.llama.model import Block, Llama


class StitchedModels:
    """Models that plans stitch together from a base and its variants, all on the device.

    >>> models = StitchedModels(base, [math, code, chat])
    >>> models.nll(StitchPlan.from_json([{"layer": 0}, {"layer": 2, "variants": [0, 1]}]), ids)
    >>> StitchedModels(llama).nll(Removal(gates), ids)

    The results are those of `stitch_models(plan, base, variants)` up to rounding.
    """

    def __init__(self, base: Llama, variants: Sequence[Llama] = (), *, memory: int | None = None):
        """The sources go to the device, or are split over the ambient mesh.

        Args:
          base: its config and dtypes are those of all candidates.
          variants: in the order of the plans; such that `check_mergeable` finds no fault with.
          memory: bytes of each device for residual streams of earlier candidates, 0 for none; by
            default half of what is free once the sources are there (1 GiB on CPUs).

        Raises:
          InputError: variants whose tensors are not those of the base.
        """
        self._sources = Sources.of(base, variants)
        self._prefixes = Prefixes(default_limit() if memory is None else memory)
        self._checked: set[str] = set()

    def nll(
        self,
        plan: Plan | Removal,
        ids: Int[np.ndarray, "windows length"],
        *,
        batch_size: int | None = None,
    ) -> Float[np.ndarray, " windows"]:
        """The mean next-token NLL of each window under one candidate; see `nlls`."""
        return self.nlls([plan], ids, batch_size=batch_size)[0]

    def nlls(
        self,
        plans: Sequence[Plan | Removal],
        ids: Int[np.ndarray, "windows length"],
        *,
        batch_size: int | None = None,
    ) -> Float[np.ndarray, "candidates windows"]:
        """The mean next-token NLL of each window under each candidate, in nats/token, float32.

        NaN and infinities are passed on. The order of the candidates does not matter, and what was
        run before changes no bit of the results.

        Args:
          plans: what the candidates are.
          ids: token windows, at least 2 tokens each.
          batch_size: windows per step; by default what suits the device.

        Raises:
          InputError: a plan that does not fit the sources; no windows, windows of a single token,
            or ids outside the vocabulary.
        """
        ids = np.ascontiguousarray(ids, np.int32)
        self._check(ids)
        found = [candidate_of(plan, self._sources.there, len(self._sources)) for plan in plans]
        size = batch_size or window_batch_size(ids.shape)
        nll = np.empty((len(found), len(ids)), np.float32)
        each = size * self._batches_at_a_time(size * ids.shape[1])
        for first in range(0, len(ids) if found else 0, each):
            part = ids[first : first + each]
            sums = self._part_sums(found, part, size)
            nll[:, first : first + each] = sums[:, : len(part)] / (ids.shape[1] - 1)
        return nll

    def forget(self) -> None:
        """Lets all residual streams of earlier candidates go."""
        self._prefixes.clear()

    def _check(self, ids: np.ndarray) -> None:
        key = _digest(ids)
        if key not in self._checked:
            check_windows(self._sources.all_ends[0], ids)
            self._checked.add(key)

    def _batches_at_a_time(self, tokens: int) -> int:
        """Of so many tokens each: all of them run through a block before the next is made."""
        embed = self._sources.all_ends[0].embed
        return max(1, batch_parts() * MAX_STATE_BYTES // (tokens * embed[0].nbytes))

    def _part_sums(
        self, candidates: Sequence[Candidate], ids: Int[np.ndarray, "windows length"], size: int
    ) -> Float[np.ndarray, "candidates filled"]:
        """The summed NLL of each window, filling included, in float64."""
        batches = [put_batch(batch) for batch in batched(ids, size)]
        windows = (_digest(ids), size)
        sums: dict[int, list[Array]] = {}
        order = _lexical(candidates)
        wanted = _branches([candidates[index] for index in order])
        for index, depths in zip(order, wanted, strict=True):
            sums[index] = self._sums(windows, candidates[index], batches, depths)
        rows = (sums[index] for index in range(len(candidates)))
        return np.stack([np.concatenate([*map(to_host, row)]) for row in rows]).astype(np.float64)

    def _sums(
        self,
        windows: tuple[Hashable, ...],
        candidate: Candidate,
        batches: Sequence[ArrayLike],
        wanted: Collection[int],
    ) -> list[Float[Array, " batch"]]:
        """Those of one candidate, per batch; later ones begin with so many of its layers."""
        mixture, steps = candidate
        ends, where = self._sources.ends(mixture), (*windows, mixture)
        done, states = self._prefixes.longest(where, steps)
        first, ctx = start(ends, batches[0])
        if states is None:
            states = [paced(first), *(paced(start(ends, batch)[0]) for batch in batches[1:])]
        spacing = self._prefixes.spacing(len(steps), states)
        for depth, step in enumerate(steps[done:], done + 1):
            states = _through(self._sources.block(step), states, ctx)
            if depth % spacing == 0 or depth in wanted:
                self._prefixes.keep(where, steps[:depth], states)
        self._prefixes.touch(where, steps)
        return [paced(nll_sums(ends, *pair)) for pair in zip(states, batches, strict=True)]


def _through(block: Block, states: States, ctx: Context) -> States:
    """The residual streams after a block."""
    after = [paced(advance(block, h, ctx)) for h in states]
    # With the host further ahead, the blocks made for many layers would be on the device at once.
    jax.block_until_ready(states)
    return after


def _lexical(candidates: Sequence[Candidate]) -> list[int]:
    """Their order, so that those with the longest common beginning are neighbours."""
    numbers: dict[Hashable, int] = {}

    def key(index: int) -> list[int]:
        ends, steps = candidates[index]
        return [numbers.setdefault(part, len(numbers)) for part in (ends, *steps)]

    return sorted(range(len(candidates)), key=key)


def _branches(candidates: Sequence[Candidate]) -> list[set[int]]:
    """For each of candidates in lexical order, the depths at which later ones leave its path."""
    found: list[set[int]] = [set() for _ in candidates]
    for at in range(len(candidates) - 2, -1, -1):
        common = _in_common(candidates[at], candidates[at + 1])
        found[at] = {common, *(min(common, depth) for depth in found[at + 1])}
    return found


def _in_common(one: Candidate, other: Candidate) -> int:
    """With how many equal layers two candidates begin."""
    if one[0] != other[0]:
        return 0
    pairs = enumerate(zip(one[1], other[1], strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one[1]), len(other[1])))


def _digest(ids: Int[np.ndarray, "windows length"]) -> str:
    return f"{ids.shape}:{hashlib.blake2b(ids.tobytes(), digest_size=16).hexdigest()}"
