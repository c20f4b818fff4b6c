"""Which checkpoints are kept, which is taken up, and what a damaged one does."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.resume.checkpoints import Checkpoints, KeepBest, keep_of_finished
from cluster.resume.loop_state import LoopState
from cluster.resume.validations import Validated
from cluster.stages.supervised import SupervisedTrainer
from learner.config import OptimConfig
from learner.shared_prefix.rows import supervised_row
from tests.cluster.session_fakes import make_config, make_run_dir, make_samples, open_fakes
from wire.types import Prompt

BEST = KeepBest(count=1)


@pytest.fixture
def fakes(tmp_path: Path) -> Iterator[SimpleNamespace]:
    config = make_config()
    run_dir = make_run_dir(tmp_path, config)
    with open_fakes(config, run_dir, make_samples(), ("base-model", 1)) as opened:
        session, _, learner, _ = opened
        yield SimpleNamespace(
            session=session, learner=learner, folder=run_dir.checkpoints("grpo"), run_dir=run_dir
        )
    run_dir.close()


def save(checkpoints: Checkpoints, *scores: float | None) -> None:
    for step, score in enumerate(scores, start=1):
        asyncio.run(checkpoints.save(LoopState(step=step, next_index=2 * step, score=score)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_and_the_best_are_kept(fakes: SimpleNamespace):
    save(fakes.session.checkpoints("grpo", 2, [BEST]), 1.0, 3.0, float("nan"), None, 2.0)
    assert names(fakes.folder) == ["step-000002", "step-000004", "step-000005"]


def test_of_equal_scores_the_newer_is_the_best(fakes: SimpleNamespace):
    save(fakes.session.checkpoints("grpo", 1, [BEST]), 1.0, 3.0, 3.0, 1.0)
    assert names(fakes.folder) == ["step-000003", "step-000004"]


def test_an_ended_stage_keeps_the_best_unless_it_ended_with_it(fakes: SimpleNamespace):
    save(fakes.session.checkpoints("grpo", 2, [BEST]), 3.0, 1.0, 1.0)
    keep_of_finished(fakes.folder, BEST, keep_last=False)
    assert names(fakes.folder) == ["step-000001"]
    save(fakes.session.checkpoints("grpo", 2, [BEST]), 1.0, 1.0, 2.0)
    keep_of_finished(fakes.folder, BEST, keep_last=False)
    assert not fakes.folder.exists()
    keep_of_finished(fakes.folder, BEST, keep_last=False)  # a stage that saved nothing


def test_a_longer_stage_can_still_go_back_to_the_weights_that_it_left(fakes: SimpleNamespace):
    save(fakes.session.checkpoints("grpo", 4, [BEST]), 1.0, 3.0, 2.0)
    keep_of_finished(fakes.folder, BEST, keep_last=True, left_step=2)
    assert names(fakes.folder) == ["step-000002", "step-000003"]
    keep_of_finished(fakes.folder, BEST, keep_last=False, left_step=2)
    assert not fakes.folder.exists()


def test_a_metric_of_validation_ranks_checkpoints_by_what_the_newest_remembers(
    fakes: SimpleNamespace,
):
    keep = KeepBest(count=1, metric="val/nll", mode="min")
    checkpoints = fakes.session.checkpoints("grpo", 1, [keep])
    done: tuple[Validated, ...] = ()
    for step, nll in enumerate((0.9, 0.2, 0.5, 0.4), start=1):
        asyncio.run(checkpoints.save(LoopState(step=step, score=float(step), validations=done)))
        done += (Validated(step=step, figures={"val/nll": nll}),)
    assert names(fakes.folder) == ["step-000002", "step-000004"]


def test_a_score_by_another_metric_does_not_count(fakes: SimpleNamespace):
    checkpoints = fakes.session.checkpoints("grpo", 1, [KeepBest(count=1, metric="kl", mode="min")])
    for step, scored_by in ((1, "kl"), (2, "reward/mean"), (3, "kl"), (4, "kl")):
        state = LoopState(step=step, score=float(step), scored_by=scored_by)
        asyncio.run(checkpoints.save(state))
    assert names(fakes.folder) == ["step-000001", "step-000004"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    fakes: SimpleNamespace, capsys: pytest.CaptureFixture[str]
):
    save(fakes.session.checkpoints("grpo"), 1.0, 1.0)
    (fakes.folder / "step-000002/weights").unlink()
    state = asyncio.run(fakes.session.checkpoints("grpo").resume())
    assert (state.step, state.next_index) == (1, 2)
    assert names(fakes.folder) == ["damaged-step-000002", "step-000001"]
    said = capsys.readouterr().out
    assert "REFUSED" in said
    assert "step-000002 is damaged" in said
    assert "checkpoint step-000001 is tried instead" in said


def test_with_all_checkpoints_damaged_the_stage_starts_anew(
    fakes: SimpleNamespace, capsys: pytest.CaptureFixture[str]
):
    save(fakes.session.checkpoints("grpo"), 1.0)
    (fakes.folder / "step-000001/weights").unlink()
    assert asyncio.run(fakes.session.checkpoints("grpo").resume()) == LoopState()
    assert "the stage starts anew instead" in capsys.readouterr().out


def test_a_checkpoint_says_which_attempts_led_to_it(fakes: SimpleNamespace):
    checkpoints = fakes.session.checkpoints("grpo")
    asyncio.run(checkpoints.save(LoopState(step=1), 2))
    fakes.session.attempt = 1
    again = fakes.session.checkpoints("grpo")
    asyncio.run(again.resume())
    asyncio.run(again.save(LoopState(step=2), 3))
    state = LoopState.read(fakes.folder / "step-000002")
    assert [(a.attempt, a.until) for a in state.ancestors] == [(0, 2), (1, 3)]


def test_a_checkpoint_says_with_which_prompts_its_weights_were_trained(fakes: SimpleNamespace):
    save(fakes.session.checkpoints("grpo"), 1.0)
    state = LoopState.read(fakes.folder / "step-000001")
    assert state.prompts == dict.fromkeys(state.prompts, "1")
    assert {"trace", "verdict", "label", "rationale"} <= set(state.prompts)


def test_supervised_training_goes_on_in_the_middle_of_an_epoch(fakes: SimpleNamespace):
    prompts = [Prompt(token_ids=(n, 9), clip_key=f"c{n}", fingerprint="f") for n in range(7)]
    rows = [supervised_row(prompt, "v.mp4", (1, 2)) for prompt in prompts]

    def train() -> int:
        return asyncio.run(
            SupervisedTrainer.of(fakes.session, "coldstart").train(
                Path("base-model"),
                rows,
                epochs=2,
                batch_size=2,
                optim=OptimConfig(),
                save_every=3,
            )
        )

    assert train() == 8
    whole = [[row.prompt.clip_key for row in rows] for _, rows in fakes.learner.steps]
    fakes.learner.steps.clear()
    folder = fakes.run_dir.checkpoints("coldstart")
    assert names(folder) == ["step-000006", "step-000008"]
    for path in (folder / "step-000008").iterdir():
        path.unlink()
    (folder / "step-000008").rmdir()
    assert LoopState.read(folder / "step-000006").next_index == 7 + 4
    train()
    again = [[row.prompt.clip_key for row in rows] for _, rows in fakes.learner.steps]
    assert again == whole[6:]
