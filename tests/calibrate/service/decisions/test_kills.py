"""A process that decides and reviews is killed at any moment: what it has answered is on disk."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calibrate.service.decisions.decisions import DecisionFilter
from tests.architecture.product import ROOT
from tests.calibrate.service.deciding import caller, deciding, make_evidence

NUM_KILLS = 12
DEADLINE_S = 60


async def work(folder: Path) -> None:
    """Decide and review for ever, many at a time; a line for each answer, as a client gets it."""
    with deciding(folder, audit_share=0.5) as parts:
        classifier = parts.registry.list()[0]

        async def one(number: int) -> None:
            draw = random.Random(f"{os.getpid()}/{number}")
            while True:
                record = await parts.decide(classifier, make_evidence(draw.uniform(0.05, 0.99)))
                sys.stdout.write(f"decided {record.id} {record.review_id}\n")
                for review in await parts.reviews.lease(caller(f"p{number}"), 1, 60):
                    done = await parts.reviews.complete(
                        review.id, caller(f"p{number}"), label="normal"
                    )
                    sys.stdout.write(f"answered {done.id} {done.outcome}\n")
                sys.stdout.flush()

        await asyncio.gather(*[one(number) for number in range(20)])


@pytest.mark.slow
async def test_nothing_that_was_answered_is_lost_by_kills(tmp_path: Path):
    with deciding(tmp_path) as parts:
        parts.classifier()
    draw, lines = random.Random(18), list[str]()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(NUM_KILLS):
        code = f"import asyncio, pathlib, {__name__} as t; asyncio.run(t.work(pathlib.Path('.')))"
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        assert process.stdout is not None
        lines.append(process.stdout.readline())
        time.sleep(draw.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        lines += rest[: rest.rfind("\n") + 1].splitlines()
        process.wait(DEADLINE_S)
    answered = [line.split() for line in lines]
    with deciding(tmp_path) as parts:
        stored = await all_decisions(parts)
        for kind, name, other in answered:
            if kind == "decided":
                assert str(stored[name].review_id) == other
            else:
                assert (await parts.reviews.get(name)).outcome == other
        for record in stored.values():  # each decision and its review: both or neither
            if record.review_id is not None:
                assert (await parts.reviews.get(record.review_id)).decision_id == record.id
        assert parts.audit.verify() is None
        made = len(parts.audit.page(limit=10**6, action="decision.made"))
    assert made == len(stored) >= sum(kind == "decided" for kind, *_ in answered) > 100


async def all_decisions(parts):
    stored, cursor = {}, None
    while True:
        page, cursor = await parts.decisions.page(DecisionFilter(), 500, cursor)
        stored |= {one.id: one for one in page}
        if cursor is None:
            return stored
