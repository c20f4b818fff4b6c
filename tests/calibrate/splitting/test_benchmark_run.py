import json
from dataclasses import replace
from pathlib import Path

import pytest

from calibrate.splitting.benchmark import Side, read_side
from calibrate.splitting.benchmark_config import SplitBenchmarkConfig, SplitMethod
from calibrate.splitting.benchmark_report import BenchmarkReport
from calibrate.splitting.benchmark_run import run_benchmark
from calibrate.splitting.benchmark_weights import BenchmarkWeights, ClipFeatures
from calibrate.splitting.config import LowShotConfig
from calibrate.splitting.label_texts import LabelTexts
from tests.calibrate.splitting.compositions import WordVectors
from tests.calibrate.splitting.layouts import clip_names, fine_labels, write_layout
from tests.calibrate.splitting.synthetic_weights import weights_of
from wire.errors import ConfigError, DataError


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return read_side(write_layout(tmp_path / "data"), "A")


@pytest.fixture
def texts(side: Side) -> LabelTexts:
    return LabelTexts(groups=side.groups).completed()


def report_of(
    side: Side, texts: LabelTexts, *methods: str, weights: BenchmarkWeights | None = None
) -> BenchmarkReport:
    config = SplitBenchmarkConfig(methods=tuple(map(SplitMethod, methods)), seeds=(0, 1))
    return run_benchmark(side, weights or weights_of(side), texts, WordVectors(), config)


def generality(report: BenchmarkReport) -> dict[str, float]:
    return {result.method.value: result.summary.generality for result in report.results}


def test_unseen_compositions_are_recovered_from_siblings_words(side: Side, texts: LabelTexts):
    report = report_of(side, texts, "retrieval", "alignment")
    for result in report.results:
        assert result.summary.generality == 1.0
        assert result.summary.locality == 1.0
    retrieval, alignment = report.results
    assert list(retrieval.scores) == [0]  # no seed changes it
    assert list(alignment.scores) == [0, 1]
    assert len(retrieval.scores[0]) == len(side.targets) == 2
    assert (report.base_accuracy, report.num_modifiers) == (1.0, 5)


def test_reference_lines_are_of_the_data(side: Side, texts: LabelTexts):
    summary = report_of(side, texts, "retrieval").results[0].summary
    assert summary.chance == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert summary.majority == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_few_shot_rows_learn_from_the_targets_train_clips(side: Side, texts: LabelTexts):
    report = report_of(side, texts, "one_shot_coarse", "one_shot_aligned", "full_data")
    assert generality(report)["one_shot_aligned"] == 1.0
    assert generality(report)["full_data"] > report.results[0].summary.chance


def test_all_methods_that_the_file_allows_run_and_others_are_left_out_with_the_reason(
    side: Side, texts: LabelTexts
):
    weights = replace(weights_of(side), train=None)
    report = report_of(side, texts, weights=weights)
    assert [result.method.value for result in report.results] == [
        "retrieval",
        "argmax",
        "alignment",
    ]
    assert report.left_out["full_data"] == "the weights file has no train_features"
    assert report.left_out["vlm"] == "the weights file has no vlm_features"


def test_vlm_baseline_chooses_the_nearest_sub_class_and_keeps_every_other_answer(
    side: Side, texts: LabelTexts
):
    names = [(name, fine) for fine in fine_labels() for name in clip_names(fine, "val")]
    known = WordVectors().encode([fine for _, fine in names])
    vlm = ClipFeatures(names=tuple(name for name, _ in names), values=known[:, None])
    weights = replace(weights_of(side), vlm=vlm)
    (result,) = report_of(side, texts, "vlm", weights=weights).results
    assert (result.summary.generality, result.summary.locality) == (1.0, 1.0)


def test_vlm_embeddings_of_another_model_than_the_texts_are_refused(side: Side, texts: LabelTexts):
    weights = weights_of(side)
    vlm = ClipFeatures(names=weights.val.names, values=weights.val.values[:, :1])
    weights = replace(weights, vlm=vlm)
    with pytest.raises(ConfigError, match="vlm_features have width 48, the text encoder 64"):
        report_of(side, texts, "vlm", weights=weights)
    assert "not of one model" in report_of(side, texts, weights=weights).left_out["vlm"]


