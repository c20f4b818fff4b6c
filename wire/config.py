"""Base of every configuration model: frozen, typed, unknown keys refused with the nearest name."""

import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from wire.errors import ConfigError
from wire.nearest import nearest


class Config(BaseModel):
    """A frozen section of a recipe; the docstring under a field is its help text."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        # a key that is no name in Python has an alias
        serialize_by_alias=True,
        validate_by_name=True,
        validate_by_alias=True,
    )


C = TypeVar("C", bound=Config)

Hint = Callable[[str, object, Sequence[str]], str | None]
"""Hint on an unknown key: (the key, dotted; its value; the keys known there) -> a sentence on its
name here, or None."""


_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_hub_name(value: str) -> bool:
    """Whether a value has the form org/name, as models of the Hugging Face hub are called."""
    return _HUB_NAME.fullmatch(value) is not None


def load_recipe(
    model: type[C],
    path: Path,
    overrides: list[str],
    path_keys: Sequence[str] = (),
    hint: Hint | None = None,
    hub_keys: Sequence[str] = (),
    text_keys: Sequence[str] = (),
) -> C:
    """Read a TOML recipe, apply ``--set a.b=value`` overrides, validate.

    ``extends = "other.toml"`` at the top of a recipe takes everything from there that it does not
    set itself, table by table; a list is replaced whole. The values of ``path_keys`` (``a.b``) are
    made absolute: they are relative to the file that holds them, those of overrides to ``path``,
    and ``$NAME`` and ``~`` stand for what they stand for in a shell. A value of ``hub_keys`` (some
    of them) that has the form org/name stays as it is, unless there is such a path. A value of
    ``text_keys`` may be ``{ file = PATH }``, which stands for the text of that file.

    Raises ConfigError naming every wrong key: what was got, what was expected, and what ``hint``
    says of it or else the nearest known name.
    """
    values = read_values(path, overrides, path_keys, hub_keys, text_keys)
    return validate(model, values, source=str(path), hint=hint)


def read_values(
    path: Path,
    overrides: list[str],
    path_keys: Sequence[str] = (),
    hub_keys: Sequence[str] = (),
    text_keys: Sequence[str] = (),
) -> dict[str, Any]:
    """Values that a recipe and its overrides set, as :func:`load_recipe` reads them, before they
    are validated. Raises ConfigError."""
    keys = {key: key in hub_keys for key in path_keys}
    keys |= {f"{key}.file": False for key in text_keys}
    values = _read(path, keys, ())
    for override in overrides:
        apply_override(values, override)
    _make_absolute(values, keys, path)
    _refuse_infinite(values, path)
    _read_texts(values, text_keys)
    return values


def _refuse_infinite(values: dict[str, Any], path: Path) -> None:
    """Raise ConfigError for inf and nan, which TOML has and JSON, in which runs keep their recipe,
    has not."""
    for name, number in _numbers(values):
        if not math.isfinite(number):
            raise ConfigError(f"{path}: {name} = {number}; give a finite number")


def _numbers(values: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Numbers in nested tables and lists, each with its dotted name."""
    if isinstance(values, float):
        yield name, values
    elif isinstance(values, dict):
        for key, inner in values.items():
            yield from _numbers(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list):
        for place, inner in enumerate(values):
            yield from _numbers(inner, f"{name}.{place}")


def _read(path: Path, path_keys: dict[str, bool], below: tuple[Path, ...]) -> dict[str, Any]:
    """A recipe's values over those of the recipe that it extends; ``below`` are those over it."""
    chain = (*below, path.resolve())
    values = _parse(path, f"the recipe {path}" + (f" that {below[-1]} extends" if below else ""))
    _make_absolute(values, path_keys, path)
    if "extends" not in values:
        return values
    name = values.pop("extends")
    if not isinstance(name, str):
        raise ConfigError(f"{path}: extends = {name!r}; expected the path of one .toml file")
    other = _absolute(name, path)
    if other.resolve() in chain:
        circle = " extends ".join(str(link) for link in (*chain, other.resolve()))
        raise ConfigError(f"recipes extend each other in a circle: {circle}; take one link out")
    return merge(_read(other, path_keys, chain), values)


