"""Model FLOPs of a forward pass, from the shapes of the arrays that take part."""

from collections.abc import Collection

import jax

from jprune.llama.kernels import Kernel, Lora, kernel_shape
from jprune.llama.model import Block, Linear, Llama, Run
from jprune.llama.names import named_params


def kernel_params(kernel: Kernel) -> int:
    """Multiplications per token of x W, an adapter counted as folded."""
    rows, columns = kernel_shape(kernel)[-2:]
    return rows * columns


def block_flops(block: Block, length: int, sliding_window: int | None = None) -> int:
    """FLOPs per token of one block in windows of `length` tokens.

    2 per weight of each linear, plus 4 * seen * width of the queries for the two products of causal
    attention. A position sees min(i, w) others in a sliding window of w, all i before it without
    one: on average seen = w (length - (w - 1) / 2) / length, which is (length + 1) / 2 for
    w = length.
    """
    total = attention_flops(block, length, sliding_window)
    if block.attn is not None:
        attn = block.attn
        total += 2 * sum(kernel_params(part.kernel) for part in (attn.q, attn.k, attn.v, attn.o))
    if block.mlp is not None:
        mlp = block.mlp
        total += 2 * sum(kernel_params(part.kernel) for part in (mlp.gate, mlp.up, mlp.down))
    return total


def attention_flops(block: Block, length: int, sliding_window: int | None = None) -> int:
    """FLOPs per token of the two products of a block's attention; see `block_flops`."""
    if block.attn is None:
        return 0
    window = min(length, sliding_window or length)
    queries = kernel_shape(block.attn.q.kernel)[-1]
    return 2 * window * (2 * length - window + 1) * queries // length


def head_flops(llama: Llama) -> int:
    """FLOPs per token of the head."""
    head: Linear | None = llama.lm_head
    return 2 * (llama.embed.size if head is None else kernel_params(head.kernel))


def forward_flops(llama: Llama, tokens: int, length: int) -> int:
    """FLOPs of a forward pass over `tokens` tokens in windows of `length`, head included."""
    per_token = head_flops(llama)
    for part in llama.blocks:
        block, count = (part.block, len(part)) if isinstance(part, Run) else (part, 1)
        per_token += count * block_flops(block, length, llama.config.sliding_window)
    return tokens * per_token


def training_flops(llama: Llama, trained: Collection[str], tokens: int, length: int) -> int:
    """FLOPs of the forward and backward pass of a training step over `tokens` tokens.

    To the forward pass comes, from the last block down to the first that trains, as much again for
    the gradients of what its linears read and twice its attention's products; and 2 per token for
    every weight of a matrix that trains. Adapters cost 2 per number in the forward pass and for
    what they read. Recomputed activations do not count, nor do segments, which only let some
    kernels skip.

    Args:
      llama: arrays or their shapes.
      trained: the names of the parameters that train, by `jprune.llama.names.leaf_name`.
      tokens: in all windows, padding included.
      length: of a window.
    """
    window = llama.config.sliding_window
    named = named_params(llama)
    matrices = [n for n in trained if n.endswith((".kernel", ".a", ".b"))]
    head = "embed_tokens.embedding"
    if llama.lm_head is None and head in trained:
        matrices.append(head)
    per_token = 2 * head_flops(llama) + 2 * sum(named[name].size for name in matrices)
    reached = head in trained
    for index, part in enumerate(llama.blocks):
        block, layers = (part.block, len(part)) if isinstance(part, Run) else (part, 1)
        reached = reached or any(name.startswith(f"layers.{index}.") for name in trained)
        forward = block_flops(block, length, window)
        backward = forward + attention_flops(block, length, window)
        per_token += layers * (forward + reached * backward) + (1 + reached) * _adapters(part)
    return tokens * per_token


def _adapters(part: Block | Run) -> int:
    """2 for every number of the adapters of a block, or of all blocks of a run."""
    nodes = jax.tree.leaves(part, is_leaf=lambda x: isinstance(x, Lora))
    return 2 * sum(x.a.size + x.b.size for x in nodes if isinstance(x, Lora))
