"""Host of two fits with the same order, until both have ended: what the service is to them. (No
test file.)

python fit_host.py FOLDER RUN    -> a line of JSON about them
"""

import asyncio
import json
import sys
from pathlib import Path

from cluster.serving.parts import FIT_COMMAND
from tests.calibrate.service.jobs.open_jobs import CALLER, new_fit, open_jobs

ORDER = ("calibrate.epochs=4", "calibrate.batch_size=4")


async def main(folder: Path, run: Path) -> None:
    async with open_jobs(folder, command=FIT_COMMAND, fit_cpus=1, roots=(run,)) as opened:
        jobs = await opened.jobs.page(limit=2)
        while len(jobs) < 2:
            jobs = [await opened.jobs.submit(new_fit(run, settings=ORDER), CALLER), *jobs]
        while not all(job.has_ended for job in jobs):
            await asyncio.sleep(0.1)
            jobs = await opened.jobs.page(limit=2)
        facts = {
            "states": [(job.state, job.detail) for job in jobs],
            "starts": [job.starts for job in jobs],
            "versions": [[one.version for one in job.classifiers] for job in jobs],
            "aliases": opened.registry.aliases(),
        }
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