def _parse(path: Path, what: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {what}: {error.strerror}; give the path of a .toml file"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        advice = _OTHER_FORMATS.get(path.suffix.lower(), "mend that line")
        raise ConfigError(f"{path} is not valid TOML: {error}; {advice}") from error


_ASK = "recipes are TOML ([section], key = value): begin with a copy of recipes/demo.toml"
_OTHER_FORMATS = dict.fromkeys((".yaml", ".yml", ".json", ".py", ".sh"), _ASK)


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge ``over`` into the other values: ``over`` wins; where both hold a table, key by key."""
    merged = {**under, **over}
    for key in under.keys() & over.keys():
        if isinstance(under[key], dict) and isinstance(over[key], dict):
            merged[key] = merge(under[key], over[key])
    return merged


def _make_absolute(values: dict[str, Any], path_keys: dict[str, bool], recipe: Path) -> None:
    """``path_keys``: each with whether a name of the hub may stand there."""
    for key, may_be_name in path_keys.items():
        *parents, last = key.split(".")
        for table in _tables(values, parents):
            if isinstance(value := table.get(last), str):
                path = _absolute(value, recipe)
                if not (may_be_name and is_hub_name(value) and not path.exists()):
                    table[last] = str(path)


def _tables(place: Any, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The tables at a dotted place: of a list, each entry's."""
    if isinstance(place, list):
        for entry in place:
            yield from _tables(entry, names)
    elif isinstance(place, dict) and names:
        yield from _tables(place.get(names[0]), names[1:])
    elif isinstance(place, dict):
        yield place


def _read_texts(values: dict[str, Any], text_keys: Sequence[str]) -> None:
    for key in text_keys:
        *parents, last = key.split(".")
        for table in _tables(values, parents):
            if isinstance(value := table.get(last), dict):
                table[last] = _text_of_file(key, value)


def _text_of_file(key: str, value: dict[str, Any]) -> str:
    """Text of ``{ file = PATH }``, without the line breaks at its end."""
    name = value.get("file")
    if set(value) != {"file"} or not isinstance(name, str):
        raise ConfigError(f'{key} = {_short(value)}: expected a text, or {{ file = "a.txt" }}')
    try:
        text = Path(name).read_text(encoding="utf-8-sig").rstrip("\n")
    except OSError as error:
        raise ConfigError(
            f"{key}: cannot read {name}: {error.strerror}; give the path of a text file, which is "
            "relative to the folder of the recipe that holds it"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{key}: {name} is not UTF-8 text: {error}; save it as UTF-8") from error
    if not text.strip():
        raise ConfigError(f"{key}: {name} is empty; write the text into it, or leave the key out")
    return text


def _absolute(path: str, recipe: Path) -> Path:
    """Absolute form of a path in a recipe, which is relative to the recipe's folder."""
    return recipe.resolve().parent / Path(os.path.expandvars(path)).expanduser()


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one ``a.b=value`` in nested dicts; the value is read as TOML, and as plain text if it is
    none. An entry of a list of tables is found by its ``name``."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set got {override!r}, expected key=value such as grpo.num_steps=10")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    place: Any = values
    for name in parents:
        if isinstance(place, list):  # of tables, each by its name: stages.warmup.epochs
            named = [entry for entry in place if isinstance(entry, dict) and "name" in entry]
            place = next((entry for entry in named if entry["name"] == name), None)
            if place is None:
                known = [str(entry["name"]) for entry in named]
                raise ConfigError(f"--set {override!r}: {nearest(name, known, 'names there')}")
            continue
        place = place.setdefault(name, {})
        if not isinstance(place, dict | list):
            raise ConfigError(
                f"--set {override!r}: {name!r} is a value, not a section, so it has no {last!r}"
            )
    if isinstance(place, list):
        raise ConfigError(
            f"--set {override!r}: {'.'.join(parents)!r} is a list; name an entry of it"
        )
    place[last] = value


def flatten(values: Any, prefix: str = "", *, keep_empty: bool = False) -> dict[str, Any]:
    """Settings by their dotted names: nested dicts as ``a.b`` -> value, below ``prefix``.

    ``keep_empty``: an empty dict is a value; else nothing is left of it.
    """
    if not isinstance(values, dict) or (keep_empty and not values):
        return {prefix: values}
    return {
        name: value
        for key, inner in values.items()
        for name, value in flatten(
            inner, f"{prefix}.{key}" if prefix else str(key), keep_empty=keep_empty
        ).items()
    }


def validate(model: type[C], values: Mapping[str, Any], source: str, hint: Hint | None = None) -> C:
    """Validate plain values as ``model``. Raises ConfigError that names every mistake."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        details = error.errors()
        faults = [_explain(model, d, hint) for d in details if not _follows(d, details)]
        raise ConfigError(f"{source}: " + "; ".join(faults)) from error


def _follows(detail: ErrorDetails, details: Sequence[ErrorDetails]) -> bool:
    """Whether a list is called too short only because of a mistake in one of its entries."""
    where = detail["loc"]
    inside = any(len(d["loc"]) > len(where) and d["loc"][: len(where)] == where for d in details)
    return detail["type"] == "too_short" and inside


def _explain(model: type[BaseModel], detail: ErrorDetails, hint: Hint | None) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "recipe"
    if detail["type"] == "extra_forbidden":
        known = _known_names(model, detail["loc"][:-1])
        if hint and (hinted := hint(where, detail["input"], known)):
            return hinted
        advice = nearest(str(detail["loc"][-1]), sorted(set(known)), "known here")
        return f"unknown key {where!r}; {advice}"
    if detail["type"] == "missing":
        return f"{where!r} is missing; add it"
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message  # a rule over several settings names them itself
    message = message.replace("Input should be a valid", "expected a valid")
    message = re.sub("^Input should be (?=greater|less)", "expected a number ", message)
    message = message.replace("Input should be", "expected")
    message = re.sub(r"^\w+ should have (.*) after validation, not \d+$", r"expected \1", message)
    return f"{where} = {_short(detail['input'])}: {message}{_meaning(model, detail['loc'])}"


def _meaning(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Description of a setting, from its section; empty where there is no such setting."""
    section: type[BaseModel] = model
    for part in location[:-1]:
        field = _field(section, part)
        inner = _section_types(field.annotation) if field else []
        if len(inner) != 1:
            return ""
        (section,) = inner
    field = _field(section, location[-1]) if location else None
    text = " ".join((field.description or "").split()) if field else ""
    return f" ({text.rstrip('.')})" if text else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _known_names(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the section at ``location``, or of the nearest section above it."""
    sections = [model]
    for part in location:
        tagged = [section for section in sections if _has_tag(section, part)]
        if len(sections) > 1 and tagged:
            sections = tagged  # the member of a union that ``kind`` chose
            continue
        fields = [_field(section, part) for section in sections]
        inner = [
            section_type
            for field in fields
            if field
            for section_type in _section_types(field.annotation)
        ]
        sections = inner or sections  # none: a list index, or the key of a table of sections
    named = [item for section in sections for item in section.model_fields.items()]
    return [field.alias or name for name, field in named]


def _field(section: type[BaseModel], key: int | str) -> FieldInfo | None:
    """The field of a key in a recipe, by its name or alias."""
    named = section.model_fields.get(str(key))
    return named or next((f for f in section.model_fields.values() if f.alias == key), None)


def _has_tag(section: type[BaseModel], tag: int | str) -> bool:
    """Whether ``section`` is the member of a union with this ``kind``."""
    kind = section.model_fields.get("kind")
    return kind is not None and tag in getattr(kind.annotation, "__args__", ())


def _section_types(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner = getattr(annotation, "__args__", ())
    return [section_type for part in inner for section_type in _section_types(part)]
