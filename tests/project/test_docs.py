"""What the documents say holds: commands parse, TOML validates, code runs, links lead somewhere, tables are whole."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from cosam_bench.cli.main import app
from cosam_bench.data.cards import Card, SplitRule
from cosam_bench.data.foreground import Foreground
from cosam_bench.data.streams import Stream, load_stream
from cosam_bench.experiments.protocol import protocol_names, resolve_run
from cosam_bench.method.contract_check import check_method
from cosam_bench.method.registry import load_method
from cosam_bench.method.source_reading import read_card

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/*.md", "examples/**/*.md", "results/README.md") for path in ROOT.glob(pattern)
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
COMMANDS = typer.main.get_command(app)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(language: str) -> list[tuple[str, str]]:
    """The fenced blocks of one language in all documents, with the document's name."""
    return [
        (path.relative_to(ROOT).as_posix(), body)
        for path in DOCUMENTS
        for kind, body in FENCED.findall(path.read_text(encoding="utf-8"))
        if kind == language
    ]


def commands() -> list[tuple[str, str]]:
    """Every ``cosam-bench ...`` in a block of commands or in a span of code, with the document's name."""
    found = [
        (name, part.strip())
        for name, body in blocks("sh")
        for line in body.splitlines()
        for part in line.partition("#")[0].split("&&")
    ]
    for path in DOCUMENTS:
        prose = FENCED.sub("", path.read_text(encoding="utf-8"))
        found += [(path.relative_to(ROOT).as_posix(), span) for span in re.findall(r"`([^`\n]+)`", prose)]
    return [(name, command) for name, command in found if command.startswith("cosam-bench ")]


def first_column(document: str) -> set[str]:
    """The names in code spans in the first cells of a document's tables."""
    cells = re.findall(r"^\| (`[^|]*`) \|", text_of(document), flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize(("document", "command"), commands())
def test_a_command_parses(document: str, command: str) -> None:
    _, name, *arguments = shlex.split(command)
    assert name in COMMANDS.commands, f"{document}: {command}"
    if not arguments:  # prose may name a command alone
        return
    with COMMANDS.commands[name].make_context(name, list(arguments)) as context:
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
    else:
        assert resolve_run(method="frozen", protocol=str(path)).protocol.name == data["name"]


def test_the_template_of_own_data_is_valid() -> None:
    assert load_stream(str(ROOT / "examples" / "own-data" / "stream.toml")).order


def test_the_method_in_the_readme_keeps_the_contract(tmp_path: Path) -> None:
    [snippet] = [body for document, body in blocks("python") if document == "README.md" and "class " in body]
    path = tmp_path / "halfway.py"
    path.write_text(snippet, encoding="utf-8")
    check_method(load_method(str(path)))


def test_the_settings_in_the_docs_are_the_examples_own() -> None:
    [snippet] = [body for name, body in blocks("python") if name == "docs/writing-a-method.md" and "Ema" in body]
    example = text_of("examples/third-party-method/cosam_bench_ema.py")
    assert snippet.splitlines()[0] in example
    assert snippet.splitlines()[-1] in example


def test_the_readme_begins_with_two_commands() -> None:
    (language, body), *_ = FENCED.findall(text_of("README.md"))
    first, second = body.splitlines()
    assert language == "sh"
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


def test_a_table_says_what_every_file_is() -> None:
    assert {"run.json", "matrix.csv", "scores.csv"} <= first_column("README.md")


@pytest.mark.parametrize("model", [Card, Stream, SplitRule, Foreground])
def test_the_docs_name_every_key(model: type[BaseModel]) -> None:
    keys = {field.alias or name for name, field in model.model_fields.items()} - {"rule"}
    missing = {key for key in keys if not re.search(rf"`[^`\n]*\b{key}\b[^`\n]*`", text_of("docs/data.md"))}
    assert missing == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(path: Path) -> None:
    prose = FENCED.sub("", path.read_text(encoding="utf-8"))
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", prose) if "://" not in target]
    assert [target for target in targets if not (path.parent / target).exists()] == []
