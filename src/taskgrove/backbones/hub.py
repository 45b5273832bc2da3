"""A hub name to a local folder, through the Hugging Face cache."""

from pathlib import Path

from taskgrove.errors import TaskgroveError

FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
OTHERS = ["*/*"]  # other formats lie in subfolders


def fetch(name: str) -> Path:
    """The folder of `owner/name`: from the cache when offline, else downloaded if it changed."""
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=FILES, ignore_patterns=OTHERS))
    except (OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else reason
        raise TaskgroveError(
            f'"{name}" cannot be opened: there is no folder of this name, it is not in the cache'
            f" {constants.HF_HUB_CACHE}, and the hub cannot be reached ({offline.rstrip('.')})."
        ) from error
