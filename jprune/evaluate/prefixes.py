"""Residual streams after the first layers of candidates, for others that begin with the same."""

import collections
from collections.abc import Hashable, Sequence

import jax
from jaxtyping import Array, Float

from jprune.checkpoints.placement import bytes_per_device, default_device, free_bytes
from jprune.core.mesh import current_mesh
from jprune.core.processes import on_writer

# Of the memory that devices have free once the sources are there, or where they do not say (CPUs).
SHARE = 0.5
DEFAULT_BYTES = 2**30
# Where not all streams of so many candidates fit, only those after every so many layers are kept.
CANDIDATES = 4

# One for each batch of windows.
States = list[Float[Array, "batch length hidden"]]


class Prefixes:
    """Residual streams by what was run on which windows; the least recently used go first.

    Attributes:
      limit: bytes that they may take on each device; 0 keeps none.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._held: collections.OrderedDict[Hashable, tuple[States, int]] = (
            collections.OrderedDict()
        )
        self._bytes = 0

    def longest(self, where: Hashable, steps: Sequence[Hashable]) -> tuple[int, States | None]:
        """How many of `steps` need not run on the windows of `where`, and the streams after them.

        (0, None) where nothing fits.
        """
        for depth in range(len(steps), 0, -1):
            found = self._held.get((where, tuple(steps[:depth])))
            if found is not None:
                return depth, found[0]
        return 0, None

    def spacing(self, depth: int, states: States) -> int:
        """After every how many layers to keep streams of candidates of `depth` layers."""
        needed = CANDIDATES * depth * bytes_per_device(states)
        return max(1, -(-needed // self.limit)) if self.limit else depth + 1

    def keep(self, where: Hashable, steps: Sequence[Hashable], states: States) -> None:
        """Keeps the streams after `steps`, if they fit at all."""
        key, size = (where, tuple(steps)), bytes_per_device(states)
        if key in self._held or size > self.limit:
            return
        while self._bytes + size > self.limit:
            _, (_, freed) = self._held.popitem(last=False)
            self._bytes -= freed
        self._held[key] = states, size
        self._bytes += size

    def touch(self, where: Hashable, steps: Sequence[Hashable]) -> None:
        """All that is kept of a candidate is now used last, the shortest prefix after the longer.

        More candidates share a short one.
        """
        for depth in range(len(steps), 0, -1):
            key = (where, tuple(steps[:depth]))
            if key in self._held:
                self._held.move_to_end(key)

    def clear(self) -> None:
        """Keeps nothing any more."""
        self._held.clear()
        self._bytes = 0


def default_limit() -> int:
    """The bytes of each device for a cache, the same in all processes."""
    mesh = current_mesh()
    devices = [default_device()] if mesh is None else list(mesh.devices.flat)
    free = [free_bytes(one) for one in devices if one.process_index == jax.process_index()]
    known = [size for size in free if size is not None]
    return on_writer(lambda: int(SHARE * min(known)) if known else DEFAULT_BYTES)
