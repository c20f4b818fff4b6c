"""Example rewards: one in verl's shape that reads a manifest column, one in TRL's."""
