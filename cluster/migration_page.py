"""docs/migration.md: from verl, TRL and OpenRLHF to here. Pure.

tables of cluster/migration.py + the texts below -> one page
"""

from collections.abc import Sequence

from cluster.migration import OPENRLHF, QWEN, TRL, VERL, Moved

_HEAD = """# Coming from verl, TRL or OpenRLHF

*Generated from `cluster/migration.py` by `make docs`; edit the tables there, not this page.*

A recipe or `--set` that uses one of the keys below is refused with its name here:
`unknown key 'num_generations' (TRL): here it is rollout.group_size`. Every key has its meaning, bounds
and default in the [recipe reference](recipes.md).

What is different from all three:

- The task is classification of videos, one clip and one question per prompt. Prompts are made from the
  label set, not read from the data.
- A run has four stages: `base` (measured only), `coldstart` (SFT on teacher traces), `grpo`, `calibrated`
  (verdict and head, trained on the policy's own traces). `[grpo]` is what the other systems configure.
- Batches are counted in **clips**. Rollouts per step are `grpo.groups_per_step` x `rollout.group_size`.
- A run is counted in steps, never in epochs.
- A failure (decode, prompt, generation, reward) is typed, archived and masked. It is never a reward of 0.
- Engines and learner are Ray workers of their own: nothing is colocated, nothing sleeps.
"""

_ROWS = """## Dataset rows

One manifest, JSONL or Parquet, for all splits:

```json
{"id": "0001", "video": "clips/0001.mp4", "label": "normal", "split": "train", "trace": "<think>...</think><answer>normal</answer>", "camera": 3}
```

| elsewhere | here |
|---|---|
| verl: `prompt`, `problem`, `messages` | not read: `rollout/prompt.py` asks for one of the labels |
| verl: `reward_model.ground_truth`; ms-swift, Video-R1: `solution`; EasyR1: `answer` | `label`, one of the recipe's `[[labels]]` |
| verl, ms-swift, EasyR1: `videos`; Video-R1: `path` | `video`, one path; relative to `data.media_root` or the manifest |
| `images` | not there |
| verl: `data_source` | a column of that name reaches reward functions |
| verl: `extra_info`, ms-swift: any column | any further column; reward functions find it in `extra_info` |
| train and validation files | `split`: `train`, `val`, `cal` or `test` in one file |
| an assistant turn to imitate | `trace`, on the few train clips of the cold start |

`deepintuit import` makes manifests of the other systems' rows.
"""

_REWARDS = """## Reward functions

A function of verl's four arguments works unchanged, from a file, with no import of ours:

```python
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return 1.0  # or {"score": 1.0, ...}: only the score is used
```

```toml
[[reward.terms]]
function = "mine.py:compute_score"
name = "mine"
weight = 0.5
timeout_s = 10.0
```

Naming terms replaces the two built-in ones: add `"accuracy"` and `"format"` to keep them. `extra_info` has
the manifest's further columns and `sample_id`, `split`, `is_truncated`, `policy_version`.

| elsewhere | here |
|---|---|
| verl: `async def compute_score` | refused at the start; write a plain function, it has a process of its own |
| verl: reward managers, `reward_model` | terms with weights; no reward model |
| TRL: `f(prompts, completions, **columns)`, a list of floats | wrap it (below): one call per trace |
| TRL: `None`, not applicable | a failure: the trace is masked, and counts in `reward/failed_frac` |
| OpenRLHF: `reward_func(queries, prompts, labels)` | wrap it the same way |
| EasyR1: a dict with `overall` | return it as `score` |
| a URL | not there; ask it from your function |
| an exception, a hang, NaN | a typed failure, never 0; more than `reward.max_failure_frac` of a step ends the run |

```python
from my_trl_rewards import brevity


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    completion = [{"role": "assistant", "content": solution_str}]
    return brevity(prompts=[""], completions=[completion], solution=[ground_truth])[0]
```
"""

METRICS: tuple[tuple[str, str, str, str, str], ...] = (
    ("reward/mean", "trace", "critic/rewards/mean", "reward", "reward_mean"),
    ("reward/std", "trace", "", "reward_std", "reward_std"),
    ("reward/<term>/mean", "trace", "", "rewards/<fn>/mean", ""),
    ("reward/frac_zero_std", "group", "training/filter_groups/*", "frac_reward_zero_std", ""),
    ("reward/failed_frac", "trace", "training/rollout_failure/*", "", ""),
    ("accuracy/<label>", "trace", "", "", ""),
    ("response_length/mean", "trace", "response_length/mean", "completions/mean_length", "response_length_mean"),
    ("truncated_frac", "trace", "response_length/clip_ratio", "completions/clipped_ratio", "truncated_rate"),
    ("policy_loss", "token", "actor/pg_loss", "loss", "policy_loss"),
    ("kl", "token", "actor/ppo_kl", "", "ppo_kl"),
    ("entropy", "token", "actor/entropy", "entropy", ""),
    ("clip_frac/high", "token", "actor/pg_clipfrac", "clip_ratio/high_mean", "ppo_clip_ratio"),
    ("clip_frac/low", "token", "actor/pg_clipfrac", "clip_ratio/low_mean", "ppo_clip_ratio"),
    ("clip_frac/dual", "token", "actor/pg_clipfrac_lower", "", ""),
    ("rollout_is/mean", "token", "rollout_corr/*", "sampling/importance_sampling_ratio/*", ""),
    ("rollout_probs_diff/mean", "token", "training/rollout_probs_diff_mean", "sampling/sampling_logp_difference/*", "vllm_kl"),
    ("rollout_probs_diff/max", "token", "training/rollout_probs_diff_max", "sampling/sampling_logp_difference/*", ""),
    ("grad_norm", "update", "actor/grad_norm", "grad_norm", ""),
    ("learning_rate", "update", "actor/lr", "learning_rate", "actor_lr"),
    ("staleness/mean", "trace", "training/off_policy/trajectory_staleness/*", "", ""),
    ("timing_s/step", "step", "timing_s/step", "step_time", "timing/step_total"),
    ("timing_s/update_actor", "step", "timing_s/update_actor", "", "timing/ppo_train"),
    ("timing_s/update_weights", "step", "timing_s/update_weights", "", "timing/broadcast"),
)  # fmt: skip
"""Our name, over what it is averaged, verl's, TRL's, OpenRLHF's."""

