"""What the documents say holds: commands parse, TOML validates, tables are whole."""

from __future__ import annotations

import inspect
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel
from support.shown_commands import ROOT, blocks_of, prose_of, shown_commands, text_of

from cosam_bench.cli.main import app
from cosam_bench.data.cards import Card, SplitRule
from cosam_bench.data.foreground import Foreground
from cosam_bench.data.streams import Stream, load_stream
from cosam_bench.experiments.protocol import protocol_names, resolve_run
from cosam_bench.method.source_reading import read_card
from cosam_bench.method.workbench import Workbench
from cosam_bench.sweeps.grid import read_grid
from cosam_bench.training.fit import TrainingHooks
from cosam_bench.tuning.space import read_ranges, space_of

DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/*.md", "examples/**/*.md", "results/README.md") for path in ROOT.glob(pattern)
)
COMMANDS = typer.main.get_command(app)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(language: str) -> list[tuple[str, str]]:
    """The fenced blocks of one language in all documents, with the document's name."""
    return [(named(path), body) for path in DOCUMENTS for body in blocks_of(named(path), language)]


def commands() -> list[tuple[str, str]]:
    """Every ``cosam-bench ...`` in a block of commands or in a span of code, with the document's name."""
    found = []
    for name in map(named, DOCUMENTS):
        spans = re.findall(r"`([^`\n]+)`", prose_of(name))
        found += [(name, span) for span in spans if span.startswith("cosam-bench ")]
        found += [(name, command) for command in shown_commands(name)]
    return [(name, command) for name, command in found if command != "cosam-bench COMMAND --help"]


def missing_files(text: str) -> list[str]:
    """The files of this repository's folders that the text names and that do not exist."""
    paths = re.findall(r"`((?:cosam_bench|tests|tools|methods|benchmarks|docs)/[\w/.-]+\.\w+)`", text)
    return sorted({path for path in paths if not (ROOT / path).exists()} - {"methods/NAME.py"})


def test_a_missing_file_is_found() -> None:
    assert missing_files("see `tools/nothing.py` and `tools/train_tiny.py`") == ["tools/nothing.py"]


@pytest.mark.parametrize("document", [*map(named, DOCUMENTS), "cosam_bench/sam/weights/tiny.md"])
def test_every_file_that_a_document_names_exists(document: str) -> None:
    assert missing_files((ROOT / document).read_text(encoding="utf-8")) == []


