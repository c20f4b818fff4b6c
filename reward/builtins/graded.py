"""Graded rewards: partial credit for a wrong answer that is near, by a tree, a scale or costs.

hierarchical: r = 2 |A(answer) & A(label)| / (|A(answer)| + |A(label)|), where A(x) is x and its
ancestors below the root: the hierarchical F1 of one pair (Kiritchenko et al. 2006, "Learning and
Evaluation in the Presence of Class Hierarchies"), which is the similarity of Wu and Palmer (1994),
2 depth(common ancestor) / (depth(answer) + depth(label)) with the root at depth 0.

ordinal: r = 1 / (gap + 1) if gap <= max_gap, else 0, where gap is the distance of the two labels on
the scale. DeepIntuit's ordinal variant (deepintuit_stage1/recipe/nova/reward_score.py), there with
max_gap = 2.

cost_matrix: r = 1 - C[label][answer] / max C. Costs as in Elkan (2001), "The Foundations of
Cost-Sensitive Learning", with the row for the true class.

An answer that spells no label of the set is a wrong answer of the worst kind: 0.
"""

from typing import Self

from pydantic import Field, model_validator

from reward.builtins.params import Params, position, refuse_incomplete_labels
from reward.context import RewardContext
from wire.labels import LabelSet


class HierarchicalParams(Params):
    """Parameters of ``hierarchical``: the tree of the labels.

    Example:
        HierarchicalParams(paths=("person/fall", "person/walk", "object/falls off"))
    """

    paths: tuple[str, ...] = Field(min_length=2)
    """One path per label, from below the root; its last name is the label. A label may be the
    ancestor of another: ``person`` and ``person/fall``."""
    separator: str = Field(default="/", min_length=1)
    """Between the names of a path; choose another where a label holds it."""

    @model_validator(mode="after")
    def _no_empty_name(self) -> Self:
        empty = [path for path in self.paths if not all(_nodes(path, self.separator))]
        if empty:
            raise ValueError(f"path {empty[0]!r} has an empty name; write it as group/label")
        return self

    def refuse_unfit(self, labels: LabelSet, max_response_length: int | None) -> None:
        """Raise ConfigError unless every label ends exactly one path."""
        leaves = [_nodes(path, self.separator)[-1] for path in self.paths]
        refuse_incomplete_labels("paths", leaves, labels)


def hierarchical(
    completion: str, label: str, context: RewardContext, *, paths: tuple[str, ...], separator: str
) -> float:
    """Share of ancestors that answer and label have in common, in [0, 1]; 1 only if right."""
    answer = context.labels.answer_in(completion)
    if answer is None:
        return 0.0
    nodes = [_nodes(path, separator) for path in paths]
    leaves = [path[-1] for path in nodes]
    given, true = nodes[position(answer, leaves)], nodes[position(label, leaves)]
    pairs = zip(given, true, strict=False)  # they differ in depth
    shared = next((depth for depth, (a, b) in enumerate(pairs) if a != b), None)
    shared = min(len(given), len(true)) if shared is None else shared
    return 2 * shared / (len(given) + len(true))


def _nodes(path: str, separator: str) -> list[str]:
    return [name.strip().casefold() for name in path.split(separator)]


class OrdinalParams(Params):
    """Parameters of ``ordinal``: the scale of the labels.

    Example:
        OrdinalParams(order=("none", "mild", "severe"))
    """

    order: tuple[str, ...] = Field(min_length=2)
    """All labels from one end of the scale to the other."""
    max_gap: int = Field(default=2, ge=0)
    """Beyond this distance an answer earns nothing."""

    def refuse_unfit(self, labels: LabelSet, max_response_length: int | None) -> None:
        """Raise ConfigError unless every label stands on the scale once."""
        refuse_incomplete_labels("order", self.order, labels)


def ordinal(
    completion: str, label: str, context: RewardContext, *, order: tuple[str, ...], max_gap: int
) -> float:
    """1 / (gap + 1) up to ``max_gap`` places off; else 0."""
    answer = context.labels.answer_in(completion)
    if answer is None:
        return 0.0
    gap = abs(position(answer, order) - position(label, order))
    return 1 / (gap + 1) if gap <= max_gap else 0.0


class CostMatrixParams(Params):
    """Parameters of ``cost_matrix``: the cost of each confusion.

    Example:
        CostMatrixParams(order=("normal", "abnormal"), costs=((0, 1), (5, 0)))
    """

    order: tuple[str, ...] = Field(min_length=2)
    """All labels, in the order of rows and columns."""
    costs: tuple[tuple[float, ...], ...]
    """``costs[i][j]``: of answering label j where label i is true. 0 where i = j; only ratios
    matter."""

    @model_validator(mode="after")
    def _is_a_cost_matrix(self) -> Self:
        size = len(self.order)
        widths = [len(row) for row in self.costs]
        if widths != [size] * size:
            raise ValueError(
                f"costs has {len(widths)} rows of lengths {widths}; expected {size} rows of {size},"
                " one per label of order"
            )
        cells = [cost for row in self.costs for cost in row]
        if not all(0 <= cost < float("inf") for cost in cells):
            raise ValueError(f"costs must be finite and not negative; got {self.costs}")
        right = [row[i] for i, row in enumerate(self.costs)]
        if any(right):
            raise ValueError(f"a right answer costs nothing, but the diagonal is {right}; put 0s")
        if not any(cells):
            raise ValueError("all costs are 0, so every answer would be right; give a mistake cost")
        return self

    def refuse_unfit(self, labels: LabelSet, max_response_length: int | None) -> None:
        """Raise ConfigError unless every label has its row and column."""
        refuse_incomplete_labels("order", self.order, labels)


def cost_matrix(
    completion: str,
    label: str,
    context: RewardContext,
    *,
    order: tuple[str, ...],
    costs: tuple[tuple[float, ...], ...],
) -> float:
    """1 minus the cost of this confusion over the highest cost, in [0, 1]."""
    answer = context.labels.answer_in(completion)
    if answer is None:
        return 0.0
    cost = costs[position(label, order)][position(answer, order)]
    return 1 - cost / max(max(row) for row in costs)
