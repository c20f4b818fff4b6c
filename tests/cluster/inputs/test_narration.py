"""Where the tokenizer of a stage lies, and which stages are refused without it."""

from pathlib import Path

import pytest

from cluster.inputs.narration import narration_of, refuse_unread
from tests.cluster.session_fakes import make_config, make_run_dir
from wire.errors import ConfigError

STAGES = [
    {"name": "vst", "kind": "semantic_tokens", "style": "ids"},
    {"name": "taught", "kind": "sft", "data": "labels", "input": "tokens"},
    {"name": "seen", "kind": "evaluate", "from": "base"},
]


def test_a_narration_is_of_the_stages_own_files_and_rendering(tmp_path: Path):
    narration = narration_of(make_config(stages=STAGES), tmp_path, "vst")
    assert narration.folder == tmp_path / "stages" / "vst" / "tokenizer"
    assert narration.codes == tmp_path / "stages" / "vst" / "codes.jsonl"
    assert (narration.render, narration.style) == ("text", "ids")


def test_a_stage_that_reads_narratives_waits_for_its_tokenizer(tmp_path: Path):
    config = make_config(stages=STAGES)
    run_dir = make_run_dir(tmp_path, config)
    refuse_unread(config, run_dir.path, "seen")
    with pytest.raises(ConfigError, match="taught reads narratives of vst, which has not finished"):
        refuse_unread(config, run_dir.path, "taught")
    run_dir.finish("vst", {})
    refuse_unread(config, run_dir.path, "taught")


def test_a_stage_that_learns_texts_waits_for_what_writes_them(tmp_path: Path):
    captions = {"name": "captions", "kind": "rationales", "task": "caption"}
    learns = {"name": "learns", "kind": "sft", "data": "rationales", "from": "base"}
    teacher = learns | {"name": "teacher", "rationales": "manifest"}
    reads = {"name": "vst", "kind": "semantic_tokens", "texts": "stage:captions", "from": "base"}
    config = make_config(stages=[captions, learns, teacher, reads])
    run_dir = make_run_dir(tmp_path, config)
    refuse_unread(config, run_dir.path, "teacher")
    for name in ("learns", "vst"):
        with pytest.raises(ConfigError, match=f"{name} reads texts of captions, which has not"):
            refuse_unread(config, run_dir.path, name)
    run_dir.finish("captions", {})
    for name in ("learns", "vst"):
        refuse_unread(config, run_dir.path, name)
