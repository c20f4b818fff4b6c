"""Multiple choice in rows of every format: the label is the text of the right option."""

import csv
import io
import random
from collections.abc import Callable
from typing import Any

import pytest

from rollout.importers.choices import LETTER, NO_OPTION
from rollout.importers.settle import OWN_QUESTION, UNCLEAR_NUMBER
from tests.rollout.importers.builders import Workspace
from wire.types import Split

CLASSES = ("fall", "jump", "sit", "wave")
NUM_CLIPS = 16


class Choice:
    """A question about one clip: the options in a random order, one of them right."""

    def __init__(self, number: int) -> None:
        self.clip = f"clips/garden_{number:04d}.mp4"
        self.right = CLASSES[number % 4]
        self.options = random.Random(number).sample(CLASSES, 4)
        self.place = self.options.index(self.right)
        self.letter = "ABCD"[self.place]
        lines = [f"{letter}. {text}" for letter, text in zip("ABCD", self.options, strict=True)]
        self.question = "<video>What happens?\nOptions:\n" + "\n".join(lines)
        self.inline = "What happens? " + " ".join(
            f"({letter}) {text}" for letter, text in zip("ABCD", self.options, strict=True)
        )

    def chat(self, reply: str, question: str = "") -> list[dict[str, Any]]:
        asked = {"role": "user", "content": question or self.question}
        return [asked, {"role": "assistant", "content": reply}]


MAKERS: dict[str, Callable[[Choice], dict[str, Any]]] = {
    "swift, solution": lambda c: {
        "messages": c.chat("")[:1],
        "videos": [c.clip],
        "solution": f"<answer>{c.letter}</answer>",
    },
    "swift, last turn": lambda c: {
        "messages": c.chat(f"{c.letter}. {c.right}"),
        "videos": [c.clip],
    },
    "swift, trace": lambda c: {
        "messages": c.chat(f"<think>I see it.</think><answer>({c.letter})</answer>"),
        "videos": [c.clip],
    },
    "typed parts": lambda c: {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "video", "video": c.clip}, {"type": "text", "text": c.inline}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": c.letter}]},
        ]
    },
    "query": lambda c: {"query": c.question, "response": f"Option {c.letter}", "videos": [c.clip]},
    "trl, prompt and completion": lambda c: {
        "prompt": c.chat("")[:1],
        "completion": c.chat(c.letter)[1:],
        "video": c.clip,
    },
    "trl, prompt and solution": lambda c: {
        "prompt": c.chat("")[:1],
        "solution": c.letter,
        "videos": [c.clip],
    },
    "a prompt as text, and an answer": lambda c: {
        "prompt": c.question,
        "answer": c.letter,
        "video": c.clip,
    },
    "easyr1": lambda c: {"problem": c.question, "answer": c.letter, "videos": [c.clip]},
    "easyr1, boxed": lambda c: {
        "problem": c.inline,
        "answer": f"\\boxed{{{c.letter}}}",
        "videos": [c.clip],
    },
    "easyr1, number": lambda c: {
        "problem": c.question,
        "answer": f"option {c.place + 1}",
        "videos": [c.clip],
    },
    "verl": lambda c: {
        "prompt": c.chat("")[:1],
        "reward_model": {"ground_truth": c.letter},
        "videos": [{"video": c.clip}],
    },
    "verl, options in extra_info": lambda c: {
        "prompt": [{"role": "user", "content": "<video>What happens?"}],
        "reward_model": {"ground_truth": c.place},
        "videos": [{"video": c.clip}],
        "extra_info": {"options": c.options},
    },
    "video-r1, options in the problem": lambda c: {
        "problem": c.question,
        "problem_type": "multiple choice",
        "options": [],
        "solution": f"<answer>{c.letter}</answer>",
        "path": c.clip,
    },
    "llava": lambda c: {
        "id": c.clip,
        "video": c.clip,
        "conversations": [
            {"from": "human", "value": c.question},
            {"from": "gpt", "value": f"{c.letter}."},
        ],
    },
    "llava without an id": lambda c: {
        "video": c.clip,
        "conversations": [
            {"from": "human", "value": c.question},
            {"from": "gpt", "value": f"({c.letter}) {c.right}"},
        ],
    },
    "a table, letters": lambda c: {
        "video": c.clip,
        **dict(zip("ABCD", c.options, strict=True)),
        "label": c.letter,
    },
    "a table, numbers": lambda c: {
        "video": c.clip,
        **{f"a{place}": text for place, text in enumerate(c.options)},
        "answer": c.place,
    },
    "a table, a list of its own": lambda c: {
        "video": c.clip,
        "candidates": c.options,
        "label": c.place,
    },
    "a table, options in the question": lambda c: {
        "video": c.clip,
        "question": c.question,
        "label": c.letter,
    },
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_label_is_the_text_of_the_right_option(workspace: Workspace, name: str) -> None:
    choices = [Choice(number) for number in range(1, NUM_CLIPS + 1)]
    source = workspace.write("rows.json", [MAKERS[name](choice) for choice in choices])
    report = workspace.read(source, split=Split.TRAIN)
    labels = {row["video"]: row["label"] for row in workspace.rows.values()}
    assert labels == {f"{workspace.folder}/{c.clip}": c.right for c in choices}
    assert report.tally.lines() == []
    traces = [row["trace"] for row in workspace.rows.values() if row["trace"]]
    if name == "swift, trace":
        wanted = [f"<think>I see it.</think><answer>{c.right}</answer>" for c in choices]
        assert traces == wanted
    else:
        assert traces == []


