"""Checks for leaked labels: in side texts, file names and teachers' traces."""

from collections.abc import Callable, Iterable, Sequence
from os.path import commonpath
from pathlib import Path

from cluster.check.clips import file_of
from rollout.importers.reply import speaks_of_hint
from wire.finding import Area, Finding, ok, warning
from wire.label_words import LabelWords
from wire.labels import LabelSet
from wire.types import Sample

_SHORTEST_NAME = 4


def leak_findings(
    labels: LabelSet, samples: Sequence[Sample], *, use_side_text: bool
) -> list[Finding]:
    """Findings on labels in side texts, which the model reads, and in file names."""
    words = LabelWords(labels)
    findings = [
        *_text_findings(words, samples, shown=use_side_text),
        *_name_findings(words, samples),
    ]
    if words.ignored:
        what = f"labels too short to be looked for in texts and names: {', '.join(words.ignored)}"
        findings.append(ok(Area.LEAKS, what))
    return findings


def _text_findings(words: LabelWords, samples: Sequence[Sample], *, shown: bool) -> list[Finding]:
    with_text = [sample for sample in samples if sample.text]
    if not with_text:
        return [ok(Area.LEAKS, "prompts show the video and the labels' definitions, nothing else")]
    if not shown:
        what = f"{len(with_text)} rows have side text; no prompt shows it (data.use_side_text)"
        return [ok(Area.LEAKS, what)]
    telling = _telling(words, with_text, lambda sample: sample.text or "")
    named = [s for s in with_text if _shows_name(s)]
    findings = []
    if telling:
        what = (
            f"{len(telling)} of {len(with_text)} side texts name their clip's label and no other, "
            "and prompts show them"
        )
        remedy = "set data.use_side_text = false, or take the label out of these texts"
        findings.append(warning(Area.LEAKS, what, remedy, _ids(telling)))
    if named:
        what = f"{len(named)} of {len(with_text)} side texts hold their clip's file name"
        remedy = "take file names out of the texts: names may tell the label, or be learnt by heart"
        findings.append(warning(Area.LEAKS, what, remedy, _ids(named)))
    return findings or [ok(Area.LEAKS, f"{len(with_text)} side texts do not name the label")]


def _name_findings(words: LabelWords, samples: Sequence[Sample]) -> list[Finding]:
    if not samples:
        return []
    files = [file_of(sample) for sample in samples]
    root = commonpath({str(Path(file).parent) for file in files})
    in_name = _telling(words, samples, lambda sample: Path(file_of(sample)).stem)
    if in_name:
        what = f"{len(in_name)} of {len(samples)} file names say their clip's label"
        remedy = (
            "no prompt shows a file name; see that no text, reward function or tool of yours does, "
            "or give the files neutral names"
        )
        return [warning(Area.LEAKS, what, remedy, _ids(in_name))]

    def folders(sample: Sample) -> str:
        return str(Path(file_of(sample)).parent)[len(root) :]

    if in_folder := _telling(words, samples, folders):
        what = f"{len(in_folder)} of {len(samples)} clips lie in a folder named as their label"
        return [ok(Area.LEAKS, f"{what}; no prompt shows it")]
    return [ok(Area.LEAKS, "file names do not say the label")]


def _telling(
    words: LabelWords, samples: Sequence[Sample], text_of: Callable[[Sample], str]
) -> list[Sample]:
    """Samples whose text names their label and no other; none if all texts name the same labels."""
    named = [words.named_in(text_of(sample)) for sample in samples]
    if len(set(named)) < 2 and len({sample.label for sample in samples}) > 1:
        return []
    return [s for s, names in zip(samples, named, strict=True) if names == {s.label}]


def _shows_name(sample: Sample) -> bool:
    stem = Path(file_of(sample)).stem
    return len(stem) >= _SHORTEST_NAME and stem in (sample.text or "")


def hint_findings(with_trace: Sequence[Sample]) -> list[Finding]:
    """Findings on teachers' traces that mention the label they were given."""
    hinted = [sample for sample in with_trace if speaks_of_hint(sample.trace or "")]
    if not hinted:
        return []
    what = (
        f"{len(hinted)} of {len(with_trace)} traces speak of a label that their teacher was given"
    )
    remedy = "leave them out (import: --drop-hinted-traces): the policy learns to claim the same"
    return [warning(Area.LEAKS, what, remedy, _ids(hinted))]


def _ids(samples: Iterable[Sample]) -> list[str]:
    return [f"{sample.id} ({sample.label}): {Path(file_of(sample)).name}" for sample in samples]
