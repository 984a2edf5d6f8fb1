"""Every method twice, each time in a new process with other hash seeds: the same matrix, scores, state and update."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.quick_protocol import write_quick_protocol

from cosam_bench.method.registry import is_built_in, method_names

BUILT_IN = [name for name in method_names() if is_built_in(name)]
OUTCOME = ("matrix.csv", "scores.csv", "state.safetensors", "update.safetensors")


def outcomes(protocol: Path, results: Path, *, hash_seed: int) -> dict[str, dict[str, bytes]]:
    """Of each method, the bytes of the record's files."""
    command = [sys.executable, "-m", "cosam_bench.cli.main", "run", "--method", ",".join(BUILT_IN)]
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "--protocol", str(protocol), "--results", str(results)],
        env=environment,
        check=True,
        capture_output=True,
    )
    records = [path.parent for path in results.glob("quick/*/*/run.json")]
    return {
        record.parent.name: {name: (record / name).read_bytes() for name in OUTCOME if (record / name).exists()}
        for record in records
    }


@pytest.mark.long
def test_every_method_repeats_itself_in_another_process(tmp_path: Path) -> None:
    protocol = write_quick_protocol(tmp_path)
    first = outcomes(protocol, tmp_path / "first", hash_seed=1)
    second = outcomes(protocol, tmp_path / "second", hash_seed=2)
    assert first.keys() == second.keys() == set(BUILT_IN)
    differing = sorted(name for name in first if first[name] != second[name])
    assert not differing
    print(f"{len(first)} of {len(first)} methods are the same bytes in another process")
