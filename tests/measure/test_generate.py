"""What the jobs of the suite `generate` do, and what they count."""

import jax
import numpy as np

from jprune.llama import decode_layout, generate
from jprune.measure import generate_jobs
from jprune.measure.ceilings import Ceilings
from tests.tiny import tiny


def test_jobs():
    llama = tiny()
    one, two = generate_jobs(llama, batches=(1, 2), prompt_length=6, new_tokens=3, seed=4)
    assert one.name == "3 tokens after 6, batch 1"
    rng = np.random.default_rng(4)
    first, both = (rng.integers(0, 97, (size, 6)).tolist() for size in (1, 2))
    assert one.run() == generate(llama, first, 3, stop=())
    assert two.run() == generate(llama, both, 3, stop=())
    # Eight tokens run through the blocks, the head for three of them: XLA counts the same, but for
    # attention to what is masked, and norms.
    weights = sum(x.size for x in jax.tree.leaves(llama.blocks) if x.ndim == 2)
    attention = 4 * 2 * 32 * sum(range(1, 9)) * 2
    assert one.flops == 8 * 2 * weights + attention + 3 * 2 * 97 * 32
    assert two.flops == 2 * one.flops


def test_a_step_reads_all_weights_but_the_embeddings():
    llama = tiny()
    (one,) = generate_jobs(llama, batches=(1,), new_tokens=3)
    read = sum(x.nbytes for x in jax.tree.leaves(llama)) - llama.embed.nbytes
    assert one.read_bytes == 3 * read
    tied = llama.replace(lm_head=None)
    (one,) = generate_jobs(tied, batches=(1,), new_tokens=3)
    assert one.read_bytes == 3 * sum(x.nbytes for x in jax.tree.leaves(tied))
    assert Ceilings(1e9, 1e6).limit(10, one.read_bytes) == one.read_bytes / 1e6


def test_the_layout_holds_the_same_weights():
    llama = tiny()
    layout = decode_layout(llama)
    sizes = [sum(x.size for x in jax.tree.leaves(one)) for one in (llama, layout)]
    assert sizes[0] == sizes[1]
