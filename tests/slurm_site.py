"""SLURM's commands as shell scripts: each step runs on this machine. (No test file.)"""

from collections.abc import Mapping
from pathlib import Path

# Runs a step once for each node that it names, and ends with the step's tasks.
SRUN = """
nodes=1 words=()
for word; do
  case "$word" in
    --nodelist=*) IFS=, read -ra names <<<"${word#*=}"; nodes=${#names[@]} ;;
    --*) [[ ${#words[@]} == 0 ]] || words+=("$word") ;;
    *) words+=("$word") ;;
  esac
done
trap 'kill $(jobs -p) 2>/dev/null; wait; exit 143' TERM
for ((n = 0; n < nodes; n++)); do "${words[@]}" & done
wait
"""
SCONTROL = 'if [[ $1 == show ]]; then printf "node%s\\n" $NODES; fi'


def write_programs(folder: Path, programs: Mapping[str, str]) -> None:
    """Programs of a site, in a folder for PATH; each notes its words in $NOTES/calls."""
    folder.mkdir()
    for name, body in programs.items():
        program = folder / name
        program.write_text(f'#!/bin/bash\necho "{name} $*" >>$NOTES/calls\n{body}\n')
        program.chmod(0o755)


def calls(notes: Path, program: str) -> list[str]:
    """Calls of a program, with their words."""
    lines = (notes / "calls").read_text().splitlines()
    return [line for line in lines if line.startswith(f"{program} ")]
