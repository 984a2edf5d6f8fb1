"""The contract check in processes of its own, and what it says about cheats."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.isolation.check import check_isolated
from cosam_bench.method.contract_check import ContractViolation, check_method
from cosam_bench.method.registry import load_method

CHEATS = Path(__file__).parents[1] / "cheats"
FAILING = Path(__file__).parent / "failing_methods.py"


def test_an_honest_method_passes_all_checks_and_one_more() -> None:
    path = str(CHEATS / "honest.py")
    *passed, more = check_isolated(path)
    assert passed == check_method(load_method(path))
    assert more.startswith("a process of its own for each domain")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "memory_in_a_closure",
            r"With a process of its own for each step, the method learns another state in step 2\.",
        ),
        ("memory_in_the_environment", r"it changes the environment variable 'CHEAT' \(PLACE, line 10\)"),
        ("memory_in_a_temporary_file", r"it opens '.*of-the-tests' for writing \(PLACE, line 13\)"),
        (
            "memory_in_the_attributes_of_a_file",
            r"it changes the times of '.*' \(PLACE, line 13\); it sets an attribute of '.*' \(PLACE, line 14\)",
        ),
        ("memory_in_a_daemon", r"it listens at .* \(PLACE, line 13\); it starts a process \(PLACE, line 14\)"),
        ("memory_in_the_weights", r"learn\(\) changed the frozen base model's weights"),
        ("peek_at_the_domains_name", r"it looks at the frames of its callers \(PLACE, line 10\)"),
        ("patched_metric", r"it replaces cosam_bench\.evaluation\.metrics\.measure"),
        (
            "patched_layers",
            r"it adds torch\.Tensor\.seen; it replaces torch\.Tensor\.add; it replaces torch\.linalg\.svd; "
            r"it replaces torch\.nn\.Linear\.forward",
        ),
        (
            "patched_scorer",
            r"it imports cosam_bench\.experiments[\w.]*, which runs and scores methods \(PLACE, line 6\)",
        ),
        ("poisoned_rows", r"it opens '/proc/\d+/cmdline', which is about another process \(PLACE, line 14\)"),
    ],
)
def test_the_check_names_a_cheat_and_its_line(name: str, message: str) -> None:
    path = str(CHEATS / f"{name}.py")
    with pytest.raises(ContractViolation, match=message.replace("PLACE", re.escape(path))):
        check_isolated(path)


def test_a_fault_found_in_another_process_has_the_line_of_the_authors_code() -> None:
    with pytest.raises(ContractViolation, match=rf"merge\(\) returned None, .*\({re.escape(str(FAILING))}, line \d+\)"):
        check_isolated(f"{FAILING}:ForgetsItsReturn")


def test_settings_reach_the_check_in_another_process() -> None:
    with pytest.raises(CosamError, match=r"no setting is called 'ridge'"):
        check_isolated(str(CHEATS / "honest.py"), settings={"ridge": 1})


def test_false_messages_are_told_from_the_harness() -> None:
    with pytest.raises(ContractViolation, match=r"^Its process sent a message .* only the harness may use the connec"):
        check_isolated(str(CHEATS / "false_messages.py"))


@pytest.mark.parametrize("name", ["OpensALibrary", "OpensALibraryByTorch", "OpensALibraryByText"])
def test_a_library_that_the_method_opens_is_named(name: str) -> None:
    line = rf"it calls the library \S+ directly \({re.escape(str(FAILING))}, line \d+\)"
    with pytest.raises(ContractViolation, match=line):
        check_isolated(f"{FAILING}:{name}")


def test_a_library_that_torch_opens_for_itself_is_not_the_methods() -> None:
    assert check_isolated(f"{FAILING}:AsksTorchForGpus")


def test_a_method_that_ends_its_process_breaks_the_contract() -> None:
    with pytest.raises(ContractViolation, match=r"Method .* its process ended with exit code 7 in check\(\)"):
        check_isolated(f"{FAILING}:Exits")
    with pytest.raises(CosamError, match=r"No file .*none\.py"):
        check_isolated("none.py")


ROWS = re.findall(
    r"^\| `(\w+)` \|[^|]*\| (named|passes) \|$",
    (Path(__file__).parents[2] / "docs" / "isolation.md").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
)


def test_the_page_says_of_every_cheat_whether_the_check_names_it() -> None:
    cheats = {path.stem for path in CHEATS.glob("*.py")} - {"conftest", "honest"}
    assert {name for name, _ in ROWS} == cheats


@pytest.mark.long
@pytest.mark.parametrize(("name", "answer"), ROWS)
def test_the_check_says_of_a_cheat_what_the_page_says(name: str, answer: str) -> None:
    path = str(CHEATS / f"{name}.py")
    if answer == "passes":
        assert check_isolated(path)
    else:
        with pytest.raises(ContractViolation):
            check_isolated(path)
