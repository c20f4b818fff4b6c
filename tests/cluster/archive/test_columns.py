"""Every column of the archive has a meaning, and every meaning a column."""

from cluster.archive.columns import DERIVED, MEANINGS, columns
from wire.archive.trace_rows import SCHEMA


def test_every_column_has_a_type_and_a_meaning():
    assert [(column.name, column.type) for column in columns()] == [
        (field.name, field.type) for field in SCHEMA
    ]


def test_no_meaning_is_of_a_column_that_there_is_not():
    coming = {"video_hash", "window_start_s", "window_end_s", "frame_indices"}
    assert set(MEANINGS) - set(SCHEMA.names) <= coming
    assert not set(DERIVED) & set(SCHEMA.names)
