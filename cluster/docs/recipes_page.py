"""Renders docs/recipes.md: every recipe key, from the config models. Pure.

RunConfig -> one heading per TOML table -> a row per key: type and bounds, default, docstring

``[[stages]]`` has a heading for the keys of every stage, and one per kind of STAGE_KINDS.
"""

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cluster.config.kinds.stage import Stage
from cluster.config.recipe import RunConfig
from cluster.config.stage_kinds import STAGE_KINDS
from wire.config import Config

_HEAD = """# Recipe reference

*Generated from the config models by `make docs`; edit the docstrings there, not this page.*

A recipe is a TOML file: `deepintuit run my.toml`. Only `model`, `labels` and `data.manifest` must
be set; everything else has the default given here. For whole recipes see `recipes/`.

- An unknown key is refused with the nearest name; a key of verl, TRL or OpenRLHF with what it is
  called here ([migration](migration.md)).
- `--set a.b=value` overrides a key and may be given again. The value is read as TOML, and as plain
  text if it is none: `--set grpo.num_steps=100`, `--set learner.dtype=float32`,
  `--set 'calibrate.methods=["verdict"]'`.
- `extends = "other.toml"` at the top takes everything from there that the recipe does not set
  itself, table by table; a list is replaced whole.
- Paths are relative to the folder of the file that holds them (those in `--set`: to the recipe's);
  `$NAME` and `~` mean what they mean in a shell. `reward.terms.function` is the exception: it
  starts at the folder where you start the command.
- "not set" is written by leaving the key out: TOML has no null.
- The recipe as resolved is kept in the run directory as `run.json`.
"""

