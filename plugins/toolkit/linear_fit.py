"""Linear heads fitted on frozen vectors: logistic and ridge regression of scikit-learn, strength by cross-validation.

Vectors are centred and divided by their mean length before the fit, so that one grid of strengths suits every backbone;
the returned weights read the vectors as they are. A stronger regularisation wins unless a weaker one has the lower
held-out loss.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adaptdock.plugins.contracts import FitExamples
from adaptdock.plugins.toolkit.blas_threads import one_blas_thread

if TYPE_CHECKING:
    import numpy as np

STRENGTHS = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
"""Inverse regularisation strengths (C) that are compared, the strongest regularisation first."""
DEFAULT = 10.0
"""The strength where no class has two groups, so that nothing can be held out."""
FOLDS = 5
COMPARED = 2_000
"""Most vectors on which strengths are compared; more change the choice little and cost much."""
FITTED = 20_000
"""Most vectors of the final fit."""
ITERATIONS = 500
TOLERANCE = 1e-4
"""Largest entry of the gradient at which a fit ends, as in scikit-learn."""
ABSENT = -10.0
"""Bias of a class that no vector has, below the mean of the others."""


@dataclass(frozen=True)
class _Scale:
    """The centre of vectors (W), and the mean of their distances from it."""

    centre: "np.ndarray[Any, Any]"
    length: float

    @classmethod
    def of(cls, vectors: "np.ndarray[Any, Any]") -> "_Scale":
        import numpy as np

        centre = vectors.mean(0)
        return cls(centre, max(1e-12, float(np.linalg.norm(vectors - centre, axis=1).mean())))

    def applied(self, vectors: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        scaled: np.ndarray[Any, Any] = (vectors - self.centre) / self.length
        return scaled

    def undone(self, weight: "np.ndarray[Any, Any]", bias: "np.ndarray[Any, Any]") -> dict[str, Tensor]:
        """Return weight (classes, W) and bias (classes) for vectors that are not scaled."""
        weight = weight / self.length
        bias = bias - weight @ self.centre
        return {"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()}


@one_blas_thread()
def fit_classes(examples: FitExamples, classes: int, strength: float | None = None) -> dict[str, Tensor] | None:
    """Return weight (classes, W) and bias (classes) of a multinomial logistic regression.

    Labels are numbers below ``classes``. None for fewer than two classes among them.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    x, y, groups = _sampled(examples)
    if len(np.unique(y)) < 2:
        return None
    scale = _Scale.of(x)
    by_class = None if examples.weights is None else dict(enumerate(examples.weights.tolist()))

    def fitted(c: float, rows: Any) -> Any:
        return LogisticRegression(C=c, max_iter=ITERATIONS, class_weight=by_class).fit(scale.applied(x[rows]), y[rows])

    def loss(model: Any, rows: Any) -> float:
        known = rows[np.isin(y[rows], model.classes_)]
        if not len(known):
            return 0.0
        logarithms = model.predict_log_proba(scale.applied(x[known]))
        return -float(logarithms[np.arange(len(known)), np.searchsorted(model.classes_, y[known])].mean())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels with fewer groups than folds, and of the last iteration
        inverse = _strength(fitted, loss, y, groups, examples.seed) if strength is None else strength
        model = fitted(inverse, slice(None))
    weight, bias = np.zeros((classes, x.shape[1])), np.zeros(classes)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(coefficients) == 1:  # of two classes scikit-learn keeps the difference
        coefficients, intercepts = np.vstack([-coefficients, coefficients]) / 2, np.append(-intercepts, intercepts) / 2
    bias[:] = intercepts.mean() + ABSENT
    weight[model.classes_], bias[model.classes_] = coefficients, intercepts
    return scale.undone(weight, bias)


@one_blas_thread()
def fit_sets(examples: FitExamples, strength: float | None = None) -> dict[str, Tensor]:
    """Return weight (classes, W) and bias (classes) of a logistic regression for each class, of one strength.

    Labels (N, classes) are 1 where a vector has the class; ``weights`` (classes) multiply the loss of those. All
    regressions are fitted at once, so many classes cost little more than one.
    """
    import numpy as np

    x, labels, groups = _sampled(examples)
    y = labels.reshape(len(x), -1) > 0
    positive = np.ones(y.shape[1]) if examples.weights is None else examples.weights.double().numpy()
    scale = _Scale.of(x)
    varied = y.any(0) & ~y.all(0)

    def fitted(c: float, rows: Any) -> Any:
        return _regressions(scale.applied(x[rows]), y[rows][:, varied], c, positive[varied])

    def loss(model: Any, rows: Any) -> float:
        weight, bias = model
        return float(_losses(scale.applied(x[rows]) @ weight.T + bias, y[rows][:, varied]).sum(1).mean())

    weight, bias = np.zeros((y.shape[1], x.shape[1])), np.where(y.all(0), -ABSENT, ABSENT)
    if varied.any():
        kinds = np.unique(y, axis=0, return_inverse=True)[1].ravel()
        inverse = _strength(fitted, loss, kinds, groups, examples.seed) if strength is None else strength
        weight[varied], bias[varied] = fitted(inverse, slice(None))
    return scale.undone(weight, bias)


