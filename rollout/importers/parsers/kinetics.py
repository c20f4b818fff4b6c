"""Kinetics' lists: label, youtube_id, time_start, time_end, split.

The clips are called ID_000012_000022.mp4 once they are cut, ID.mp4 before, and lie in the root, in
their class's folder, or in that of their split.
"""

from rollout.importers.record import Record
from rollout.importers.rows import Row, further, label_in, split_in, text_in, window_in

_USED = ("label", "time_start", "time_end", "split")


def is_kinetics(row: Row) -> bool:
    """Whether a row has the columns of Kinetics; test lists may have no label."""
    return {"youtube_id", "time_start", "time_end"} <= set(row)


def parse(where: str, row: Row) -> Record:
    """One row. Raises DataError if the id or the times are missing."""
    youtube_id = text_in(row, "youtube_id", where)
    window = window_in(row, "time_start", "time_end", where)
    label = label_in(row.get("label"), where)
    split = row.get("split")
    folders = "".join(f"{name}/" for name in (split, label) if name)
    cut = f"{youtube_id}_{window.start_s:06.0f}_{window.end_s:06.0f}" if window else youtube_id
    return Record(
        id=cut,
        where=where,
        videos=(f"{folders}{cut}", f"{folders}{youtube_id}"),
        untrimmed=(f"{folders}{youtube_id}",),
        window=window,
        split=split_in(split, where),
        label=label,
        columns=further(row, _USED),
    )
