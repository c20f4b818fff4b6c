from pathlib import Path

import numpy as np
import pytest
import torch

from learner.semantic_tokens.figures import purity
from learner.semantic_tokens.fit import Fitted, fit_tokenizer
from tests.learner.semantic_tokens.synthetic import (
    EVENTS,
    Clips,
    config,
    fit,
    make_clips,
    named_rightly,
)
from video.semantic_tokens.config import SemanticTokensConfig
from video.semantic_tokens.tokenizer import SemanticTokenizer
from wire.errors import DataError


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return make_clips(tmp_path_factory.mktemp("segments") / "segments")


@pytest.fixture(scope="module")
def fitted(clips: Clips) -> Fitted:
    return fit(clips)


def codes_of(clips: Clips, fitted: Fitted) -> list[int]:
    every = clips.segments.read(range(len(clips.segments)))
    return [c for clip in every for c in fitted.tokenizer.codes(torch.from_numpy(clip))]


def test_codes_tell_events_apart_and_bear_their_names_though_no_segment_has_a_label(
    clips: Clips, fitted: Fitted
):
    events = [event for clip in clips.truth for event in clip]
    assert purity(codes_of(clips, fitted), events) > 0.97
    assert named_rightly(clips, fitted) > 0.95
    assert fitted.figures["named_precision"] > 0.95 > 0.8 > fitted.figures["named_chance"]
    assert fitted.tokenizer.description.nearest[0][0] == fitted.tokenizer.names[0]
    assert {len(texts) for texts in fitted.tokenizer.description.nearest} == {3}


def test_without_the_semantic_term_the_names_mean_nothing(clips: Clips):
    assert named_rightly(clips, fit(clips, semantic_weight=0.0)) < 0.6


def test_the_codebook_does_not_collapse_and_does_without_the_restart(clips: Clips, fitted: Fitted):
    assert fitted.figures["codes_used"] >= 14  # of 16
    kept, collapsed = (
        fit(clips, num_codes=64, restart_below=share).figures for share in (0.1, 0.0)
    )
    assert kept["codes_used_frac"] > 0.75 > 0.55 > collapsed["codes_used_frac"]
    assert collapsed["perplexity"] < 0.7 * kept["perplexity"]


def test_the_temporal_term_makes_switches_rarer_and_runs_longer(clips: Clips):
    off, on = (
        fit(clips, semantic_weight=0.0, temporal_weight=weight).figures for weight in (0.0, 2.0)
    )
    assert on["switch_rate"] < 0.85 * off["switch_rate"]
    assert on["mean_run_length"] > 1.15 * off["mean_run_length"]


def test_the_same_seed_gives_the_same_bits_and_leaves_the_random_state_alone(
    clips: Clips, fitted: Fitted
):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = fit(clips)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.tokenizer.version == fitted.tokenizer.version
    assert again.figures == fitted.figures
    assert fit(clips, seed=1, epochs=1).tokenizer.version != fit(clips, epochs=1).tokenizer.version


def test_a_small_network_has_the_same_bits_on_any_number_of_threads(clips: Clips):
    before = torch.get_num_threads()
    versions = set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            versions.add(fit(clips, epochs=2).tokenizer.version)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(versions) == 1


def test_a_saved_tokenizer_gives_the_codes_of_the_fitted_one(
    clips: Clips, fitted: Fitted, tmp_path: Path
):
    fitted.tokenizer.save(tmp_path / "tokenizer")
    read = SemanticTokenizer.load(tmp_path / "tokenizer", tower=clips.segments.tower)
    assert codes_of(clips, Fitted(tokenizer=read, figures={})) == codes_of(clips, fitted)


def test_embeddings_are_the_mean_features_of_the_segments_with_a_code(clips: Clips, fitted: Fitted):
    codes = np.array(codes_of(clips, fitted))
    features = np.concatenate(clips.segments.read(range(len(clips.segments)))).mean(1)
    for code in set(codes.tolist()):
        np.testing.assert_allclose(
            fitted.tokenizer.embeddings[code], features[codes == code].mean(0), atol=1e-5
        )


def test_without_quantisation_the_losses_see_segments_and_codes_are_read_off(clips: Clips):
    without = fit(clips, quantise=False)
    assert not without.tokenizer.config.quantise
    assert without.figures["codes_used"] > 10
    assert named_rightly(clips, without) > 0.9


def test_progress_is_reported_after_each_epoch(clips: Clips):
    reports: list[tuple[int, int, dict[str, float]]] = []
    fit_tokenizer(
        clips.segments,
        clips.mentions,
        EVENTS,
        torch.eye(len(EVENTS)),
        config(epochs=3),
        seed=0,
        progress=lambda done, total, losses: reports.append((done, total, losses)),
    )
    assert [(done, total) for done, total, _ in reports] == [(1, 3), (2, 3), (3, 3)]
    assert reports[-1][2].keys() == {
        "reconstruction",
        "commitment",
        "temporal",
        "semantic",
        "loss",
        "restarted",
    }
    assert reports[-1][2]["loss"] < reports[0][2]["loss"]


def test_settings_of_a_stage_that_has_more_of_them_leave_only_the_tokenizers(clips: Clips):
    class Stage(SemanticTokensConfig):
        texts: str = "labels"

    stage = Stage(**config(epochs=1).model_dump(), texts="trace")
    one = fit_tokenizer(
        clips.segments, clips.mentions, EVENTS, torch.eye(len(EVENTS)), stage, seed=0
    )
    assert type(one.tokenizer.config) is SemanticTokensConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": config(spatial=2)}, "1 places for spatial=2"),
        ({"mentions": [(0,)]}, "mentions of 1 clips for the segments of 120"),
        ({"attributes": ("wave",) * 5}, "expected at least one phrase, each once"),
        ({"vectors": torch.eye(4)}, "expected one row per attribute"),
        ({"mentions": [(5,)] * 120}, r"mentions of the attributes \[5\]; there are 5"),
        ({"mentions": [()] * 120}, "no clip's text mentions any attribute"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    clips: Clips, change: dict[str, object], message: str
):
    given = {"mentions": clips.mentions, "attributes": EVENTS, "vectors": torch.eye(5)}
    given = given | {"config": config()} | change
    with pytest.raises(DataError, match=message):
        fit_tokenizer(
            clips.segments,
            given["mentions"],
            given["attributes"],
            given["vectors"],
            given["config"],
            seed=0,
        )


def test_no_clips_to_learn_from_are_refused(clips: Clips):
    none, settings = clips.segments.subset([]), config(semantic_weight=0.0)
    with pytest.raises(DataError, match="no clip to learn a tokenizer from could be read"):
        fit_tokenizer(none, [], EVENTS, torch.eye(5), settings, seed=0)
