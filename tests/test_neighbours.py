"""Near-duplicates against all pairs, one by one."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from tfsoftmax import neighbours
from tfsoftmax.neighbours import near


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("elements", [1, 3, 50])
def test_all_pairs_are_found_and_no_other(dtype, elements):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1500, elements)).astype(dtype)  # three blocks
    for row in range(60):  # as near as 0 to 9 levels
        x[1400 + row] = np.clip(x[row].astype(int) + rng.integers(-(row % 10), row % 10 + 1, elements), 0, 255)
    apart = cdist(x.astype(float), x.astype(float)) / elements**0.5
    limit = 0.0 if elements == 1 else 4.0
    expected = np.argwhere(np.triu(apart <= limit, 1))
    found = near(x, limit)
    assert found.whole
    assert len(expected) > 5
    assert np.array_equal(found.rows[np.lexsort(found.rows.T[::-1])], expected)
    np.testing.assert_allclose(found.distance, apart[found.rows[:, 0], found.rows[:, 1]])
    assert (np.diff(found.distance) >= 0).all()


def test_rows_that_are_all_the_same_end_the_search(monkeypatch):
    monkeypatch.setattr(neighbours, "PAIRS", 50)
    found = near(np.ones((2000, 4), np.float32), 0.0)
    assert (len(found.rows), found.whole) == (50, False)