def test_options_in_the_columns_of_a_csv_file(workspace: Workspace) -> None:
    choices = [Choice(number) for number in range(1, NUM_CLIPS + 1)]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["video", "question", "option_a", "option_b", "option_c", "option_d", "answer"])
    writer.writerows([[c.clip, "What happens?", *c.options, c.letter] for c in choices])
    workspace.read(workspace.write_text("rows.csv", text.getvalue()), split=Split.TRAIN)
    assert [row["label"] for row in workspace.rows.values()] == [c.right for c in choices]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": "E"}, NO_OPTION),
        ({"answer": "AC"}, NO_OPTION),
        ({"answer": "A. nothing of it"}, NO_OPTION),
        ({"problem": "What happens?"}, LETTER),
        ({"answer": "yes", "problem": "Is it dark?"}, OWN_QUESTION),
        ({"answer": 7, "problem": "How many?"}, OWN_QUESTION),
        ({"answer": 2}, UNCLEAR_NUMBER),
    ],
)
def test_an_answer_that_means_nothing_is_left_out_counted_and_named(
    workspace: Workspace, changes: dict[str, Any], reason: str
) -> None:
    rows = [MAKERS["easyr1"](Choice(number)) for number in (1, 2, 3)]
    rows[2] |= changes
    report = workspace.read(workspace.write("rows.json", rows), split=Split.TRAIN)
    assert report.tally.examples == {reason: [rows[2]["videos"][0].removesuffix(".mp4")]}
    assert {row["label"] for row in workspace.rows.values()} == {"jump", "sit"}


def test_an_answer_in_words_of_its_own_stays_a_label(workspace: Workspace) -> None:
    rows = [MAKERS["easyr1"](Choice(number)) for number in (1, 2)]
    rows[1]["answer"] = "run away"
    workspace.read(workspace.write("rows.json", rows), split=Split.TRAIN)
    assert {row["label"] for row in workspace.rows.values()} == {"jump", "run away"}


def test_a_letter_without_options_is_no_class_beside_rows_that_have_them(
    workspace: Workspace,
) -> None:
    rows = [MAKERS["a table, letters"](Choice(number)) for number in (1, 2, 3)]
    rows[2]["B"] = rows[2]["C"] = rows[2]["D"] = None
    report = workspace.read(workspace.write("rows.json", rows), split=Split.TRAIN)
    assert report.tally.examples == {LETTER: ["clips/garden_0003"]}


@pytest.mark.parametrize(
    "written", ["<answer>{}</answer>", "\\boxed{{{}}}", "$\\boxed{{\\text{{{}}}}}$"]
)
def test_a_letter_in_tags_or_a_box_is_a_letter_in_tables_too(
    workspace: Workspace, written: str
) -> None:
    rows = [MAKERS["a table, letters"](Choice(number)) for number in (1, 2, 3)]
    for row in rows:
        row["label"] = written.format(row["label"])
    workspace.read(workspace.write("rows.json", rows), split=Split.TRAIN)
    assert [row["label"] for row in workspace.rows.values()] == ["jump", "sit", "wave"]


def test_letters_that_are_the_classes_are_kept_and_warned_of(workspace: Workspace) -> None:
    rows = [
        {"problem": "Which letter is signed?", "answer": "AB"[n % 2], "videos": [Choice(n).clip]}
        for n in (1, 2)
    ]
    source = workspace.write("rows.json", rows)
    report = workspace.read(
        source, split=Split.TRAIN, columns={"video": "videos", "label": "answer"}
    )
    assert {row["label"] for row in workspace.rows.values()} == {"A", "B"}
    assert any("the labels are letters" in warning for warning in report.warnings)


def test_a_question_that_all_rows_ask_may_be_answered_by_yes_and_no(workspace: Workspace) -> None:
    rows = [
        {
            "problem": "<video>Does it fall?",
            "answer": ("yes", "no")[n % 2],
            "videos": [Choice(n).clip],
        }
        for n in (1, 2)
    ]
    workspace.read(workspace.write("rows.json", rows), split=Split.TRAIN)
    assert {row["label"] for row in workspace.rows.values()} == {"yes", "no"}
