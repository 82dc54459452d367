"""Static diffusion beyond the contract."""

import numpy as np

from ..factory import GAP, STATIC, Q, option, times


def test_static_states_are_the_integral_of_the_transport_coefficient():
    """Exact for constant J: q^2 J (t - t_0), the same at every angle."""
    model = option("mode", "static", parameters={"alpha": {"fixed": 0.0}, "D_offset": {"fixed": 0.0}}).bind(times(20), Q, GAP, np.zeros(1))
    u = model.coordinates_of(STATIC | {"D0": 5000.0})
    for phi in (0.0, 90.0):
        np.testing.assert_allclose(model.states(u, phi), Q**2 * 5000.0 * (times(20) - times(20)[0])[None], rtol=1e-12, atol=1e-15)


def test_static_has_three_parameters_and_no_direction():
    model = option("mode", "static").bind(times(20), Q, GAP, np.zeros(1))
    assert model.names == ("D0", "alpha", "D_offset")
    assert len(model.coordinates) == 3
    assert set(model.log_rates(model.coordinates_of(STATIC))) == {"J"}
