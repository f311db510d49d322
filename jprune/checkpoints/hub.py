"""Models of the Hugging Face Hub as local folders."""

import os
import re

from etils import epath

from jprune.checkpoints.tokenizer import COMPANIONS
from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    *COMPANIONS,
]
# Other copies of the weights: training checkpoints in subfolders, and Mistral's own format.
_NOT = ["*/*.safetensors", "*/*.safetensors.index.json", "consolidated*"]


def is_hub_id(name: PathLike) -> bool:
    """Whether `name` reads as `organisation/model` and not as a local path."""
    text = os.fspath(name)
    return _HUB_ID.fullmatch(text) is not None and not as_path(text).parent.exists()


def download(hub_id: str, revision: str | None = None) -> epath.Path:
    """The folder with a Hub model's config, safetensors and tokenizer, downloaded if need be.

    Args:
      hub_id: of a model or of an adapter, whose base is not looked for.
      revision: branch, tag or commit; None for the main branch.

    Raises:
      InputError: the model does not exist, is gated, or cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import errors

    local = "or give a local folder that has its config.json and safetensors"
    try:
        return as_path(
            huggingface_hub.snapshot_download(
                hub_id, revision=revision, allow_patterns=_FILES, ignore_patterns=_NOT
            )
        )
    except errors.GatedRepoError:
        raise InputError(
            f"{hub_id} is gated on the Hugging Face Hub: accept its terms there and log in "
            f"(hf auth login), {local}"
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise InputError(
            f"no local folder {hub_id} and no such model on the Hugging Face Hub "
            f"(a private one needs hf auth login): check the name, {local}"
        ) from None
    except Exception as error:  # HTTP libraries differ between versions of the hub's client
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"no local folder {hub_id}, and it cannot be downloaded from the Hugging Face Hub "
            f"({reason[:200]}): connect to the network, {local}"
        ) from error


def model_name(folder: epath.Path) -> str:
    """The name of the model in `folder`: the folder's own, or that of a Hub download's model.

    >>> model_name(epath.Path("hub/models--org--llama/snapshots/0a1b2c"))
    'llama'
    """
    folder = folder if folder.name else folder.resolve()
    cached = folder.parent.parent.name
    if folder.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.rsplit("--", 1)[-1]
    return folder.name
