from pathlib import Path

import pytest

from reward.plugin import load, locate
from wire.errors import ConfigError

ARGUMENTS = {"data_source": "", "solution_str": "abc", "ground_truth": "x", "extra_info": None}


def spec_of(tmp_path: Path, source: str, function: str = "compute_score") -> str:
    path = tmp_path / "rewards.py"
    path.write_text(source)
    return f"{path}:{function}"


@pytest.mark.parametrize(
    "signature",
    [
        "data_source, solution_str, ground_truth, extra_info=None",
        "data_source, solution_str, ground_truth, extra_info=None, **kwargs",
        "solution_str, **others",
        "**everything",
    ],
)
def test_verls_signature_is_accepted(tmp_path: Path, signature: str) -> None:
    function = load(spec_of(tmp_path, f"def compute_score({signature}):\n    return 1.0\n"))
    assert function(**ARGUMENTS) == 1.0


def test_a_callable_object_is_accepted(tmp_path: Path) -> None:
    source = """
class Judge:
    def __call__(self, data_source, solution_str, ground_truth, extra_info=None):
        return len(solution_str)
judge = Judge()
"""
    assert load(spec_of(tmp_path, source, "judge"))(**ARGUMENTS) == 3


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def other(): ...", "no 'compute_score'; its functions: .'other'."),
        ("compute_score = 3", "is a int, not a function"),
        ("def compute_score(text): ...", "wrong signature"),
        (
            "def compute_score(data_source, solution_str, ground_truth, extra_info, rubric): ...",
            "rubric",
        ),
        ("async def compute_score(**kwargs): ...", "is async"),
        ("import no_such_module_of_ours", "no_such_module_of_ours"),
        ("def compute_score(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path: Path, source: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(spec_of(tmp_path, source))


def test_a_missing_file_is_found_without_importing() -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        locate("no/such/file.py:compute_score")
