"""The command archive: what a run's trace archive holds, as tables, rows and files."""

import argparse
import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cluster.commands import archive_upkeep
from cluster.commands.base import add_archive_command, add_command, pipe_may_close, say
from wire.printable import printable
from wire.remote_path import place_of
from wire.strict_json import to_json

_DEFAULT_COLUMNS = (
    "group_id",
    "trace_index",
    "step",
    "label",
    "reward",
    "num_tokens",
    "finish_reason",
)
_FORMATS = ("jsonl", "jsonl-groups", "datasets", "scout", "lance")
_PAGE = 20
_QUERY_ROWS = 100


def _ls(options: argparse.Namespace) -> None:
    from cluster.archive.place import archive_directory
    from cluster.archive.rows import named_columns
    from cluster.archive.where import parse_where

    where = parse_where(options.where)
    chosen = None if options.columns is None else named_columns(options.columns)
    directory = archive_directory(options.archive)
    if chosen or options.where or options.page or options.limit or options.newest:
        _list_rows(options, directory, chosen or list(_DEFAULT_COLUMNS), where)
    else:
        _list_parts(options, directory)


def _list_rows(
    options: argparse.Namespace, directory: Path, columns: list[str], where: Any
) -> None:
    from cluster.archive.rows import json_rows, page, scan
    from cluster.archive.tables import rows_view
    from cluster.driver.progress import console

    limit = options.limit or _PAGE
    number = options.page or 1
    if options.json and not (options.limit or options.page or options.newest):
        write_lines(row for table in scan(directory, columns, where) for row in json_rows(table))
        return
    begin = (number - 1) * limit
    table = page(
        directory,
        columns,
        where,
        offset=begin,
        limit=limit + 1,  # is there another page?
        newest_first=options.newest,
    )
    shown = table.slice(0, limit)
    if options.json:
        write_lines(json_rows(shown))
        return
    if not shown.num_rows:
        say("no trace matches" if number == 1 else f"no page {number}: there are fewer matches")
        return
    with pipe_may_close():
        console.print(rows_view(shown, console.width))
    if table.num_rows > limit:
        say(f"rows {begin + 1} to {begin + limit}; more with --page {number + 1} or --limit N")


def _list_parts(options: argparse.Namespace, directory: Path) -> None:
    from cluster.archive.summary import to_plain, written
    from cluster.archive.tables import summary_view
    from cluster.driver.progress import console
    from wire.archive.index import summarise

    summary = summarise(directory)
    if options.json:
        write_lines(map(to_plain, summary.counts))
        return
    with pipe_may_close():
        console.print(summary_view(summary, written(directory)))


def _show(options: argparse.Namespace) -> None:
    from cluster.archive.export.jsonl import group_json
    from cluster.archive.find import find_groups
    from cluster.archive.place import archive_directory
    from cluster.archive.tables import group_view
    from cluster.driver.progress import console
    from wire.errors import ConfigError

    groups = find_groups(archive_directory(options.archive), options.group)
    attempts = [group.policy_version.attempt for group in groups]
    if options.attempt is not None and options.attempt not in attempts:
        raise ConfigError(
            f"attempt {options.attempt} has no group {options.group!r}; {attempts} have"
        )
    group = groups[-1 if options.attempt is None else attempts.index(options.attempt)]
    number = options.trace
    if number is not None and not 0 <= number < len(group.traces):
        raise ConfigError(
            f"group {options.group!r} has {len(group.traces)} traces, numbered from 0; got {number}"
        )
    if options.json:
        write_lines([group_json(group, number)])
        return
    with pipe_may_close():
        console.print(group_view(group, number))
    if len(groups) > 1 and options.attempt is None:
        say(f"attempts {attempts} have a group of this id; this is the newest, see --attempt")


def _query(options: argparse.Namespace) -> None:
    import pyarrow as pa

    from cluster.archive.place import archive_directory
    from cluster.archive.query import query
    from cluster.archive.rows import first_rows, json_rows
    from cluster.archive.tables import rows_view
    from cluster.driver.progress import console

    answer = query(archive_directory(options.archive), options.sql)
    if options.json or options.csv:
        tables = first_rows(iter(answer), options.limit) if options.limit else iter(answer)
        rows = itertools.chain.from_iterable(map(json_rows, tables))
        if options.json:
            write_lines(rows)
        else:
            _write_csv(answer.schema.names, rows)
        return
    limit = options.limit or _QUERY_ROWS
    parts = first_rows(iter(answer), limit + 1)
    table = pa.concat_tables([answer.schema.empty_table(), *parts])
    with pipe_may_close():
        console.print(rows_view(table.slice(0, limit), console.width))
    if table.num_rows > limit:
        say(f"the first {limit} rows; more with --limit N, all with --json or --csv")


