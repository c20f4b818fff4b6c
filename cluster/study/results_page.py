"""Renders StudyResults as a Markdown page. Every number on the page is a field of StudyResults.

Shares are shown in points (hundredths) with one decimal.
"""

import math
from collections.abc import Iterable, Sequence

from calibrate.compare import Comparison
from cluster.driver.units import format_hours
from cluster.study.claims import Outcome
from cluster.study.results import PairedRow, StudyResults
from cluster.study.seed_runs import COSTS, ArmRow, ValuePerSeed, mean

_NOT_RUN = "not run"
_TEXT_COLUMNS = (
    "",
    "arm",
    "arm (clips)",
    "clips",
    "promise",
    "outcome",
    "notes",
    "before -> after",
)
_NONE = "-"  # a figure that this arm does not have


def render_page(results: StudyResults) -> str:
    """The whole page."""
    parts = (
        ["# Results", _INTRODUCTION],
        _what_was_run(results),
        _main_table(results),
        _promises(results),
        _paired_tests(results),
        _agreement(results),
        _trace_accuracy(results),
        _video_only(results),
        _seconds(results),
    )
    return "\n\n".join(block for part in parts for block in part if block) + "\n"


_INTRODUCTION = (
    "Written by `deepintuit study` from the files of its runs; do not edit. Accuracies are in "
    "points (hundredths), so differences are too; ECE and Brier score are in hundredths as well. "
    "A mean weighs each seed the same. What has not finished is marked *not run*."
)


def _what_was_run(results: StudyResults) -> list[str]:
    about = results.about
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    seeds = ", ".join(map(str, about.seeds))
    lines = [
        f"- Recipe: `{about.recipe}`, seeds {seeds}.",
        f"- Machine: {about.cores} CPU cores; most memory {results.peak_memory_gb:.1f} GB; "
        f"{format_hours(about.seconds)} in all, engine starts and failed attempts included.",
        f"- Versions: {versions or 'not known yet'}.",
        f"- Again: `{about.command}`",
    ]
    if results.same_data and len(about.seeds) > 1:
        lines.append(
            "- All seeds share one data set: what differs between seeds is training, not clips."
        )
    lines += [f"- Seed {seed} did not finish: {why}." for seed, why in about.failed.items()]
    splits = list(results.data[0].sizes) if results.data else []
    rows = [
        [str(facts.seed), *(f"{facts.sizes[split]:,}" for split in splits), str(facts.num_traces)]
        for facts in results.data
    ]
    header = ["seed", *(f"{split} clips" for split in splits), "train clips with a teacher's trace"]
    return ["## What was run", "\n".join(lines), _table(header, rows), _never_text(results)]


def _never_text(results: StudyResults) -> str:
    """Paragraph on clips in groups without train clips, and on arms that saw their labels."""
    group_by = results.about.group_by
    if group_by is None or not results.data:
        return ""
    parts = []
    for split in results.data[0].num_never:
        never = sum(facts.num_never[split] for facts in results.data)
        total = sum(facts.sizes[split] for facts in results.data)
        parts.append(f"{split} {never:,} of {total:,}")
    text = (
        f"Clips are grouped by the manifest's column `{group_by}`. *Seen* groups have train clips; "
        f"*never* groups have none. Clips in never groups: {', '.join(parts)}."
    )
    if any(facts.num_never.get("cal") for facts in results.data):
        text += (
            " Never means never among the train clips: the calibration clips have some, and the "
            "verdicts, the video-only classifiers and GRPO with more clips trained on their labels."
        )
    return text


def _main_table(results: StudyResults) -> list[str]:
    seeds = results.about.seeds
    split = _test_split(results)
    header = ["arm", *(f"seed {seed}" for seed in seeds), "mean"]
    header += ["seen", "never"] if results.about.group_by else []
    header += ["macro F1", "ECE", "Brier", "surest 80%", "seconds", *COSTS.values()]
    shown = [row for row in results.arms if row.name != "trace_accuracy"]
    rows = [_main_row(row, results) for row in shown if _split_of(row) in (None, split)]
    known = next((row for row in shown if any(row.figures) and _split_of(row) == split), None)
    if known is not None:
        rows += [
            _constant_row(known, "most frequent train label", "majority_baseline", len(header)),
            _constant_row(known, "best constant answer", "best_constant", len(header)),
        ]
    elsewhere = [_main_row(row, results) for row in shown if _split_of(row) not in (None, split)]
    blocks = [
        "## Accuracy",
        f"On the {split} clips. *Surest 80%* is the accuracy on the 80% of clips with the highest "
        "confidence. The costs are what an arm itself spent, per seed; of the stages, what the "
        "recipe asks for.",
        _table(header, rows),
    ]
    if elsewhere:
        blocks += ["On other clips:", _table(["arm (clips)", *header[1:]], elsewhere)]
    return blocks


