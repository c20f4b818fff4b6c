"""Every column of the archive has a meaning, and every meaning a column."""

from cluster.archive.columns import DERIVED, MEANINGS, columns
from wire.archive.trace_rows import FILE_SCHEMA, SCHEMA


def test_every_column_has_a_type_and_a_meaning():
    assert [(column.name, column.type) for column in columns()] == [
        (field.name, field.type) for field in FILE_SCHEMA
    ]


def test_no_meaning_is_of_a_column_that_there_is_not():
    assert list(MEANINGS) == SCHEMA.names
    assert not set(DERIVED) & set(SCHEMA.names)