def _write_csv(names: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Rows as CSV to stdout: null is empty, and what is no single value is JSON."""
    import csv
    import io

    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    with pipe_may_close():
        for row in itertools.chain([names], (row.values() for row in rows)):
            writer.writerow([to_json(v) if isinstance(v, dict | list) else v for v in row])
            text = line.getvalue()
            sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
            line.seek(0)
            line.truncate()


def _export(options: argparse.Namespace) -> None:
    from cluster.archive.export.export import export
    from cluster.archive.place import archive_directory
    from cluster.archive.rows import count_rows, named_columns
    from cluster.archive.where import parse_where
    from cluster.driver.progress import progress_bar
    from cluster.driver.units import format_bytes

    where = parse_where(options.where)
    columns = None if options.columns is None else named_columns(options.columns)
    directory = archive_directory(options.archive)
    with progress_bar("export", count_rows(directory)) as bar:
        exported = export(directory, options.out, options.format, where, columns, bar.advance)
    say(f"{exported.num_rows} rows, {format_bytes(exported.num_bytes)}, in {options.out}")
    say("it may hold personal data (labels, ids, file names, what was written about people)")


def _schema(options: argparse.Namespace) -> None:
    from cluster.archive.columns import columns
    from cluster.archive.tables import schema_view, short_type
    from cluster.driver.progress import console

    if options.json:
        write_lines(
            {"column": column.name, "type": short_type(column.type), "meaning": column.meaning}
            for column in columns()
        )
        return
    from wire.archive.trace_rows import SCHEMA_VERSION

    with pipe_may_close():
        console.print(schema_view())
        console.print(f"schema version {SCHEMA_VERSION}")


def write_lines(values: Iterable[Any]) -> None:
    """JSON values to stdout, one a line; a reader that closes the pipe ends it."""
    with pipe_may_close():
        for value in values:
            sys.stdout.write(to_json(value) + "\n")
        sys.stdout.flush()


def add_where(command: Any) -> None:
    """Add the argument ``--where``."""
    command.add_argument(
        "--where",
        type=_unicode,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILTER",
        help="only traces for which all filters hold: 'label=undo' 'reward>=1' 'purpose!=train' "
        "'label=a|b' 'reward=null' 'text~word' 'reward_parts.accuracy>=1'",
    )


def positive(text: str) -> int:
    """A whole number from 1 on, of an argument."""
    return archive_upkeep.whole_number(text, least=1)


def _unicode(text: str) -> str:
    """An argument that is compared with text of the archive, which is Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no UTF-8; the archive's text is") from error
    return text


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "a run's trace archive: list, show, query, export; merge, verify, delete"
    archive = commands.add_parser("archive", help=text, description=text)
    parts = archive.add_subparsers(dest="archive_command", required=True)
    _add_ls(parts)
    _add_show(parts)
    _add_query(parts)
    _add_export(parts)
    schema = add_command(parts, "schema", "columns of an archive, with types and meanings", _schema)
    schema.add_argument("--json", action="store_true", help="JSON, one column a line")
    archive_upkeep.add(parts)


def _add_ls(parts: Any) -> None:
    text = "counts by attempt, purpose and split; with a filter or columns, rows of traces"
    command = add_archive_command(parts, "ls", text, _ls)
    add_where(command)
    command.add_argument("--columns", metavar="A,B,...", help="columns of the rows: see schema")
    command.add_argument(
        "--limit", type=positive, help=f"rows of a page; default {_PAGE}, with --json all"
    )
    command.add_argument("--page", type=positive, help="which page, from 1 on")
    command.add_argument("--newest", action="store_true", help="the newest traces first")
    command.add_argument("--json", action="store_true", help="JSON, one row a line")


def _add_show(parts: Any) -> None:
    command = add_archive_command(
        parts, "show", "one group: sample, prompt, traces, rewards, failures", _show
    )
    command.add_argument(
        "group", type=_unicode, metavar="GROUP_ID", help="see ls --columns group_id"
    )
    command.add_argument("trace", type=int, nargs="?", metavar="TRACE", help="only this trace")
    command.add_argument("--attempt", type=int, help="of which attempt; default: the newest")
    command.add_argument("--json", action="store_true", help="as a line of --format jsonl-groups")


def _add_query(parts: Any) -> None:
    text = "SQL over the view traces, a row per trace; needs deepintuit[archive]"
    command = add_archive_command(parts, "query", text, _query)
    command.add_argument(
        "sql",
        type=_unicode,
        metavar="SQL",
        help="such as: SELECT label, avg(reward) FROM traces GROUP BY label",
    )
    command.add_argument(
        "--limit", type=positive, help=f"rows; default {_QUERY_ROWS}, with --json and --csv all"
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON, one row a line")
    form.add_argument("--csv", action="store_true", help="CSV with a header")


def _add_export(parts: Any) -> None:
    text = "write traces for other tools; videos are not copied"
    command = add_archive_command(parts, "export", text, _export)
    command.add_argument(
        "out", type=place_of, metavar="OUT", help="a place that is not there yet; also s3://"
    )
    command.add_argument(
        "--format",
        choices=_FORMATS,
        required=True,
        help="jsonl: a trace a line; jsonl-groups: a group a line; datasets: Hugging Face; scout: "
        "transcripts for Inspect Scout; lance: needs deepintuit[lance]",
    )
    add_where(command)
    command.add_argument("--columns", metavar="A,B,...", help="default: all; see schema")