def _regressions(x: Any, y: Any, c: float, positive: Any) -> tuple[Any, Any]:
    """Return weight (classes, W) and bias (classes) of least loss for vectors (N, W) and labels (N, classes).

    The objective of each class is that of scikit-learn: the mean of its weighted losses, and half of the squared norm
    of its weight over ``c`` times N; the bias is not regularised.
    """
    import numpy as np
    from scipy.optimize import minimize

    counted = np.where(y, positive, 1.0) / len(y)
    shape, decay = (y.shape[1], x.shape[1] + 1), 1 / (c * len(y))

    def objective(flat: Any) -> tuple[float, Any]:
        weight, bias = flat.reshape(shape)[:, :-1], flat.reshape(shape)[:, -1]
        scores = x @ weight.T + bias
        slopes = counted * (1 / (1 + np.exp(-scores.clip(-500, 500))) - y)
        gradient = np.concatenate([slopes.T @ x + decay * weight, slopes.sum(0)[:, None]], axis=1)
        total = float((counted * _losses(scores, y)).sum()) + decay * float((weight**2).sum()) / 2
        return total, gradient.ravel()

    options = {"maxiter": ITERATIONS, "maxls": 50, "gtol": TOLERANCE, "ftol": 64 * np.finfo(float).eps}
    best = minimize(objective, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B", options=options).x
    return best.reshape(shape)[:, :-1], best.reshape(shape)[:, -1]


def _losses(scores: Any, y: Any) -> Any:
    """Return the cross entropy of each score (N, classes): ``log(1 + exp(-score))`` where the label is set."""
    import numpy as np

    return np.logaddexp(0, np.where(y, -scores, scores))


@one_blas_thread()
def fit_numbers(examples: FitExamples, strength: float | None = None) -> dict[str, Tensor] | None:
    """Return weight (1, W) and bias (1) of a ridge regression of the labels (N).

    None where there are fewer than two groups.
    """
    import numpy as np
    from sklearn.linear_model import Ridge, RidgeCV
    from sklearn.model_selection import GroupKFold

    x, y, groups = _sampled(examples)
    count = min(FOLDS, len(np.unique(groups)))
    if count < 2:
        return None
    scale = _Scale.of(x)
    model: Any
    if strength is None:
        folds = list(GroupKFold(count, shuffle=True, random_state=examples.seed).split(x, y, groups))
        model = RidgeCV(alphas=[1 / value for value in STRENGTHS], cv=folds)
    else:
        model = Ridge(alpha=1 / strength)
    model.fit(scale.applied(x), y)
    return scale.undone(model.coef_[None], np.atleast_1d(model.intercept_))


def _strength(
    fitted: Callable[[float, Any], Any], loss: Callable[[Any, Any], float], y: Any, groups: Any, seed: int
) -> float:
    """Return the strength of least held-out loss; the search ends where a weaker regularisation loses."""
    folds = list(_folds(y, groups, seed))
    if not folds:
        return DEFAULT
    best, least = STRENGTHS[0], float("inf")
    for c in STRENGTHS:
        held_out_loss = sum(loss(fitted(c, train), held) * len(held) for train, held in folds)
        if held_out_loss >= least:
            break
        best, least = c, held_out_loss
    return best


def _folds(y: Any, groups: Any, seed: int) -> Iterator[tuple[Any, Any]]:
    """Yield the numbers of the vectors to fit on and of those held out, of at most :data:`COMPARED` vectors."""
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    order = np.random.default_rng(seed).permutation(np.unique(groups))
    rank = np.empty(int(groups.max()) + 1, dtype=int)
    rank[order] = np.arange(len(order))
    rows = np.argsort(rank[groups], kind="stable")[:COMPARED]
    y, groups = y[rows], groups[rows]
    largest = max(len(np.unique(groups[y == label])) for label in np.unique(y))
    count = min(FOLDS, largest, len(np.unique(groups)))
    if count < 2:
        return
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    for train, held in splitter.split(y, y, groups):
        if len(held) and len(np.unique(y[train])) > 1:
            yield rows[train], rows[held]


def _sampled(examples: FitExamples) -> tuple[Any, Any, Any]:
    """Return at most :data:`FITTED` vectors, drawn at random, as arrays: vectors (float64), labels and groups."""
    import numpy as np

    places: Any = slice(None)
    if len(examples.vectors) > FITTED:
        generator = torch.Generator().manual_seed(examples.seed)
        places = torch.randperm(len(examples.vectors), generator=generator)[:FITTED].sort().values
    vectors, labels = examples.vectors[places].double(), examples.labels[places]
    return vectors.numpy(), labels.numpy(), np.asarray(examples.groups)[places]
