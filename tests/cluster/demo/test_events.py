from itertools import pairwise

import pytest

from cluster.demo.events import (
    DEFINITIONS,
    EVENTS,
    LABELS,
    UNSEEN,
    all_triples,
    events_in,
    label_of,
    relation,
    relations,
    stable_hash,
    teacher_trace,
    triples_by_label,
)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (("left", "left", "right"), "relapse"),
        (("grow", "shrink", "shrink"), "relapse"),
        (("up", "down", "up"), "undo"),
        (("grow", "left", "right"), "undo"),
        (("down", "down", "down"), "repeat"),
        (("left", "grow", "grow"), "repeat"),
        (("left", "up", "left"), "zigzag"),
        (("left", "up", "grow"), "varied"),
        (("left", "grow", "right"), "varied"),
    ],
)
def test_label_follows_the_rule(events, expected):
    assert label_of(events) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("left", "left", "same"),
        ("shrink", "grow", "opposite"),
        ("up", "down", "opposite"),
        ("up", "left", "turn"),
        ("grow", "left", "mixed"),
        ("right", "shrink", "mixed"),
    ],
)
def test_relation_of_neighbours(first, second, expected):
    assert relation(first, second) == expected


def test_definitions_agree_with_the_rule():
    for triple in all_triples():
        found = relations(triple)
        has_same, has_opposite = "same" in found, "opposite" in found
        by_definition = {
            "relapse": has_same and has_opposite,
            "undo": has_opposite and not has_same,
            "repeat": has_same and not has_opposite,
            "zigzag": found == ("turn", "turn"),
        }
        fitting = [label for label, fits in by_definition.items() if fits] or ["varied"]
        assert fitting == [label_of(triple)]
    assert tuple(DEFINITIONS) == LABELS


def test_trace_is_worked_in_steps():
    assert teacher_trace(("left", "up", "grow")) == (
        "<think>one left two up three grow. turn then mixed</think><answer>varied</answer>"
    )


def test_trace_names_the_events_it_was_made_from():
    assert all(events_in(teacher_trace(triple)) == triple for triple in all_triples())


@pytest.mark.parametrize("trace", ["", "<think>one left two", "one left two up three varied."])
def test_an_unfinished_trace_names_no_events(trace):
    assert events_in(trace) is None


def test_a_fifth_of_the_combinations_of_each_label_is_kept_from_training():
    kept = triples_by_label(unseen=True)
    assert {label: len(triples) for label, triples in kept.items()} == {
        "relapse": 2,
        "undo": 11,
        "repeat": 11,
        "zigzag": 3,
        "varied": 16,
    }


def test_training_still_shows_every_event_in_every_place_and_every_neighbour():
    shown = [triple for triple in all_triples() if triple not in UNSEEN]
    for place in range(3):
        assert {triple[place] for triple in shown} == set(EVENTS)
    assert len({pair for triple in shown for pair in pairwise(triple)}) == len(EVENTS) ** 2


def test_hash_is_the_same_in_every_process():
    assert stable_hash("clip", 0, "val", 3) == stable_hash("clip", "0", "val", "3")
    assert stable_hash("a", "b") == 8945880261400226312
