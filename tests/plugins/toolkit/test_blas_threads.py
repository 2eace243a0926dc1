"""Fits on small matrices use one thread of linear algebra, and what comes after them as many as before."""

import numpy as np
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from adaptdock.plugins.contracts import FitExamples
from adaptdock.plugins.toolkit import linear_fit
from adaptdock.plugins.toolkit.blas_threads import one_blas_thread
from adaptdock.plugins.toolkit.linear_fit import fit_classes


def threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_the_limit_ends_with_the_context():
    with threadpool_limits(2, "blas"):
        with one_blas_thread():
            assert threads() == {1}
        assert threads() == {2}


def test_a_head_is_fitted_with_one_thread(monkeypatch):
    seen = []
    scale = linear_fit._Scale.of.__func__

    def watched(cls, vectors):
        seen.append(threads())
        return scale(cls, vectors)

    monkeypatch.setattr(linear_fit._Scale, "of", classmethod(watched))
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 4))).float()
    with threadpool_limits(2, "blas"):
        fit_classes(FitExamples(vectors, torch.arange(20) % 2, torch.arange(20)), 2)
        assert threads() == {2}
    assert seen == [{1}]
