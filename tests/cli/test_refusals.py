"""What users get wrong: status 2, one line that names it, and nothing written."""

import json
import shutil

import numpy as np
import pytest

from jprune.checkpoints import placement


@pytest.fixture
def workplace(tmp_path, monkeypatch, model, text):
    """An empty folder to work in, with M, the model, and t.txt, the text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "M").symlink_to(model)
    (tmp_path / "t.txt").symlink_to(text)
    return tmp_path


SCORES = {
    "criterion": "c",
    "granularity": "block",
    "scores": [1.0, 2.0, 3.0, 4.0],
    "order": [0, 1, 2, 3],
}
SCORES["units"] = [{"layer": layer, "part": "block"} for layer in range(4)]

NAMES = [
    ("score --model=M --data=t.txt --criterion=taylr", "'taylr'; did you mean 'taylor'?"),
    ("score --model=M --data=t.txt --criterion=no_such:f", "cannot import the criterion 'no_such"),
    ("score --model=M --data=t.txt --granularity=blok", "did you mean --granularity=block?"),
    ("score --model=M --data=t.txt --sample=streem", "did you mean --sample=stream?"),
    ("eval --model=M --data=t.txt --protocol=shorten", "did you mean --protocol=shortened?"),
    ("eval --model=M --data=t.txt --dtype=float8", "unknown dtype 'float8'"),
    ("export --model=M --out=o --to=peft", "unknown value: --to=peft (one of hf, orbax)"),
    ("prune --model=M --out=o --blocks=1 --to=onnx", "unknown value: --to=onnx (one of hf, orbax)"),
]
MISSING = [
    ("score --data=t.txt", "--model=... is missing"),
    ("score --model=M", "--data=... is missing"),
    ("eval --model=M", "--data=... or --tasks=... is missing"),
    ("export --model=M", "--out=... is missing: folder for the exported model"),
    ("apply --out=o", "--recipe=... is missing"),
    ("prune --model=M --out=o", "say what to drop: either --blocks=21-24"),
    ("prune --model=M --out=o --scores=s.json", "--scores goes with --remove=N"),
    ("prune --model=M --out=o --blocks=1 --remove=2", "--remove goes with --scores=s.json"),
    ("prune --model=M --out=o --blocks=1 --scores=s.json --remove=2", "say what to drop: either"),
    ("eval --model=MM --data=t.txt", "no such checkpoint: MM; did you mean M?"),
    ("eval --model=t.txt --data=t.txt", "t.txt is a file; give the folder"),
    ("eval --model=M --data=absent.txt", "absent.txt"),
    ("prune --model=M --out=o --scores=absent.json --remove=1", "no such file: absent.json"),
    ("apply --recipe=absent.json --out=o", "no such file: absent.json"),
]
MODEL = [
    ("prune --model=M --out=o --blocks=0-3", "removing all 4 blocks leaves no model"),
    ("prune --model=M --out=o --blocks=4", "layer 4 is outside this model"),
    ("prune --model=M --out=o --blocks=2-1", "the range of layers '2-1' runs backwards"),
    ("prune --model=M --out=o --blocks=one", "cannot read 'one' as layers"),
    ("prune --model=M --out=o --scores=s.json --remove=4", "removing 4 of 4 units would leave no"),
    ("prune --model=M --out=o --scores=s.json --remove=-1", "-1 is not a non-negative integer"),
    ("prune --model=M --out=o --scores=s3.json --remove=1", "they are of another model"),
    ("prune --model=M --out=o --scores=bad.json --remove=1", "this is no file of scores"),
    ("score --model=M --data=t.txt --protect=0,9", "layer 9 is outside this model"),
    ("score --model=M --data=t.txt --remove=2", "an option of angular and greedy"),
    ("score --model=M --criterion=last --power=2", "an option of magnitude and taylor"),
    ("export --model=M --to=orbax --strict --out=o", "--strict is for --to=hf"),
    ("apply --recipe=bad.json --out=o", "this is no recipe"),
    ("apply --recipe=op.json --out=o", "unknown op 'drop_block'; did you mean 'drop_blocks'?"),
    ("apply --recipe=new.json --out=o", "version 2"),
    ("apply --recipe=none.json --out=o", "none.json names 0 sources"),
]
DATA = [
    ("eval --model=M --data=t.txt --num_windows=9999", "too few windows: t.txt holds"),
    ("score --model=M --data=t.txt --num_windows=999 --sample=first", "too few windows"),
    ("eval --model=M --data=big.npz:ids", "outside the model's vocabulary of 300"),
    ("eval --model=M --data=big.npz:idz", "ids"),
    ("eval --model=bare --data=t.txt", "the model has no tokenizer, so t.txt cannot"),
]
OUT = [
    ("eval --model=M --data=t.txt --out=.", "--out=. is a folder; give the name of a JSON file"),
    ("prune --model=M --blocks=1 --out=M", "--out=M would overwrite the model"),
    ("export --model=home/m --out=home", "--out=home would overwrite the model"),
    ("export --model=M --out=home", "home exists and holds files that jprune did not write"),
    ("export --model=M --out=bare", "bare exists and holds files that jprune did not write"),
    ("prune --model=no/such --blocks=1 --out=bare", "bare exists and holds files that jprune did"),
    ("export --model=M --out=t.txt", "t.txt is a file"),
    ("export --model=M --out=t.txt/o", "cannot write"),
]


@pytest.mark.parametrize(("call", "message"), NAMES + MISSING + MODEL + DATA + OUT)
def test_refused(refused, workplace, call, message):
    for name, content in {
        "s.json": SCORES,
        "s3.json": SCORES
        | {"units": SCORES["units"][:3], "scores": [1.0, 2.0, 3.0], "order": [0, 1, 2]},
        "bad.json": {"a": 1},
        "op.json": {"version": 1, "sources": [], "steps": [{"op": "drop_block", "args": {}}]},
        "new.json": {"version": 2, "sources": [], "steps": []},
        "none.json": {"version": 1, "sources": [], "steps": []},
    }.items():
        (workplace / name).write_text(json.dumps(content))
    np.savez(workplace / "big.npz", ids=np.full((2, 8), 300))
    for copy in ("bare", "home/m"):
        shutil.copytree(workplace / "M", workplace / copy)
    for file in (workplace / "bare").glob("tokenizer*"):
        file.unlink()
    (workplace / "bare" / "recipe.json").unlink()  # as downloaded models are
    before = set(workplace.rglob("*"))
    assert message in refused(*call.split())
    assert set(workplace.rglob("*")) == before


@pytest.fixture
def damaged(workplace):
    """A copy D of the model to be damaged."""
    shutil.copytree(workplace / "M", workplace / "D")
    return workplace / "D"


def change_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def garble(folder):
    file = folder / "model.safetensors"
    file.write_bytes(b"\xff" * 64 + file.read_bytes()[64:])


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (truncate, ["D/model.safetensors", "model."]),
        (garble, ["D/model.safetensors"]),
        (lambda d: (d / "model.safetensors").unlink(), ["safetensors"]),
        (lambda d: (d / "config.json").write_text("{"), ["D/config.json"]),
        (lambda d: change_config(d, architectures=["GPT2LMHeadModel"], model_type="gpt2"),
         ["GPT2LMHeadModel", "jprune reads Llama"]),
        (lambda d: change_config(d, vocab_size=301), ["embed_tokens", "[300, 32]", "[301, 32]"]),
        (lambda d: change_config(d, num_hidden_layers=5), ["model.layers.4.", "missing"]),
        (lambda d: change_config(d, num_hidden_layers=3), ["model.layers.3.", "layer"]),
        (lambda d: change_config(d, rope_scaling={"rope_type": "spiral", "factor": 2.0},
                                 rope_parameters=None), ["spiral"]),
    ],
    ids=["truncated", "garbled", "no weights", "config cut", "architecture", "vocabulary",
         "layer missing", "layer too many", "rope"],
)  # fmt: skip
@pytest.mark.parametrize(
    "call", ["eval --model=D --data=t.txt --out=o.json", "prune --model=D --blocks=1 --out=o"]
)
def test_damaged_models(refused, workplace, damaged, damage, messages, call):
    damage(damaged)
    before = set(workplace.rglob("*"))
    message = refused(*call.split())
    for part in messages:
        assert part in message
    assert set(workplace.rglob("*")) == before


def test_model_that_does_not_fit(refused, workplace, monkeypatch):
    monkeypatch.setattr(placement, "free_bytes", lambda device: 50_000)
    message = refused("export", "--model=M", "--out=o")
    assert message.startswith("no room for M: its parameters take 0.00 GB on")
    assert not (workplace / "o").exists()
