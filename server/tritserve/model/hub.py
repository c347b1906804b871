"""From the name of a model to files on disk: the embedded demo, a folder, a file, or a Hugging Face hub id.

``find_local`` reads the hub cache's documented layout itself, so that serving never imports ``huggingface_hub``: a library that
opens connections, and half a second of start. ``download`` is for a process of its own. It takes an allow-list of names only:
weights in safetensors and the small JSON files; pickle files and code are never fetched. ``huggingface_hub`` itself honours
HF_ENDPOINT, HF_TOKEN and HTTPS_PROXY, and resumes what was interrupted.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tritserve.errors import ModelFileError
from tritserve.model.files import read_small

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["ALLOWED_NAMES", "DEMO_CHECKPOINT", "download", "download_folder", "find_local", "is_hub_id"]

DEMO_CHECKPOINT = Path(__file__).parent.parent / "demo" / "checkpoint"
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
)
ALLOWED_NAMES = (*SMALL_FILES, "model.safetensors", "model-*-of-*.safetensors")
_NEEDED_NAMES = ("config.json", "tokenizer.json")
_INDEX_NAME = "model.safetensors.index.json"
_MAX_INDEX_BYTES = 8 * 1024 * 1024
_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[\w.-]{1,100}))?")


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


def is_hub_id(model: str) -> bool:
    """Whether ``model`` names a model on the hub (``owner/name`` or ``owner/name@revision``) and nothing on this machine."""
    return model != "demo" and not os.path.lexists(model) and _HUB_ID.fullmatch(model) is not None


def find_local(model: str, hub_folders: Iterable[Path]) -> Path | None:
    """Return the checkpoint folder or ``.trit`` file that ``model`` names; None for a hub id that is not here, or not whole.

    ``hub_folders``: hub caches to look in, in order. Raises ModelFileError for a name that is neither here nor a hub id.
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
    repo, revision = _parse_id(model)
    for folder in hub_folders:
        snapshot = _snapshot(folder / ("models--" + repo.replace("/", "--")), revision or "main")
        if snapshot is not None:
            return snapshot
    return None


def download_folder(cache_dir: Path) -> Path:
    """Return where ``download`` puts what it fetches: a hub cache inside ours."""
    return cache_dir.absolute() / "hub"


def download(
    model: str, folder: Path, *, before_weights: Callable[[Path, int], None] | None = None, quiet: bool = False
) -> Path:
    """Download a hub id into the hub cache ``folder`` and return its snapshot folder; what is there already is not fetched again.

    The small files come first; then ``before_weights(snapshot, missing bytes)`` may raise, so that a model that cannot be served, or has
    no room, is refused before its gigabytes travel. Raises ModelFileError.
    """
    repo, revision = _parse_id(model)
    from huggingface_hub import HfApi, errors, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if quiet:
        disable_progress_bars()
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or [] if _is_allowed(file.rfilename)}
        _require_names(repo, sizes, [file.rfilename for file in info.siblings or []])
        snapshot = Path(snapshot_download(repo, revision=revision, cache_dir=folder, allow_patterns=list(SMALL_FILES)))
        missing = sum(count for name, count in sizes.items() if not (snapshot / name).exists())
        if before_weights is not None:
            before_weights(snapshot, missing)
        snapshot = Path(
            snapshot_download(repo, revision=revision, cache_dir=folder, allow_patterns=list(ALLOWED_NAMES))
        )
    except ModelFileError:
        raise
    except errors.GatedRepoError as error:
        raise ModelFileError(
            f"{repo} asks for its terms to be accepted on the hub, and for HF_TOKEN to be set"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelFileError(f"the hub has no model {repo}, or it is private and HF_TOKEN is not set") from error
    except errors.RevisionNotFoundError as error:
        raise ModelFileError(f"{repo} has no revision {revision}") from error
    except errors.HfHubHTTPError as error:
        raise ModelFileError(f"cannot download {repo}: the hub says: {error}") from error
    except (
        Exception
    ) as error:  # the library's transport, and with it the errors of an absent network, changes between versions
        raise ModelFileError(
            f"cannot download {repo}: {_first_line(error)}. Check the network, HTTPS_PROXY and HF_ENDPOINT, or copy the "
            "checkpoint here and give its folder"
        ) from error
    if not _is_whole(snapshot):
        raise ModelFileError(
            f"{repo}: the download is incomplete; run the same command again, it goes on where it stopped"
        )
    return snapshot


def _snapshot(repo_folder: Path, revision: str) -> Path | None:
    """Return the snapshot of a branch, a tag or a commit in a repository's cache folder, if it is whole."""
    commit = revision  # unless a branch or tag has that name
    with contextlib.suppress(ModelFileError, UnicodeDecodeError):
        commit = read_small(repo_folder / "refs", revision, 256).decode("ascii").strip()
    if not re.fullmatch(r"[\w.-]{1,100}", commit) or commit in (".", ".."):
        return None
    snapshot = repo_folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() and _is_whole(snapshot) else None


def _is_whole(snapshot: Path) -> bool:
    """Whether an interrupted download left something out: every shard that the index names must be there."""
    if not all((snapshot / name).exists() for name in _NEEDED_NAMES):
        return False
    if not os.path.lexists(snapshot / _INDEX_NAME):
        return (snapshot / "model.safetensors").exists()
    try:
        index = msgspec.json.decode(read_small(snapshot, _INDEX_NAME, _MAX_INDEX_BYTES), type=_Index)
    except (ModelFileError, msgspec.MsgspecError, ValueError, RecursionError):
        return False
    # A name with a slash is nobody's shard; opening the checkpoint refuses it with an error, so it does not count as missing here.
    return all("/" in name or (snapshot / name).exists() for name in set(index.weight_map.values()))


def _require_names(repo: str, sizes: dict[str, int], names: list[str]) -> None:
    lacking = [name for name in _NEEDED_NAMES if name not in sizes]
    if not any(name.endswith(".safetensors") for name in sizes):
        kinds = sorted({Path(name).suffix for name in names} & {".bin", ".pt", ".pth", ".gguf", ".safetensors"})
        found = f", only {', '.join(kinds)} files" if kinds else ""
        raise ModelFileError(f"{repo} has no weights in model.safetensors{found}")
    if lacking:
        raise ModelFileError(f"{repo} has no {' and no '.join(lacking)}: not a checkpoint that can be served")


def _is_allowed(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in ALLOWED_NAMES) and "/" not in name


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _parse_id(model: str) -> tuple[str, str | None]:
    match = _HUB_ID.fullmatch(model)
    if match is None:
        raise ModelFileError(f"hub id is {model[:200]!r}, expected owner/name or owner/name@revision")
    return match["repo"], match["revision"]
