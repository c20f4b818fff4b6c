import os

from tests.soak.flatness import Sample, growth, sample


def make_sample(driver_mb: float) -> Sample:
    return Sample(
        driver_mb=driver_mb, driver_descriptors=9, ray_mb=1, processes=5, shm_mb=2, shm_files=3
    )


def test_growth_is_from_the_second_quarter_to_the_last():
    samples = [make_sample(mb) for mb in (900, 900, 100, 104, 110, 120, 150, 154)]
    assert growth(samples, "driver_mb") == 50
    assert growth(samples, "shm_mb") == 0
    assert growth(samples[:3], "driver_mb") == 0


def test_a_sample_is_of_the_process_and_none_of_one_that_ended():
    one = sample(os.getpid())
    assert one is not None
    assert one.driver_mb > 1
    assert one.driver_descriptors > 2
    assert sample(2**22 + 1) is None
