"""From the name of a model to files on disk: the embedded demo, a folder, a file, or a Hugging Face hub id.

Downloads take an allow-list of names only: weights in safetensors and the small JSON files. Pickle files and code are never
fetched. ``huggingface_hub`` itself honours HF_ENDPOINT, HF_TOKEN, HTTPS_PROXY and HF_HUB_CACHE, and resumes what was interrupted.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tritserve.errors import ModelFileError
from tritserve.model.cache import load_or_convert

__all__ = ["ALLOWED_NAMES", "DEMO_CHECKPOINT", "load_or_convert", "pull", "resolve"]

DEMO_CHECKPOINT = Path(__file__).parent.parent / "demo" / "checkpoint"
ALLOWED_NAMES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
)
_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[\w.-]{1,100}))?")


def resolve(model: str, *, cache_dir: Path, offline: bool = False) -> Path:
    """Return the checkpoint folder or ``.trit`` file that ``model`` names, downloading a hub id that is not here yet.

    ``demo``, a path, or ``owner/name`` with an optional ``@revision``. Raises ModelFileError saying what to do.
    """
    if model == "demo":
        return DEMO_CHECKPOINT
    path = Path(model)
    if os.path.lexists(path):
        return path
    if not _HUB_ID.fullmatch(model):
        raise ModelFileError(
            f"model {model[:200]!r} is neither an existing folder or file nor a hub id (owner/name), nor 'demo'"
        )
    found = _local_snapshot(model, cache_dir)
    if found is not None:
        return found
    if offline:
        raise ModelFileError(
            f"model {model} is not on this machine and offline mode is on: run `tritserve pull {model}` with a network first"
        )
    return pull(model, cache_dir=cache_dir)


def pull(model: str, *, cache_dir: Path, offline: bool = False) -> Path:
    """Download a hub id (``owner/name`` or ``owner/name@revision``) and return its snapshot folder. Raises ModelFileError."""
    repo, revision = _parse_id(model)
    if offline:
        raise ModelFileError(f"cannot download {repo}: offline mode is on")
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(
            repo, revision=revision, cache_dir=_download_folder(cache_dir), allow_patterns=list(ALLOWED_NAMES)
        )
    except errors.GatedRepoError as error:
        raise ModelFileError(
            f"{repo} asks for its terms to be accepted on the hub, and for HF_TOKEN to be set"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelFileError(f"the hub has no model {repo}, or it is private and HF_TOKEN is not set") from error
    except errors.RevisionNotFoundError as error:
        raise ModelFileError(f"{repo} has no revision {revision}") from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelFileError(
            f"cannot download {repo}: the hub cannot be reached. Check the network, HTTPS_PROXY and HF_ENDPOINT, or copy the "
            "checkpoint here and give its folder"
        ) from error
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise ModelFileError(f"cannot download {repo}: {error}") from error
    return Path(folder)


def _local_snapshot(model: str, cache_dir: Path) -> Path | None:
    repo, revision = _parse_id(model)
    from huggingface_hub import constants, errors, snapshot_download

    for folder in (Path(constants.HF_HUB_CACHE), _download_folder(cache_dir)):
        if not folder.is_absolute() or not folder.is_dir():
            continue
        try:
            snapshot = snapshot_download(repo, revision=revision, cache_dir=folder, local_files_only=True)
        except (errors.LocalEntryNotFoundError, OSError, ValueError):
            continue
        if (Path(snapshot) / "config.json").exists():
            return Path(snapshot)
    return None


def _download_folder(cache_dir: Path) -> Path:
    return cache_dir.absolute() / "hub"


def _parse_id(model: str) -> tuple[str, str | None]:
    match = _HUB_ID.fullmatch(model)
    if match is None:
        raise ModelFileError(f"hub id is {model[:200]!r}, expected owner/name or owner/name@revision")
    return match["repo"], match["revision"]
