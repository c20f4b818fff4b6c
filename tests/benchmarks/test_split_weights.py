from pathlib import Path

from calibrate.splitting.benchmark import read_side
from calibrate.splitting.benchmark_config import SplitBenchmarkConfig, SplitMethod
from calibrate.splitting.benchmark_run import run_benchmark
from calibrate.splitting.benchmark_weights import read_weights
from calibrate.splitting.label_texts import LabelTexts
from tests.benchmarks.split_weights import main
from tests.calibrate.splitting.compositions import WordVectors
from tests.calibrate.splitting.layouts import write_layout


def test_a_written_weights_file_is_measured_and_unseen_compositions_are_recovered(tmp_path: Path):
    directory, out = write_layout(tmp_path / "data"), tmp_path / "w.safetensors"
    main([str(directory), "A", str(out), "--noise", "0"])
    side = read_side(directory, "A")
    texts = LabelTexts(groups=side.groups).completed()
    config = SplitBenchmarkConfig(
        methods=(SplitMethod.RETRIEVAL, SplitMethod.ALIGNMENT, SplitMethod.ONE_SHOT_ALIGNED),
        seeds=(0,),
    )
    report = run_benchmark(side, read_weights(out), texts, WordVectors(), config)
    assert report.base_accuracy == 1.0
    for result in report.results:
        assert result.summary.generality == 1.0
        assert result.summary.locality == 1.0
