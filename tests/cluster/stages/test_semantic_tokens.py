"""The stage that learns a tokenizer, with fake segments, a real fit and real files."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.config.kinds.semantic_tokens import SemanticTokensStage
from cluster.inputs.narration import codes_path, tokenizer_folder
from cluster.run_dir import RunDir
from cluster.run_files import stage_outcome
from cluster.stages.semantic_tokens import texts_of
from learner.shared_prefix.rows import Row
from rollout.rationales.rationale import Rationale
from rollout.rationales.rationale_file import rationale_file, write_rationales
from tests.cluster.session_fakes import (
    NAMES,
    TOKENIZER,
    FakeLearner,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
    run_one,
)
from video.semantic_tokens.codes_file import CodesFile
from video.semantic_tokens.tokenizer import SemanticTokenizer
from wire.errors import ConfigError, DataError
from wire.types import Sample, stable_seed

WIDTH = 6
SETTINGS = {"num_codes": 8, "dim": 4, "hidden": 16, "spatial": 1, "epochs": 4, "batch_size": 4}


class Looks(FakeLearner):
    """Segments follow from the clip; two clips to a block."""

    async def segment_blocks(
        self, rows: Iterable[Row], spatial: int, steps: int
    ) -> AsyncIterator[list[np.ndarray[Any, Any]]]:
        assert (spatial, steps) == (1, 1)
        held = list(rows)
        for start in range(0, len(held), 2):
            yield [segments(row.video) for row in held[start : start + 2]]


class TrainedTower(Looks):
    async def tower(self) -> str | None:
        return None


def segments(video: str) -> np.ndarray[Any, Any]:
    draw = np.random.default_rng(stable_seed(video))
    return draw.normal(size=(3 + stable_seed(video) % 3, 1, WIDTH)).astype(np.float32)


def run(
    folder: Path, learner: type[FakeLearner] = Looks, **settings: Any
) -> tuple[dict[str, Any], RunDir]:
    stage = {"name": "vst", "kind": "semantic_tokens", **SETTINGS, **settings}
    config = make_config(model=str(TOKENIZER), stages=[stage])
    run_dir = make_run_dir(folder, config)
    with open_fakes(config, run_dir, make_samples(), ("base", 0), make_learner=learner) as (s, *_):
        return asyncio.run(run_one(s, "vst")), run_dir


def test_all_clips_get_codes_and_only_train_clips_are_learned_from(tmp_path: Path):
    done, run_dir = run(tmp_path)
    made = SemanticTokenizer.load(tokenizer_folder(run_dir.path, "vst"), tower="tower")
    assert done["tokenizer"] == {"version": made.version, "tower": "tower"}
    codes = CodesFile.read(codes_path(run_dir.path, "vst"), version=made.version)
    samples = make_samples()
    assert set(codes.clips) == {sample.video for sample in samples}
    assert len(codes.codes("/clips/test-0.mp4")) == len(segments("/clips/test-0.mp4"))
    assert done["figures"]["num_clips"] == 8, "of train"
    assert done["others"]["num_clips"] == done["num_clips"] - 8 == 11
    assert (done["num_learned"], done["num_failed"]) == (8, 0)
    assert f"tokenizer {made.version}, 19 clips have codes" in stage_outcome(done)
    assert "perplexity" in stage_outcome(done)
    assert set(made.names) <= set(NAMES)
    assert {path.name for path in codes.path.parent.iterdir()} == {"tokenizer", "codes.jsonl"}


def test_a_stage_that_begins_again_makes_the_same_tokenizer_and_another_seed_another(
    tmp_path: Path,
):
    versions = [
        run(tmp_path / name, **settings)[0]["tokenizer"]["version"]
        for name, settings in (("a", {}), ("b", {}), ("c", {"seed": 1}))
    ]
    assert versions[0] == versions[1] != versions[2]


def test_a_finished_tokenizer_is_taken_and_its_codes_are_the_same(tmp_path: Path):
    done, first = run(tmp_path / "a")
    folder = tokenizer_folder(first.path, "vst")
    again, second = run(tmp_path / "b", tokenizer=str(folder))
    assert again["tokenizer"] == done["tokenizer"]
    assert again["figures"] == {}
    assert again["num_learned"] == 0
    assert stage_outcome(again).endswith("it was not fitted here")
    paths = [codes_path(each.path, "vst") for each in (first, second)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_tokenizer_of_another_tower_and_a_tower_that_trains_are_refused(tmp_path: Path):
    folder = tokenizer_folder(run(tmp_path / "a")[1].path, "vst")

    class OtherTower(Looks):
        async def tower(self) -> str | None:
            return "other"

    with pytest.raises(DataError, match="belongs to the tower tower"):
        run(tmp_path / "b", OtherTower, tokenizer=str(folder))
    with pytest.raises(ConfigError, match="stage vst needs a frozen vision tower"):
        run(tmp_path / "c", TrainedTower)


def test_vectors_are_kept_where_they_are_shown_in_place_of_codes(tmp_path: Path):
    _, run_dir = run(tmp_path, quantise=False, render="embeddings")
    assert (run_dir.path / "stages" / "vst" / "soft.segments").exists()


def test_texts_come_from_labels_traces_columns_and_captions(tmp_path: Path):
    def texts(source: str, samples: list[Sample]) -> dict[str, tuple[str, ...]]:
        stage = SemanticTokensStage(name="vst", texts=source)
        return texts_of(stage, samples, tmp_path)

    first, second = (
        replace(s, extra={"said": said})
        for s, said in zip(make_samples()[:2], ("it goes left", ["up", "down"]), strict=True)
    )
    bare = replace(first, trace=None, extra={})
    assert texts("labels", [first]) == {first.id: (first.label,)}
    assert texts("trace", [first, replace(bare, id="x")]) == {first.id: (first.trace,), "x": ()}
    assert texts("column:said", [first, second, replace(bare, id="x")]) == {
        first.id: ("it goes left",),
        second.id: ("up", "down"),
        "x": (),
    }
    captions = [
        Rationale(
            id=first.id,
            video="v",
            label="undo",
            text=text,
            answer=None,
            kept=kept,
            reason="",
            group_id="g",
            index=i,
        )
        for i, (text, kept) in enumerate([("left", True), ("", False), ("then up", True)])
    ]
    write_rationales(rationale_file(tmp_path, "captions"), captions)
    assert texts("stage:captions", [first, second]) == {first.id: ("left", "then up")}
