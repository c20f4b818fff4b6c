import pytest

from rollout.message import Foreign, Message, fill


def test_a_filled_template_keeps_what_is_ours_and_what_is_others_apart():
    parts = fill("Labels: {labels}. {again}{{x}}", labels=Foreign("fall"), again="ours")
    assert "".join(parts) == "Labels: fall. ours{x}"
    assert [part for part in parts if isinstance(part, Foreign)] == ["fall"]


def test_a_field_without_a_value_is_an_error():
    with pytest.raises(KeyError, match="labels"):
        fill("{labels}")


def test_braces_and_fields_in_a_value_are_text():
    assert "".join(fill("{a}", a="{b} {")) == "{b} {"


def test_the_text_of_a_message_is_all_its_parts():
    assert Message("user", ("a", Foreign("b"))).text == "ab"
