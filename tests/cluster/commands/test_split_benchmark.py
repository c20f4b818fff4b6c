import argparse
import json
import tomllib
from pathlib import Path

import pytest

from calibrate.splitting.benchmark import read_side
from calibrate.splitting.benchmark_weights import write_weights
from cluster.cli import main
from cluster.commands import split_benchmark
from tests.calibrate.splitting.layouts import write_layout
from tests.calibrate.splitting.synthetic_weights import weights_of
from wire.errors import ConfigError, DataError


def run(*arguments: str) -> None:
    parser = argparse.ArgumentParser(prog="deepintuit")
    commands = parser.add_subparsers(dest="command", required=True)
    split_benchmark.add(commands)
    options = parser.parse_args(["split-benchmark", *arguments])
    options.act(options)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "SSv2-Split")


def test_a_data_set_is_counted_without_weights(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run(str(dataset), "--side", "A", "--json", str(tmp_path / "out.json"))
    printed = capsys.readouterr()
    assert "SSv2-Split, side A" in printed.out
    assert "not the published data set: targets: 2, published 27" in printed.err
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["counts"]["new_labels"] == 5


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["split-benchmark", str(tmp_path), "--side", "A"]) == 2
    assert "has no group_scheme.json; expected SSv2-Split" in capsys.readouterr().err


def test_a_weights_file_is_measured_on_all_targets(
    dataset: Path, tmp_path: Path, demo: Path, capsys: pytest.CaptureFixture[str]
):
    weights = tmp_path / "weights.safetensors"
    write_weights(weights, weights_of(read_side(dataset, "A")))
    run(str(dataset), "--side", "A", "--weights", str(weights),
        "--encoder", str(demo / "model"), "--methods", "retrieval", "alignment",
        "--seeds", "0", "--set", "alignment.max_epochs=3",
        "--json", str(tmp_path / "out.json"))  # fmt: skip
    printed = capsys.readouterr()
    assert "1/k, target always known" in printed.out
    assert "10 modifier phrases are proposed" in printed.err
    methods = json.loads((tmp_path / "out.json").read_text())["methods"]
    assert list(methods) == ["retrieval", "alignment"]
    assert methods["retrieval"]["summary"]["num_targets"] == 2
    assert set(methods["retrieval"]["by_type"]) == {"count", "direction"}


def test_phrases_are_written_for_reading_and_read_again(dataset: Path, tmp_path: Path):
    texts, again = tmp_path / "texts.toml", tmp_path / "again.toml"
    run(str(dataset), "--side", "A", "--write-modifiers", str(texts))
    assert tomllib.loads(texts.read_text())["modifiers"]["push left"] == "left"
    texts.write_text(texts.read_text().replace('"push left" = "left"', '"push left" = "west"'))
    run(str(dataset), "--side", "A", "--modifiers", str(texts),
        "--write-modifiers", str(again))  # fmt: skip
    assert tomllib.loads(again.read_text())["modifiers"]["push left"] == "west"


def test_a_phrase_of_no_label_is_refused(dataset: Path, tmp_path: Path):
    texts = tmp_path / "texts.toml"
    texts.write_text('[modifiers]\n"push lefft" = "left"\n')
    with pytest.raises(DataError, match="'push lefft', which is no label here; did you mean"):
        run(str(dataset), "--side", "A", "--modifiers", str(texts))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "magic"], "'magic'"),
        (["--set", "retrieval.gamma=1"], "unknown key 'retrieval.gamma'"),
        (["--seeds", "1", "1"], "names one twice"),
    ],
)
def test_a_wrong_setting_is_named_before_any_file_is_read(arguments: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        run("no-data-set", "--side", "A", *arguments)


def test_weights_of_another_side_are_refused_before_texts_are_encoded(
    dataset: Path, tmp_path: Path
):
    weights = tmp_path / "weights.safetensors"
    write_weights(weights, weights_of(read_side(dataset, "B")))
    with pytest.raises(DataError, match="give the weights of this side"):
        run(str(dataset), "--side", "A", "--weights", str(weights),
            "--encoder", "no-encoder")  # fmt: skip
