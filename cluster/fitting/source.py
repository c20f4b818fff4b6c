"""Source of a fit: a run, or a bare archive with a recipe and a model -> FitOrder.

    run.json, or --recipe     -> settings          policies.jsonl + hash of the model -> versions
    stages/NAME/model, or --model -> the policy    --versions, --purpose -> what is learned from

Reads, and starts nothing. A model that wrote none of the traces is refused, or marked if asked for.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config.chain import BASE
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.migration.hint import hint
from cluster.config.recipe import RunConfig, read_recipe
from cluster.fitting.archived_traces import archive_groups
from cluster.fitting.fit import FitOrder
from cluster.inputs.from_run import model_of, weights_hash
from cluster.inputs.policies import POLICIES_FILE, read_policies, versions_of
from cluster.run_files import RECIPE_FILE, read_recipe_file
from wire.config import apply_override, validate
from wire.errors import ConfigError, DataError
from wire.types import PolicyVersion, Purpose

_SECTION = "calibrate."


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Range of policy versions, both ends included.

    Example:
        PolicyVersion(attempt=0, step=41) in VersionRange.parse("0.40-0.81")
    """

    first: PolicyVersion
    last: PolicyVersion

    @classmethod
    def parse(cls, text: str) -> "VersionRange":
        """Of ``0.241`` or ``0.200-0.241``. Raises ConfigError."""
        first, _, last = text.partition("-")
        try:
            ends = PolicyVersion.parse(first), PolicyVersion.parse(last or first)
        except ValueError:
            ends = None
        if ends is None or ends[0] > ends[1]:
            raise ConfigError(
                f"--versions {text}: expected ATTEMPT.STEP, or the first and the last of a range, "
                "such as 0.241 or 0.200-0.241"
            )
        return cls(*ends)

    def __contains__(self, version: object) -> bool:
        return isinstance(version, PolicyVersion) and self.first <= version <= self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """What the command line asks for."""

    source: Path
    """A run's directory, or an archive."""
    out: Path
    recipe: Path | None = None
    model: Path | None = None
    stage: str | None = None
    versions: str | None = None
    purpose: Purpose = Purpose.CALIBRATION
    methods: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    """``a.b=c`` over the recipe."""
    allow_foreign: bool = False


def fit_order(request: FitRequest) -> FitOrder:
    """The order that a request makes. Raises ConfigError that names what is missing, DataError for
    a foreign archive."""
    out = request.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists already; give another OUT, or remove it first")
    run, archive = _places(request.source)
    config = _config(request, run, archive)
    stage = _stage(request, config)
    model, parent = _model(request, run, config, stage)
    if not config.model.is_dir():
        config = config.model_copy(update={"model": model})
    asked = VersionRange.parse(request.versions) if request.versions else None
    digest = weights_hash(model)
    served = versions_of(archive, digest)
    if not served and parent is not None:  # a run of before there were notes, or not yet calibrated
        step, noted = config.chain.last_step(parent), {n.version for n in read_policies(archive)}
        served = frozenset(
            g.version
            for g in archive_groups(archive)
            if g.version.step == step and str(g.version) not in noted  # those are other weights
        )
    foreign = ""
    if not served:
        foreign = _foreign(archive, model, digest)
        if not request.allow_foreign:
            raise DataError(f"{foreign}; give the --model that wrote them, or --allow-foreign")
        served = frozenset(
            g.version
            for g in archive_groups(archive)
            if g.purpose is request.purpose and (asked is None or g.version in asked)
        )
        if not served:
            raise DataError(f"{archive} has no traces for {request.purpose} of these versions")
    return FitOrder(
        archive=archive,
        config=config,
        stage=stage,
        model=model,
        out=out,
        policy=max(served),
        served=served,
        learn_from=served if asked is None else asked,
        purpose=request.purpose,
        test=config.evaluate.split,
        foreign=foreign,
    )


def _places(source: Path) -> tuple[Path | None, Path]:
    """The run, if it is one, and its archive."""
    source = source.resolve()
    for run in (source, source.parent):
        if (run / RECIPE_FILE).is_file() and source in (run, run / "archive"):
            return run, run / "archive"
    if (source / "traces").is_dir() or any(source.glob("journal-*.bin")):
        return None, source
    raise ConfigError(
        f"{source} holds no run and no archive; give a run's --run-dir, or a folder with traces/"
    )


def _config(request: FitRequest, run: Path | None, archive: Path) -> RunConfig:
    settings = [one for one in request.settings if not one.startswith(_SECTION)]
    if run is not None and request.recipe is None:
        values = read_recipe_file(run)
        for setting in settings:
            apply_override(values, setting)
        return validate(RunConfig, values, str(run / RECIPE_FILE), hint)
    missing = [
        name
        for name, given in (
            ("--recipe FILE (labels, prompts, video, learner)", request.recipe),
            ("--model DIR (the policy's weights)", request.model or run),
        )
        if given is None
    ]
    if missing or request.recipe is None:
        raise ConfigError(
            f"{archive} is an archive without its run, which has no settings and no weights; give "
            f"{' and '.join(missing)}, or the run's directory"
        )
    if request.model is not None:
        settings.append(f"model={json.dumps(str(request.model.resolve()), ensure_ascii=False)}")
    return read_recipe(request.recipe, settings)


def _stage(request: FitRequest, config: RunConfig) -> CalibrateStage:
    stages = {stage.name: stage for stage in config.chain if isinstance(stage, CalibrateStage)}
    if request.stage is not None and request.stage not in stages:
        known = ", ".join(stages) or "none"
        raise ConfigError(f"--stage {request.stage}: the recipe's calibrations are: {known}")
    if not stages:
        raise ConfigError(
            "the recipe has no calibration, whose settings say how to fit; add a stage of kind "
            "'calibrate'"
        )
    stage = stages[request.stage] if request.stage else list(stages.values())[-1]
    values: dict[str, Any] = {"calibrate": stage.model_dump(mode="json", by_alias=True)}
    for setting in request.settings:
        if setting.startswith(_SECTION):
            apply_override(values, setting)
    if request.methods:
        values["calibrate"]["methods"] = list(request.methods)
    return validate(CalibrateStage, values["calibrate"], f"stages.{stage.name}", hint)


def _model(
    request: FitRequest, run: Path | None, config: RunConfig, stage: CalibrateStage
) -> tuple[Path, str | None]:
    """The policy's weights, and the stage of the run that left them; None: given by hand."""
    if request.model is not None:
        if not (request.model / "config.json").is_file():
            raise ConfigError(f"--model {request.model}: there is no model; give its directory")
        return request.model.resolve(), None
    assert run is not None, "an archive without its run comes with a model"
    for parent in config.chain.candidates(stage.name):
        folder = config.model if parent == BASE else model_of(run, parent)
        if (folder / "config.json").is_file():
            return folder, parent
    raise ConfigError(
        f"{run} has no model of {config.chain.parent(stage.name)}, the policy that {stage.name} "
        "reads; finish that stage, or give --model DIR"
    )


def _foreign(archive: Path, model: Path, digest: str) -> str:
    """What is known of a model that is none of the archive's policies."""
    notes = list(read_policies(archive))
    if not notes:
        return (
            f"{archive} does not say whose weights wrote its traces (it has no {POLICIES_FILE}), "
            f"so whether {model.name} did is unknown"
        )
    known: Sequence[str] = [f"{n.version} {n.stage} {n.weights_sha256[:12]}" for n in notes]
    return (
        f"{model.name} (weights {digest[:12]}) wrote none of the traces in {archive.name}, whose "
        f"policies are {', '.join(known)}"
    )
