import json
from pathlib import Path

from cluster.config.chain import Chain
from cluster.report.gather import gather
from cluster.report.page import render
from cluster.report.rationales import rationale_records
from cluster.run_dir import RunDir
from rollout.rationales.rationale_file import rationale_file
from tests.cluster.report.builders import write_rationale_stage, write_run
from tests.cluster.session_fakes import make_config

STAGES = [{"name": "why", "kind": "rationales"}, {"name": "later", "kind": "rationales"}]


def test_a_finished_stage_is_shown_with_a_few_texts_of_each_kind(tmp_path: Path) -> None:
    config = make_config(stages=STAGES)
    figures = write_rationale_stage(tmp_path, config)
    (record,) = rationale_records(tmp_path, config.chain)
    assert (record.stage, record.figures) == ("why", figures)
    assert [one.reason for one in record.examples] == ["", "", "", "parse", "parse"]
    assert record.examples[0].answer == config.label_set.names[0]


def test_a_chain_without_such_stages_has_no_records(tmp_path: Path) -> None:
    assert rationale_records(tmp_path, Chain(())) == ()


def test_the_page_has_the_rationales_as_data(tmp_path: Path) -> None:
    config = make_config(stages=STAGES)
    run_dir = RunDir.open(tmp_path / "run", config, resume=False, overwrite=False)
    run_dir.close()
    write_rationale_stage(run_dir.path, config)
    report = gather(run_dir.path, max_clips=0)
    assert [note for note in report.notes if "rationales" in note] == []
    page = render(report, {})
    assert "</script> goes up" not in page
    start = page.index('id="data"')
    data = json.loads(page[page.index(">", start) + 1 : page.index("</script>", start)])
    (shown,) = data["rationales"]
    assert shown["figures"]["num_kept"] == 4
    assert shown["examples"][0]["text"].startswith("It </script> goes up.")


def test_a_damaged_file_is_a_note(tmp_path: Path) -> None:
    config = make_config(stages=STAGES)
    run_dir = RunDir.open(tmp_path / "run", config, resume=False, overwrite=False)
    run_dir.close()
    write_rationale_stage(run_dir.path, config)
    rationale_file(run_dir.path, "why").write_text("{")
    report = gather(run_dir.path, max_clips=0)
    assert report.rationales == ()
    assert any("rationales.jsonl" in note for note in report.notes)


def test_a_run_without_rationales_shows_none(tmp_path: Path) -> None:
    assert gather(write_run(tmp_path / "r").path, max_clips=0).rationales == ()
