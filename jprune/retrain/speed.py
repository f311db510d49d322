"""How fast a run goes: seconds, tokens per second, model FLOP utilisation."""

import time
from collections.abc import Callable

import jax

from jprune.core.devices import peak_flops
from jprune.core.mesh import current_mesh
from jprune.llama.flops import training_flops
from jprune.llama.model import Llama


class Speed:
    """The speed of steps, from when the one before was done, or this one begun if that is later.

    So the host's work counts where the device waits for it, and validation and checkpoints do not.
    The first step of each shape is compiled meanwhile.
    """

    def __init__(self, llama: Llama, trained: list[str], clock: Callable[[], float] | None = None):
        """Of training the parameters `trained` of `llama`; shapes are enough.

        Args:
          llama: the model.
          trained: names of what trains in it.
          clock: gives seconds.
        """
        self._model = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), llama)
        self._trained = trained
        self._clock = clock or time.perf_counter
        self._done = self._clock()
        self._flops: dict[tuple[int, int], int] = {}
        mesh = current_mesh()
        devices = jax.devices()[:1] if mesh is None else list(mesh.devices.flat)
        peak = peak_flops(devices[0])
        self._peak = None if peak is None else peak * len(devices)

    def now(self) -> float:
        """The clock's time."""
        return self._clock()

    def step(self, begun: float, windows: int, length: int) -> dict[str, float | None]:
        """`seconds`, `tokens_per_second` and `mfu` of a step that is just done.

        Args:
          begun: when the host began with it.
          windows: in the step.
          length: of a window; tokens are those of whole windows, padding included.
        """
        now = self._clock()
        seconds = max(now - max(begun, self._done), 1e-9)
        self._done = now
        tokens = windows * length
        mfu = None
        if self._peak is not None:
            mfu = self._step_flops(tokens, length) / seconds / self._peak
        return {"seconds": seconds, "tokens_per_second": tokens / seconds, "mfu": mfu}

    def _step_flops(self, tokens: int, length: int) -> int:
        if (tokens, length) not in self._flops:
            count = training_flops(self._model, self._trained, tokens, length)
            self._flops[tokens, length] = count
        return self._flops[tokens, length]
