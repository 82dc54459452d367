"""The model of a two-time map under diffusion and laminar shear, written once.

    c2(phi, t_i, t_j) = offset(phi) + contrast(phi) h,      h = |g1|^2 = exp(-(x0_j - x0_i)) F(x1_j - x1_i),      t_i < t_j
    x0 = q^2 A(t),       A = integral of J(t) = D0 t^alpha + D_offset                                   (Angstrom^2)
    x1 = kappa B(t),     B = integral of gamma_dot(t) = gamma_dot_t0 t^beta + gamma_dot_t_offset        (strain)

x0 and x1 are the two *states* of a frame; h of a pair of frames depends on their differences only. Everything else (maps, sums,
simulations, figures) evaluates these functions on other index arrays. Units: q 1/Angstrom, gap Angstrom, t s, phi degrees.
D0 is the amplitude of J, which is twice the Stokes-Einstein coefficient at equilibrium. Source: docs/theory.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

TRANSPORT = ("D0", "alpha", "D_offset")
SHEAR = ("gamma_dot_t0", "beta", "gamma_dot_t_offset")
PARAMETERS = {"static": TRANSPORT, "laminar_flow": (*TRANSPORT, *SHEAR, "phi0")}


@dataclass(frozen=True)
class ShearKernel:
    """F(x1) = sinc(x1)^power with kappa = phase_factor q L cos(phi0 - phi), sinc(x) = sin(x)/x."""

    phase_factor: float
    power: int


SHEAR_KERNELS = {
    # Average of exp(i q v t) over a linear velocity profile across the gap (docs/theory.md, section 2).
    "gap_average": ShearKernel(phase_factor=0.5, power=2),
    # What homodyne 2.x computes: sinc(q L cos(phi0 - phi) Gamma / 2 pi)^4; kept to compare with existing fits.
    "homodyne_v2": ShearKernel(phase_factor=0.5 / np.pi, power=4),
}


def power_law(amplitude: ArrayLike, exponent: ArrayLike, offset: ArrayLike, t: ArrayLike) -> jax.Array:
    """Rate amplitude t^exponent + offset at times t (n,).

    Two named rules make it defined everywhere. *Arrest*: where the law is negative the rate is zero (nothing moves; fits never
    enter that region). *Half frame*: a frame at t = 0 is evaluated at half a frame, where a negative exponent is finite.
    """
    t = jnp.asarray(t)
    moment = jnp.where(t == 0, 0.5 * (t[1] - t[0]) if t.shape[0] > 1 else 1.0, t)
    return jnp.maximum(amplitude * moment**exponent + offset, 0.0)


def cumulative(rate: ArrayLike, t: ArrayLike) -> jax.Array:
    """Integral of a rate (n,) from t[0] to each t (n,) by the trapezoidal rule; 0 at t[0]. Exact for constant rates."""
    rate, t = jnp.asarray(rate), jnp.asarray(t)
    area = 0.5 * (rate[1:] + rate[:-1]) * jnp.diff(t)
    return jnp.concatenate([jnp.zeros_like(area[:1]), jnp.cumsum(area)])


def phase_per_strain(phi: ArrayLike, phi0: ArrayLike, phase: float) -> jax.Array:
    """kappa: shear phase per unit of strain at azimuth phi, flow direction phi0 (degrees); phase = phase_factor q L."""
    return phase * jnp.cos(jnp.deg2rad(jnp.asarray(phi0) - jnp.asarray(phi)))


@jax.custom_jvp
def sinc(x: ArrayLike) -> jax.Array:
    """sin(x)/x, by its series below 0.1, where the quotient loses the digits that derivatives need."""
    return _sinc_and_slope(x)[0]


@sinc.defjvp
def _sinc_jvp(primals, tangents):
    value, slope = _sinc_and_slope(primals[0])
    return value, slope * tangents[0]


@partial(jax.jit, inline=True)
def _sinc_and_slope(x: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """sinc and its derivative (cos x - sinc x)/x with one division for both: this is the inner loop of every fit."""
    x = jnp.asarray(x)
    small = jnp.abs(x) < 0.1
    square = jnp.where(small, x * x, 0.0)
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72)))
    slope_series = -x / 3 * (1 - square / 10 * (1 - square / 28 * (1 - square / 54)))
    inverse = 1 / jnp.where(small, 1.0, x)
    sine, cosine = sine_and_cosine(x)
    value = jnp.where(small, series, sine * inverse)
    return value, jnp.where(small, slope_series, (cosine - value) * inverse)


# pi/2 in three parts: k times the first is exact for k < 2^29, and the last is what float64 leaves out.
HALF_PI = (float(np.float32(np.pi / 2)), np.pi / 2 - float(np.float32(np.pi / 2)), 6.123233995736766e-17)


@partial(jax.jit, inline=True)
def sine_and_cosine(x: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """sin x and cos x for |x| < 1e8, to 3e-16, by arithmetic alone.

    Those of XLA are calls on a CPU, 9 ns each where this takes 2.5 for both, and they were most of a fit.
    """
    x = jnp.asarray(x)
    quarter = jnp.round(x * (2 / np.pi))
    r = x
    for part in HALF_PI:
        r = r - quarter * part
    square = r * r
    sine, cosine = r * _alternating(square, 1, 8), _alternating(square, 0, 9)
    turn = quarter - 4 * jnp.floor(0.25 * quarter)
    odd = (turn == 1) | (turn == 3)
    sine, cosine = jnp.where(odd, cosine, sine), jnp.where(odd, sine, cosine)
    return jnp.where(turn >= 2, -sine, sine), jnp.where((turn == 1) | (turn == 2), -cosine, cosine)


def _alternating(square: jax.Array, first: int, terms: int) -> jax.Array:
    """Taylor series sum (-square)^k / (2k + first)!."""
    total = jnp.ones_like(square)
    for k in range(terms - 1, 0, -1):
        total = 1 - square * (1 / ((2 * k + first) * (2 * k + first - 1))) * total
    return total


def decay(difference: tuple[jax.Array, ...], power: int) -> jax.Array:
    """h of pairs of frames from the differences of their states: (x0_j - x0_i,) or (x0_j - x0_i, x1_j - x1_i), t_i <= t_j."""
    if len(difference) == 1:
        return jnp.exp(-difference[0])
    return jnp.exp(-difference[0]) * sinc(difference[1]) ** power


def field_correlation(difference: tuple[jax.Array, ...], power: int) -> jax.Array:
    """g1 with its sign, h = g1^2; the phase of each frame that is left out cancels in every intensity."""
    if len(difference) == 1:
        return jnp.exp(-0.5 * difference[0])
    return jnp.exp(-0.5 * difference[0]) * sinc(difference[1]) ** (power // 2)


def two_time(
    parameters: Mapping[str, float],
    phi: ArrayLike,
    t: ArrayLike,
    *,
    q: float,
    gap: float | None = None,
    mode: str = "laminar_flow",
    shear_kernel: str = "gap_average",
    contrast: ArrayLike = 1.0,
    offset: ArrayLike = 1.0,
) -> np.ndarray:
    """Two-time maps c2 from parameters, without data or configuration.

    Args:
        parameters: by name: D0 (Angstrom^2/s), alpha, D_offset (Angstrom^2/s) and, in laminar flow, gamma_dot_t0 (1/s), beta,
            gamma_dot_t_offset (1/s), phi0 (degrees).
        phi: (n_phi,) or scalar, degrees.
        t: (n,) frame times, s, increasing, not negative. A frame at t = 0 uses the half-frame rule of ``power_law``.
        q: wavevector, 1/Angstrom.
        gap: shear gap, Angstrom; needed in laminar flow.
        mode: ``laminar_flow`` or ``static``.
        shear_kernel: ``gap_average`` or ``homodyne_v2``.
        contrast, offset: scalar or (n_phi,).

    Returns:
        (n_phi, n, n) float64, symmetric; contrast + offset on the diagonal.

    Raises:
        ValueError: a name is missing or unknown, or an argument is out of range.
    """
    if mode not in PARAMETERS:
        raise ValueError(f"mode is {mode!r}; accepted: {', '.join(PARAMETERS)}")
    if shear_kernel not in SHEAR_KERNELS:
        raise ValueError(f"shear_kernel is {shear_kernel!r}; accepted: {', '.join(SHEAR_KERNELS)}")
    if set(parameters) != set(PARAMETERS[mode]):
        raise ValueError(f"parameters are {sorted(parameters)}; mode {mode} needs exactly {sorted(PARAMETERS[mode])}")
    times = np.asarray(t, dtype=np.float64)
    angles = np.atleast_1d(np.asarray(phi, dtype=np.float64))
    if times.ndim != 1 or len(times) < 2 or not np.all(np.isfinite(times)) or times[0] < 0 or np.any(np.diff(times) <= 0):
        raise ValueError("t must be a 1-D array of at least two increasing, non-negative, finite times in seconds")
    if not (np.all(np.isfinite(angles)) and all(np.isfinite(value) for value in parameters.values())):
        raise ValueError(f"phi and parameters must be finite, found phi={phi}, parameters={dict(parameters)}")
    if mode == "laminar_flow" and gap is None:
        raise ValueError("gap is missing; laminar flow needs the shear gap in Angstrom (200 um = 2e6)")
    if not q > 0 or (gap is not None and not gap > 0):
        raise ValueError(f"q and gap must be positive, found q={q}, gap={gap}")
    with jax.enable_x64(True):
        kernel = SHEAR_KERNELS[shear_kernel]
        x0 = q**2 * cumulative(_rate(TRANSPORT, parameters, times), times)
        states = [jnp.broadcast_to(x0, (len(angles), len(times)))]
        if mode == "laminar_flow":
            strain = cumulative(_rate(SHEAR, parameters, times), times)
            kappa = phase_per_strain(angles, parameters["phi0"], kernel.phase_factor * q * (gap or 0.0))
            states.append(kappa[:, None] * strain)
        # |x_j - x_i| puts every pair in time order: x0 increases and h is even in x1.
        difference = tuple(jnp.abs(x[:, None, :] - x[:, :, None]) for x in states)
        h = np.asarray(decay(difference, kernel.power))
    scale = np.broadcast_to(np.asarray(contrast, dtype=np.float64), angles.shape)[:, None, None]
    base = np.broadcast_to(np.asarray(offset, dtype=np.float64), angles.shape)[:, None, None]
    return base + scale * h


def _rate(names: tuple[str, str, str], parameters: Mapping[str, float], t: np.ndarray) -> jax.Array:
    amplitude, exponent, offset = (parameters[name] for name in names)
    return power_law(amplitude, exponent, offset, t)
