import huggingface_hub
import pytest
from huggingface_hub import errors

from jprune.checkpoints import load_checkpoint
from jprune.checkpoints.hub import is_hub_id
from jprune.core.errors import InputError
from jprune.llama import Origin


@pytest.fixture
def hub(monkeypatch):
    """A function that makes the hub answer with a folder or an error; keeps what was asked."""
    asked = []

    def answer(result):
        def snapshot_download(repo_id, **kwargs):
            asked.append((repo_id, kwargs))
            if isinstance(result, BaseException):
                raise result
            return str(result)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    return answer


def http_error(kind):
    # Its constructor wants the response of an HTTP library that differs between hub versions.
    return kind.__new__(kind)


def test_a_hub_model_is_a_folder_with_the_models_name(tmp_path, tiny, write, hub):
    asked = hub(write(tmp_path / "snapshots" / "0a1b2c", *tiny()))
    checkpoint = load_checkpoint("some-org/some-model_1.0")
    assert checkpoint.name == "some-model_1.0"
    assert checkpoint.llama.origins[2] == Origin("some-model_1.0", 2)
    assert asked[0][0] == "some-org/some-model_1.0"
    patterns = asked[0][1]["allow_patterns"]
    assert {"config.json", "*.safetensors", "tokenizer.json"} <= set(patterns)
    assert not any("bin" in p or "pth" in p or p == "*" for p in patterns)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (http_error(errors.RepositoryNotFoundError), "no such model on the Hugging Face Hub"),
        (http_error(errors.GatedRepoError), "org/model is gated.*accept its terms"),
        (errors.LocalEntryNotFoundError("offline\nmode"), r"cannot be downloaded .*\(offline\)"),
        (errors.OfflineModeIsEnabled("no network"), r"cannot be downloaded .*\(no network\)"),
        (ConnectionError(), r"cannot be downloaded .*\(ConnectionError\)"),
    ],
)
def test_failures_say_what_would_serve(hub, error, message):
    hub(error)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint("org/model")
    assert "or give a local folder that has its config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_reads_as_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert is_hub_id("org/model") and is_hub_id("a1/B_2.c-d")
    for name in ("model", "/org/model", "./model", "../model", "a/b/c", "gs://bucket/x", "~/m"):
        assert not is_hub_id(name), name
    # The folder exists, so that this is a misspelt path.
    assert not is_hub_id("models/model")


def test_a_misspelt_local_path_asks_nobody(tmp_path, monkeypatch, hub):
    asked = hub(RuntimeError("asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "llama-16m").mkdir(parents=True)
    with pytest.raises(InputError, match="did you mean models/llama-16m"):
        load_checkpoint("models/lama-16m")
    assert asked == []


def test_a_download_given_as_a_folder_keeps_the_models_name(tmp_path, tiny, write):
    folder = write(tmp_path / "models--org--tiny-llama" / "snapshots" / "0a1b2c", *tiny())
    checkpoint = load_checkpoint(folder)
    assert checkpoint.name == checkpoint.llama.origins[0].source == "tiny-llama"
    assert load_checkpoint(write(tmp_path / "snapshots" / "mine", *tiny())).name == "mine"
