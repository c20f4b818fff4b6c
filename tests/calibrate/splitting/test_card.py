"""The model card says what a split is worth."""

from calibrate.splitting.card import is_split, kept_temperature, split_section

SETTINGS = {
    "split.label": "left",
    "split.modifiers": {"left then up": "up", "left then down": "down"},
    "split.method": "alignment",
    "split.parent": "0123456789abcdef",
}


def test_a_split_without_clips_and_one_with_are_told_apart():
    assert "from texts, without a clip" in split_section(SETTINGS)
    learned = split_section({**SETTINGS, "split.num_shots": 6})
    assert "from 6 clips of them" in learned
    assert "version 0123456789ab." in learned


def test_a_classifier_that_was_not_split_has_no_such_section():
    assert not is_split({"seed": 0})
    assert split_section({"seed": 0}) == ""


def test_a_temperature_is_said_to_be_the_one_of_before():
    assert "(1.25) is the one of the classifier before" in kept_temperature(1.25)
    assert "temperature is the one" in kept_temperature(None)
