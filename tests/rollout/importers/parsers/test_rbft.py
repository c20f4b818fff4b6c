import pytest

from rollout.importers.join import NO_LABEL_ANSWER, OTHER_ANSWER
from rollout.importers.parsers.rbft import WRONG_FIELD, clip_id
from rollout.importers.reply import NO_CLOSING_LINE, TWO_CONCLUSIONS
from tests.rollout.importers.builders import Workspace, rbft_row
from wire.errors import DataError

BODY = "A person in dark clothes climbs over the fence and looks into every window of the house."


def rationale(label: str, body: str = BODY) -> str:
    return f"{body}\n\nClassification: {label.capitalize()}"


def test_the_label_is_the_assistant_turn_and_not_ground_truth(workspace: Workspace) -> None:
    rows = [rbft_row(1, "normal", truth="abnormal"), rbft_row(2, "abnormal", truth="abnormal")]
    report = workspace.run(f"test={workspace.write('test.json', rows)}", format="rbft")
    labels = {name: row["label"] for name, row in workspace.rows.items()}
    assert labels == {"garden_0001": "normal", "garden_0002": "abnormal"}
    assert report.tally.examples == {WRONG_FIELD: ["garden_0001"]}


def test_a_rationale_becomes_the_trace_of_the_clip_of_another_file(workspace: Workspace) -> None:
    labels = workspace.write("labels.json", [rbft_row(1, "abnormal"), rbft_row(2, "normal")])
    row = rbft_row(1, rationale("abnormal"), truth="abnormal", task="explain-it")
    reasons = workspace.write("reasons.json", [row])
    report = workspace.run(f"train={labels}", f"train={reasons}", format="rbft")
    assert workspace.rows["garden_0001"]["trace"] == (
        f"<think>{BODY}</think><answer>abnormal</answer>"
    )
    assert (report.rows.total(), report.traces["train"]) == (2, 1)
    assert report.tally.examples == {}


def test_the_hint_of_the_prompt_reaches_nothing(workspace: Workspace) -> None:
    rows = [
        rbft_row(1, rationale("abnormal"), truth="abnormal"),
        rbft_row(2, rationale("normal"), truth="normal"),
    ]
    assert "label of this video" in rows[0]["conversations"][0]["value"]
    source = workspace.write("a.json", rows)
    report = workspace.run(f"train={source}", format="rbft", with_side_text=True)
    assert "provided" not in workspace.manifest.read_text()
    assert report.texts.total() == 0
    assert report.warnings == ()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (rationale("normal"), OTHER_ANSWER),
        (rationale("harmless"), NO_LABEL_ANSWER),
        (f"{BODY} This is abnormal.", NO_CLOSING_LINE),
        (f"{BODY}\nClassification: abnormal or worse than that", NO_CLOSING_LINE),
        (f"{BODY}\nClassification: **Normal**\n\nClassification: Abnormal", TWO_CONCLUSIONS),
        (f"<think>{BODY}</think><answer>normal</answer>", OTHER_ANSWER),
        (
            f"<think>{BODY}\nClassification: Normal</think><answer>abnormal</answer>",
            TWO_CONCLUSIONS,
        ),
    ],
)
@pytest.mark.parametrize("with_labels", [True, False])
def test_a_rationale_that_does_not_agree_is_dropped_and_its_clip_kept(
    workspace: Workspace, reply: str, reason: str, with_labels: bool
) -> None:
    rows = [rbft_row(1, reply, truth="abnormal")]
    rows += [rbft_row(number, rationale("normal"), truth="normal") for number in range(2, 15)]
    sources = [f"train={workspace.write('reasons.json', rows)}"]
    if with_labels:
        labels = [rbft_row(1, "abnormal")]
        sources.append(f"train={workspace.write('labels.json', labels)}")
    report = workspace.run(*sources, format="rbft")
    row = workspace.rows["garden_0001"]
    assert (row["label"], row["trace"]) == ("abnormal", None)
    assert report.tally.examples == {reason: ["garden_0001"]}
    assert report.traces["train"] == 13


def test_a_completion_with_tags_becomes_a_trace(workspace: Workspace) -> None:
    reply = f"<think>{BODY}</think>\n\n<answer>abnormal</answer>"
    rows = [rbft_row(1, reply, truth="abnormal"), rbft_row(2, "normal")]
    workspace.run(f"train={workspace.write('a.json', rows)}", format="rbft")
    assert workspace.rows["garden_0001"]["trace"] == (
        f"<think>{BODY}</think><answer>abnormal</answer>"
    )


def test_a_label_file_wins_over_the_ground_truth_of_rationales(workspace: Workspace) -> None:
    reasons = [rbft_row(1, rationale("normal"), truth="abnormal"), rbft_row(2, "abnormal")]
    first = workspace.write("reasons.json", reasons)
    second = workspace.write("labels.json", [rbft_row(1, "normal")])
    workspace.run(f"train={first}", f"train={second}", format="rbft")
    row = workspace.rows["garden_0001"]
    assert row["label"] == "normal"
    assert row["trace"] is not None


def test_a_ground_truth_that_never_varies_is_not_taken_for_the_label(workspace: Workspace) -> None:
    rows = [
        rbft_row(n, rationale("normal" if n % 3 else "abnormal"), truth="abnormal")
        for n in range(1, 10)
    ]
    source = workspace.write("reasons.json", rows)
    with pytest.raises(DataError, match="says 'abnormal' for all 9 records, but 6 of them"):
        workspace.run(f"train={source}", format="rbft")
    labels = [rbft_row(n, "normal" if n % 3 else "abnormal") for n in range(1, 10)]
    report = workspace.run(
        f"train={source}", f"train={workspace.write('labels.json', labels)}", format="rbft"
    )
    assert report.traces["train"] == 9


def test_label_files_that_disagree_are_a_conflict(workspace: Workspace) -> None:
    first = workspace.write("a.json", [rbft_row(1, "normal"), rbft_row(2, "abnormal")])
    second = workspace.write("b.json", [rbft_row(1, "abnormal", task="day-watch")])
    sources = [f"train={first}", f"train={second}"]
    words = r"garden_0001: a\.json record 1 says 'normal' but b\.json record 1 says 'abnormal'"
    with pytest.raises(DataError, match=words):
        workspace.run(*sources, format="rbft")
    workspace.run(*sources, format="rbft", on_conflict="keep")
    assert workspace.rows["garden_0001"]["label"] == "normal"


@pytest.mark.parametrize(
    ("record_id", "video", "expected"),
    [
        ("garden_0001-night-watch", "/x/garden_0001.mp4", "garden_0001"),
        ("garden_0001", "/x/garden_0001.mp4", "garden_0001"),
        ("garden_00012", "/x/garden_0001.mp4", "garden_00012"),
        ("garden_0001-night", "C:\\x\\garden_0001.mp4", "garden_0001"),
        ("a-b", "/x/c.mp4", "a-b"),
        ("-x", "", "-x"),
    ],
)
def test_the_task_is_cut_off_where_the_id_starts_with_the_video_s_name(
    record_id: str, video: str, expected: str
) -> None:
    assert clip_id(record_id, video) == expected


def test_a_record_without_an_answer_is_named(workspace: Workspace) -> None:
    row = rbft_row(1)
    row["conversations"].pop()
    source = workspace.write("a.json", [rbft_row(2), row])
    with pytest.raises(DataError, match="record 2: the last turn is no answer"):
        workspace.run(f"train={source}", format="rbft")
