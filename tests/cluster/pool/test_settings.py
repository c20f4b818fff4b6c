from cluster.pool.settings import PoolSettings
from tests.cluster.config.test_node_layout import config_of


def test_a_run_of_a_fixed_size_starts_with_all_its_workers_and_goes_on_with_one():
    settings = PoolSettings.of(config_of(4, 1, 0, 0))
    assert (settings.num_workers, settings.start_with, settings.default_workers) == (4, 4, 4)
    assert (settings.min_workers, settings.max_workers) == (1, 4)


def test_an_elastic_run_starts_with_its_least_number_and_wants_as_many_as_may_be():
    settings = PoolSettings.of(config_of(4, 1, 0, 0, min_workers=2, max_workers=20))
    assert (settings.num_workers, settings.start_with, settings.default_workers) == (4, 2, 20)
    assert (settings.min_workers, settings.max_workers) == (2, 20)
