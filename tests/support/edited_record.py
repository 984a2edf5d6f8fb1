"""Records that were edited so that plain verification finds nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

from cosam_bench.core.hashing import sha256_file
from cosam_bench.results.records import Record
from cosam_bench.results.results_folder import load_record


def with_last_field(record: Record, name: str, value: str, *, folder: Path, domain: str | None = None) -> Record:
    """A copy of the record whose file has another score, perhaps of another domain, in its last line; hashes fit."""
    shutil.copytree(record.folder, folder)
    path = folder / name
    *lines, last = path.read_text(encoding="utf-8").splitlines()
    fields = dict(zip(lines[0].split(","), last.split(","), strict=True))
    fields["value" if "value" in fields else "area"] = value
    if domain is not None:
        fields["domain"] = domain
    path.write_text("\n".join([*lines, ",".join(fields.values())]) + "\n", encoding="utf-8")
    info = record.info
    files = dict(info.files) | {name: sha256_file(path)}
    (folder / "run.json").write_text(info.model_copy(update={"files": files}).to_json(), encoding="utf-8")
    return load_record(folder)
