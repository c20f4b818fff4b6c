from pathlib import Path

import pytest

from calibrate.service.config import ServiceConfig
from calibrate.service.jobs.shares import fit_cores, fit_environment, serving_cores
from wire.errors import ConfigError


def config(fit_cpus: int | None) -> ServiceConfig:
    return ServiceConfig(state=Path("state"), fit_cpus=fit_cpus)


@pytest.mark.parametrize(
    ("cores", "fit_cpus", "fits", "serving"),
    [
        ([0, 1, 2, 3], 1, (3,), (0, 1, 2)),
        ([7, 5, 3, 1], 3, (3, 5, 7), (1,)),
        ([0, 1, 2, 3], None, (2, 3), (0, 1, 2, 3)),
        ([0, 1], 2, (0, 1), (0, 1)),
        ([4], None, (4,), (4,)),
    ],
)
def test_fits_have_the_last_cores_and_answers_the_others(
    cores: list[int], fit_cpus: int | None, fits: tuple[int, ...], serving: tuple[int, ...]
):
    assert fit_cores(cores, config(fit_cpus)) == fits
    assert serving_cores(cores, config(fit_cpus)) == serving


def test_more_cores_than_there_are_are_refused():
    with pytest.raises(ConfigError, match="fit_cpus=3: this process may use 2 cores"):
        fit_cores([0, 1], config(3))


def test_a_fit_sees_its_gpus_alone_and_none_where_it_has_none():
    assert fit_environment([4, 5], [2, 3])["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert fit_environment([4, 5], [])["CUDA_VISIBLE_DEVICES"] == ""
    assert fit_environment([4, 5], [])["OMP_NUM_THREADS"] == "2"