_WORDS: Mapping[Any, str] = {
    int: "integer",
    float: "number",
    bool: "`true` or `false`",
    str: "text",
    Path: "path",
}
_BOUNDS = (
    (Ge, "ge", "at least"),
    (Gt, "gt", "above"),
    (Le, "le", "at most"),
    (Lt, "lt", "below"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One TOML table of a recipe, or one member of a union by ``kind``.

    Example:
        Table(name="grpo", model=GrpoConfig, value=GrpoConfig())
    """

    name: str
    """Dotted; empty: the top of the recipe."""
    model: type[Config]
    value: Config | None
    """Values where a recipe sets none; None: the model's own defaults."""
    use: str = ""
    """The docstring of the key that holds it."""
    is_list: bool = False
    """Written ``[[name]]``, as often as wanted."""
    kind: str = ""
    """In a union, the ``kind`` that chooses this member."""
    is_repeated: bool = False
    """Its keys are those of another table, which the page shows instead."""

    @property
    def heading(self) -> str:
        """Heading of the table, as a recipe writes it."""
        if not self.name:
            return "Top of the recipe"
        brackets = f"`[[{self.name}]]`" if self.is_list else f"`[{self.name}]`"
        return f'{brackets} with `kind = "{self.kind}"`' if self.kind else brackets


def recipes_page() -> str:
    """The whole page."""
    shown = [table for table in tables(RunConfig) if not table.is_repeated]
    return "\n".join([_HEAD, *(_section(table) for table in shown)])


def tables(model: type[Config]) -> list[Table]:
    """All tables that a recipe of ``model`` may hold, outer before inner."""
    return list(_tables(Table(name="", model=model, value=None)))


def recipe_keys(model: type[Config]) -> list[str]:
    """All dotted keys, tables included; keys of list elements have no index."""
    keys: dict[str, None] = {}
    for table in tables(model):
        prefix = f"{table.name}." if table.name else ""
        keys |= dict.fromkeys([table.name] if table.name else [])
        keys |= dict.fromkeys(
            prefix + _key(name, field) for name, field in table.model.model_fields.items()
        )
    return list(keys)


def _tables(table: Table) -> Iterator[Table]:
    yield table
    for name, field in table.model.model_fields.items():
        inner = _models(field.annotation)
        if inner == [Stage]:
            yield from _stage_tables(name, _plain(field.description or ""))
            continue
        value = _default(table, name, field)
        for model in inner:
            kind = _kind(model) if len(inner) > 1 else ""
            fits = isinstance(value, model)
            yield from _tables(
                Table(
                    name=f"{table.name}.{_key(name, field)}" if table.name else _key(name, field),
                    model=model,
                    value=value if fits else None,
                    use=_plain(field.description or ""),
                    is_list=_is_list(field.annotation),
                    kind=kind,
                    is_repeated=bool(table.name) and _section_of(model) is not None,
                )
            )


def _stage_tables(name: str, use: str) -> Iterator[Table]:
    """The keys of every stage, those of each kind, and the tables inside these, each once."""
    yield Table(name=name, model=Stage, value=None, use=use, is_list=True)
    inner: dict[tuple[str, type[Config]], Table] = {}
    for kind, model in STAGE_KINDS.items():
        table = Table(name=name, model=model, value=None, is_list=True, kind=kind)
        own = {f"{name}.{key}" for key in _own_keys(model)}
        yield table
        for below in list(_tables(table))[1:]:
            is_own = any(f"{below.name}.".startswith(f"{key}.") for key in own)
            plain = replace(below, use="", is_repeated=not is_own)
            inner.setdefault((below.name, below.model), plain)
    yield from inner.values()


def _own_keys(model: type[Stage]) -> list[str]:
    """Keys that a kind of stage has beside those of every stage and of its section."""
    section = RunConfig.model_fields.get(model.section)
    of_section = _models(section.annotation)[0].model_fields if section else {}
    own = model.model_fields.keys() - (of_section.keys() - model.__annotations__)
    return [name for name in model.model_fields if name in own - Stage.model_fields.keys()]


def _section_of(model: type[Config]) -> str | None:
    """The section of the recipe that has the keys of a table inside another one."""
    fields = RunConfig.model_fields.items()
    return next((_key(n, f) for n, f in fields if f.annotation is model), None)


def _models(annotation: Any) -> list[type[Config]]:
    """The config models that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _is_list(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (tuple, list):
        return True
    unions = (Union, types.UnionType, Annotated)
    return origin in unions and any(_is_list(part) for part in get_args(annotation))


def _kind(model: type[Config]) -> str:
    field = model.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field else model.__name__


def _default(table: Table, name: str, field: FieldInfo) -> Any:
    """PydanticUndefined where the key must be set."""
    if table.value is not None:
        return getattr(table.value, name)
    return field.get_default(call_default_factory=True, validated_data={})


def _key(name: str, field: FieldInfo) -> str:
    """A field's name in a recipe: ``from`` for ``from_``."""
    return field.alias or name


def _section(table: Table) -> str:
    rows = _fields(table)
    depth = "#" * (2 + min(2, table.name.count(".")))
    own = _plain(table.model.__doc__ or "")
    text = " ".join(filter(None, (own, table.use, _defaults_of_kind(table))))
    lines = [f"{depth} {table.heading}", "", text, ""]
    if rows:
        lines += ["| key | type | default | |", "|---|---|---|---|"]
        lines += [_row(table, name, field) for name, field in rows]
        lines.append("")
    return "\n".join(lines)


def _fields(table: Table) -> list[tuple[str, FieldInfo]]:
    """Fields that have a row: a table inside has a heading instead, but in a kind of stage, which
    lists its own keys alone."""
    fields = table.model.model_fields
    if issubclass(table.model, Stage) and table.kind:
        return [(name, fields[name]) for name in _own_keys(table.model)]
    return [
        (name, field)
        for name, field in fields.items()
        if not _models(field.annotation) or _is_list(field.annotation) or _inherits(table, field)
    ]


def _inherits(table: Table, field: FieldInfo) -> bool:
    """Whether a field is a table whose keys are those of a section."""
    models = _models(field.annotation)
    return bool(table.name and models) and _section_of(models[0]) is not None


def _defaults_of_kind(table: Table) -> str:
    """The section that gives a kind of stage what it does not set."""
    if not (issubclass(table.model, Stage) and table.kind):
        return ""
    section = f"`[{table.model.section}]`"
    return f"It also has every key of {section}; a key that it does not set has the value there."


def _row(table: Table, name: str, field: FieldInfo) -> str:
    meaning = _plain(field.description or "") or ("Chooses this table." if name == "kind" else "")
    words = _type(field)
    if _inherits(table, field):
        default = f"`[{_section_of(_models(field.annotation)[0])}]`"
    else:
        default = _shown(_default(table, name, field))
    if issubclass(table.model, Stage):
        if name == "kind":
            words = " or ".join(f"`{json.dumps(kind)}`" for kind in STAGE_KINDS)
        section = RunConfig.model_fields.get(getattr(table.model, "section", ""))
        if section and any(name in model.model_fields for model in _models(section.annotation)):
            default = f"`{table.model.section}.{name}`"
    cells = (f"`{_key(name, field)}`", words, default, meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(field: FieldInfo) -> str:
    bounds = [
        f"{words} {json.dumps(getattr(mark, attribute))}"
        for mark in field.metadata
        for kind, attribute, words in _BOUNDS
        if isinstance(mark, kind)
    ]
    fewest = [mark.min_length for mark in field.metadata if isinstance(mark, MinLen)]
    lengths = [f"{n} or more" if _is_list(field.annotation) else "not empty" for n in fewest]
    return ", ".join([_type_words(field.annotation), *bounds, *lengths])


def _type_words(annotation: Any) -> str:
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(part)}`" for part in parts)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{json.dumps(member.value)}`" for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return "table"
    if origin in (tuple, list):
        return _list_words(parts)
    if origin is dict or annotation in (dict, Any) or origin is Mapping:
        return "table"
    known = [part for part in parts if part is not types.NoneType]
    return " or ".join(_type_words(part) for part in known) or str(annotation)


def _list_words(parts: tuple[Any, ...]) -> str:
    if _models(parts[0]):
        return "list of tables"
    if len(parts) > 1 and parts[1] is not Ellipsis:
        return f"list of {len(parts)}: {_type_words(parts[0])}"
    return f"list of {_type_words(parts[0])}"


def _shown(value: Any) -> str:
    if value is PydanticUndefined:
        return "**must be set**"
    if value is None:
        return "not set"
    text = _toml(value)
    if len(text) <= 60:
        return f"`{text}`"
    return "DeepIntuit's text" if isinstance(value, str) else "all of them, in that order"


def _toml(value: Any) -> str:
    if isinstance(value, Config):
        values = value.model_dump(mode="json", exclude_unset=True) or value.model_dump(mode="json")
        return "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in values.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, Enum):
        return json.dumps(value.value)
    if isinstance(value, Path):
        return json.dumps(str(value))
    if isinstance(value, float) and value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:g}"
    return json.dumps(value)


def _plain(docstring: str) -> str:
    """A docstring as one line of Markdown, without its example."""
    text = docstring.partition("Example:")[0]
    return " ".join(text.split()).replace("``", "`")
