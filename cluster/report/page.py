"""Renders the report as one self-contained HTML file.

    Report -> plain values -> JSON in a data block (never code)
    assets/*.js, *.css, vendor/ -> inlined; their hashes are the only scripts and styles allowed

Traces and file names are other people's text: they are only ever in the data block, escaped so that
nothing in it can end the block, and the scripts put them into the page as text.
"""

import base64
import hashlib
import json
import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from cluster.report.archived import FailureFacts, TraceFacts
from cluster.report.arms import ArmFigures
from cluster.report.classifiers import classifier_values
from cluster.report.clips import Answer, ClipRecord
from cluster.report.curves import Curves, StageCurves
from cluster.report.gather import Report
from cluster.report.groups import GroupRecord
from cluster.report.thumbs import Strip
from wire.config import flatten

_ASSETS = files("cluster.report") / "assets"
_UPLOT = files("cluster.report") / "vendor" / "uplot"
_MODULES = (
    "dom",
    "theme",
    "figures",
    "head",
    "results",
    "curves",
    "rationales",
    "calibration",
    "classifier",
    "frames",
    "filters",
    "detail",
    "guards",
    "fleet",
    "browser",
    "main",
)
"""Modules in the order of their imports; the last one starts the page."""

_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./([a-z]+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:function|const|class) (\w+))", re.MULTILINE)


class Texts:
    """Table of distinct texts: a verdict shares the text of the policy's trace."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self._places: dict[str, int] = {}

    def place(self, text: str | None) -> int | None:
        """Index of a text in ``values``; adds the text if it is new."""
        if text is None:
            return None
        if text not in self._places:
            self._places[text] = len(self.values)
            self.values.append(text)
        return self._places[text]


def render(report: Report, strips: Mapping[str, Strip]) -> str:
    """Render the page. Clips and groups whose video is not in ``strips`` have no picture."""
    texts = Texts()
    videos = {video: place for place, video in enumerate(strips)}
    data = {
        "run": asdict(report.run),
        "stages": [asdict(stage) for stage in report.stages],
        "arms": [_arm(arm) for arm in report.arms],
        "tests": [asdict(test) for test in report.tests],
        "majority": report.majority,
        "curves": [_stage_curves(stage) for stage in report.curves],
        "guards": [asdict(stage) for stage in report.guards],
        "fleet": None if report.fleet is None else asdict(report.fleet),
        "rationales": [asdict(one) for one in report.rationales],
        "classifiers": [classifier_values(*one) for one in report.classifiers.items()],
        "clips": [clip_values(clip, texts, videos) for clip in report.clips],
        "num_clips": report.num_clips,
        "groups": [group_values(group, texts, videos) for group in report.groups],
        "num_groups": report.num_groups,
        "num_traces": report.num_traces,
        "quarantined": [asdict(one) for one in report.quarantined],
        "recipe": [
            (name, json.dumps(value, ensure_ascii=False))
            for name, value in flatten(report.recipe, keep_empty=True).items()
        ],
        "notes": report.notes,
        "warnings": report.warnings,
        "strips": [asdict(strip) for strip in strips.values()],
        "texts": texts.values,
    }
    style = _read(_UPLOT / "uPlot.min.css") + "\n" + _read(_ASSETS / "report.css")
    library = _read(_UPLOT / "uPlot.iife.min.js")
    script = _bundle()
    template = string.Template(_read(_ASSETS / "template.html"))
    return template.substitute(
        title=_html_text(f"{report.run.name} - DeepIntuit"),
        policy=_policy([library, script], style),
        style=style,
        library=library,
        script=script,
        data=to_json(data),
    )


def to_json(value: Any) -> str:
    """Strict JSON that is safe inside a script element: no ``<``, ``&`` or line separators."""
    text = json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    # A lone surrogate has no UTF-8; JSON writes it as an escape.
    return text.encode("utf-8", "backslashreplace").decode()


def clip_values(clip: ClipRecord, texts: Texts, videos: Mapping[str, int]) -> dict[str, Any]:
    """Plain values of a clip, as the scripts read them."""
    return {
        "id": clip.sample_id,
        "label": clip.label,
        "video": clip.video,
        "strip": videos.get(clip.video or ""),
        "answers": {name: _answer(answer, texts) for name, answer in clip.answers.items()},
        "others": clip.others,
    }


def group_values(group: GroupRecord, texts: Texts, videos: Mapping[str, int]) -> dict[str, Any]:
    """Plain values of a training group, as the scripts read them."""
    return {
        "id": group.group_id,
        "stage": group.stage,
        "purpose": group.purpose,
        "version": group.version,
        "step": group.step,
        "sample": group.sample_id,
        "label": group.label,
        "video": group.video,
        "strip": videos.get(group.video),
        "failures": [asdict(failure) for failure in group.failures],
        "traces": [
            {"answer": one.answer, "advantage": one.advantage, **_written(one.written, texts)}
            for one in group.traces
        ],
    }


def _answer(answer: Answer, texts: Texts) -> dict[str, Any]:
    return {
        "predicted": answer.predicted,
        "confidence": answer.confidence,
        "probabilities": answer.probabilities,
        "text": texts.place(answer.text),
        "written": None if answer.written is None else _written(answer.written, texts),
        "failures": [asdict(failure) for failure in answer.failures],
    }


def _written(trace: TraceFacts, texts: Texts) -> dict[str, Any]:
    failure: FailureFacts | None = trace.failure
    return {
        "text": texts.place(trace.text),
        "tokens": trace.num_tokens,
        "finish": trace.finish_reason,
        "version": trace.version,
        "reward": trace.reward,
        "parts": trace.parts,
        "failure": None if failure is None else asdict(failure),
    }


def _arm(arm: ArmFigures) -> dict[str, Any]:
    return asdict(arm)


def _stage_curves(stage: StageCurves) -> dict[str, Any]:
    return {
        "name": stage.name,
        "num_steps": stage.num_steps,
        "kept": _curves(stage.kept),
        "superseded": _curves(stage.superseded),
        "resumed": [asdict(one) for one in stage.resumed],
        "outcome": stage.outcome,
    }


def _curves(curves: Curves) -> dict[str, Any]:
    return {"steps": curves.steps, "values": curves.values}


def _finite(value: Any) -> Any:
    """A number with five digits; NaN and infinity, which JSON does not have, are null."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _bundle() -> str:
    """All modules in one script, each in its own scope: an inline module cannot import."""
    return "\n".join(_scoped(name, _read(_ASSETS / f"{name}.js")) for name in _MODULES)


def _scoped(name: str, text: str) -> str:
    """``const name = (() => { ... return {its exports}; })();``, imports taken from such consts.

    Raises ValueError for forms of import and export that it does not know.
    """
    exported = _EXPORT.findall(text)
    body = _EXPORT.sub("", _IMPORT.sub(r"const \1 = modules.\2;", text))
    if re.search(r"^(import|export)\b", body, re.MULTILINE):
        raise ValueError(
            f"{name}.js: import names in braces, from ./NAME.js; export a function, const or class"
        )
    inner = f"{body}return {{{', '.join(exported)}}};\n"
    start = "const modules = {};\n" if name == _MODULES[0] else ""
    return f"{start}modules.{name} = (() => {{\n{inner}}})();"


def _policy(scripts: Sequence[str], style: str) -> str:
    allowed = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _html_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _read(file: Any) -> str:
    return str(file.read_text(encoding="utf-8"))