def first_column(document: str) -> set[str]:
    """The names in code spans in the first cells of a document's tables."""
    cells = re.findall(r"^\| (`[^|]*`) \|", text_of(document), flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize(("document", "command"), commands())
def test_a_command_parses(document: str, command: str) -> None:
    _, *arguments = shlex.split(command)
    parent = COMMANDS
    while arguments and hasattr(parent, "commands"):
        name, *arguments = arguments
        assert name in parent.commands, f"{document}: {command}"
        parent = parent.commands[name]
    if not arguments:  # prose may name a command alone
        return
    with parent.make_context(command, list(arguments)) as context:
        given = context.params.get("settings") or []
    asked, mode = context.params.get("protocol") or "mini", context.params.get("mode") or "clean"
    keys = tuple(key for key in given if not key.startswith("method."))
    if asked in protocol_names():  # prose also has files that nobody has
        resolve_run(method="frozen", protocol=asked, mode=mode, overrides=keys)
    else:
        resolve_run(method="frozen", overrides=keys)


@pytest.mark.parametrize(("document", "text"), blocks("toml"))
def test_a_toml_block_is_valid(document: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "block.toml"
    path.write_text(text, encoding="utf-8")
    data = tomllib.loads(text)
    if "domain" in data:
        assert load_stream(str(path)).name == data["name"]
    elif isinstance(data.get("methods"), list):
        assert len(read_grid(path).variants()) == len(data["methods"]) * len(data["settings"])
    elif document == "docs/tuning.md":
        for name, table in read_ranges(path).items():
            assert table.keys() <= space_of(resolve_run(method=name), isolated=False, ranges={name: table}).keys()
    else:
        assert resolve_run(method="frozen", protocol=str(path)).protocol.name == data["name"]


def test_the_template_of_own_data_is_valid() -> None:
    assert load_stream(str(ROOT / "examples" / "own-data" / "stream.toml")).order


def test_the_settings_in_the_docs_are_the_examples_own() -> None:
    [snippet] = [body for name, body in blocks("python") if name == "docs/writing-a-method.md" and "Ema" in body]
    example = text_of("examples/third-party-method/cosam_bench_ema.py")
    assert snippet.splitlines()[0] in example
    assert snippet.splitlines()[-1] in example


def test_the_page_for_authors_names_every_hook_and_tool() -> None:
    page = text_of("docs/writing-a-method.md")
    for hook, function in inspect.getmembers(TrainingHooks, inspect.isfunction):
        arguments = inspect.signature(function).parameters.values()
        positional = [one.name for one in arguments if one.kind is one.POSITIONAL_OR_KEYWORD][1:]
        named = [one.name for one in arguments if one.kind is one.KEYWORD_ONLY]
        assert f"`{hook}({', '.join([*positional, *(['*', *named] if named else [])])})`" in page
    tools = [name for name in vars(Workbench) if not name.startswith("_") and name not in Workbench.__match_args__]
    assert len(tools) > 10
    assert [name for name in tools if not re.search(rf"`[^`\n]*\.{name}\b", page)] == []


def test_every_mistake_on_the_page_is_a_message_of_the_check() -> None:
    modules = ("contract_check", "contract_trial", "returned")
    sources = "".join(text_of(f"cosam_bench/method/{module}.py") for module in modules)
    messages = sources.replace('"\n', "").replace("{act}() ", "")
    messages = re.sub(r'"\s+f?"', "", messages.replace("{card.state!r}", "'constant'"))
    quoted = re.findall(r'^\| "([^"]+)"', text_of("docs/writing-a-method.md"), flags=re.MULTILINE)
    assert len(quoted) > 5
    assert [message for message in quoted if message not in messages] == []


def test_the_readme_begins_with_two_commands() -> None:
    first, second = blocks_of("README.md", "sh")[0].splitlines()
    assert first.endswith("pip install -e . && cosam-bench run --method regcl")
    assert second.endswith('pip install -e ".[test]" && pytest -q -n auto')


def test_the_catalogue_lists_every_method_as_its_card_says() -> None:
    row = r"^\| `(\w+)` \|[^|]*\| ([^|]*) \| (\w+) \| (\w+) \|"
    rows = re.findall(row, text_of("docs/methods.md"), flags=re.MULTILINE)
    registered = tomllib.loads(text_of("pyproject.toml"))["project"]["entry-points"]["cosam_bench.methods"]
    assert sorted(name for name, *_ in rows) == sorted(registered)
    for name, *said in rows:
        card = read_card(name)
        order = "matters" if card.order_dependent else "free"
        assert said == [", ".join(card.needs) or "\N{EN DASH}", card.state, order], name


def test_every_method_has_its_formula_source_deviations_and_use() -> None:
    used = re.findall(
        r"^\| \[`(\w+)`\]\(method-reference\.md#(\w+)\) \| \S", text_of("docs/methods.md"), flags=re.MULTILINE
    )
    names = sorted(tomllib.loads(text_of("pyproject.toml"))["project"]["entry-points"]["cosam_bench.methods"])
    assert sorted(used) == [(name, name) for name in names]
    sections = re.split(r"^## (\w+)$", text_of("docs/method-reference.md"), flags=re.MULTILINE)[1:]
    assert sections[::2] == names
    for name, section in zip(sections[::2], sections[1::2], strict=True):
        assert "Source: " in section, name
        assert "```text\n" in section, f"{name}: its module's docstring has no formula"
        assert "**Deviations" in section, name


def test_a_table_says_what_every_file_is() -> None:
    assert {"run.json", "matrix.csv", "scores.csv"} <= first_column("README.md")


@pytest.mark.parametrize("model", [Card, Stream, SplitRule, Foreground])
def test_the_docs_name_every_key(model: type[BaseModel]) -> None:
    keys = {field.alias or name for name, field in model.model_fields.items()} - {"rule"}
    missing = {key for key in keys if not re.search(rf"`[^`\n]*\b{key}\b[^`\n]*`", text_of("docs/data.md"))}
    assert missing == set()
