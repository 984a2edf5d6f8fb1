"""Fetching published weights into the user's cache and checking their sha256."""

from __future__ import annotations

from pathlib import Path

from cosam_bench.core.downloads import Say, download, no_message
from cosam_bench.core.errors import CosamError
from cosam_bench.sam.models import cache_folder, model_spec


def fetch_checkpoint(name: str, *, folder: Path | None = None, say: Say = no_message) -> Path:
    """The path of a model's published weights, fetched first if they are not there yet.

    A file with the wrong sha256 never gets its name. A broken download is resumed. Progress is shown if the
    standard error is a terminal.

    Args:
        name: one of ``MODELS``.
        folder: where to put the file; None: the cache, see ``models.cache_folder``.
        say: told about what takes long or goes wrong on the way.

    Raises:
        CosamError: no such model, nothing to fetch for it, or the address does not answer or serves
            something else.
    """
    spec = model_spec(name)
    if spec.url is None or spec.file_name is None or spec.sha256 is None:
        raise CosamError(f"The weights of {name} are part of the package. There is nothing to fetch.")
    target = (folder or cache_folder()) / spec.file_name
    by_hand = f"Or fetch it by hand to {target}, or give its path as the checkpoint."
    if not target.is_file():
        say(f"Fetching {spec.url}")
    download(spec.url, to=target, sha256=spec.sha256, by_hand=by_hand, say=say)
    return target
