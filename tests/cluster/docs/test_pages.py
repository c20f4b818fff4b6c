"""Pages that code writes are up to date; what README and docs/ name is there."""

import argparse
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from cluster.cli import _parser
from cluster.config.recipe import RunConfig, read_recipe
from cluster.config.stage_kinds import STAGE_KINDS
from cluster.docs import pages as docs_pages
from cluster.docs.migration_page import migration_page
from cluster.docs.recipes_page import Table, _section, recipe_keys, recipes_page, tables
from wire.config import Config, validate
from wire.errors import ConfigError

ROOT = docs_pages.ROOT
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_pages_that_code_writes_are_up_to_date():
    assert list(docs_pages.outdated()) == [], "run `make docs`"


def test_an_outdated_page_is_found(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    for name, page_of in docs_pages.PAGES.items():
        (tmp_path / name).write_text(page_of(_read(ROOT / name)), encoding="utf-8")
    assert docs_pages.outdated(tmp_path) == {}
    page = tmp_path / "docs/migration.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("| `rollout.group_size` |", "| `rollout.n` |"), encoding="utf-8")
    (tmp_path / "docs/recipes.md").unlink()
    assert set(docs_pages.outdated(tmp_path)) == {"docs/migration.md", "docs/recipes.md"}
    assert docs_pages.outdated(tmp_path)["docs/migration.md"] == text


def test_filling_in_tables_leaves_the_prose_alone():
    page = "# A\n\n<!-- table qwen -->\nold\n<!-- end -->\n\nB\n"
    filled = migration_page(page)
    assert filled.startswith("# A\n\n<!-- table qwen -->\n\n| there |")
    assert filled.endswith("<!-- end -->\n\nB\n")
    assert "old" not in filled
    assert migration_page(filled) == filled


def test_every_recipe_key_has_a_row_with_a_meaning_and_a_readable_type():
    rows = [line for line in recipes_page().splitlines() if line.startswith("| `")]
    for row in rows:
        name, kind, _, meaning = re.split(r"(?<!\\) \| ", row.removeprefix("| ").removesuffix(" |"))
        assert meaning.strip(), f"{name} has no docstring"
        assert not re.search(r"typing|\bclass\b|NoneType|Annotated|\[", kind), f"{name}: {kind}"
    plain = [
        key for key in recipe_keys(RunConfig) if key not in {t.name for t in tables(RunConfig)}
    ]
    for key in plain:
        assert any(row.startswith(f"| `{key.rpartition('.')[2]}` |") for row in rows), key


class Tall(Config):
    """Tall ones."""

    kind: Literal["tall"]
    height: float = Field(default=2.0, gt=0, le=3)
    """Metres."""


class Wide(Config):
    """Wide ones."""

    kind: Literal["wide"] = "wide"


class Shelf(Config):
    """A shelf.

    Example:
        Shelf(books=3)
    """

    books: int | None = Field(default=None, ge=1)
    """How many; ``none``: as many as fit."""
    shape: Annotated[Tall | Wide, Field(discriminator="kind")] = Wide()
    """Its form."""
    boards: tuple[Wide, ...] = Field(default=(), min_length=1)
    """Its boards."""


def test_a_page_of_a_small_model_is_what_a_person_would_write():
    text = "\n".join(_section(table) for table in tables(Shelf))
    assert "| `books` | integer, at least 1 | not set | How many; `none`: as many as fit. |" in text
    assert '## `[shape]` with `kind = "tall"`\n\nTall ones. Its form.' in text
    assert "| `height` | number, above 0, at most 3 | `2.0` | Metres. |" in text
    assert '| `kind` | `"tall"` | **must be set** | Chooses this table. |' in text
    assert "| `boards` | list of tables, 1 or more | `[]` | Its boards. |" in text
    assert "## `[[boards]]`\n" in text
    assert "Example" not in text


def test_a_stage_shows_its_own_defaults_not_its_models():
    (optim,) = [table for table in tables(RunConfig) if table.name == "coldstart.optim"]
    assert "| `learning_rate` | number, above 0 | `2e-05` |" in _section(optim)
    bare = Table(name="optim", model=optim.model, value=None)
    assert "| `learning_rate` | number, above 0 | `1e-06` |" in _section(bare)


def test_a_kind_of_stage_shows_its_own_keys_and_names_the_section_of_the_others():
    shown = {t.heading: _section(t) for t in tables(RunConfig) if not t.is_repeated}
    for kind, model in STAGE_KINDS.items():
        text = shown[f'`[[stages]]` with `kind = "{kind}"`']
        assert f"every key of `[{model.section}]`" in text
        assert "| `name` |" not in text
    assert "| `from` | text | not set |" in shown["`[[stages]]`"]
    assert '| `kind` | `"evaluate"` or `"rationales"` or ' in shown["`[[stages]]`"]
    taught = shown['`[[stages]]` with `kind = "sft"`']
    assert "| `epochs` | integer, at least 1 | `coldstart.epochs` |" in taught
    assert "| `batch_size` |" not in taught
    assert "`[stages.clips]`" in shown
    assert "`[stages.optim]`" not in shown


def test_keys_of_stages_are_those_that_a_recipe_may_set():
    keys = set(recipe_keys(RunConfig))
    stages = ("name", "from", "data", "num_steps", "methods", "clips.where", "optim.learning_rate")
    assert keys >= {f"stages.{key}" for key in stages}
    assert "stages.from_" not in keys


# what README and docs/ name


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path):
    text = re.sub(r"```.*?```", "", _read(page), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [target for target in targets if not re.match(r"https?:|mailto:", target)]
    broken = [target for target in local if not _leads(page, target)]
    assert broken == []


def _leads(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    file = page.parent / name if name else page
    return file.exists() and (not anchor or anchor in _anchors(file))


def _anchors(page: Path) -> set[str]:
    """GitHub's: lower case, without punctuation, dashes for spaces."""
    titles = re.findall(r"^#+ (.+)$", _read(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_there(page: Path):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", _read(page))
    there = {
        (file, name)
        for file, name in named
        if re.search(rf"^(async )?def {name}\(", _read(ROOT / file), re.MULTILINE)
    }
    assert set(named) - there == set()


def _commands(text: str) -> Iterator[str]:
    """What follows ``deepintuit`` (or ``python -m cluster.cli``) in code."""
    blocks = re.findall(r"```(?!toml|python|json)[^\n]*\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    start = re.compile(r"^(?:\$ )?(?:.*-- )?(?:\.venv/bin/)?(?:deepintuit|python -m cluster\.cli) ")
    for line in [*lines, *re.findall(r"`([^`]+)`", prose)]:
        if start.match(line):
            yield start.sub("", line).partition(" # ")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_flag_that_a_page_names_is_there(page: Path):
    for command in _commands(_read(page)):
        assert _unknown(command) == [], command


def _unknown(command: str) -> list[str]:
    name, *rest = shlex.split(command.replace("...", ""))
    known = _subcommands()
    if rest and f"{name} {rest[0]}" in known:
        name, *rest = f"{name} {rest[0]}", *rest[1:]
    if name.startswith("-"):
        return []
    if name not in known:
        has_own = not rest and any(one.startswith(f"{name} ") for one in known)
        return [] if has_own else [name]
    flags = [word.partition("=")[0] for word in rest if word.startswith("--")]
    return [flag for flag in flags if flag not in known[name]]


def _subcommands() -> dict[str, set[str]]:
    """Commands with their flags; one that has commands of its own as ``reward lint``."""
    return dict(_flags_below(_parser(), ""))


def _flags_below(parser: argparse.ArgumentParser, prefix: str) -> Iterator[tuple[str, set[str]]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                below = dict(_flags_below(inner, f"{prefix}{name} "))
                own = {flag for option in inner._actions for flag in option.option_strings}
                yield from below.items() if below else [(f"{prefix}{name}", own)]


def test_a_command_or_a_flag_that_is_not_there_is_found():
    text = "```\ndeepintuit runn x\nray job submit -- python -m cluster.cli run x --no\n```"
    assert [_unknown(command) for command in _commands(text)] == [["runn"], ["--no"]]
    nested = "```\ndeepintuit reward lin x\ndeepintuit reward new x --no\n```"
    assert [_unknown(command) for command in _commands(nested)] == [["reward"], ["--no"]]
    assert [_unknown(c) for c in _commands("Say `deepintuit plan x.toml --seed`.")] == [["--seed"]]


def _toml_blocks() -> list[tuple[str, str]]:
    found = [(p.name, b) for p in PAGES for b in re.findall(r"```toml\n(.*?)```", _read(p), re.S)]
    return [(f"{name}-{number}", block) for number, (name, block) in enumerate(found)]


@pytest.mark.parametrize("block", [pytest.param(b, id=name) for name, b in _toml_blocks()])
def test_every_recipe_in_a_page_is_one_or_a_part_of_one(block: str, tmp_path: Path):
    values = tomllib.loads(block)
    values.pop("notes", None)  # a study's notes.toml
    recipe = tmp_path / "my.toml"
    if "extends" not in values:
        block = f'extends = "{ROOT / "recipes/demo.toml"}"\n{block}'
    recipe.write_text(block.replace('"recipes/', f'"{ROOT}/recipes/'))
    for file in re.findall(r'file = "([^"]+)"', block):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{labels}")
    if values:
        read_recipe(recipe, [])


def test_a_part_of_a_recipe_with_a_wrong_key_is_found():
    with pytest.raises(ConfigError):
        validate(Shelf, {"boooks": 3}, "page")


def _keys_in(text: str) -> list[str]:
    sections = {key.partition(".")[0] for key in recipe_keys(RunConfig) if "." in key}
    words = re.findall(r"`(?:--set )?'?([a-z_]+(?:\.[a-z_]+)+)(?:=[^`]*)?'?`", text)
    files = ("toml", "json", "jsonl", "py", "md", "html", "pt")
    words = [re.sub(r"^stages\.[a-z]\w*\.(?=\w+$)", "stages.", word) for word in words]  # by name
    return [w for w in words if w.split(".")[0] in sections and w.split(".")[-1] not in files]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_recipe_key_that_a_page_names_is_there(page: Path):
    text = _read(page)
    theirs = re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)  # migration tables
    named: list[Any] = [key for key in _keys_in(text) if key not in theirs]
    assert [key for key in named if key not in recipe_keys(RunConfig)] == []
