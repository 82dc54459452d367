"""Every way into the program from Python computes in float64, without ``configure``: each is run in a process that has set nothing."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from homodyne.errors import ConfigError
from homodyne.hardware.base import use_float64

ROOT = Path(__file__).parents[2]

DATA = """
import sys
import homodyne
assert "jax" not in sys.modules
import numpy as np
truth = {"D0": 1.5e4, "alpha": -0.5, "D_offset": 0.0}
sample = dict(q=0.0054, gap=2e6, dt=0.1, frames=40, mode="static")
data = homodyne.simulate(truth, [0.0, 45.0, 90.0], contrast=0.2, noise="speckle", pixels=500, photons=5.0, threads=1, seed=1, **sample)
import jax
assert not jax.config.jax_enable_x64
"""

ENTRIES = {
    "fit": """
from hydra import compose, initialize_config_dir
with initialize_config_dir(str(homodyne.conf_dir()), version_base="1.3"):
    job = homodyne.build(compose("config", ["mode=static", "hardware.threads=1", "hardware.compilation_cache=false",
        "data=simulated", "uncertainty.profile=[alpha]"]))
from homodyne.optimize import fit
result, rows, _ = fit(job, data, None)
assert rows(0, 0, 5).dtype == np.float64
assert result.covariance.dtype == result.profiles["alpha"].value.dtype == np.float64
""",
    "forecast": """
found = homodyne.forecast(truth, [0.0, 45.0], photons=5.0, pixels=500, **sample)
assert found.curves["J"].value.dtype == np.float64
""",
    "parts": """
mode = homodyne.option("mode", "static")
model = mode.bind(data.t, data.q, data.gap, data.phi)
assert np.asarray(model.parameters(model.coordinates_of(truth))).dtype == np.float64
from homodyne.problem import PixelSource, Problem
design = homodyne.option("per_angle_scaling", "individual").design(data, 1.0)
found = Problem(model, design, PixelSource(data, threads=1, tiles_at_once=1)).evaluate(model.coordinates_of(truth))
# float32 sums of 780 pairs agree to 1e-5 at best.
h = homodyne.two_time(truth, 0.0, data.t, q=data.q, mode="static")[0][np.triu_indices(40, 1)]
np.testing.assert_allclose(found.decay, (h - 1).mean(), rtol=1e-12)
""",
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_process_that_has_set_nothing_computes_in_float64(entry: str) -> None:
    done = subprocess.run([sys.executable, "-c", DATA + ENTRIES[entry]], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_float32_that_is_held_by_the_caller_is_refused() -> None:
    with jax.enable_x64(False), pytest.raises(ConfigError, match="outside of that block"):
        use_float64()
    use_float64()
