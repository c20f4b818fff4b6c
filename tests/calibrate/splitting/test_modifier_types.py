import pytest

from calibrate.splitting.modifier_types import modifier_type


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("from left to right", "direction"),
        ("with 1.5 turn", "count"),
        ("double forward", "count"),
        ("behind something", "place"),
        ("until it breaks", "outcome"),
        ("so that it almost falls off but doesn't", "success"),
        ("Pretending to pick", "intent"),
        ("tucked", "other"),
    ],
)
def test_a_phrase_has_the_type_of_its_first_rule(phrase: str, expected: str):
    assert modifier_type(phrase) == expected


def test_a_rule_matches_whole_words_alone():
    assert modifier_type("uplifting") == "other"
