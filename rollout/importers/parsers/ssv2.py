"""Something-Something's lists: JSON {id, label, template, placeholders}, and lines ``id;label``.

The class is the *template* without its brackets; ``label`` there is the sentence about one clip.
"""

from rollout.importers.csv_file import FIRST, SECOND
from rollout.importers.parsers.table import is_numbered
from rollout.importers.record import Record
from rollout.importers.rows import Row, further, label_in, short
from wire.errors import DataError


def is_ssv2(row: Row) -> bool:
    """Whether a row has an id and a template, or is a line ``id;label``."""
    return {"id", "template"} <= set(row) or is_numbered(row)


def parse(where: str, row: Row) -> Record:
    """One row. Raises DataError if it has no id."""
    number = row.get("id", row.get(FIRST))
    if not isinstance(number, str | int) or not str(number).strip():
        raise DataError(f"{where}: 'id' is {short(number)}, expected the number of a video")
    template = row.get("template", row.get(SECOND))
    if isinstance(template, str):
        template = template.replace("[", "").replace("]", "")
    columns = further(row, ("id", "template", "label", FIRST, SECOND))
    if FIRST not in row and row.get("label"):
        columns["caption"] = row["label"]
    name = str(number).strip()
    return Record(
        id=name,
        where=where,
        videos=(name,),
        label=label_in(template, where, "template"),
        columns=columns,
    )
