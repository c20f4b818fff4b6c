import pytest

from calibrate.splitting.alignment import training_pairs
from tests.benchmarks.splitting import NOISE, SIZES, even_groups, mixed_groups, world


@pytest.mark.parametrize("groups", [mixed_groups, even_groups])
@pytest.mark.parametrize(("name", "entries"), [("ssv2", 80), ("finegym", 141)])
def test_classifiers_have_the_papers_sizes(name: str, entries: int, groups):
    sizes = SIZES[name]
    own = world(sizes, NOISE, 0, groups)
    assert own.weight.shape == (sizes.rows, 384)
    parts = [label for target in own.targets for label in own.grouping.groups[target]]
    assert (len(own.targets), len(parts)) == (sizes.targets, sizes.sub_classes)
    assert not set(parts) & set(own.names)
    dictionary = own.dictionary
    assert len(dictionary.labels) == entries
    assert len(training_pairs(dictionary).texts) == sizes.pairs
