"""Probe of vLLM's engine: shows within moments that its processes still work.

idle -> one token is written        busy, or nothing may run beside others -> its workers answer

A full engine takes a request only when one ends, which may be minutes later. There the workers
answer a call, which vLLM hands them between two steps: a step that hangs is noticed all the same.
The actor that owns the engine says nothing about it.
"""

from typing import Any

from rollout.vllm_calls.groups import RequestGroups

_TOKEN = 0  # any


async def probe(llm: Any, groups: RequestGroups, *, writes: bool) -> None:
    """Return once the engine has shown that it works; the caller sets a deadline. ``writes``:
    whether an idle engine may write a token."""
    if groups.running or not writes:
        await llm.collective_rpc("check_health")
        return
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    final = RequestOutputKind.FINAL_ONLY
    params = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, output_kind=final)
    await groups.run([tokens_input([_TOKEN])], [params], None)