def _main_row(row: ArmRow, results: StudyResults) -> list[str]:
    split = _split_of(row)
    where = "" if split in (None, _test_split(results)) else f" ({split})"
    cells = [f"`{row.name}`{where}: {row.text}", *_accuracies(row.values("accuracy"))]
    if results.about.group_by:
        cells += [_points(mean(row.values(name))) for name in ("accuracy_seen", "accuracy_never")]
    for name in ("macro_f1", "ece", "brier", "selective_accuracy"):
        cells.append(_points(mean(row.values(name))))
    cells.append(_number(mean(row.seconds)))
    return cells + [_number(mean(row.cost(key))) for key in COSTS]


def _constant_row(row: ArmRow, text: str, field: str, width: int) -> list[str]:
    cells = [text, *_accuracies(row.values(field))]
    return cells + [_NONE] * (width - len(cells))


def _accuracies(values: ValuePerSeed) -> list[str]:
    """One cell per seed, and their mean; a mean over fewer says so."""
    measured = [value for value in values if value is not None]
    text = _points(mean(values)) if measured else _NOT_RUN
    if measured and len(measured) < len(values):
        text += f" ({len(measured)} of {len(values)})"
    return [*(_NOT_RUN if value is None else _points(value) for value in values), text]


def _promises(results: StudyResults) -> list[str]:
    seeds = results.about.seeds
    header = ["", "promise", "threshold", "mean", *(f"seed {s}" for s in seeds), "outcome", "notes"]
    rows = []
    for claim in results.claims:
        notes = [_cell(part) for part in (claim.remark, claim.reason) if part]
        rows.append(
            [
                claim.key,
                claim.text,
                claim.threshold,
                _plain(claim.mean),
                *(_plain(value) for value in claim.values),
                f"**{claim.outcome}**" if claim.outcome is Outcome.DID_NOT_HOLD else claim.outcome,
                "; ".join(notes),
            ]
        )
    counts = {outcome: sum(c.outcome is outcome for c in results.claims) for outcome in Outcome}
    counted = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    return [
        "## Promises",
        f"{counted[:1].upper()}{counted[1:]}. Each is judged on the mean over seeds, against a "
        "threshold that was set before the study, and only when every seed has what it needs. "
        "Numbers are differences of the named figures, in points, except *blank* (k1, k2), which "
        "are accuracies; of ECE and Brier score, how much lower.",
        _table(header, rows),
    ]


def _paired_tests(results: StudyResults) -> list[str]:
    seeds = results.about.seeds
    header = ["before -> after", *(f"seed {seed}" for seed in seeds)]
    header += ["mean difference", "95% over seeds", "wrong to right", "right to wrong", "p"]
    rows = [_paired_cells(row) for row in results.tests]
    text = (
        "Exact two-sided McNemar tests on the same clips. A seed's cell is the difference in "
        "accuracy, clips that became right / clips that became wrong, and p. The last columns pool "
        "the seeds: Student's interval of the difference over seeds, flips of all clips, and the "
        "test stratified by seed."
    )
    if results.same_data and len(seeds) > 1:
        text += (
            " All seeds have the same clips, each counted once per seed: the pooled p takes them "
            "for independent, and is too small."
        )
    return ["## Paired tests", text, _table(header, rows)]


def _paired_cells(row: PairedRow) -> list[str]:
    cells = [f"{row.before} -> {row.after}", *(_flip_cell(one) for one in row.per_seed)]
    if row.pooled is None:
        return [*cells, *[_NOT_RUN] * 5]
    pooled, flips = row.pooled, row.pooled.flips
    interval = (
        _NONE
        if pooled.mean_low is None or pooled.mean_high is None
        else f"{_signed(pooled.mean_low)} to {_signed(pooled.mean_high)}"
    )
    return [
        *cells,
        _signed(pooled.mean_difference),
        interval,
        f"{flips.wrong_to_right:,}",
        f"{flips.right_to_wrong:,}",
        _p_value(flips.p_value),
    ]


def _flip_cell(one: Comparison | None) -> str:
    if one is None:
        return _NOT_RUN
    flips = f"{one.flips.wrong_to_right} / {one.flips.right_to_wrong}"
    return f"{_signed(one.difference)}: {flips}, p {_p_value(one.flips.p_value)}"


