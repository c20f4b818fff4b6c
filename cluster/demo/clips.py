"""Makes the demo's data: real mp4 clips and their manifest.

<out>/manifest.jsonl        one JSON row per clip
<out>/clips/<split>/*.mp4   56x56 pixels, 12 frames, 4 frames a second, H.264
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cluster.demo.events import (
    LABELS,
    NEWEST,
    UNSEEN,
    Triple,
    combination,
    label_of,
    stable_hash,
    teacher_trace,
    triples_by_label,
)
from cluster.demo.render import render
from cluster.demo.scenes import FPS, POOLS, draw_scene
from wire.errors import ConfigError
from wire.whole_file import whole_file

logger = logging.getLogger(__name__)

# Of the val and test clips, this share shows combinations that no clip to learn from shows.
_UNSEEN_SHARE = 0.3
_CRF = 14


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan of one clip."""

    id: str
    split: str
    events: Triple
    has_trace: bool
    seed: int


def make_demo_data(
    out_dir: Path | str,
    seed: int = 0,
    *,
    train: int = 600,
    traces: int = 32,
    val: int = 100,
    cal: int = 600,
    test: int = 300,
) -> Path:
    """Write the clips and the manifest; returns the manifest's path.

    ``traces`` of the ``train`` clips carry a teacher trace, for the cold start: the first ones
    whose label is not the newest. All ``cal`` clips do, for the control arm whose verdict learns
    from the teacher. Labels are equally frequent in every split. So few traces leave the rules half
    learnt however long they are trained on: with 200 the cold start alone solves the task.
    """
    possible = sum(LABELS[index % len(LABELS)] != NEWEST for index in range(train))
    if traces > possible:
        raise ConfigError(
            f"traces={traces} is more than the {possible} of train={train} clips whose label is "
            f"not {NEWEST!r}; lower it or raise train"
        )
    out = Path(out_dir)
    sizes = {"train": train, "val": val, "cal": cal, "test": test}
    rows = []
    for plan in plan_clips(seed, sizes, traces):
        video = Path("clips") / plan.split / f"{plan.id}.mp4"
        (out / video).parent.mkdir(parents=True, exist_ok=True)
        scene = draw_scene(POOLS[plan.split], plan.events, plan.seed)
        write_mp4(out / video, render(scene))
        rows.append(_row(plan, video))
    manifest = out / "manifest.jsonl"
    with whole_file(manifest) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    logger.info("wrote %d clips to %s", len(rows), out)
    return manifest


def plan_clips(seed: int, sizes: dict[str, int], traces: int) -> Iterator[Plan]:
    """Plan the clips of a seed; a larger size only adds clips at the end of its split."""
    members = {unseen: triples_by_label(unseen=unseen) for unseen in (False, True)}
    left = traces
    for split, size in sizes.items():
        for index in range(size):
            clip_seed = stable_hash("clip", seed, split, index)
            rng = np.random.default_rng(stable_hash("events", clip_seed))
            unseen = split in ("val", "test") and rng.random() < _UNSEEN_SHARE
            label = LABELS[index % len(LABELS)]
            choices = members[unseen][label]
            events = choices[int(rng.integers(len(choices)))]
            has_teacher = split == "train" and label != NEWEST and left > 0
            left -= has_teacher
            has_trace = has_teacher or split == "cal"
            yield Plan(f"{split}-{seed}-{index:05d}", split, events, has_trace, clip_seed)


def write_mp4(path: Path, frames: NDArray[np.uint8]) -> None:
    """Write frames as an H.264 file."""
    with path.open("wb") as file:
        encode(file, frames)


def encode(file: BinaryIO, frames: NDArray[np.uint8]) -> None:
    """Encode frames as H.264 in an mp4 container."""
    import av

    # One thread: with more, the bytes depend on the machine. And x264's macroblock tree reads
    # memory that nobody wrote when frames are this small: the same clip came out ten ways.
    options = {"crf": str(_CRF), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _row(plan: Plan, video: Path) -> dict[str, object]:
    return {
        "id": plan.id,
        "video": video.as_posix(),
        "label": label_of(plan.events),
        "split": plan.split,
        "trace": teacher_trace(plan.events) if plan.has_trace else None,
        "text": None,
        "combination": combination(plan.events),
        "seen_combination": plan.events not in UNSEEN,
    }