def test_crops_of_a_clip_are_averaged(side: Side, texts: LabelTexts):
    weights = weights_of(side)
    spoiled = weights.val.values.copy()
    spoiled[:, 1] *= 0.01  # an unsure crop beside a sure one
    weights = replace(weights, val=replace(weights.val, values=spoiled))
    assert generality(report_of(side, texts, "retrieval", weights=weights))["retrieval"] == 1.0


def test_results_are_told_apart_per_modifier_type(side: Side, texts: LabelTexts):
    report = report_of(side, texts, "retrieval")
    assert report.results[0].by_type == {"count": (1.0, 6), "direction": (1.0, 9)}
    head, rows = report.type_table()
    assert head == ("method", "count", "direction")
    assert rows == [("retrieval", "100.0", "100.0")]


def test_shots_of_a_seed_are_the_same_every_time(side: Side, texts: LabelTexts):
    weights = weights_of(side, noise=0.5)
    one, again = (report_of(side, texts, "one_shot_coarse", weights=weights) for _ in range(2))
    assert one.to_json() == again.to_json()


def test_report_is_json_with_a_score_per_target_and_seed(side: Side, texts: LabelTexts):
    plain = json.loads(json.dumps(report_of(side, texts, "alignment").to_json()))
    scores = plain["methods"]["alignment"]["targets"]["push"]
    assert list(scores) == ["0", "1"]
    assert scores["0"]["generality"] == 1.0
    assert plain["methods"]["alignment"]["summary"]["num_seeds"] == 2


def test_table_ends_with_the_reference_lines(side: Side, texts: LabelTexts):
    head, rows = report_of(side, texts, "retrieval").table()
    assert head[:4] == ("method", "G", "L", "mean")
    assert [cells[0] for cells in rows] == [
        "retrieval",
        "1/k, target always known",
        "majority, target always known",
    ]
    assert all(len(cells) == len(head) for cells in rows)


def test_each_target_is_reported_when_it_is_done(side: Side, texts: LabelTexts):
    done: list[str] = []
    config = SplitBenchmarkConfig(methods=(SplitMethod.RETRIEVAL,))
    run_benchmark(side, weights_of(side), texts, WordVectors(), config, done.append)
    assert done == ["push", "drop"]


def test_weights_of_another_side_are_refused(side: Side, texts: LabelTexts, tmp_path: Path):
    other = weights_of(read_side(tmp_path / "data", "B"))
    with pytest.raises(DataError, match="row 0 of the weights is 'push left', but that of side A"):
        report_of(side, texts, weights=other)
    shorter = replace(other, weight=other.weight[1:], bias=other.bias[1:], labels=None)
    with pytest.raises(DataError, match="have 7 rows, but side A of data has 8 base labels"):
        report_of(side, texts, weights=shorter)


def test_features_that_lack_clips_are_refused(side: Side, texts: LabelTexts):
    weights = weights_of(side)
    fewer = ClipFeatures(names=weights.val.names[1:], values=weights.val.values[1:])
    with pytest.raises(DataError, match=r"1 of 33 clips have no features, such as val-push_left"):
        report_of(side, texts, weights=replace(weights, val=fewer))
    assert weights.train is not None
    fewer = ClipFeatures(names=weights.train.names[1:], values=weights.train.values[1:])
    with pytest.raises(DataError, match=r"1 of 10 clips have no features, such as train-push"):
        report_of(side, texts, weights=replace(weights, train=fewer))


def test_a_label_without_a_phrase_is_named(side: Side):
    with pytest.raises(DataError, match="10 labels have no modifier phrase, such as 'push left'"):
        report_of(side, LabelTexts())


def test_a_method_that_cannot_run_is_refused_where_it_is_asked_for(side: Side, texts: LabelTexts):
    with pytest.raises(ConfigError, match="method 'vlm': the weights file has no vlm_features"):
        report_of(side, texts, "vlm")


def test_the_whole_head_is_trained_where_that_is_the_method(side: Side, texts: LabelTexts):
    config = SplitBenchmarkConfig(
        methods=(SplitMethod.ONE_SHOT_WHOLE_HEAD,),
        seeds=(0,),
        low_shot=LowShotConfig(learning_rate=1.0, dropout=0.0),
    )
    (result,) = run_benchmark(side, weights_of(side), texts, WordVectors(), config).results
    assert result.summary.locality is not None
    assert result.summary.locality < 1.0
