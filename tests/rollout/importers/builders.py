"""Builders: records as the two papers write them, with invented contents, and an import of them."""

import json
from pathlib import Path
from typing import Any

from rollout.importers.importer import import_records
from rollout.importers.options import ImportOptions
from rollout.importers.report import Report

PROMPT = """
You judge clips of a garden camera. Answer abnormal or normal.

PROVIDED MATERIALS

Title: {title}
ASR Transcript: {asr}
Sticker Text: {sticker}
"""
LABEL_QUESTION = "<video>\nIs this clip 'normal' or 'abnormal'? One word."
HINTED_QUESTION = "<video>\nThe label of this video is provided to assist you: {label}. Explain."


def deepintuit_row(number: int = 1, label: str = "normal", reply: str = "", **changes: Any) -> Any:
    """A record with one video of another machine; ``...`` removes a key."""
    name = f"garden_{number:04d}"
    asr = changes.get("asr_text", "A hedgehog crosses the lawn.")
    sticker = changes.get("sticker", "None")
    prompt = PROMPT.format(title=name, asr=asr, sticker=sticker)
    video = changes.pop("video", f"/farm/kim/clips/{name}.mp4")
    row = {
        "item_id": name,
        "conversations": [
            {
                "role": "user",
                "content": [{"type": "video", "video": video}, {"type": "text", "text": prompt}],
            },
            {"role": "assistant", "content": reply},
        ],
        "policy_title": label,
        "anno_label": int(label == "abnormal"),
        "reward_label": label,
        **changes,
    }
    return {key: value for key, value in row.items() if value is not ...}


def rbft_row(
    number: int = 1, reply: str = "normal", truth: str | None = None, task: str = "night-watch"
) -> Any:
    """A label record, or a rationale record with the label as a hint in its prompt."""
    name = f"garden_{number:04d}"
    truth = truth or reply
    long = len(reply.split()) > 3
    question = HINTED_QUESTION.format(label=truth) if long else LABEL_QUESTION
    return {
        "id": f"{name}-{task}",
        "video": f"/farm/kim/clips/{name}.mp4",
        "ground_truth": truth,
        "conversations": [
            {"from": "human", "value": question},
            {"from": "gpt", "value": reply},
        ],
    }


class Workspace:
    """A folder with sources and videos, and imports into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "out" / "manifest.jsonl"
        (folder / "clips").mkdir()

    def write(self, name: str, rows: Any) -> str:
        """Write a JSON file; returns its path."""
        path = self.folder / name
        path.write_text(json.dumps(rows))
        return str(path)

    def videos(self, *numbers: int) -> None:
        """Files with the names of clips; nothing in an import opens them."""
        for number in numbers:
            (self.folder / "clips" / f"garden_{number:04d}.mp4").write_bytes(b"video")

    def write_text(self, name: str, text: str) -> str:
        """Write a text file, with the folders above it; returns its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def files(self, *names: str) -> None:
        """Files with these names, which nothing opens."""
        for name in names:
            self.write_text(name, f"video {name}")

    def read(self, *sources: str, **options: Any) -> Report:
        """Import what recognises itself, with videos beside the source."""
        options.setdefault("manifest", self.manifest)
        return import_records(ImportOptions(sources=sources, **options))

    def run(self, *sources: str, format: str = "deepintuit", **options: Any) -> Report:
        """Import with the clips' folder as media root."""
        options.setdefault("media_root", self.folder / "clips")
        options.setdefault("manifest", self.manifest)
        return import_records(ImportOptions(sources=sources, format=format, **options))

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Rows of the manifest by id."""
        rows = [json.loads(line) for line in self.manifest.read_text().splitlines()]
        return {row["id"]: row for row in rows}
