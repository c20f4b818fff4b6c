"""Host of a fit job until it has ended: what the service is to it. (No test file.)

python fit_host.py FOLDER RUN    -> a line of JSON about the job
"""

import asyncio
import json
import sys
from pathlib import Path

from cluster.serving.parts import FIT_COMMAND
from tests.calibrate.service.jobs.open_jobs import CALLER, new_fit, open_jobs


async def main(folder: Path, run: Path) -> None:
    # as many compute threads as the run's own calibration had
    async with open_jobs(folder, command=FIT_COMMAND, fit_cpus=1, roots=(run,)) as opened:
        jobs = await opened.jobs.page(limit=1)
        job = jobs[0] if jobs else await opened.jobs.submit(new_fit(run), CALLER)
        while not job.has_ended:
            await asyncio.sleep(0.1)
            job = await opened.jobs.get(job.id)
        facts = {
            "state": job.state,
            "detail": job.detail,
            "starts": job.starts,
            "hashes": [one.hash for one in opened.registry.list()],
            "aliases": opened.registry.aliases(),
        }
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
