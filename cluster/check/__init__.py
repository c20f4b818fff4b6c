"""The checks of `deepintuit check`, one module per area: inputs of a run -> findings."""
