"""Start of a run from another run's stage: its exported model, where that came from, what differs
between the two runs, and which clips it has trained on that this run measures on.

    --from RUN_DIR[:STAGE] -> RUN_DIR/stages/STAGE/model -> the recipe's `model`
    model = ".../stages/STAGE/model" -> Source -> started_from.json, warnings

An exported model of a LoRA run has the adapter added in, so it is started from like any other; the
optimiser is a new one. Checkpoints cannot be started from: they hold only what trains, in float32
ranges by rank, and a model is made of them only where a learner has loaded it.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.config.chain import BASE, Chain
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.semantic_tokens import SemanticTokensStage
from cluster.config.kinds.sft import SftStage
from cluster.config.kinds.stage import Stage
from cluster.config.recipe import RunConfig
from cluster.inputs.narration import tokenizer_folder
from cluster.run_files import (
    RECIPE_FILE,
    STARTED_FROM_FILE,
    is_shorter,
    read_recipe_file,
    read_result,
    read_run_chain,
    read_run_recipe,
    read_started_from,
)
from rollout.manifest import read_manifest
from video.address import Address, Window
from wire.config import flatten
from wire.errors import ConfigError, UserError
from wire.types import Sample, Split
from wire.whole_file import write_json

_COMPARED = ("labels", "prompts", "data.use_side_text", "video")
_NOT_COMPARED = ("video.cache", "video.decode", "video.decoder")
_HELD_OUT = (Split.VAL, Split.CAL, Split.TEST)
_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Stage of another run whose model a run starts from.

    Example:
        Source(run="/runs/a", stage="grpo", version_step=241, length=240)
    """

    run: str
    """Its directory, absolute."""
    stage: str
    version_step: int
    """Version step of its policy, in that run."""
    length: int | None
    """Steps or epochs that it was trained for; None: unknown (earlier versions)."""


def start_model(text: str) -> Path:
    """The model that ``--from RUN_DIR[:STAGE]`` names; without a stage that of the last finished
    one which leaves a policy. Raises ConfigError that lists what can be started from."""
    run, stage = _split(text)
    chain = read_run_chain(run)
    read_recipe_file(run)
    faults = {one.name: _fault(run, one) for one in chain}
    fit = [name for name, fault in faults.items() if not fault]
    where = (
        f"{run} can be started from at: {', '.join(fit)}"
        if fit
        else (f"no stage of {run} can be started from yet; let one finish")
    )
    if stage is None:
        if not fit:
            raise ConfigError(f"--from {text}: {where}")
        stage = fit[-1]
    if stage not in faults:
        raise ConfigError(f"--from {text}: {run} has no stage {stage!r}; {where}")
    if faults[stage]:
        raise ConfigError(f"--from {text}: {faults[stage]}; {where}")
    return model_of(run, stage)


def model_of(run: Path, stage: str) -> Path:
    """Folder of the model that a stage of a run left."""
    return run.resolve() / "stages" / stage / "model"


def _split(text: str) -> tuple[Path, str | None]:
    if (Path(text) / RECIPE_FILE).exists():
        return Path(text), None
    folder, colon, stage = text.rpartition(":")
    if not colon:
        raise ConfigError(
            f"--from {text}: there is no run in {text}; give RUN_DIR or RUN_DIR:STAGE, such as "
            "runs/demo:grpo"
        )
    return Path(folder), stage


def _fault(run: Path, stage: Stage) -> str:
    """Why a stage cannot be started from; empty if it can."""
    if not stage.leaves_policy:
        return f"stage {stage.name} leaves no policy"
    result = read_result(run, stage.name)
    if result is None:
        return f"stage {stage.name} has not finished"
    if is_shorter(result, stage):
        return f"stage {stage.name} is being made longer and has not finished"
    if not (model_of(run, stage.name) / "config.json").is_file():
        return f"the model of stage {stage.name} is gone ({model_of(run, stage.name)})"
    return ""


def source_of(model: Path) -> Source | None:
    """The stage of a run that left a model folder; None for a model that no run left here."""
    folder = model.resolve()
    if folder.name != "model" or folder.parent.parent.name != "stages":
        return None
    run, stage = folder.parents[2], folder.parent.name
    if not (run / RECIPE_FILE).is_file():
        return None
    chain = read_run_chain(run)
    if stage not in chain:
        return None
    length = (read_result(run, stage) or {}).get("length")
    step = chain.last_step(stage)
    return Source(run=str(run), stage=stage, version_step=step, length=length)


def record_source(config: RunConfig, run_dir: Path) -> None:
    """Write ``started_from.json`` of a run whose model another run left, with the hash of its
    weights; once. Reads all of the weights."""
    file = run_dir / STARTED_FROM_FILE
    source = source_of(config.model)
    if source is not None and not file.exists():
        write_json(file, {**asdict(source), "weights_sha256": weights_hash(config.model)})


def check_source(config: RunConfig, run_dir: Path) -> None:
    """Raise ConfigError if the model that a run started from has other weights by now, as when the
    stage that left it was made longer. Reads all of the weights."""
    record = read_started_from(run_dir)
    if record is None or source_of(config.model) is None:
        return
    if weights_hash(config.model) != record.get("weights_sha256"):
        raise ConfigError(
            f"{config.model} has other weights than when this run started from it (its stage was "
            "made longer?); put those weights back, or start a new --run-dir"
        )


