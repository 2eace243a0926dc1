"""Threads of the linear algebra library (BLAS) that numpy and scikit-learn use."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit linear algebra to one thread while the context is open; also a decorator.

    The products of a fit are so small that several threads of BLAS wait for each other longer than they compute: on two
    cores 4,000 vectors of 9 classes took 37 CPU seconds with two threads and 6 with one.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield
