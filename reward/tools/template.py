"""Template of a user's reward: a commented file, and a test of it that passes.

name, style -> FOLDER/NAME.py, FOLDER/test_NAME.py -> the lines for a recipe
"""

import builtins
import keyword
import re
from pathlib import Path
from typing import Literal

from wire.errors import ConfigError

_NAME = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)

_VERL = '''\
"""The reward `{name}`: a right answer, given shortly, earns 1."""

import re

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def {name}(solution_str, ground_truth, extra_info=None, max_words=100):
    """Called once per trace.

    solution_str: what the policy wrote, special tokens included; it may be anything.
    ground_truth: the clip's label.
    extra_info:   further columns of the manifest, and sample_id, split, is_truncated,
                  policy_version. A column is also given as a parameter of its own name.
    max_words:    any other parameter is filled from `params` in the recipe.

    Return a number; or a dict with "score" and further numbers, which are logged; or None where
    the reward does not apply to the trace: it is then left out. Malformed output is a wrong answer:
    return 0 for it. What raises, hangs or returns NaN is a failure: the trace is not trained on.
    """
    answer = _ANSWER.search(solution_str)
    if answer is None or answer[1].strip().casefold() != ground_truth.casefold():
        return 0.0
    num_words = len(solution_str.split())
    return {{"score": min(1.0, max_words / num_words), "num_words": num_words}}
'''

_TRL = '''\
"""The reward `{name}`: a right answer, given shortly, earns 1."""

import re

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def {name}(completions, ground_truth, max_words=100, **columns):
    """Called once per group: every argument but `max_words` is a list with a value per completion.

    completions:  what the policy wrote, special tokens included; it may be anything. With
                  completion_format = "messages" in the recipe: lists of chat messages.
    ground_truth: the clip's label.
    max_words:    any other parameter is filled from `params` in the recipe.
    columns:      further columns of the manifest, and prompts, completion_ids, trainer_state.

    Return a list with a number for each completion; or None in it where the reward does not apply:
    that is then left out. Malformed output is a wrong answer: 0. What raises, hangs or returns NaN
    is a failure: the trace is not trained on.
    """
    return [
        _of_one(text, label, max_words)
        for text, label in zip(completions, ground_truth, strict=True)
    ]


def _of_one(text, label, max_words):
    answer = _ANSWER.search(text)
    if answer is None or answer[1].strip().casefold() != label.casefold():
        return 0.0
    return min(1.0, max_words / len(text.split()))
'''

_TEST_HEAD = '''\
"""Run with: pytest {test}"""

import runpy
from pathlib import Path

{name} = runpy.run_path(str(Path(__file__).with_name("{name}.py")))["{name}"]
RIGHT = "<think>It jumps.</think><answer>fall</answer>"
MALFORMED = ["", "fall", "<answer>", "<answer></answer>", "<answer>\\x00</answer>", "<think>" * 9]


'''
_VERL_TEST = """\
def test_a_short_right_answer_earns_one_and_a_wrong_one_nothing():
    assert {name}(RIGHT, "fall")["score"] == 1.0
    assert {name}(RIGHT, "jump") == 0.0


def test_a_long_answer_earns_less():
    assert 0 < {name}("word " * 300 + RIGHT, "fall")["score"] < 0.5


def test_malformed_output_is_a_wrong_answer():
    assert [{name}(text, "fall") for text in MALFORMED] == [0.0] * len(MALFORMED)
"""
_TRL_TEST = """\
def test_a_short_right_answer_earns_one_and_a_wrong_one_nothing():
    assert {name}([RIGHT, RIGHT], ["fall", "jump"]) == [1.0, 0.0]


def test_a_long_answer_earns_less():
    assert 0 < {name}(["word " * 300 + RIGHT], ["fall"])[0] < 0.5


def test_malformed_output_is_a_wrong_answer():
    assert {name}(MALFORMED, ["fall"] * len(MALFORMED)) == [0.0] * len(MALFORMED)
"""
_RECIPE = """\
[[reward.terms]]
function = "{path}:{name}"
weight = 0.5
params = {{ max_words = 100 }}
"""


def write_starter(name: str, folder: Path, style: Literal["verl", "trl"]) -> tuple[Path, Path]:
    """Write the files; returns the paths of the reward and of its test. Raises ConfigError for a
    name that Python cannot have, and if a file is there already."""
    taken = keyword.iskeyword(name) or hasattr(builtins, name) or name == "re"
    if taken or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a function; expected such as brevity: lower-case letters, "
            "digits and _, with a letter first, and no name that Python uses"
        )
    reward, test = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in (reward, test):
        if path.exists():
            raise ConfigError(f"{path} is there already; give another name, or another --dir")
    body, tests = (_VERL, _VERL_TEST) if style == "verl" else (_TRL, _TRL_TEST)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reward.write_text(body.format(name=name), encoding="utf-8")
        test.write_text((_TEST_HEAD + tests).format(name=name, test=test), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write into {folder}: {error.strerror}; give --dir a folder"
        ) from error
    return reward, test


def recipe_lines(name: str, path: Path) -> str:
    """Lines of a recipe that use the reward."""
    return _RECIPE.format(name=name, path=path)
