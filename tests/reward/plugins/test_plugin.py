import sys
from pathlib import Path
from typing import Any

import pytest

from reward.plugins.plugin import load
from reward.spec import locate
from wire.errors import ConfigError


def spec_of(tmp_path: Path, source: str, function: str = "compute_score") -> str:
    path = tmp_path / "rewards.py"
    path.write_text(source)
    return f"{path}:{function}"


def defined(tmp_path: Path, signature: str) -> str:
    return spec_of(tmp_path, f"def compute_score({signature}):\n    return 1.0\n")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def compute_scores(): ...", "no 'compute_score'.* did you mean 'compute_scores'"),
        ("compute_score = 3", "is a int, not a function"),
        ("def compute_score(solution_str, /): ...", "by position only"),
        ("import no_such_module_of_ours", "no_such_module_of_ours"),
        ("def compute_score(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path: Path, source: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(spec_of(tmp_path, source))


def test_what_nobody_gives_is_refused_at_the_start(tmp_path: Path) -> None:
    spec = defined(tmp_path, "solution_str, rubric, scale=1.0")
    assert load(spec).signature.required == ("rubric", "solution_str")
    with pytest.raises(ConfigError, match=r"needs \['rubric'\]"):
        load(spec, columns={"fps"})
    load(spec, columns={"rubric"})
    load(spec, columns={"fps"}, params={"rubric": "x"})


def test_a_parameter_that_the_function_does_not_take_is_refused(tmp_path: Path) -> None:
    spec = defined(tmp_path, "solution_str, scale=1.0")
    with pytest.raises(ConfigError, match=r"'scales'.* did you mean 'scale'"):
        load(spec, params={"scales": 2})


def test_a_function_of_a_module_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_rewards_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "brevity.py").write_text("class Short:\n def score(solution_str): return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = locate("my_rewards_package.brevity:Short.score")
    assert load(spec).function("x") == 1.0


@pytest.mark.parametrize(
    ("source", "settings", "said"),
    [
        ("def compute_score(*args): return 0", {"style": "verl"}, "would never see a trace"),
        ("class compute_score: pass", {"style": "verl"}, "make an instance of it"),
        (
            "def compute_score(solution_str): return 0",
            {"params": {"solution_str": "x"}},
            "which each trace fills",
        ),
        (
            "def compute_score(solution_str): return 0",
            {"as_messages": True},
            "TRL's shape, and this one has verl's",
        ),
        ("from .words import count", {}, "by its plain name, without the dot"),
        ("import reward.of_mine", {}, "reward is a package of deepintuit, rename yours"),
    ],
)
def test_what_would_judge_every_trace_alike_or_cannot_be_found_is_refused_with_the_way_out(
    tmp_path: Path, source: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        load(spec_of(tmp_path, source), **settings)
    assert "importlib" not in str(refused.value)


def test_a_file_may_import_the_file_beside_it_and_offer_the_method_of_an_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "words_beside.py").write_text("NUM = 3\n")
    source = """
from words_beside import NUM
class Judge:
    def récompense(self, solution_str): return NUM
judge = Judge()
"""
    spec = spec_of(tmp_path, source, "judge.récompense")
    assert load(locate(spec)).function(solution_str="x") == 3
