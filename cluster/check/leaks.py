"""Checks for leaked labels: in texts that prompts show, in file names, in teachers' traces."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os.path import commonpath
from pathlib import Path

from cluster.check.clips import file_of
from cluster.config.recipe import RunConfig
from cluster.inputs.from_run import source_of, start_warnings
from rollout.importers.reply import speaks_of_hint
from rollout.prompt import Prompts, column_text
from rollout.prompt_columns import telling_columns
from wire.finding import Area, Finding, ok, warning
from wire.label_words import LabelWords
from wire.types import Sample

_SHORTEST_NAME = 4


def leak_findings(prompts: Prompts, samples: Sequence[Sample]) -> list[Finding]:
    """Findings on labels in texts and columns that the model reads, and in file names."""
    words = LabelWords(prompts.labels)
    findings = [
        *_side_text_findings(words, prompts, samples),
        *(f for column in prompts.columns for f in _column_findings(words, column, samples)),
        *_telling_column_findings(prompts, samples),
        *_name_findings(words, samples),
    ]
    if words.ignored:
        what = f"labels too short to be looked for in texts and names: {', '.join(words.ignored)}"
        findings.append(ok(Area.LEAKS, what))
    return findings


def _side_text_findings(
    words: LabelWords, prompts: Prompts, samples: Sequence[Sample]
) -> list[Finding]:
    with_text = [sample for sample in samples if sample.text]
    if not with_text and not prompts.columns:
        return [ok(Area.LEAKS, "prompts show the video and the labels' definitions, nothing else")]
    if not with_text:
        return []
    if not prompts.shows_side_text:
        what = f"{len(with_text)} rows have side text; no prompt shows it (data.use_side_text)"
        return [ok(Area.LEAKS, what)]
    remedy = "set data.use_side_text = false, or take the label out of these texts"
    text_of = {sample.id: sample.text or "" for sample in with_text}
    findings = _text_findings(words, with_text, text_of, "side texts", remedy)
    return findings or [ok(Area.LEAKS, f"{len(with_text)} side texts do not name the label")]


def _column_findings(words: LabelWords, column: str, samples: Sequence[Sample]) -> list[Finding]:
    text_of = {sample.id: column_text(sample, column) or "" for sample in samples}
    with_text = [sample for sample in samples if text_of[sample.id]]
    remedy = f"take {{{column}}} out of the prompts, or the label out of these values"
    name = f"values of column {column!r}"
    findings = _text_findings(words, with_text, text_of, name, remedy)
    return findings or [ok(Area.LEAKS, f"{len(with_text)} {name} do not name the label")]


def _text_findings(
    words: LabelWords,
    samples: Sequence[Sample],
    text_of: Mapping[str, str],
    name: str,
    remedy: str,
) -> list[Finding]:
    """``text_of``: text of a sample's id; ``name``: of these texts."""
    telling = _telling(words, samples, lambda sample: text_of[sample.id])
    named = [sample for sample in samples if _shows_name(sample, text_of[sample.id])]
    findings = []
    if telling:
        what = (
            f"{len(telling)} of {len(samples)} {name} name their clip's label and no other, "
            "and prompts show them"
        )
        findings.append(warning(Area.LEAKS, what, remedy, _ids(telling)))
    if named:
        what = f"{len(named)} of {len(samples)} {name} hold their clip's file name"
        remedy = "take file names out of the texts: names may tell the label, or be learnt by heart"
        findings.append(warning(Area.LEAKS, what, remedy, _ids(named)))
    return findings


def _telling_column_findings(prompts: Prompts, samples: Sequence[Sample]) -> list[Finding]:
    return [
        warning(
            Area.LEAKS,
            f"column {column.name!r}, which prompts show, tells the label by itself in "
            f"{column.told} of {column.of} rows: other rows of the same value have the same label",
            f"take {{{column.name}}} out of the prompts, or compare with a run without it",
        )
        for column in telling_columns(prompts, samples)
    ]


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


def _shows_name(sample: Sample, text: str) -> bool:
    stem = Path(file_of(sample)).stem
    return len(stem) >= _SHORTEST_NAME and stem in text


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


def source_findings(config: RunConfig, samples: Sequence[Sample]) -> list[Finding]:
    """Findings on the run that the recipe's model came from: settings that differ, and clips that
    it was trained on and that are measured on here."""
    source = source_of(config.model)
    if source is None:
        return []
    start = f"{source.run}:{source.stage}"
    lines = start_warnings(config, samples)
    if not lines:
        return [ok(Area.LEAKS, f"the model comes from {start}, which trained on no held-out clip")]
    remedy = "see that this is meant; else start from another model, or split the clips anew"
    return [warning(Area.LEAKS, line, remedy) for line in lines]


def _ids(samples: Iterable[Sample]) -> list[str]:
    return [f"{sample.id} ({sample.label}): {Path(file_of(sample)).name}" for sample in samples]
