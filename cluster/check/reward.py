"""Checks reward functions: imports each as a run does, and lets it score one trace."""

from collections.abc import Sequence

from cluster.config.recipe import RunConfig
from cluster.inputs.scorer import columns_of, make_scorer, prompt_text
from reward.config import RewardTerm
from reward.tools.sample_traces import as_completion
from wire.finding import Area, Finding, collect_refusals, ok, warning
from wire.types import Failure, FailureKind, Sample


async def reward_findings(config: RunConfig, samples: Sequence[Sample]) -> list[Finding]:
    """Findings on reward terms, each tried on its own with the first sample, so that one that
    fails hides no other."""
    findings: list[Finding] = []
    for term in config.reward.terms:
        with collect_refusals(findings, Area.REWARD):
            findings.append(await _try(config, term, samples))
    return findings


async def _try(config: RunConfig, term: RewardTerm, samples: Sequence[Sample]) -> Finding:
    """Raises ConfigError if the function cannot be loaded."""
    alone = config.model_copy(update={"reward": config.reward.only(term)})
    async with make_scorer(alone, columns_of(samples)) as scorer:
        if not samples:
            return ok(Area.REWARD, f"{term.part} can be loaded; there is no row to try it on")
        sample = samples[0]
        text = f"<think>The video shows it.</think><answer>{sample.label}</answer>"
        prompt = prompt_text(config, sample)
        (score,) = await scorer.score(sample, [as_completion(text)], prompt)
    if isinstance(score, Failure) and score.kind is FailureKind.NOT_APPLICABLE:
        return ok(Area.REWARD, f"{term.part} does not apply to the first row, and was loaded")
    if isinstance(score, Failure):
        what = f"{term.part} failed on a trace that answers right: {score.reason}"
        remedy = "mend the function; too many failures (reward.max_failure_frac) end a run"
        return warning(Area.REWARD, what, remedy, [sample.id])
    return ok(Area.REWARD, f"{term.part} gives {score.parts[term.part]:g} to a right answer")
