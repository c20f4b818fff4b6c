import pytest

from rollout.rationales.leak import leak_in


@pytest.mark.parametrize(
    "text",
    [
        "The given label is right, because he falls.",
        "As stated, this is a fall.",
        "The label provided says fall.",
        "The classification that was given fits.",
        "The  label you\nhave given is fall.",
        "I was told that he falls.",
        "This matches the ground truth.",
        "Following the hint, he falls.",
        "He lies on the floor, which is consistent with the label.",
    ],
)
def test_a_rationale_that_speaks_of_the_label_that_it_was_given_leaks(text: str) -> None:
    assert leak_in(text)
    assert leak_in(text.upper())


@pytest.mark.parametrize(
    "text",
    [
        "He slips on the given step and lies still.\nClassification: fall",
        "A label on the box is torn; nobody reads it.",
        "The right answer to a fall is help.",
        "The man hints at the door and was told off by his wife.",
        "",
    ],
)
def test_a_rationale_about_the_video_alone_leaks_nothing(text: str) -> None:
    assert leak_in(text) is None


def test_the_first_phrase_of_the_recipes_own_patterns_is_named() -> None:
    assert leak_in("Das vorgegebene Etikett ist Sturz.", (r"nichts", r"vorgegeben\w*")) == (
        "vorgegebene"
    )
    assert leak_in("The given label is fall.", ()) is None