def weights_hash(model: Path) -> str:
    """SHA-256 of a model folder's weights: the files in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(model.glob("*.safetensors")):
        with file.open("rb") as data:
            while block := data.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def start_warnings(config: RunConfig, samples: Sequence[Sample]) -> list[str]:
    """Warnings of a run whose model another run left: settings in which they differ, and clips
    that the model was trained on and this run measures or calibrates on."""
    source = source_of(config.model)
    if source is None:
        return []
    start = f"the model comes from {source.run}:{source.stage}"
    try:
        other = read_run_recipe(Path(source.run))
    except UserError as error:
        return [f"{start}, whose recipe cannot be read, so nothing can be compared: {error}"]
    lines = []
    if names := sorted(set(_differences(config, other))):
        lines.append(f"{start}, which had another {', '.join(names)}: it learned with the other")
    if (read := _tokenizer_of(other, source)) and read not in _tokenizers_of(config):
        lines.append(
            f"{start}, which learned from narratives of the tokenizer {read}: videos, and the "
            "codes of another one, are new to it; show it the same (tokenizer = that folder, of a "
            "stage of kind semantic_tokens)"
        )
    return [*lines, *_leaks(start, other, source.stage, samples)]


def _differences(config: RunConfig, other: RunConfig) -> Iterator[str]:
    """Names of settings that the model learned with, and that are others here."""
    here, there = (flatten(one.model_dump(mode="json")) for one in (config, other))
    for name in here.keys() | there.keys():
        compared = any(name == key or name.startswith(f"{key}.") for key in _COMPARED)
        if compared and not name.startswith(_NOT_COMPARED) and here.get(name) != there.get(name):
            yield name


def _tokenizer_of(other: RunConfig, source: Source) -> Path | None:
    """Folder of the tokenizer whose narratives another run's stage learned from; None: videos."""
    stage = other.chain.tokenizer(source.stage)
    if stage is None:
        return None
    return _finished_tokenizer(other, stage) or tokenizer_folder(Path(source.run).resolve(), stage)


def _tokenizers_of(config: RunConfig) -> list[Path]:
    read = {config.chain.tokenizer(stage) for stage in config.chain.names} - {None}
    return [folder for stage in read if (folder := _finished_tokenizer(config, str(stage)))]


def _finished_tokenizer(config: RunConfig, stage: str) -> Path | None:
    declared = config.chain[stage]
    assert isinstance(declared, SemanticTokensStage), f"{stage} leaves no tokenizer"
    return declared.tokenizer.resolve() if declared.tokenizer else None


def _leaks(start: str, other: RunConfig, stage: str, samples: Sequence[Sample]) -> Iterator[str]:
    held_out = [sample for sample in samples if sample.split in _HELD_OUT]
    try:
        trained = list(_trained_clips(other, stage))
    except UserError as error:
        yield f"{start}; which clips it was trained on cannot be read: {error}"
        return
    counts = Counter(sample.split.value for sample in same_clips(trained, held_out))
    for split, count in sorted(counts.items()):
        yield (
            f"{start}, which was trained on {count} of the {split} clips here: figures on them "
            "flatter it; take them out of this split, or start from another model"
        )


def _trained_clips(config: RunConfig, stage: str) -> Iterator[Sample]:
    """Clips that the policy of a stage was trained on: by it, by the stages it came from, and by
    the run that its model came from."""
    samples = read_manifest(config.data.manifest, config.label_set, config.data.media_root)
    for one in _ancestry(config.chain, stage):
        if isinstance(one, SftStage) and one.learns_traces and not one.with_labels:
            yield from (sample for sample in one.clips.of(samples) if sample.trace)
        elif isinstance(one, SftStage | GrpoStage):
            yield from one.clips.of(samples)
    earlier = source_of(config.model)
    if earlier is not None:
        yield from _trained_clips(read_run_recipe(Path(earlier.run)), earlier.stage)


def _ancestry(chain: Chain, stage: str) -> Iterator[Stage]:
    while stage in chain:
        yield chain[stage]
        if (before := chain.parent(stage)) in (BASE, stage):
            return
        stage = before


def same_clips(trained: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
    """Those of ``others`` that show a part of a trained clip: of the same file, or of one with the
    same bytes. Only files whose size is found on both sides are read."""
    places = [[Address.parse(sample.video) for sample in some] for some in (trained, others)]
    sizes = [{_size(address.path) for address in some} for some in places]
    identity = _Identity((sizes[0] & sizes[1]) - {None})
    windows: dict[str, list[Window | None]] = {}
    for address in places[0]:
        windows.setdefault(identity.of(address.path), []).append(address.window)
    return [
        sample
        for sample, address in zip(others, places[1], strict=True)
        if any(_overlap(address.window, one) for one in windows.get(identity.of(address.path), ()))
    ]


class _Identity:
    """Identity of files: their content where another one could have the same, else their path."""

    def __init__(self, sizes: set[int | None]) -> None:
        self._sizes = sizes
        self._known: dict[Path, str] = {}

    def of(self, file: Path) -> str:
        if file not in self._known:
            read = _size(file) in self._sizes
            self._known[file] = _hash(file) if read else str(file.resolve())
        return self._known[file]


def _hash(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def _overlap(one: Window | None, other: Window | None) -> bool:
    if one is None or other is None:
        return True
    ends = [math.inf if window.end_s is None else window.end_s for window in (one, other)]
    return one.start_s < ends[1] and other.start_s < ends[0]
