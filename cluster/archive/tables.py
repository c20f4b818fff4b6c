"""Tables of an archive for a terminal: its counts, rows of traces, the schema, one group."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.archive.columns import DERIVED, columns
from cluster.archive.summary import by_split, mean_reward
from cluster.driver.units import format_bytes
from wire.archive.index import Summary
from wire.archive.index_files import Count
from wire.types import Failure, Score, Trace, TraceGroup

_BETWEEN = 3  # characters between two columns
_SHORT = 16  # characters that a cell always shows
_LIST_SHOWN = 4  # numbers of a list in a cell


def summary_view(summary: Summary, written: tuple[float, float] | None) -> RenderableType:
    """Counts by attempt, purpose and split, and the files that hold them; ``written``: when, in
    seconds since 1970."""
    table = Table(box=box.SIMPLE)
    for name in ("attempt", "purpose", "split"):
        table.add_column(name, no_wrap=True)
    for name in ("versions", "groups", "traces", "failed", "tokens", "reward"):
        table.add_column(name, justify="right", no_wrap=True)
    for count in by_split(summary.counts):
        mean = mean_reward(count)
        numbers = (count.groups, count.traces, count.failed, count.tokens)
        table.add_row(
            str(count.attempt),
            count.purpose,
            count.split,
            _versions(count),
            *(f"{number:,}" for number in numbers),
            "" if mean is None else f"{mean:.3f}",
        )
    return Group(table, Text(_files(summary, written)))


def rows_view(table: pa.Table, width: int) -> RenderableType:
    """Rows, one a line of ``width`` characters: long text is cut at its end, short values never.
    More columns than a line holds: a line per value."""
    rows = [
        [cell(value) for value in row.values()] for row in table.to_pylist(maps_as_pydicts="strict")
    ]
    widest = [
        max(len(name), *(len(row[index]) for row in rows)) if rows else len(name)
        for index, name in enumerate(table.column_names)
    ]
    if sum(min(_SHORT, length) + _BETWEEN for length in widest) > width:
        return _records_view(table.column_names, rows)
    view = Table(box=box.SIMPLE)
    for field, length in zip(table.schema, widest, strict=True):
        long = length > _SHORT
        view.add_column(
            field.name,
            justify="right" if _is_number(field.type) else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=None if long else length,
            ratio=1 if long else None,
        )
        view.expand |= long
    for row in rows:
        view.add_row(*row)
    return view


def _records_view(names: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    view = Table(box=box.SIMPLE, show_header=False)
    view.add_column(style="dim", no_wrap=True)
    view.add_column(no_wrap=True, overflow="ellipsis")
    for row in rows:
        for name, value in zip(names, row, strict=True):
            view.add_row(name, value)
        view.add_section()
    return view


def schema_view() -> RenderableType:
    """Names, types and meanings of the columns."""
    view = Table(box=box.SIMPLE)
    view.add_column("column", no_wrap=True)
    view.add_column("type", overflow="fold")
    view.add_column("meaning", overflow="fold", ratio=1)
    for column in columns():
        view.add_row(column.name, short_type(column.type), column.meaning)
    for name, (kind, meaning) in DERIVED.items():
        view.add_row(Text(name, style="dim"), short_type(kind), meaning)
    return view


def group_view(group: TraceGroup, number: int | None = None) -> RenderableType:
    """A group for people; with ``number``, of its traces only that one."""
    view = Table(box=box.SIMPLE, show_header=False, padding=(0, 1))
    view.add_column(style="dim", no_wrap=True)
    view.add_column(overflow="fold")
    for name, value in _group_rows(group):
        view.add_row(name, value)
    shown = range(len(group.traces)) if number is None else (number,)
    return Group(view, *(part for index in shown for part in _trace(index, group.traces[index])))


def short_type(kind: pa.DataType) -> str:
    """A type in one word: ``list<float>`` for Arrow's ``list<element: float>``."""
    if pa.types.is_list(kind):
        return f"list<{short_type(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{short_type(kind.key_type)}, {short_type(kind.item_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(field.name for field in kind)}>"
    return str(kind)


def cell(value: Any) -> str:
    """A value in one line."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {cell(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        shown = " ".join(cell(inner) for inner in value[:_LIST_SHOWN])
        return shown if len(value) <= _LIST_SHOWN else f"{shown} ... {len(value)} in all"
    return " ".join(str(value).split())


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind))


def _versions(count: Count) -> str:
    first, last = (f"{count.attempt}.{step}" for step in (count.first_step, count.last_step))
    return first if first == last else f"{first} to {last}"


def _files(summary: Summary, written: tuple[float, float] | None) -> str:
    size = f"{summary.num_files} files, {format_bytes(summary.num_bytes)}"
    if summary.num_indexed:
        size += f", {summary.num_indexed} with an index"
    if written is None:
        return size
    first, last = (
        datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M") for seconds in written
    )
    return f"{size}, written {first}" if first == last else f"{size}, written {first} to {last}"


def _group_rows(group: TraceGroup) -> Iterator[tuple[str, str]]:
    sample, prompt = group.sample, group.prompt
    yield "group", group.group_id
    yield "sample", sample.id
    yield "label", f"{sample.label} ({sample.split.value})"
    yield "video", sample.video
    for name in ("trace", "text"):
        if (value := getattr(sample, name)) is not None:
            yield f"sample's {name}", value
    for key, value in sample.extra.items():
        yield key, str(value)
    yield "purpose", group.purpose.value
    yield "policy version", str(group.policy_version)
    if prompt is not None:
        version = prompt.version or "not recorded"
        yield (
            "prompt",
            f"version {version}, {len(prompt.token_ids)} tokens, fingerprint "
            f"{prompt.fingerprint[:12]}",
        )
        if prompt.frame_indices:
            yield "frames", cell(list(prompt.frame_indices))
        if prompt.video_hash:
            yield "video hash", prompt.video_hash
        yield "clip key", prompt.clip_key
    for failure in group.failures:
        yield "failed", _failure(failure)
    if not group.traces:
        yield "traces", "none"


def _trace(index: int, trace: Trace) -> Iterator[RenderableType]:
    answer, outcome = trace.completion, trace.outcome
    head = Text(f"trace {index}  ", style="bold")
    versions = ", ".join(
        [
            str(answer.policy_version),
            *[f"{one.version} from token {one.first_token}" for one in answer.version_changes],
        ]
    )
    if isinstance(outcome, Score):
        parts = ", ".join(f"{name} {cell(value)}" for name, value in outcome.parts.items())
        head.append(f"reward {outcome.total:.6g}" + (f" ({parts})" if parts else ""))
    else:
        head.append(f"not scored: {_failure(outcome)}")
    head.append(
        f"  {len(answer.token_ids)} tokens, {answer.finish_reason.value}, version {versions}",
        style="dim",
    )
    yield head
    yield Text(answer.text)
    yield Text()


def _failure(failure: Failure) -> str:
    return f"{failure.kind.value}: {failure.reason} ({failure.culprit})"
