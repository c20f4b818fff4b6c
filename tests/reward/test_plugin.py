import sys
from pathlib import Path
from typing import Any

import pytest

from reward.plugin import load, locate, module_file, nearest
from wire.errors import ConfigError


def spec_of(tmp_path: Path, source: str, function: str = "compute_score") -> str:
    path = tmp_path / "rewards.py"
    path.write_text(source)
    return f"{path}:{function}"


def defined(tmp_path: Path, signature: str) -> str:
    return spec_of(tmp_path, f"def compute_score({signature}):\n    return 1.0\n")


@pytest.mark.parametrize(
    ("signature", "style"),
    [
        ("data_source, solution_str, ground_truth, extra_info=None", "verl"),
        ("data_source, solution_str, ground_truth, extra_info=None, **kwargs", "verl"),
        ("solution_str, ground_truth, method='strict', score=1.0", "verl"),
        ("solution_str, **others", "verl"),
        ("data_source, extra_info", "verl"),
        ("prompts, completions, **kwargs", "trl"),
        ("completions, ground_truth, **kwargs", "trl"),
        ("completions, solution", "trl"),
        ("completion_ids, **kwargs", "trl"),
        ("prompts, completions, completion_ids, trainer_state, log_extra, log_metric", "trl"),
    ],
)
def test_a_signature_tells_whose_shape_it_is(tmp_path: Path, signature: str, style: str) -> None:
    assert load(defined(tmp_path, signature)).style == style


@pytest.mark.parametrize("signature", ["**everything", "solution_str, completions", "text"])
def test_an_ambiguous_signature_is_refused_with_the_way_to_say_it(
    tmp_path: Path, signature: str
) -> None:
    spec = defined(tmp_path, signature)
    with pytest.raises(ConfigError, match=r'style = "verl" \| "trl"'):
        load(spec)
    assert load(spec, style="trl").style == "trl"


@pytest.mark.parametrize(
    ("source", "is_async"),
    [
        ("async def compute_score(solution_str): ...", True),
        ("def compute_score(solution_str): ...", False),
        (
            "class Judge:\n async def __call__(self, solution_str): ...\ncompute_score = Judge()",
            True,
        ),
        ("class Judge:\n def __call__(self, solution_str): ...\ncompute_score = Judge()", False),
    ],
)
def test_functions_and_callable_objects_may_be_async(
    tmp_path: Path, source: str, is_async: bool
) -> None:
    assert load(spec_of(tmp_path, source)).is_async == is_async


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
    assert load(spec).required == {"solution_str", "rubric"}
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


def test_an_entry_point_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "my_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[deepintuit.rewards]\nbrevity = my_rewards.a:short\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert locate("brevity") == "my_rewards.a:short"
    with pytest.raises(ConfigError, match="did you mean 'brevity'"):
        locate("brevty")


def test_a_missing_file_is_found_without_importing_and_its_neighbour_named(
    tmp_path: Path,
) -> None:
    (tmp_path / "rewards.py").touch()
    with pytest.raises(ConfigError, match=r"there is no file .* did you mean 'rewards.py'"):
        locate(f"{tmp_path}/reward.py:compute_score")


def test_where_nothing_is_near_all_is_named() -> None:
    assert nearest("zzz", {"b", "a"}) == "known: a, b"


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


def test_an_entry_point_that_two_packages_offer_is_refused_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("ours_a", "ours_b"):
        info = tmp_path / f"{package}-1.dist-info"
        info.mkdir()
        lines = f"[deepintuit.rewards]\nbrevity = {package}:short\nwhole = {package}\n"
        (info / "entry_points.txt").write_text(lines)
        (info / "METADATA").write_text(f"Name: {package}\nVersion: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="says ours_a:short and ours_b:short, expected one"):
        locate("brevity")
    with pytest.raises(ConfigError, match=r"expected one package\.module:function"):
        locate("whole")


def test_the_file_of_a_module_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "of_mine").mkdir()
    (tmp_path / "of_mine" / "brevity.py").write_text("raise SystemExit\n")
    assert module_file("of_mine.brevity:f") == tmp_path / "of_mine" / "brevity.py"
    assert module_file("of_mine.length:f") is None
