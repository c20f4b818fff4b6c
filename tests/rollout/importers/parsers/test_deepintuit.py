import pytest

from rollout.importers.importer import HINTED, TEST_TEXT
from rollout.importers.join import CONTRADICTED, KEPT, OTHER_ANSWER, SECOND_TRACE, TEST_TRACE
from rollout.importers.parsers.deepintuit import UNKNOWN_REPLY
from rollout.importers.reply import NOT_A_TRACE
from tests.rollout.importers.builders import Workspace, deepintuit_row
from wire.errors import DataError

TRACE = "<think>\nStep 1: a hedgehog, nobody else.\n</think>\n<answer>normal</answer>"
OTHER = deepintuit_row(20, "abnormal")
LEAK = {"title": "Burglar!", "asr_text": "An abnormal visit.", "sticker": "He breaks in: abnormal."}


def test_the_three_kinds_of_files_are_joined_to_one_row_a_clip(workspace: Workspace) -> None:
    cold = workspace.write("cold.json", [deepintuit_row(1, reply=TRACE, reward_label=...)])
    words = workspace.write("words.json", [deepintuit_row(1, reply="normal"), OTHER])
    empty = workspace.write("empty.json", [deepintuit_row(1, true_title=[], image="x.zip")])
    workspace.run(f"train={cold}", f"train={words}", f"train={empty}")
    row = workspace.rows["garden_0001"]
    assert row == {
        "id": "garden_0001",
        "video": str(workspace.folder / "clips" / "garden_0001.mp4"),
        "label": "normal",
        "split": "train",
        "trace": "<think>Step 1: a hedgehog, nobody else.</think><answer>normal</answer>",
        "text": None,
        "source": "cold.json, words.json, empty.json",
    }
    assert len(workspace.rows) == 2


def test_anno_label_1_is_abnormal_although_its_label_index_is_0(workspace: Workspace) -> None:
    rows = [deepintuit_row(1, "abnormal", anno_label=1), deepintuit_row(2, anno_label=0)]
    report = workspace.run(f"train={workspace.write('a.json', rows)}")
    assert report.labels == ("abnormal", "normal")
    assert [row["label"] for row in workspace.rows.values()] == ["abnormal", "normal"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"anno_label": 1}, "says 'normal' but anno_label is 1"),
        ({"reward_label": "abnormal"}, "says 'normal' but reward_label is 'abnormal'"),
        ({"reply": "abnormal"}, "says 'normal' but its assistant turn is 'abnormal'"),
        (
            {"reply": TRACE.replace(">normal<", ">abnormal<")},
            "says 'normal' but its trace answers 'abnormal'",
        ),
    ],
)
def test_a_contradicted_label_is_an_error_left_out_or_kept(
    workspace: Workspace, changes: dict[str, object], words: str
) -> None:
    rows = [deepintuit_row(1), deepintuit_row(2, **changes), OTHER]  # type: ignore[arg-type]
    source = f"train={workspace.write('a.json', rows)}"
    with pytest.raises(DataError, match=r"1 of 3 clips contradict.*a\.json record 2 " + words):
        workspace.run(source)
    assert not workspace.manifest.exists()
    report = workspace.run(source, on_conflict="skip")
    assert report.tally.examples[CONTRADICTED] == ["garden_0002"]
    assert "garden_0002" not in workspace.rows
    report = workspace.run(source, on_conflict="keep", overwrite=True)
    assert report.tally.examples[KEPT] == ["garden_0002"]
    row = workspace.rows["garden_0002"]
    assert (row["label"], row["trace"]) == ("normal", None)
    assert report.tally.count(OTHER_ANSWER) == ("<think>" in str(changes.get("reply")))


def test_labels_differ_across_files_only_in_case(workspace: Workspace) -> None:
    first = workspace.write("a.json", [deepintuit_row(1, "Normal"), OTHER])
    second = workspace.write("b.json", [deepintuit_row(1, "normal", reply=TRACE)])
    workspace.run(f"train={first}", f"train={second}")
    assert workspace.rows["garden_0001"]["label"] == "Normal"
    assert workspace.rows["garden_0001"]["trace"].endswith("<answer>Normal</answer>")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("<think>a hedgehog</think>", NOT_A_TRACE),
        ("Well, <think>a hedgehog</think><answer>normal</answer>", NOT_A_TRACE),
        ("It is a hedgehog, and so I find the clip normal.", UNKNOWN_REPLY),
    ],
)
def test_a_turn_that_is_no_trace_is_counted(workspace: Workspace, reply: str, reason: str) -> None:
    rows = [deepintuit_row(1, reply=reply), OTHER]
    report = workspace.run(f"train={workspace.write('a.json', rows)}")
    assert report.tally.examples == {reason: ["garden_0001"]}
    assert workspace.rows["garden_0001"]["trace"] is None


def test_of_two_traces_the_first_is_kept(workspace: Workspace) -> None:
    first = workspace.write("a.json", [deepintuit_row(1, reply=TRACE), OTHER])
    again = TRACE.replace("hedgehog", "badger")
    second = workspace.write("b.json", [deepintuit_row(1, reply=again)])
    report = workspace.run(f"train={first}", f"train={second}")
    assert "hedgehog" in workspace.rows["garden_0001"]["trace"]
    assert report.tally.count(SECOND_TRACE) == 1


