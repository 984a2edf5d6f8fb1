"""Hashes of what names in a grid stand for: images, published prompts, weights and the code of methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cosam_bench.core.hashing import sha256_file, sha256_json
from cosam_bench.data.opening import open_stream
from cosam_bench.data.streams import load_stream
from cosam_bench.experiments.protocol import Protocol
from cosam_bench.experts.sources import expert_sources
from cosam_bench.method.interface import Method
from cosam_bench.method.rule_digest import rule_digest
from cosam_bench.sam.build import weights_file


class Contents:
    """Reads all that a grid names once, whatever the number of its runs.

    Attributes:
        rule: the hash of a method's code, see ``rule_digest``.
    """

    def __init__(self) -> None:
        """Read nothing yet."""
        self._domains: dict[str, Mapping[str, str]] = {}
        self._file = cache(sha256_file)
        self.rule: Callable[[type[Method]], str] = cache(rule_digest)

    def domains(self, protocol: Protocol) -> Mapping[str, str]:
        """By the name of a domain, the hash of its images, masks and published prompts, as the protocol reads them.

        Raises:
            CosamError: data is missing or faulty.
        """
        key = protocol.model_dump_json(include={"stream", "foreground"})
        if key not in self._domains:
            opened = open_stream(load_stream(protocol.stream), foreground=protocol.foreground)
            self._domains[key] = {
                domain.name: sha256_json(
                    [domain.digest, *self._files(domain.train.points_file, domain.test.points_file)]
                )
                for domain in (*opened.domains, *opened.retention)
            }
        return self._domains[key]

    def model(self, protocol: Protocol) -> Any:
        """Hashes of the base model's weights and of the layers that an adapter starts from; ``random`` if they are.

        Raises:
            CosamError: a file of weights is missing.
        """
        asked, start = protocol.model.checkpoint, protocol.adapter.start
        weights = None if asked == "random" else weights_file(protocol.model.name, Path(asked) if asked else None)
        return self._files(weights, Path(start) if start else None)

    def experts(self, place: str, domains: Sequence[str]) -> Mapping[str, str]:
        """By the domain's name, the hash of the expert that was trained elsewhere: of its file, or all in its folder.

        Raises:
            CosamError: the place is missing, or a domain has no expert or several.
        """
        return {name: self._file_or_folder(path) for name, path in expert_sources(Path(place), domains).items()}

    def _file_or_folder(self, path: Path) -> str:
        if not path.is_dir():
            return self._file(path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return sha256_json([[file.relative_to(path).as_posix(), self._file(file)] for file in files])

    def _files(self, *paths: Path | None) -> list[str]:
        return ["" if path is None else self._file(path) for path in paths]
