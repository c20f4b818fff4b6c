"""Checks a recipe in full before anything starts, and reports all findings at once.

    recipe -> rows -> clips (decoded, hashed) -> labels, splits, leaks, traces
           -> model -> prompt lengths         -> reward, placement, memory, disk -> Report

What `run` refuses is an error here, because the same functions refuse it
(rollout/manifest.py, cluster/inputs/samples.py, cluster/inputs/preflight.py,
cluster/actors/placement.py). A fault that lets a run go through, with a result that means less than
it seems, is a warning.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cluster.check import (
    leaks,
    machine,
    overlap,
    prompt_texts,
    prompts,
    rationales,
    remembered,
    rows,
)
from cluster.check.clips import ClipScans, clip_findings, remember_opened, scan_clips
from cluster.check.control_tokens import control_token_findings
from cluster.check.reward import reward_findings
from cluster.config.kinds.sft import SftStage
from cluster.config.recipe import RunConfig, read_recipe
from cluster.inputs.model_folder import with_cached_model
from cluster.inputs.preflight import check_context, check_first_prompt, open_cache, open_model
from cluster.inputs.quarantine import opened_clips
from cluster.metrics.sinks import check_logging
from cluster.plan.disk_size import cache_bytes, run_bytes
from cluster.plan.model_size import read_shape
from cluster.plan.run_plan import plan_of
from rollout.manifest import scan_manifest
from rollout.prompt_columns import column_faults
from rollout.render import Renderer
from video.disk_cache.location import cache_folder
from video.processor import ClipProcessor
from wire.config import is_hub_name
from wire.errors import ConfigError, UserError
from wire.finding import Area, Finding, Level, collect_refusals, error, ok, warning
from wire.types import Sample

FACTS = "checked.sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """Recipe, run directory and stages to check."""

    recipe: Path
    settings: list[str] = field(default_factory=list)
    """``--set`` over the recipe."""
    run_dir: Path
    command: str = "run"
    """The command that is to run: `run`, or that of one kind of stage."""
    group_by: Sequence[str] = ()
    """Columns of which no value may be in two splits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Findings of a finished check."""

    recipe: Path
    findings: tuple[Finding, ...]
    """Findings, sorted by area."""
    balance: rows.Balance
    """Split -> label -> clips."""

    def of(self, level: Level) -> list[Finding]:
        """The findings of a level."""
        return [finding for finding in self.findings if finding.level is level]


def check_recipe(request: CheckRequest) -> Report:
    """Check a recipe, its data, model and machine. Raises nothing: faults are in the report."""
    try:
        config = read_recipe(request.recipe, request.settings)
    except ConfigError as refused:
        remedy = "mend the recipe or --set; the rest was not looked at"
        return _report(request, [error(Area.RECIPE, str(refused), remedy)], [])
    check = _Check(request, config)
    for step in check.steps:
        step()
    return _report(request, check.findings, check.samples)


def _report(
    request: CheckRequest, findings: Sequence[Finding], samples: Sequence[Sample]
) -> Report:
    order = list(Area)
    by_area = sorted(findings, key=lambda finding: order.index(finding.area))
    balance = rows.balance_of(samples)
    return Report(recipe=request.recipe, findings=tuple(by_area), balance=balance)


class _Check:
    """The steps of a check, and the values that earlier steps leave to later ones."""

    def __init__(self, request: CheckRequest, config: RunConfig) -> None:
        self.request, self.config = request, with_cached_model(config)
        self.cache_dir = cache_folder(config.video)
        self.findings: list[Finding] = [ok(Area.RECIPE, "the recipe can be read")]
        self.stages: tuple[str, ...] = ()
        with collect_refusals(self.findings, Area.RECIPE):
            self.stages = config.stages_of(request.command)
        self.samples: list[Sample] = []
        self.scans: ClipScans = {}
        self.cache_is_open = False
        self.num_video_tokens: int | None = None
        self.steps: tuple[Callable[[], None], ...] = (
            self._logging,
            self._manifest,
            self._clips,
            self._rows,
            self._model,
            self._reward,
            self._placement,
            self._machine,
        )

    def _logging(self) -> None:
        with collect_refusals(self.findings, Area.RECIPE):
            check_logging(self.config.logging)

    def _manifest(self) -> None:
        data = self.config.data
        with collect_refusals(self.findings, Area.MANIFEST):
            manifest = data.manifest, self.config.label_set, data.media_root
            self.samples, faults = scan_manifest(*manifest)
            self.findings += rows.row_findings(self.samples, faults)
        if (self.request.run_dir / "archive").exists():
            what = f"{self.request.run_dir} holds a run"
            remedy = "give run --resume or --overwrite, or another --run-dir"
            self.findings.append(warning(Area.DISK, what, remedy))

    def _clips(self) -> None:
        with collect_refusals(self.findings, Area.DISK):
            open_cache(self.config.video)
            self.cache_is_open = True
        if not self.cache_is_open:
            return
        self.scans = scan_clips(self.samples, self.config.video, self.cache_dir / FACTS)
        self.findings += clip_findings(self.config, self.samples, self.scans)
        remember_opened(opened_clips(self.config), self.scans)

    def _rows(self) -> None:
        """Findings from rows and contents alone."""
        samples, config = self.samples, self.config
        if not samples:
            return
        with_trace = self._with_trace()
        self.findings += [
            *rows.split_findings(config, samples, self.stages),
            *rows.label_findings(config, rows.balance_of(samples)),
            *overlap.content_findings(samples, self.scans),
            *leaks.leak_findings(config.prompt_set, samples),
            *prompt_texts.text_findings(config.prompt_set, samples),
            *rationales.rationale_findings(config, self.stages),
            *leaks.hint_findings(with_trace),
            *leaks.source_findings(config, samples),
        ]
        with collect_refusals(self.findings, Area.SPLITS):
            self.findings += overlap.group_findings(samples, self.request.group_by)

    def _with_trace(self) -> list[Sample]:
        """Samples that the cold start would learn from, if it is to run."""
        stages = [self.config.chain[name] for name in self.stages]
        taught = [s for s in stages if isinstance(s, SftStage) and s.learns_traces]
        clips = [sample for s in taught for sample in self.samples if s.clips.fits(sample)]
        return list({sample.id: sample for sample in clips if sample.trace}.values())

    @cached_property
    def _lacks_columns(self) -> bool:
        """Whether prompts about some rows cannot be made, which has its findings."""
        return any(column_faults(self.config.prompt_set, self.samples))

    def _model(self) -> None:
        """Findings that need the model's own tokenizer and processor, or are remembered."""
        key = remembered.key_of(self.config, self.stages, self.samples, self.scans)
        seen = remembered.recall(self.cache_dir, key)
        if seen is None:
            seen = self._look_at_model()
            if self.cache_is_open:
                remembered.remember(self.cache_dir, key, seen)
        self.findings += seen.findings
        self.num_video_tokens = seen.num_video_tokens

    def _look_at_model(self) -> remembered.ModelFindings:
        config, findings = self.config, list[Finding]()
        renderer: Renderer | None = None
        num_video_tokens: int | None = None
        if is_hub_name(str(config.model)) and not config.model.is_dir():
            findings.append(_not_fetched(config.model))
        else:
            with collect_refusals(findings, Area.MODEL):
                renderer = open_model(config)
                findings.append(ok(Area.MODEL, f"{config.model}: configuration and tokenizer"))
        if renderer is not None:
            with collect_refusals(findings, Area.MODEL):
                check_context(config)
            with collect_refusals(findings, Area.PROMPTS):
                num_video_tokens = self._prompts(renderer, findings)
        findings += prompts.trace_findings(
            config.label_set,
            self._with_trace(),
            (lambda trace: len(renderer.target(trace))) if renderer else None,
            config.rollout.max_response_length,
        )
        return remembered.ModelFindings(findings=tuple(findings), num_video_tokens=num_video_tokens)

    def _prompts(self, renderer: Renderer, findings: list[Finding]) -> int | None:
        """Findings on prompts. Returns the video tokens of all distinct clips; None where prompts
        lack a column."""
        if self._lacks_columns:
            return None
        config, samples, refusals = self.config, self.samples, list[Finding]()
        controls = renderer.control_tokens
        findings += control_token_findings(config, samples, self._with_trace(), controls)
        lengths = prompts.PromptLengths(config, renderer, ClipProcessor(config.model))
        if self.cache_is_open:
            with collect_refusals(refusals, Area.PROMPTS):
                check_first_prompt(config, samples, renderer)
        findings += prompts.prompt_findings(config, samples, self.scans, lengths, refusals)
        contents = overlap.by_content(samples, self.scans)
        video_tokens = [lengths.video_tokens(clip) or 0 for clip in contents.values()]
        findings += rationales.length_findings(
            *(config, self.stages, samples, renderer.num_text_tokens, max(video_tokens, default=0))
        )
        return sum(video_tokens)

    def _reward(self) -> None:
        samples = [] if self._lacks_columns else self.samples
        self.findings += asyncio.run(reward_findings(self.config, samples))

    def _placement(self) -> None:
        with collect_refusals(self.findings, Area.PLACEMENT):
            self.findings += machine.placement_findings(self.config)

    def _machine(self) -> None:
        """Memory and disk, where the model's sizes are known."""
        config, stages = self.config, self.stages
        try:
            plan = plan_of(config, stages, self.samples or None)
        except UserError:
            return  # a model of another kind, which has its finding already
        self.findings += machine.plan_findings(
            config, plan, measured=self.num_video_tokens is not None
        )
        if plan.memory is not None and machine.is_local(config):
            wants_gpu = bool(config.rollout.num_gpus or config.learner.num_gpus)
            there = machine.this_machine(with_gpus=wants_gpu)
            self.findings += machine.memory_findings(config, plan.memory, there)
        if self.num_video_tokens is not None:
            self._disk(self.num_video_tokens)

    def _disk(self, num_video_tokens: int) -> None:
        shape, run_dir = read_shape(self.config.model), self.request.run_dir.resolve()
        if shape is None:
            return
        bound = int(self.config.video.cache_max_gb * 2**30)
        cache = min(cache_bytes(shape, num_video_tokens), bound)
        cache -= machine.folder_bytes(self.cache_dir)
        run = run_bytes(self.config, shape, self.stages, len(self.samples))
        run -= machine.folder_bytes(run_dir)  # of a run that is to go on
        self.findings += machine.disk_findings(
            {self.cache_dir: max(0, cache), run_dir: max(0, run)}
        )


def _not_fetched(model: Path) -> Finding:
    what = f"{model} is not here: neither the model nor prompts were looked at"
    remedy = (
        f"'hf download {model}' and check again; run fetches it from the Hugging Face hub if there "
        "is such a model"
    )
    return warning(Area.MODEL, what, remedy)