def test_traces_that_speak_of_the_given_label_are_warned_of_and_dropped_on_request(
    workspace: Workspace,
) -> None:
    hinted = TRACE.replace("nobody else", "and the ground-truth label is normal")
    rows = [deepintuit_row(1, reply=hinted), deepintuit_row(2, reply=TRACE), OTHER]
    source = f"train={workspace.write('a.json', rows)}"
    assert any(warning.startswith("1 of 2 traces") for warning in workspace.run(source).warnings)
    report = workspace.run(source, drop_hinted_traces=True, overwrite=True)
    assert (report.tally.count(HINTED), report.traces["train"]) == (1, 1)
    assert report.warnings == ()


def test_side_text_stays_out_unless_asked_for(workspace: Workspace) -> None:
    source = workspace.write("a.json", [deepintuit_row(1, **LEAK), OTHER])
    report = workspace.run(f"train={source}")
    assert report.texts.total() == 0
    written = workspace.manifest.read_text()
    assert not any(word in written for word in ("Burglar", "breaks in", "abnormal visit", "judge"))


def test_side_text_that_tells_the_label_is_warned_of(workspace: Workspace) -> None:
    rows = [
        deepintuit_row(1, **LEAK),
        deepintuit_row(2, title="garden_0002", asr_text=" Birds sing. ", sticker="None"),
        deepintuit_row(20, "abnormal", asr_text="", title="", sticker=""),
    ]
    source = workspace.write("a.json", rows)
    report = workspace.run(f"train={source}", with_side_text=True)
    texts = {name: row["text"] for name, row in workspace.rows.items()}
    assert texts == {
        "garden_0001": "title: Burglar!\ntranscript: An abnormal visit.\n"
        "text in the picture: He breaks in: abnormal.",
        "garden_0002": "transcript: Birds sing.",
        "garden_0020": None,
    }
    assert "a label word occurs in 1 of 2 side texts (50%)" in report.warnings[0]


def test_side_text_is_read_from_the_prompt_where_the_keys_are_missing(workspace: Workspace) -> None:
    row = deepintuit_row(1, asr_text="Leaves rustle.\n\nRain.", sticker="PORCH CAM")
    del row["asr_text"], row["sticker"]
    source = workspace.write("a.json", [row, OTHER])
    workspace.run(f"train={source}", with_side_text=True)
    text = workspace.rows["garden_0001"]["text"]
    assert text == "transcript: Leaves rustle.\n\nRain.\ntext in the picture: PORCH CAM"


def test_of_two_side_texts_of_a_name_the_first_is_kept(workspace: Workspace) -> None:
    first = workspace.write("a.json", [deepintuit_row(1, asr_text="Rain."), OTHER])
    again = [deepintuit_row(1, asr_text="Snow.", sticker="CAM 2")]
    sources = [f"train={first}", f"train={workspace.write('b.json', again)}"]
    workspace.run(*sources, with_side_text=True)
    text = workspace.rows["garden_0001"]["text"]
    assert text == "transcript: Rain.\ntext in the picture: CAM 2"


def test_a_test_clip_gets_neither_side_text_nor_trace(workspace: Workspace) -> None:
    rows = [deepintuit_row(1, reply=TRACE, **LEAK), deepintuit_row(2, "abnormal")]
    rows[1]["asr_text"] = "None"
    report = workspace.run(f"test={workspace.write('a.json', rows)}", with_side_text=True)
    row = workspace.rows["garden_0001"]
    assert (row["text"], row["trace"]) == (None, None)
    assert (report.tally.count(TEST_TEXT), report.tally.count(TEST_TRACE)) == (1, 1)
    assert report.warnings == ()


def test_misread_quotes_and_outer_space_of_texts_are_mended(workspace: Workspace) -> None:
    reply = TRACE.replace("nobody else", "it\u00e2\u20ac\u2122s late")
    rows = [
        deepintuit_row(1, reply=f"  {reply}\n", asr_text=" it\u00e2\u20ac\u2122s dark\n"),
        OTHER,
    ]
    workspace.run(f"train={workspace.write('a.json', rows)}", with_side_text=True)
    row = workspace.rows["garden_0001"]
    assert "it\u2019s late" in row["trace"]
    assert row["text"] == "transcript: it\u2019s dark"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"item_id": ...}, "record 1: 'item_id' is None, expected text"),
        ({"item_id": 7}, "record 1: 'item_id' is 7, expected text"),
        ({"policy_title": " "}, "record 1: 'policy_title' is ' ', expected text"),
        ({"conversations": "x"}, "record 1: 'conversations' is 'x'.*is --format the right one"),
        ({"conversations": [{"role": "user", "content": "x"}]}, "record 1: no video"),
        ({"video": None}, "record 1: no video in the first turn"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(
    workspace: Workspace, spoil: dict[str, object], words: str
) -> None:
    source = workspace.write("a.json", [deepintuit_row(1, **spoil), OTHER])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=words):
        workspace.run(f"train={source}")


def test_the_path_beside_the_conversation_is_the_second_choice(workspace: Workspace) -> None:
    row = deepintuit_row(1, video="", image="/farm/garden_0003.mp4")
    workspace.run(f"train={workspace.write('a.json', [row, OTHER])}")
    assert workspace.rows["garden_0001"]["video"].endswith("garden_0003.mp4")
