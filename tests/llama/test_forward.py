"""The forward pass against a plain NumPy one and against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.llama import forward as forward_eagerly
from jprune.llama import hidden_states, named_params, stack, to_params, unembed
from tests.tiny import ROPES, tiny, windows

forward = jax.jit(forward_eagerly)

FORMS = {
    "plain": {},
    "one_kv_head": {"num_key_value_heads": 1},
    "full_heads": {"num_key_value_heads": 4},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "output_bias": True, "mlp_bias": True},
    "wide_heads": {"head_dim": 12},
}


def numpy_logits(llama, ids):
    """Section by section from the published formulas, in float64, one window at a time."""
    config, p = llama.config, jax.tree.map(lambda x: np.asarray(x, np.float64), to_params(llama))
    width, theta = config.head_dim, config.rope.theta

    def norm(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps) * weight

    def affine(x, layer):
        return x @ layer["kernel"] + layer.get("bias", 0)

    def rotate(x):  # [length, heads, width]
        out = np.empty_like(x)
        for position in range(len(x)):
            for i in range(width // 2):
                angle = position * theta ** (-2 * i / width)
                a, b = x[position, :, i], x[position, :, i + width // 2]
                out[position, :, i] = a * np.cos(angle) - b * np.sin(angle)
                out[position, :, i + width // 2] = b * np.cos(angle) + a * np.sin(angle)
        return out

    def attention(x, layer):
        length = len(x)
        q, k, v = (
            affine(x, layer[f"{n}_proj"]).reshape(length, -1, width) for n in ("q", "k", "v")
        )
        q, k = rotate(q), rotate(k)
        out = np.zeros_like(q)
        for head in range(q.shape[1]):
            kv = head // (q.shape[1] // k.shape[1])
            for position in range(length):
                scores = k[: position + 1, kv] @ q[position, head] / np.sqrt(width)
                weights = np.exp(scores - scores.max())
                out[position, head] = weights / weights.sum() @ v[: position + 1, kv]
        return affine(out.reshape(length, -1), layer["o_proj"])

    def mlp(x, layer):
        gate = affine(x, layer["gate_proj"])
        return affine(gate / (1 + np.exp(-gate)) * affine(x, layer["up_proj"]), layer["down_proj"])

    logits = []
    for window in ids:
        h = p["embed_tokens"]["embedding"][window]
        for index in range(len(p["layers"])):
            layer = p["layers"][str(index)]
            h = h + attention(norm(h, layer["input_layernorm"]["weight"]), layer["self_attn"])
            h = h + mlp(norm(h, layer["post_attention_layernorm"]["weight"]), layer["mlp"])
        h = norm(h, p["norm"]["weight"])
        head = p["lm_head"]["kernel"] if "lm_head" in p else p["embed_tokens"]["embedding"].T
        logits.append(h @ head)
    return np.stack(logits)


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_those_of_the_formulas(form):
    llama = tiny(2, **FORMS[form])
    ids = windows(2, 9)
    logits = forward(llama, ids)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, numpy_logits(llama, ids), atol=2e-4, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 7, 32])
def test_stacked_and_tuple_forms_agree(length):
    llama, ids = tiny(3), windows(2, length)
    np.testing.assert_allclose(forward(stack(llama), ids), forward(llama, ids), atol=1e-5, rtol=0)


def test_a_removed_sublayer_adds_nothing():
    llama, ids = tiny(2), windows(2, 8)
    first, second = llama.blocks
    bare = llama.replace(blocks=(first.replace(attn=None, attn_norm=None), second))
    silent = first.attn.replace(o=first.attn.o.replace(kernel=0 * first.attn.o.kernel))
    silenced = llama.replace(blocks=(first.replace(attn=silent), second))
    np.testing.assert_allclose(forward(bare, ids), forward(silenced, ids), atol=1e-6, rtol=0)
    assert np.abs(forward(bare, ids) - forward(llama, ids)).max() > 1e-2


def test_positions_see_nothing_that_comes_later():
    llama, ids = tiny(2), windows(1, 12)
    changed = ids.copy()
    changed[0, 7:] = (changed[0, 7:] + 1) % 97
    before, after = forward(llama, ids), forward(llama, changed)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before[:, 7:] - after[:, 7:]).max() > 1e-2


def test_remat_changes_no_gradient():
    llama, ids = tiny(2), windows(2, 8)

    def loss(llama, remat):
        return unembed(llama, hidden_states(llama, ids, remat=remat)).std()

    plain, again = (
        jax.jit(jax.grad(loss), static_argnums=1)(llama, remat) for remat in (False, True)
    )
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_stays_close_and_gives_float32_logits(dtype):
    llama, ids = tiny(2), windows(2, 8)
    half = jax.tree.map(lambda x: x.astype(dtype), llama)
    logits = forward(half, ids)
    assert logits.dtype == jnp.float32
    assert hidden_states(half, ids).dtype == dtype
    exact = forward(llama, ids)
    assert np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


def transformers_model(llama, rope_parameters):
    """The same weights in transformers' own class."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = llama.config
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=llama.num_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.rms_norm_eps,
            max_position_embeddings=config.max_position_embeddings,
            tie_word_embeddings=config.tie_word_embeddings,
            attention_bias=config.attention_bias,
            mlp_bias=config.mlp_bias,
            rope_parameters=rope_parameters,
        )
    ).eval()
    state = {}
    for name, array in named_params(llama).items():
        tensor = torch.tensor(np.array(array))
        name = name.replace("embedding", "weight")
        if name.endswith("kernel"):
            name, tensor = name.replace("kernel", "weight"), tensor.T
        state[name if name.startswith("lm_head") else f"model.{name}"] = tensor
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state)
    return theirs


@pytest.mark.parity
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rope", ROPES)
def test_logits_are_those_of_transformers(form, rope):
    torch = pytest.importorskip("torch")
    llama = tiny(2, rope=ROPES[rope], **FORMS[form])
    r = ROPES[rope]
    parameters = {"rope_type": "default", "rope_theta": r.theta}
    if r.kind == "linear":
        parameters |= {"rope_type": "linear", "factor": r.factor}
    if r.kind == "llama3":
        parameters |= {
            "rope_type": "llama3",
            "factor": r.factor,
            "low_freq_factor": r.low_freq_factor,
            "high_freq_factor": r.high_freq_factor,
            "original_max_position_embeddings": r.original_max_position_embeddings,
        }
    ids = windows(2, 61)
    with torch.no_grad():
        theirs = transformers_model(llama, parameters)(torch.tensor(ids)).logits.numpy()
    assert np.abs(theirs).max() > 1
    np.testing.assert_allclose(forward(llama, ids), theirs, atol=2e-4, rtol=0)
