import pytest

from cluster.demo.evaluate import naming_accuracy
from cluster.demo.scenes import SPLITS
from cluster.demo.tiny_model import BASE_DIR


@pytest.mark.slow
def test_the_shipped_model_names_events_on_looks_of_every_split():
    shares = naming_accuracy(BASE_DIR, clips=4)
    assert list(shares) == list(SPLITS)
    assert all(share["events"] > 0.9 for share in shares.values())
    assert all(share["clips"] <= share["events"] for share in shares.values())
