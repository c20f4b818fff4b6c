from wire.nearest import nearest


def test_what_is_near_is_asked_for() -> None:
    assert nearest("brevty", ["length", "brevity"]) == "did you mean 'brevity'?"
    assert nearest("GRPO", ["sft", "grpo"]) == "did you mean 'grpo'?"


def test_where_nothing_is_near_all_is_named() -> None:
    assert nearest("zzz", ["b", "a"]) == "known: b, a"
    assert nearest("zzz", [], "labels") == "labels: none"
