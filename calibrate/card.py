"""Model card of a classifier: README.md in its directory, written from its own figures.

    description + calibration + provenance + evaluation -> Markdown with the hub's front matter

A part without figures is left out. Front matter: https://huggingface.co/docs/hub/model-cards.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

from calibrate.calibration import Calibration, GroupAutomatic, GroupCoverage, SplitFigures
from calibrate.calibrator import Source
from calibrate.description import ClassifierDescription, Provenance
from calibrate.metrics import Evaluation
from calibrate.selection import Measure, Selection
from calibrate.splitting.card import is_split, kept_temperature, split_section

_READS: dict[Source, str] = {
    "policy": "the policy's own answer: the probability of each label at the end of its reasoning",
    "vote": "the vote: how often each label ends one of {votes} sampled traces",
    "verdict": "the verdict: a model that reads the clip and the policy's trace, and gives each "
    "label a probability",
    "head": "the head: a linear classifier on the policy's hidden state after {head_reads}",
}
_NAMES: dict[Measure, str] = {
    **{"nll": "NLL", "accuracy": "accuracy", "macro_f1": "macro F1"},
    **{"brier": "Brier score", "ece": "ECE"},
}
_CUT = 300  # characters of a definition in the table


def model_card(
    description: ClassifierDescription,
    calibration: Calibration,
    provenance: Provenance,
    evaluation: Evaluation | None = None,
) -> str:
    """Text of the model card."""
    parts = [
        _front_matter(description, calibration, provenance),
        _title(description, provenance),
        _labels(description),
        split_section(provenance.settings),
        _method(description, calibration, split=is_split(provenance.settings)),
        _figures(calibration, evaluation),
        _sets(calibration),
        _automatic(calibration),
        _limits(description, provenance),
        _use(description),
        _provenance(description, provenance),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(
    description: ClassifierDescription, calibration: Calibration, provenance: Provenance
) -> str:
    head = "---\nlibrary_name: deepintuit\npipeline_tag: video-classification\ntags:"
    lines = [head, *(f"- {tag}" for tag in ("deepintuit", "video-classification", "calibrated"))]
    if measured := _of_test(calibration):
        after, name = measured.after, json.dumps(provenance.archive.name)
        values = {"accuracy": after.accuracy, "f1": after.macro_f1, "ece": after.ece}
        lines += [
            "model-index:",
            f"- name: {json.dumps(description.name)}",
            "  results:",
            "  - task:",
            "      type: video-classification",
            "    dataset:",
            f"      name: {name}",
            f"      type: {name}",
            f"      split: {measured.split}",
            "    metrics:",
        ]
        for kind, value in values.items():
            lines += [f"    - type: {kind}", f"      value: {value:.4f}"]
    return "\n".join([*lines, "---"])


def _title(description: ClassifierDescription, provenance: Provenance) -> str:
    num = len(description.label_names)
    probabilities = f"{'' if is_split(provenance.settings) else 'calibrated '}probabilities"
    return (
        f"# {description.name}: a video classifier with {num} labels\n\n"
        f"Says which of {num} labels fits a video clip, with {probabilities}, and whether the "
        f"decision can be left to it. Fitted by DeepIntuit {provenance.code.package} to traces of "
        f"the reasoning policy {description.policy_version}."
    )


def _labels(description: ClassifierDescription) -> str:
    ordered = sorted(description.labels, key=lambda label: label.name)
    rows = [(label.name, _one_line(label.definition) or "-") for label in ordered]
    return "## What it classifies\n\n" + _table(("label", "definition"), rows)


def _method(description: ClassifierDescription, calibration: Calibration, *, split: bool) -> str:
    frames = description.video.get("max_frames")
    shown = f" ({frames} frames at most)" if frames else ""
    votes, alone = description.answers.num_votes, description.head_features == "video"
    seen = "clip and label prompt, without a trace" if alone else "clip and trace"
    reads = [_READS[one].format(votes=votes, head_reads=seen) for one in description.sources]
    parts = [
        "## How it decides",
        f"The policy watches the clip{shown} and writes a reasoning trace. The classifier reads\n\n"
        + "\n".join(f"- {one}" for one in reads),
        kept_temperature(calibration.calibrator.temperature) if split else _formula(calibration),
    ]
    if selection := calibration.selection:
        parts += ["### Candidates", _candidates(selection)]
    if calibration.plateau:
        parts.append(f"Training of the verdict: {calibration.plateau.explanation}.")
    return "\n\n".join(parts)


def _formula(calibration: Calibration) -> str:
    calibrator = calibration.calibrator
    if calibration.selection is None:
        return (
            "Its probabilities are as they come: without val clips, no temperature was fitted and "
            "nothing was compared."
        )
    if (temperature := calibrator.temperature) is not None:
        return (
            f"Its probabilities are scaled by a temperature of {temperature:.3g}, fitted on the "
            "val clips."
        )
    return (
        f"Their log-probabilities are added as {calibrator.formula} and normalised (log-linear "
        "pool); the weights are fitted on the val clips."
    )


def _candidates(selection: Selection) -> str:
    rows = []
    for one in selection.candidates:
        figures = one.figures
        name = f"**{one.name}** (chosen)" if one.name == selection.chosen else one.name
        nll = _with_interval(figures.nll, figures.nll_low, figures.nll_high)
        accuracy = _with_interval(figures.accuracy, figures.accuracy_low, figures.accuracy_high)
        rest = (_share(figures.macro_f1), _share(figures.ece), _share(figures.brier))
        rows.append((name, nll, accuracy, *rest))
    cross = all(one.cross_fitted for one in selection.candidates)
    how = "cross-fitted (5 folds)" if cross else "of the clips that they were fitted to"
    head = ("candidate", "NLL", "accuracy", "macro F1", "ECE", "Brier")
    by = _NAMES[selection.by]
    return (
        f"Figures on {selection.num_samples} val clips, {how}, best first by {by}, with 95% "
        f"intervals.\n\n{_table(head, rows)}\n\nChoice: {selection.explanation}."
    )


def _figures(calibration: Calibration, evaluation: Evaluation | None) -> str:
    parts = [_split_figures(one) for one in calibration.figures]
    if parts and calibration.selection is not None:
        parts.insert(0, _before(calibration))
    if evaluation is not None:
        rows = [
            (name, str(one.support), _share(one.recall), _share(one.f1))
            for name, one in evaluation.per_label.items()
        ]
        parts += [
            "The same clips, label by label:",
            _table(("label", "clips", "recall", "F1"), rows),
        ]
        if evaluation.unparsed_frac:
            share = f"{100 * evaluation.unparsed_frac:.1f}%"
            parts.append(
                f"{share} of the clips have no trace that could be read; they count as wrong."
            )
    return "\n\n".join(["## Figures", *parts]) if parts else ""


def _before(calibration: Calibration) -> str:
    """What the columns before and after are of."""
    calibrator = calibration.calibrator.without_temperature()
    before = "with a temperature of 1"
    if len(calibrator.sources) > 1:
        before = f"the same pool without a temperature ({calibrator.formula}: weights add up to 1)"
    return (
        f"Before calibration: {before}. After: as it is served. Calibration changes probabilities, "
        "not labels."
    )


def _split_figures(measured: SplitFigures) -> str:
    before, after = measured.before, measured.after
    rows = [
        (
            title,
            *(
                _with_interval(
                    getattr(one, name), getattr(one, f"{name}_low"), getattr(one, f"{name}_high")
                )
                for one in (before, after)
            ),
        )
        for title, name in (
            ("accuracy", "accuracy"),
            ("ECE", "ece"),
            ("NLL", "nll"),
            ("Brier score", "brier"),
        )
    ]
    rows.insert(1, ("macro F1", _share(before.macro_f1), _share(after.macro_f1)))
    fitted = ""
    if measured.split == "val":
        fitted = " It was fitted to these clips, so that the figures after are a little too good."
    return (
        f"On {after.num_samples} {measured.split.replace('_', '-')} clips, before and after "
        f"calibration, with 95% intervals.{fitted}\n\n{_table(('', 'before', 'after'), rows)}"
    )


def _sets(calibration: Calibration) -> str:
    if not calibration.sets:
        return ""
    explained = [
        f"- {sets.kind.replace('_', '-')}: {sets.explanation}" for sets in calibration.sets
    ]
    parts = ["## Prediction sets", "\n".join(explained)]
    if calibration.coverage:
        head = (
            *("sets", "clips", "n", "promised", "measured"),
            *("mean size", "single label", "empty"),
        )
        parts += [
            "What was promised for clips like the held-out ones, and what was measured:",
            _table(head, [_coverage_row(one) for one in calibration.coverage]),
        ]
    return "\n\n".join([*parts, *_missed(calibration.coverage)])


def _coverage_row(one: GroupCoverage) -> tuple[str, ...]:
    measured = one.measured
    clips = f"{one.split}, {one.group}" if one.group != "all" else f"{one.split}, all"
    return (
        one.kind.replace("_", "-"),
        clips,
        str(measured.num_samples),
        _share(one.promise),
        _with_interval(measured.share, measured.low, measured.high),
        f"{measured.mean_size:.2f}",
        _share(measured.single_frac),
        _share(measured.empty_frac),
    )


def _missed(coverage: Iterable[GroupCoverage]) -> Iterator[str]:
    """A sentence on the groups whose whole interval is below the promise."""
    missed = [one for one in coverage if one.measured.high < one.promise]
    if missed:
        groups = ", ".join(
            f"{one.group} ({one.kind.replace('_', '-')}: {_share(one.measured.share)})"
            for one in missed
        )
        yield (
            f"**Below the promise:** {groups}. These clips are not like the held-out ones, and the "
            "promise does not hold for them."
        )


def _automatic(calibration: Calibration) -> str:
    if not calibration.thresholds:
        return ""
    lines = [f"- {_sentence(one.explanation)}" for one in calibration.thresholds]
    first = calibration.thresholds[0]
    what = (
        "A decision is automatic from the first threshold on, and goes to a person below it."
        if first.value is not None
        else "No decision is automatic: every one goes to a person."
    )
    parts = ["## Automatic decisions", "\n".join(lines), what]
    if calibration.automatic:
        head = ("clips", "n", "automatic", "promised error", "measured error")
        parts.append(_table(head, [_automatic_row(one) for one in calibration.automatic]))
        missed = [one for one in calibration.automatic if (one.measured.error or 0) > one.promise]
        broken = [one.group for one in missed if (one.measured.low or 0) > one.promise]
        if broken:
            parts.append(
                f"**More errors than promised:** {', '.join(broken)}. These clips are not like the "
                "held-out ones; have them reviewed."
            )
        if rest := [one.group for one in missed if one.group not in broken]:
            parts.append(f"More errors than promised, maybe by chance: {', '.join(rest)}.")
    return "\n\n".join(parts)


def _automatic_row(one: GroupAutomatic) -> tuple[str, ...]:
    measured = one.measured
    error = "-"
    if measured.error is not None and measured.low is not None and measured.high is not None:
        error = _with_interval(measured.error, measured.low, measured.high)
    return (
        f"{one.split}, {one.group}",
        str(measured.num_samples),
        str(measured.num_automatic),
        _share(one.promise),
        error,
    )


def _limits(description: ClassifierDescription, provenance: Provenance) -> str:
    foreign = provenance.archive.foreign
    lines = [
        "For clips like those it was fitted to: the same kind of source, camera and labels. It "
        "always names one of its labels, also for a clip that fits none.",
        "A trace is the model's rationale, not the cause of the decision.",
        "The promises of sets and thresholds hold on average over clips that are exchangeable with "
        "the held-out ones; not for each clip, and not for clips of another kind.",
        "Probabilities are those of these weights, prompts and settings; with others they mean "
        "nothing. The directory is checked as it is loaded.",
    ]
    reads_trace = "head" in description.sources and description.head_features == "trace"
    if "verdict" in description.sources or reads_trace:
        lines.append("It reads traces of this policy; those of another are not what it learned.")
    if foreign:
        lines.append(f"**It was fitted to traces of another policy:** {foreign}.")
    return "## Intended use and limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _use(description: ClassifierDescription) -> str:
    text = (
        "## How to use\n\n```\ndeepintuit classify THIS_DIRECTORY clip.mp4\n```\n\n"
        "The weights are plain Hugging Face directories:\n\n```python\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
        'policy = AutoModelForImageTextToText.from_pretrained("THIS_DIRECTORY/policy")\n'
        'processor = AutoProcessor.from_pretrained("THIS_DIRECTORY/policy")\n```'
    )
    if "verdict" in description.sources:
        text += (
            "\n\nThe verdict is in `verdict/`, likewise, or in `verdict/adapter/` as a LoRA "
            "adapter of the policy, which peft and vLLM open."
        )
    return text


def _provenance(description: ClassifierDescription, provenance: Provenance) -> str:
    archive, code = provenance.archive, provenance.code
    commit = ""
    if code.commit:
        commit = f", commit {code.commit[:12]}" + (" with changes" if code.changed else "")
    learned = archive.num_traces > 0
    versions = ", ".join(f"{name} ({count} clips)" for name, count in archive.versions.items())
    prompts = ", ".join(
        f"{name} {one.version} ({one.sha256[:12]})"
        for name, one in description.prompts.items()
        if one.version
    )
    rows = [
        ("archive", archive.name),
        ("traces learned from", f"{archive.num_traces} on {archive.num_groups} clips" * learned),
        ("written by policy", versions),
        ("policy served", description.policy_version),
        ("prompts", prompts),
        ("seeds", ", ".join(f"{name} {value}" for name, value in provenance.seeds.items())),
        ("code", f"deepintuit {code.package}{commit}"),
        ("packages", ", ".join(f"{name} {one}" for name, one in provenance.packages.items())),
        ("created", provenance.created),
    ]
    parts = ["## Provenance", _table(("", ""), [row for row in rows if row[1]])]
    if provenance.splits:
        splits = [
            (name, str(one.clips), str(one.traces) if one.traces else "-", one.use)
            for name, one in provenance.splits.items()
        ]
        parts.append(_table(("split", "clips", "traces", "used for"), splits))
    parts.append("Settings and all else: `provenance.json` and `classifier.json`.")
    return "\n\n".join(parts)


def _of_test(calibration: Calibration) -> SplitFigures | None:
    """Figures on the test clips, else the last ones."""
    known = {one.split: one for one in calibration.figures}
    return known.get("test") or (calibration.figures[-1] if calibration.figures else None)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CUT else f"{line[:_CUT]}..."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