def _agreement(results: StudyResults) -> list[str]:
    rows = [[f"`{name}`", *_accuracies(values)] for name, values in results.agreement.items()]
    return [
        "## How often the verdict repeats the trace",
        "Share of clips on which a verdict gives the answer that stands in its trace.",
        _table(_seed_header("arm", results), rows),
    ]


def _trace_accuracy(results: StudyResults) -> list[str]:
    accuracy = results.trace_accuracy
    rows = [[split, *_accuracies(values)] for split, values in accuracy.items()]
    return [
        "## Traces of train clips against others",
        "Accuracy of traces sampled from the GRPO policy, by the split of their clips.",
        _table(_seed_header("clips", results), rows),
        " ".join(part for part in (_flattered(accuracy), _train_verdict(results)) if part),
    ]


def _flattered(accuracy: dict[str, ValuePerSeed]) -> str:
    gap = _mean_difference(accuracy["train"], accuracy["cal"])
    if gap is None:
        return ""
    return (
        f"Traces of clips that GRPO trained on are {_more_often(gap)} traces of calibration "
        "clips, which it has never seen."
    )


def _train_verdict(results: StudyResults) -> str:
    calibrated, other = results.arm("calibrated"), results.arm("verdict_train")
    gap = _mean_difference(calibrated.values("accuracy"), other.values("accuracy"))
    if gap is None:
        return ""
    return (
        f"A verdict trained on the traces of calibration clips is {_more_often(gap)} one trained "
        "on traces of train clips (`verdict_train`)."
    )


def _more_often(gap: float) -> str:
    if round(gap, 1) == 0:
        return "right as often as"
    return f"right {abs(gap):.1f} points {'more' if gap > 0 else 'less'} often than"


def _video_only(results: StudyResults) -> list[str]:
    names = ("video_only_1x", "video_only_3x", "video_only_10x", "calibrated")
    fields = {"accuracy": "accuracy"}
    if results.about.group_by:
        fields |= {"accuracy_seen": "seen", "accuracy_never": "never"}
    rows = []
    for row in map(results.arm, names):
        cells = [f"`{row.name}`", *_accuracies(row.values("accuracy"))]
        cells += [_points(mean(row.values(field))) for field in list(fields)[1:]]
        cells += [_number(mean(row.cost("num_updates"))), _number(mean(row.seconds))]
        rows.append(cells)
    header = [*_seed_header("arm", results), *list(fields.values())[1:], "updates", "seconds"]
    return [
        "## Without a trace, trained longer",
        "The verdict's clips and labels, without traces, at multiples of its updates.",
        _table(header, rows),
    ]


def _seconds(results: StudyResults) -> list[str]:
    rows = []
    for row in results.arms:
        if row.name not in ("head", "classifier"):  # parts of the stage that trains the verdict
            cells = [_NOT_RUN if value is None else _number(value) for value in row.seconds]
            rows.append([f"`{row.name}`", *cells, _number(mean(row.seconds))])
    totals = [
        math.fsum(row.seconds[place] or 0.0 for row in results.arms)
        for place in range(len(results.about.seeds))
    ]
    rows.append(["all", *(_number(total) for total in totals), _number(mean(totals))])
    return ["## Seconds", _table(_seed_header("arm", results), rows)]


def _seed_header(first: str, results: StudyResults) -> list[str]:
    return [first, *(f"seed {seed}" for seed in results.about.seeds), "mean"]


def _test_split(results: StudyResults) -> str:
    """The split that the stages were measured on."""
    return next((split for row in results.arms if (split := _split_of(row))), "test")


def _split_of(row: ArmRow) -> str | None:
    return next((metrics.split for metrics in row.figures if metrics), None)


def _mean_difference(first: ValuePerSeed, second: ValuePerSeed) -> float | None:
    """Mean difference in points, over the seeds that have both values."""
    pairs = zip(first, second, strict=True)
    difference = mean([a - b for a, b in pairs if a is not None and b is not None])
    return None if difference is None else 100 * difference


def _points(share: float | None) -> str:
    return _NONE if share is None else f"{_rounded(100 * share):.1f}"


def _plain(points: float | None) -> str:
    return _NOT_RUN if points is None else f"{_rounded(points):.1f}"


def _signed(share: float) -> str:
    return f"{_rounded(100 * share):+.1f}"


def _rounded(points: float) -> float:
    return round(points, 1) + 0.0  # never minus zero


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.0f}"


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cell(text: str) -> str:
    """Text escaped for a table's cell."""
    return " ".join(text.split()).replace("|", r"\|")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = [list(row) for row in rows]
    if not body:
        return ""
    rule = ["---" if name in _TEXT_COLUMNS else "---:" for name in header]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *body))
