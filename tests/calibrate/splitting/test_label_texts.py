import json
import tomllib
from pathlib import Path

import pytest

from calibrate.splitting.label_texts import (
    LabelTexts,
    propose_groups,
    propose_modifiers,
    read_label_texts,
)
from wire.errors import DataError

PUSH = ("Pushing something from left to right", "Pushing something so that it falls over")


def test_a_proposed_phrase_is_the_label_without_the_words_of_its_group():
    assert propose_modifiers("Pushing something", PUSH) == {
        PUSH[0]: "from left to right",
        PUSH[1]: "so that it falls over",
    }


def test_words_of_the_group_may_stand_apart_in_a_label():
    labels = ("double salto forward tucked with 1 twist", "salto forward, piked")
    assert propose_modifiers("salto forward", labels) == {
        labels[0]: "double tucked with 1 twist",
        labels[1]: "piked",
    }


def test_where_the_group_bears_a_labels_own_name_the_words_that_labels_share_are_left_out():
    labels = ("Closing something", "Opening something")
    proposed = propose_modifiers("Closing something and Opening something", labels)
    assert proposed == {labels[0]: "Closing", labels[1]: "Opening"}


def test_a_group_of_another_name_leaves_out_what_its_labels_share():
    labels = ("grow then shrink", "grow then move left")
    assert propose_modifiers("event a", labels) == {
        labels[0]: "shrink",
        labels[1]: "move left",
    }


def test_a_label_of_which_nothing_is_left_stands_for_itself():
    labels = ("Tipping something over", "Tipping something over so that it breaks")
    assert propose_modifiers("Tipping something over", labels) == {
        labels[0]: "Tipping something over",
        labels[1]: "so that it breaks",
    }


def test_phrases_of_one_group_are_never_the_same():
    labels = ("open slowly", "slowly open")
    assert set(propose_modifiers("open", labels).values()) == set(labels)


def test_labels_with_one_beginning_are_a_group_and_others_are_alone():
    labels = ("grow then shrink", "grow then grow", "move left then shrink", "wait")
    assert propose_groups(labels) == {
        "grow then": ("grow then shrink", "grow then grow"),
        "move left then shrink": ("move left then shrink",),
        "wait": ("wait",),
    }


def test_words_without_a_meaning_make_no_group():
    assert len(propose_groups(("the car turns", "the dog sleeps"))) == 2


def test_a_label_joins_the_longest_beginning_that_it_shares():
    labels = ("push it left", "push it right", "push over", "push away")
    assert propose_groups(labels) == {
        "push it": ("push it left", "push it right"),
        "push": ("push over", "push away"),
    }


def test_the_public_grouping_file_is_read_as_it_is(tmp_path: Path):
    path = tmp_path / "group_scheme.json"
    scheme = {"Pushing something": list(PUSH), "Holding something": ["Holding something"]}
    path.write_text(json.dumps({"group_scheme": scheme, "A": ["Pushing something"], "B": []}))
    assert read_label_texts(path).groups == {k: tuple(v) for k, v in scheme.items()}


def test_a_file_of_phrases_alone_is_read(tmp_path: Path):
    path = tmp_path / "modifiers.json"
    path.write_text(json.dumps({PUSH[0]: "left to right"}))
    assert read_label_texts(path) == LabelTexts(modifiers={PUSH[0]: "left to right"})


def test_what_is_written_for_the_user_is_read_again(tmp_path: Path):
    texts = LabelTexts(
        groups={'say "push"': PUSH, "hold \u00fc": ("hold \u00fc", "hold \x7f")}
    ).completed()
    path = tmp_path / "texts.toml"
    path.write_text(texts.to_toml(), encoding="utf-8")
    again = read_label_texts(path)
    assert (again.groups, again.modifiers, again.types) == (
        texts.groups,
        texts.modifiers,
        texts.types,
    )
    assert tomllib.loads(texts.to_toml())["groups"]['say "push"'] == list(PUSH)


def test_phrases_of_a_file_stand_and_gaps_are_proposed():
    texts = LabelTexts(groups={"Pushing something": PUSH}, modifiers={PUSH[0]: "left to right"})
    completed = texts.completed()
    assert completed.modifiers == {PUSH[0]: "left to right", PUSH[1]: "so that it falls over"}
    assert completed.proposed == {PUSH[1]}
    assert completed.types == {PUSH[0]: "direction", PUSH[1]: "place"}


def test_a_label_alone_in_its_group_needs_no_phrase():
    assert LabelTexts(groups={"wait": ("wait",)}).completed().modifiers == {}


def test_texts_of_one_file_go_over_those_of_another():
    under = LabelTexts(groups={"push": PUSH}).completed()
    merged = LabelTexts(modifiers={PUSH[0]: "rightwards"}).over(under)
    assert merged.modifiers[PUSH[0]] == "rightwards"
    assert merged.groups == {"push": PUSH}
    assert merged.proposed == {PUSH[1]}


def test_a_label_in_two_groups_is_refused():
    with pytest.raises(DataError, match="stands twice in the groups"):
        LabelTexts(groups={"a": ("x", "y"), "b": ("x",)})


def test_a_phrase_of_an_unknown_label_names_the_nearest_one():
    with pytest.raises(DataError, match="'pussh', which is no label here; did you mean 'push'"):
        LabelTexts(modifiers={"pussh": "away"}).check(["push", "hold"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "[group]\na = ['b']\n", r"has \['group'\]; expected \[groups\]"),
        ("a.toml", "[groups]\na = 'b'\n", "expected .groups. "),
        ("a.toml", "[groups]\na = []\n", "the group 'a' is empty"),
        ("a.toml", "[groups]\na = [1]\n", "is no list of names"),
        ("a.toml", "[modifiers]\na = ' '\n", "the modifier phrase of 'a' is empty"),
        ("a.toml", "groups = 3\n", "groups is no table"),
        ("a.toml", "[groups\n", "is no TOML or JSON"),
        ("a.json", "[]", "has list; expected"),
        ("a.json", "[" * 100_000, "is no TOML or JSON"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, name: str, text: str, message: str):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_label_texts(path)


def test_a_file_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"cannot read .*none\.toml: No such file"):
        read_label_texts(tmp_path / "none.toml")