_METRIC_NOTES = """
`kl` is between the policy before and after a step's updates (as `actor/ppo_kl`), not to a reference model:
with one update per step it is 0. TRL's `kl` and verl's `actor/kl_loss` have no counterpart.
`parity/probe_max_logprob_diff` and `accuracy/<label>` are ours alone. A step's measurements are lines of
`RUN/metrics.jsonl`; accuracy of a stage is in `RUN/summary.json`.
"""

_LAYOUT = """## Checkpoints and other files of a run

| elsewhere | here, below the run directory |
|---|---|
| verl: `global_step_N/actor/`; SkyRL: `global_step_N/policy`; OpenRLHF: tags under `_actor` | `checkpoints/STAGE/step-00000N/`: `state/` (DeepSpeed's), `manifest.json` with a hash of each file, written last |
| verl: `latest_checkpointed_iteration.txt` | none: the newest *whole* checkpoint is found by its manifest |
| verl: `data.pt`, the dataloader's state | none: order and seeds follow from the seed and the step |
| verl: `python -m verl.model_merger merge`; OpenRLHF: `{tag}_hf` | `stages/STAGE/model/`, in Hugging Face format, when the stage ends |
| verl: `rollout_data_dir`, `validation_data_dir` | `archive/`: every trace, typed |
| TRL: `trainer_state.json` | `metrics.jsonl`, `tensorboard/` |
| the resolved configuration | `run.json` |

The last two checkpoints of a stage are kept, and none once it has finished. A checkpoint is taken up only by
the same number of ranks, ZeRO stage and precision.
"""

_COMMANDS = """## Commands

| elsewhere | here |
|---|---|
| `python -m verl.trainer.main_ppo a.b=c` | `deepintuit run my.toml --set a.b=c` |
| `trl grpo --config my.yaml`, `trl vllm-serve` | `deepintuit run my.toml`; it starts the engines |
| `python -m openrlhf.cli.train_ppo_ray --a.b c` | `deepintuit run my.toml --set a.b=c` |
| SFT before RL: `trl sft`, `python -m verl.trainer.fsdp_sft_trainer` | `deepintuit coldstart my.toml`, or the first stage of `run` |
| `trainer.val_only=True` | `deepintuit evaluate my.toml` |
| `trainer.resume_mode=auto` | `deepintuit run my.toml --resume` |
| a dry run | `deepintuit plan my.toml` |
| `ray job submit -- python -m verl.trainer.main_ppo` | `ray job submit --working-dir . -- python -m cluster.cli run my.toml --run-dir /shared/runs/my` ([cluster](cluster.md)) |
"""

_SECTIONS = (
    ("verl keys", "verl 0.9, Hydra.", VERL),
    ("TRL arguments", "`GRPOConfig`, and what its scripts take from transformers.", TRL),
    ("OpenRLHF flags", "OpenRLHF 0.10, without the dashes.", OPENRLHF),
    ("Video settings", "qwen-vl-utils, ms-swift (environment variables) and ROLL.", QWEN),
)


def migration_page() -> str:
    """The whole page."""
    tables = [_section(*section) for section in _SECTIONS]
    return "\n".join([_HEAD, *tables, _ROWS, _REWARDS, _metrics(), _LAYOUT, _COMMANDS])


def _section(title: str, intro: str, rows: Sequence[Moved]) -> str:
    lines = [f"## {title}", "", intro, "", "| there | here | |", "|---|---|---|"]
    lines += [f"| `{row.theirs}` | {_key(row)} | {row.note} |" for row in rows]
    return "\n".join([*lines, ""])


def _key(row: Moved) -> str:
    return f"`{row.ours}`" if row.ours else "-"


def _metrics() -> str:
    head = ("here", "averaged over", "verl", "TRL", "OpenRLHF")
    lines = ["## Metric names", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for ours, over, *theirs in METRICS:
        names = [f"`{name}`" if name else "" for name in theirs]
        lines.append(f"| {' | '.join([f'`{ours}`', over, *names])} |")
    return "\n".join([*lines, _METRIC_NOTES])
