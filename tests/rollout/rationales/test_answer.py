import pytest

from rollout.rationales.answer import Concluded, conclude
from wire.labels import Label, LabelSet

LABELS = LabelSet(labels=tuple(Label(name=name) for name in ("normal", "abnormal", "drink beer")))


@pytest.mark.parametrize(
    "line",
    [
        "Classification: abnormal",
        "Classification: Abnormal.",
        "**Classification:** Abnormal",
        "**Classification: Abnormal**",
        "  classification : 'ABNORMAL'",
        "# Classification: abnormal\n",
    ],
)
def test_the_label_of_the_closing_line_is_the_answer_and_the_rest_the_reasoning(line: str) -> None:
    text = f"He climbs in.\nNobody is at home.\n\n{line}"
    assert conclude(text, LABELS, "Classification") == Concluded(
        "He climbs in.\nNobody is at home.", "abnormal", frozenset({"abnormal"})
    )


@pytest.mark.parametrize(
    "text",
    [
        "He climbs in, so it is abnormal.",
        "Classification: not normal",
        "Classification: abnormal or normal",
        "Classification:",
        "Classification abnormal",
        "My classification: abnormal",
        "",
    ],
)
def test_what_is_not_clearly_one_label_is_none(text: str) -> None:
    assert conclude(text, LABELS, "Classification").answer is None


def test_the_last_closing_line_counts() -> None:
    text = "Classification: normal\nBut then he breaks in.\nClassification: abnormal"
    concluded = conclude(text, LABELS, "classification")
    assert concluded.answer == "abnormal"
    assert concluded.reasoning == "Classification: normal\nBut then he breaks in."
    assert concluded.named == {"normal", "abnormal"}


def test_an_answer_block_is_read_too_and_goes_first() -> None:
    text = "<think>He drinks.</think><answer> Drink  Beer </answer>"
    assert conclude(text, LABELS, "Classification") == Concluded(
        "He drinks.", "drink beer", frozenset({"drink beer"})
    )
    both = f"{text}\nClassification: normal"
    assert conclude(both, LABELS, "Classification").answer == "drink beer"
    assert conclude("<answer>drink</answer>", LABELS, "Classification").answer is None


def test_the_recipes_own_closing_word_is_read() -> None:
    assert conclude("Er trinkt.\nEtikett: normal", LABELS, "Etikett") == Concluded(
        "Er trinkt.", "normal", frozenset({"normal"})
    )
    assert conclude("Er trinkt.\nEtikett: normal", LABELS, "Classification").answer is None
    assert conclude("He drinks.\n**Label:** normal", LABELS, "**Label**").answer == "normal"
