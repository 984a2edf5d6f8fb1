"""``import cosam_bench``: what it offers, what it costs, and that everybody imports from it alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import cosam_bench
from cosam_bench.method.package_template import write_method_package

ROOT = Path(__file__).resolve().parents[2]

PUBLIC = """
Adapter Batch Comparison ContractViolation CosamError Features LowRank Masks MergingMethod Method MethodCard
MethodFailed NoSettings Predictor Prompts Record Sam Sample Settings State TrainingDomain TrainingHooks TrainingStep
Update Workbench __version__ check_method compare export leaderboard load_predictor load_record merge merge_rule predict
report run setting sweep tune weight_changes
"""


def test_the_public_names_are_these() -> None:
    assert list(cosam_bench.__all__) == PUBLIC.split()
    assert sorted(cosam_bench.__all__) == PUBLIC.split()


@pytest.mark.parametrize("name", PUBLIC.split())
def test_a_public_name_comes_from_its_home_and_no_module_can_take_its_place(name: str) -> None:
    value = getattr(cosam_bench, name)
    if name == "__version__":
        return
    assert value is getattr(import_module(f"cosam_bench.{cosam_bench._HOME_OF[name]}"), name)
    assert find_spec(f"cosam_bench.{name}") is None
    assert name in dir(cosam_bench)


def test_type_checkers_see_the_same_homes() -> None:
    tree = ast.parse((ROOT / "cosam_bench" / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: (node.module or "").removeprefix("cosam_bench.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == cosam_bench._HOME_OF
    assert {*imported, "__version__"} == set(cosam_bench.__all__)


def test_another_name_is_refused_with_the_public_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'runn'.*leaderboard"):
        _ = cosam_bench.runn  # type: ignore[attr-defined]


def test_the_import_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import cosam_bench; seconds = time.perf_counter() - start\n"
        "assert not {'torch', 'pandas', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
        "dir(cosam_bench); print(seconds)"
    )
    seconds = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    assert min(seconds) < 0.1  # 0.01 on a quiet machine


def test_a_misspelt_method_is_refused_before_torch_is_loaded() -> None:
    code = (
        "import sys, cosam_bench\n"
        "try: cosam_bench.run('regcll')\n"
        "except cosam_bench.CosamError as error: print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    assert "Did you mean 'regcl'?" in subprocess.check_output([sys.executable, "-c", code], text=True)


def own_code() -> Iterator[tuple[str, str]]:
    """Files that show how to use the package, by name, with their Python."""
    for path in [*(ROOT / "methods").glob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]:
        blocks = re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        yield path.relative_to(ROOT).as_posix(), "\n".join(blocks)


def private_imports(source: str) -> list[str]:
    """The public names that a source imports from elsewhere than ``cosam_bench``."""
    return [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cosam_bench.")
        for alias in node.names
        if alias.name in cosam_bench.__all__
    ]


@pytest.mark.parametrize(("file", "source"), [pytest.param(*found, id=found[0]) for found in own_code()])
def test_public_names_are_imported_from_the_front_door(file: str, source: str) -> None:
    assert private_imports(source) == [], file


def test_a_generated_package_imports_from_the_front_door(tmp_path: Path) -> None:
    write_method_package("mine", tmp_path / "mine")
    sources = [path.read_text(encoding="utf-8") for path in (tmp_path / "mine").rglob("*.py")]
    assert "from cosam_bench import" in "".join(sources)
    assert [private_imports(source) for source in sources] == [[]] * len(sources)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_prose_names_public_names_by_the_front_door(path: Path) -> None:
    found = re.findall(r"`cosam_bench\.([\w.]+)\.(\w+)", path.read_text(encoding="utf-8"))
    assert [f"{module}.{name}" for module, name in found if name in cosam_bench.__all__] == []
