"""The built-in rewards, one file per family; reward/builtins/table.py is the table that names them.

    f(completion: str, label: str, context: RewardContext, **params) -> float | None

``None`` says that the reward does not apply to this trace: it is left out of the weighted sum.
"""
