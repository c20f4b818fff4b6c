"""Plan of a run: its work, memory and cost, computed without starting anything."""
