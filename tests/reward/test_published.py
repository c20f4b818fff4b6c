"""Published reward functions run unchanged: TRL's own, and those in verl's package.

TRL is among the test dependencies. verl and math-verify are installed into a folder of the test,
without what they depend on: verl's functions are read from its files, and import only Python's own
library, while its package as a whole wants a training stack.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reward.plugins.runner import PluginRunner, Value
from tests.reward.plugins.user_rewards import ask, make_term, running, values

PACKAGES = (
    *("verl==0.9.1", "math-verify==0.9.0"),
    *("latex2sympy2-extended==1.11.0", "antlr4-python3-runtime==4.13.2"),
)
TIMEOUT_S = 120.0
SEVEN, EIGHT = "So it is seven. #### 7", "So it is eight. #### 8"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the installed packages, on the path of the functions' processes."""
    folder = tmp_path_factory.mktemp("published")
    command = [*(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"), *PACKAGES]
    done = subprocess.run(
        [*command, "--target", str(folder)], capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        pytest.skip(f"no package index that has {PACKAGES}: {done.stderr[-300:]}")
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))


async def scored(
    spec: str, *texts: str, label: str, form: str = "text", **params: object
) -> list[float | str | None]:
    term = make_term(spec, TIMEOUT_S, params=params, completion_format=form)
    runner = PluginRunner(term)
    await runner.start()
    try:
        return await values(runner, *texts, label=label)
    finally:
        await runner.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "texts", "label", "expected"),
    [
        ("gsm8k", (SEVEN, EIGHT), "7", [1.0, 0.0]),
        ("math_dapo", ("Answer: $7$", "Answer: $8$"), "7", [1.0, -1.0]),
        ("math_reward", (r"\boxed{\frac12}", r"\boxed{2}"), r"\frac{1}{2}", [1.0, 0.0]),
    ],
)
async def test_verls_functions_run_unchanged(
    published: Path, file: str, texts: tuple[str, ...], label: str, expected: list[float]
) -> None:
    spec = f"{published}/verl/utils/reward_score/{file}.py:compute_score"
    assert await scored(spec, *texts, label=label) == expected


@pytest.mark.slow
async def test_parameters_reach_verls_functions(published: Path) -> None:
    spec = f"{published}/verl/utils/reward_score/gsm8k.py:compute_score"
    found = await scored(spec, "7", label="7", method="flexible", score=2.0)
    assert found == [2.0]


@pytest.mark.slow
async def test_further_numbers_of_verls_dict_are_kept(published: Path) -> None:
    spec = f"{published}/verl/utils/reward_score/math_dapo.py:compute_score"
    runner = PluginRunner(make_term(spec, TIMEOUT_S))
    await runner.start()
    outcome = await runner.score(ask("Answer: $7$", label="7"))
    await runner.close()
    assert outcome == [Value(value=1.0, extras={"acc": 1.0})]


DISPATCHER = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None,
                  sandbox_fusion_url=None, concurrent_semaphore=None, memory_limit_mb=None,
                  **kwargs):
    assert (data_source, extra_info["split"], kwargs) == ("", "train", {})
    return {"score": float(ground_truth in solution_str), "acc": 1.0, "pred": "normal"}
"""


async def test_the_parameter_list_of_verls_own_dispatcher_is_understood(tmp_path: Path) -> None:
    async with running(tmp_path, DISPATCHER) as runner:
        assert await values(runner, "it is normal", "no") == [1.0, 0.0]


GOOD_SHAPE = "<think>\nIt is 2.\n</think>\n\\boxed{2}"


@pytest.mark.slow
async def test_trls_think_format_reward_runs_unchanged() -> None:
    spec = "trl.rewards:think_format_reward"
    assert await scored(spec, GOOD_SHAPE, "no", label="x", form="messages") == [
        1.0,
        0.0,
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("name", ["accuracy_reward", "reasoning_accuracy_reward"])
async def test_trls_rewards_of_a_right_answer_run_unchanged(name: str) -> None:
    spec, wrong = f"trl.rewards:{name}", GOOD_SHAPE.replace("{2}", "{3}")
    found = await scored(spec, GOOD_SHAPE, wrong, label="$2$", form="messages")
    assert found == [1.0, 0.0]


MADE = """
from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment
overlong = get_soft_overlong_punishment(max_completion_len=4, soft_punish_cache=2)
overlong_by_one = get_soft_overlong_punishment(max_completion_len=1, soft_punish_cache=1)
repetition = get_repetition_penalty_reward(ngram_size=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "expected"), [("overlong", 0.0), ("overlong_by_one", -1.0), ("repetition", 0.0)]
)
async def test_trls_functions_of_token_ids_run_unchanged(
    tmp_path: Path, function: str, expected: float
) -> None:
    async with running(tmp_path, MADE, function=function, timeout_s=120.0) as runner:
        assert await values(runner, "two ids") == [expected]


COSINE = """
from trl.rewards import get_cosine_scaled_reward
cosine = get_cosine_scaled_reward(max_len=4)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("published")
async def test_trls_reward_of_answer_and_length_runs_unchanged(tmp_path: Path) -> None:
    settings = {"function": "cosine", "timeout_s": 120.0, "completion_format": "messages"}
    async with running(tmp_path, COSINE, **settings) as runner:
        right, wrong = await values(runner, r"\boxed{2}", r"\boxed{3}", label="$2$")
        assert right == pytest.approx(0.75)  # two ids of four: half way from 1 to 0.5
        assert wrong == pytest.approx(-0.75)
