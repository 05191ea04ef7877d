"""solve(): the optimum that scikit-learn finds, for several penalties at once, and one clear answer to hostile rows."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression

import tfsoftmax
from tfsoftmax.fitting import passes

L2 = [5e-6, 1e-3, 0.5]


def standardized(load):
    x, y = load(return_X_y=True)
    return ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32), y


def probabilities(solution, x):
    logits = x.astype(np.float64) @ solution.kernel.astype(np.float64) + solution.bias
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("load", "many"), [(load_wine, False), (load_breast_cancer, False), (load_wine, True)])
def test_several_penalties_come_to_the_optimum_of_scikit_learn(load, many, monkeypatch):
    if many:  # float32 comes first
        monkeypatch.setattr(passes, "_SMALL", 0)
    x, y = standardized(load)
    classes, weight = int(y.max()) + 1, np.linspace(0.5, 2, len(y)).astype(np.float32)
    model = tfsoftmax.SoftmaxRegression(classes)
    found = tfsoftmax.solve(model, x, y, sample_weight=weight, l2=L2, tol=1e-8)
    for l2, one in zip(L2, found, strict=True):
        factor = 2 if classes > 2 else 1
        best = LogisticRegression(C=1 / (factor * len(y) * l2), solver="newton-cg", tol=1e-8, max_iter=10_000)
        best.fit(x.astype(np.float64), y, sample_weight=weight.astype(np.float64))
        wanted = best.predict_proba(x.astype(np.float64))
        squares = (best.coef_**2).sum() / (1 if classes > 2 else 2)  # of two classes it keeps the difference
        lowest = (weight * -np.log(wanted[np.arange(len(y)), y])).mean() + l2 * squares
        assert one.converged, one.why
        assert abs(one.objective - lowest) <= 1e-6 * lowest
        assert one.gap <= 1e-8
        assert np.abs(probabilities(one, x) - wanted).max() < 1e-4


def test_the_model_has_the_weights_and_fit_s_loss_of_data_with_weights():
    x, y = standardized(load_wine)
    data = tfsoftmax.Data(x, y, val=30, test=30, class_weight={"0": 2.0}, batch_size=200)
    model = tfsoftmax.SoftmaxRegression(3, l2=0.01)
    one = tfsoftmax.solve(model, data.train)
    assert one.converged
    assert one.l2 == pytest.approx(0.01)
    assert one.gap <= 1e-4
    np.testing.assert_array_equal(model.layers[1].kernel.numpy(), one.kernel)
    loss, _ = model.evaluate(data.train, verbose=0)
    assert loss == pytest.approx(one.objective, rel=1e-5)
    again = tfsoftmax.SoftmaxRegression(3, l2=0.01)
    np.testing.assert_array_equal(tfsoftmax.solve(again, data.train).kernel, one.kernel)


def test_two_passes_over_many_rows_have_the_same_sums():
    """Without XLA the last bits of so many rows in float64 depend on how threads come."""
    rng = np.random.default_rng(0)
    data = tfsoftmax.Data(rng.integers(0, 256, (60_010, 784), np.uint8), rng.integers(0, 10, 60_010), val=5, test=5)
    over, kernel = passes.Passes(data.train.rows, 10), rng.normal(0, 0.01, (784, 10))
    sums = {over.run(kernel, np.zeros(10), "float64").kernel.tobytes() for _ in range(4)}
    assert len(sums) == 1


def test_hostile_rows_have_an_answer():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 8))
    x[:, 1], x[:, 2] = 3.0, x[:, 0]
    x[:, 3:] *= 10.0 ** np.array([-8, -4, 0, 4, 8])
    y = np.append(rng.integers(0, 2, 59), 3)  # class 2 is never, class 3 once
    model = tfsoftmax.SoftmaxRegression(4)
    found = tfsoftmax.solve(model, x.astype(np.float32), y, l2=[0.0, 1e-4, 1e6], tol=1e-4)
    for one in found:
        assert np.isfinite(one.kernel).all()
        assert np.isfinite(one.bias).all()
        assert np.isfinite(one.objective)
        assert one.converged or one.why
        assert probabilities(one, x)[:, 2].max() < 1e-20
    assert found[2].converged
    share = np.bincount(y) / 60
    assert found[1].objective < found[2].objective < -(share[share > 0] * np.log(share[share > 0])).sum()


def test_separable_rows_without_penalty_are_recognized():
    x, y = standardized(load_wine)
    one = tfsoftmax.solve(tfsoftmax.SoftmaxRegression(3), x, y)
    assert not one.converged
    assert one.gap is None
    assert "separable" in one.why
    assert (probabilities(one, x).argmax(axis=1) == y).all()


@pytest.mark.parametrize("small", [2**20, 0])  # float64 alone, and float32 before it
def test_tiny_penalties_of_separable_rows_of_any_scale_converge(small, monkeypatch):
    monkeypatch.setattr(passes, "_SMALL", small)
    x, y = (1e6 * np.eye(6)).astype(np.float32), np.arange(6)  # one row a class
    found = tfsoftmax.solve(tfsoftmax.SoftmaxRegression(6), x, y, l2=[1e-14, 1e6])
    for l2, one in zip((1e-14, 1e6), found, strict=True):
        assert one.converged, one.why
        assert one.passes < 50
        assert one.gap <= min(1e-4, 1.001 * one.objective)  # no loss is below 0
        assert one.objective == pytest.approx(one.loss + l2 * (one.kernel.astype(np.float64) ** 2).sum(), rel=1e-6)


def test_few_passes_leave_a_gap_that_is_told():
    x, y = standardized(load_wine)
    one = tfsoftmax.solve(tfsoftmax.SoftmaxRegression(3), x, y, l2=1e-3, passes=5)
    assert (one.passes, one.converged) == (5, False)
    assert one.gap > 1e-4
    assert "after all 5 passes" in one.why


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"l2": -1}, "l2 must be"),
        ({"tol": 0}, "tol must be"),
        ({"passes": 1}, "passes must be"),
        ({"y": None}, "solve takes rows in memory"),
        ({"l2": []}, "at least one number"),
    ],
)
def test_bad_arguments_are_named(changed, text):
    x, y = standardized(load_wine)
    with pytest.raises(tfsoftmax.InputError, match=text):
        tfsoftmax.solve(tfsoftmax.SoftmaxRegression(3), **{"x": x, "y": y, **changed})


def test_a_model_with_another_loss_is_refused():
    x, y = standardized(load_wine)
    with pytest.raises(tfsoftmax.InputError, match="label smoothing"):
        tfsoftmax.solve(tfsoftmax.SoftmaxRegression(3, label_smoothing=0.1), x, y)
