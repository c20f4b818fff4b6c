from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def one_blas_thread() -> Iterator[None]:
    """On a busy machine the threads of BLAS wait for each other: ten times slower at this size."""
    with threadpool_limits(1):
        yield
