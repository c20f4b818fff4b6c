"""A study in a process of its own, whose children are fake: RECIPE DIRECTORY SEED..."""

import sys
from pathlib import Path

from cluster.study.runner import Child, Study, run_study


def fake_command(child: Child) -> list[str]:
    """What a study starts instead of a run; acts are in files beside the study's directory."""
    act = child.study.directory.parent / f"act-{child.verb}-{child.plan.seed}"
    return [
        *(
            sys.executable,
            "-m",
            "tests.cluster.study.fake_child",
            child.verb,
            str(child.study.recipe),
        ),
        str(child.plan.run_dir),
        act.read_text() if act.exists() else "finish",
        str((child.plan.run_dir / "archive").exists()),
        *child.plan.overrides,
    ]


def main() -> int:
    recipe, directory, *seeds = sys.argv[1:]
    study = Study(
        recipe=Path(recipe), directory=Path(directory), seeds=tuple(int(seed) for seed in seeds)
    )
    try:
        run_study(study, fake_command)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
