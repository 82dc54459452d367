"""The quantile estimate is that of homodyne 2.23.3, on the same input."""

import json
from pathlib import Path

import numpy as np
import pytest

from homodyne.per_angle_scaling.quantile import estimate_all, quantile_estimate

from ..factory import measured

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "golden_physics.json").read_text())["auxiliary"]["quantile"]
BOUNDS = [0.0, 1.0], [0.5, 1.5]
T = 0.1 * np.arange(20)
LAG = np.abs(T[:, None] - T[None, :]).ravel()
DECAY = np.exp(-2 * LAG)
CASES = [(1 + 0.3 * DECAY, LAG), (0.4 + 0.9 * DECAY, LAG), ((1 + 0.3 * DECAY)[:99], LAG[:99])]


@pytest.mark.parametrize("case", range(3), ids=["plain", "clipped offset", "too few points"])
def test_golden_values_are_reproduced(case):
    expected = GOLDEN[case]["contrast"], GOLDEN[case]["offset"]
    assert quantile_estimate(*CASES[case], *BOUNDS) == pytest.approx(expected, rel=1e-12)


def test_every_map_of_a_dataset_is_estimated_from_its_own_pairs():
    """As quantile_estimate on the pairs i < j, with the masked ones left out."""
    i, j = np.indices((70, 70))
    maps = np.stack([1 + c * np.exp(-0.1 * np.abs(i - j)) for c in (0.1, 0.3)])
    maps[1, 5] = maps[1, :, 5] = np.nan
    contrast, offset = estimate_all(measured(maps, [0.0, 90.0]), *BOUNDS)
    for k in range(2):
        mask = (i < j) & np.isfinite(maps[k])
        np.testing.assert_allclose((contrast[k], offset[k]), quantile_estimate(maps[k][mask], (j - i)[mask], *BOUNDS), rtol=1e-12)
    assert offset[0] == pytest.approx(1.0, abs=0.001)
