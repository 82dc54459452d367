"""Diffusion and laminar shear as a Model: the states of a frame are q^2 A(t) and kappa B(t) (see physics.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from ..hardware.base import use_float64
from ..pairsums import Depends, Pair
from ..physics import SHEAR, SHEAR_KERNELS, TRANSPORT, cumulative, decay, field_correlation, phase_per_strain
from .base import Model, ParameterSettings
from .rate_law import RateLaw

UNITS = {
    "D0": "Angstrom^2/s",
    "alpha": "1",
    "D_offset": "Angstrom^2/s",
    "gamma_dot_t0": "1/s",
    "beta": "1",
    "gamma_dot_t_offset": "1/s",
    "phi0": "degrees",
}


PARALLEL = 0.02
"""Sine of the angle between two directions below which they are one."""
SAMPLED_PHASE, FASTEST_PHASE = 6.0, 60.0
"""rad per frame along the flow: ends of the ordinary search, and of the one where frames no longer sample the flow."""


@dataclass(frozen=True)
class Decay:
    """h = exp(-dx0), times sinc(dx1)^power when there is shear (power > 0)."""

    power: int

    @property
    def exponential(self) -> tuple[bool, ...]:
        return (True, False) if self.power else (True,)

    def __call__(self, difference: tuple[jax.Array, ...]) -> jax.Array:
        return decay(difference, self.power)

    def field(self, difference: tuple[jax.Array, ...]) -> jax.Array:
        return field_correlation(difference, self.power)


_DATA = ("t", "phi", "q", "transport", "shear", "phase", "nominal", "fixed_phi0", "phi0_bounds", "fastest")


@partial(register_dataclass, data_fields=_DATA, meta_fields=("power",))
@dataclass(frozen=True, eq=False)
class FlowModel:
    """A Model (mode/base.py) with a transport law and, in laminar flow, a shear law and a flow direction.

    Attributes:
        t: (n,) s. phi: (P,) measured angles, degrees. nominal: direction that phi0 is wrapped around, degrees.
        phase: phase_factor q L, the shear phase per strain along the flow. fixed_phi0: value or None. phi0_bounds: degrees.
        fastest: largest shear phase per frame along the flow from which a search starts, rad.
    """

    t: np.ndarray
    phi: np.ndarray
    q: float
    transport: RateLaw
    shear: RateLaw | None
    power: int
    phase: float
    nominal: float
    fixed_phi0: float | None
    phi0_bounds: tuple[float, float]
    fastest: float = SAMPLED_PHASE

    @classmethod
    def bind(cls, parameters: Mapping[str, ParameterSettings], t, q, gap, phi, shear_kernel: str | None) -> "FlowModel":
        """The model of the given parameter settings; ``shear_kernel`` None means no shear."""
        use_float64()

        def law(names: tuple[str, str, str], scale: float, low: float, high: float) -> RateLaw:
            unit = UNITS[names[0]]
            chosen = [parameters[name] for name in names]
            fixed, bounds = tuple(s.fixed for s in chosen), tuple(s.limits for s in chosen)
            return RateLaw.choose(names=names, t=t, scale=scale, low=low, high=high, fixed=fixed, bounds=bounds, unit=unit)

        transport = law(TRANSPORT, q**2, 1e-4, 100.0)
        if shear_kernel is None:
            return cls(t, phi, q, transport, None, 0, 0.0, 0.0, 0.0, (-np.inf, np.inf))
        kernel = SHEAR_KERNELS[shear_kernel]
        phase = kernel.phase_factor * q * gap
        direction = parameters["phi0"]
        nominal = direction.start if direction.start is not None else 0.0
        return cls(t, phi, q, transport, law(SHEAR, phase, 1e-4, 300.0), kernel.power, phase, nominal, direction.fixed, direction.limits)

    @property
    def pair(self) -> Pair:
        return Decay(self.power)

    @property
    def depends(self) -> Depends:
        first = len(self.transport.coordinates)
        transport = tuple(range(first))
        return (transport,) if self.shear is None else (transport, tuple(range(first, len(self.coordinates))))

    @property
    def names(self) -> tuple[str, ...]:
        return TRANSPORT if self.shear is None else (*TRANSPORT, *SHEAR, "phi0")

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(UNITS[name] for name in self.names)

    @property
    def laws(self) -> dict[str, RateLaw]:
        """The rate laws by curve name."""
        return {"J": self.transport} if self.shear is None else {"J": self.transport, "gamma_dot": self.shear}

    @property
    def coordinates(self) -> tuple[str, ...]:
        names = [name for law in self.laws.values() for name in law.coordinates]
        return (*names, "phi0") if self.has_phi0 else tuple(names)

    @property
    def has_phi0(self) -> bool:
        """True when the flow direction is fitted; it is then the last coordinate."""
        return self.shear is not None and self.fixed_phi0 is None

    @property
    def lower(self) -> np.ndarray:
        return np.concatenate([law.box[0] for law in self.laws.values()] + [[self.phi0_bounds[0]]] * self.has_phi0)

    @property
    def upper(self) -> np.ndarray:
        return np.concatenate([law.box[1] for law in self.laws.values()] + [[self.phi0_bounds[1]]] * self.has_phi0)

    @property
    def spread(self) -> np.ndarray:
        return np.concatenate([law.spread for law in self.laws.values()] + [[45.0]] * self.has_phi0)

    @property
    def period(self) -> np.ndarray:
        """h is even in the shear phase, so phi0 and phi0 + 180 are the same flow."""
        period = np.full(len(self.coordinates), np.inf)
        if self.has_phi0 and not np.any(np.isfinite(self.phi0_bounds)):
            period[-1] = 180.0
        return period

    def split(self, u):
        """Coordinates of transport, of shear (empty without), and phi0."""
        first = len(self.transport.coordinates)
        second = first + (0 if self.shear is None else len(self.shear.coordinates))
        return u[:first], u[first:second], (u[second] if self.has_phi0 else self.fixed_phi0)

    def states(self, u: jax.Array, phi: jax.Array) -> jax.Array:
        transport, shear, phi0 = self.split(u)
        x0 = self.q**2 * cumulative(self.transport.rate(transport), self.t)
        if self.shear is None:
            return x0[None]
        kappa = phase_per_strain(phi, phi0, self.phase)
        return jnp.stack([x0, kappa * cumulative(self.shear.rate(shear), self.t)])

    def parameters(self, u: jax.Array) -> jax.Array:
        transport, shear, phi0 = self.split(u)
        values = [self.transport.parameters(transport)]
        if self.shear is not None:
            values += [self.shear.parameters(shear), jnp.atleast_1d(phi0)]
        return jnp.concatenate(values)

    def coordinates_of(self, parameters: Mapping[str, float]) -> np.ndarray:
        u = [law.coordinates_of(*(parameters[name] for name in law.names)) for law in self.laws.values()]
        if self.has_phi0:
            u.append(np.clip([parameters["phi0"]], *self.phi0_bounds))
        return np.concatenate(u)

    def allowed(self, u: np.ndarray) -> bool:
        return all(law.allowed(p) for law, p in zip(self.laws.values(), self.split(u), strict=False))

    def starts(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Latin hypercube over rate at t_ref, exponent and share of the offset of each law, and phi0.

        Half of the directions are within 25 degrees of nominal, half anywhere. Ranges: docs/optimizer.md.
        """
        duration, dt = self.t[-1], self.t[1] - self.t[0]
        ranges = {"J": (0.1 / duration, 2 / dt, -1.5, 0.5), "gamma_dot": (0.3 / duration, self.fastest / dt, -0.8, 0.5)}
        # Latin hypercube: every column is a permutation of equal strata. scipy.stats has one, for 0.8 s of start-up.
        sample = (rng.permuted(np.tile(np.arange(count), (7, 1)), axis=1).T + rng.random((count, 7))) / count
        points = []
        for k, row in enumerate(sample):
            point: dict[str, float] = {}
            for column, (curve, law) in zip((0, 3), self.laws.items(), strict=False):
                slow, fast, low, high = ranges[curve]
                rate = slow * (fast / slow) ** row[column] / law.scale
                point |= self._law_point(law, rate, low + (high - low) * row[column + 1], 0.3 * row[column + 2])
            low, high = self._directions(25.0 if k % 2 else 90.0)
            point["phi0"] = low + (high - low) * row[6]
            points.append(self.coordinates_of(point))
        return np.array(points)

    def grid(self) -> np.ndarray:
        """Nearly constant rates: 12 x (14 x 12 directions), directions last and periodic."""
        duration, dt = self.t[-1], self.t[1] - self.t[0]
        transport = np.geomspace(0.1 / duration, 2 / dt, 12) / self.transport.scale
        if self.shear is None:
            return np.array([self.coordinates_of(self._law_point(self.transport, rate, -0.3, 0.1)) for rate in transport])
        shear = np.geomspace(0.3 / duration, self.fastest / dt, 14) / self.shear.scale
        phi0 = np.array([0.0])
        if self.has_phi0:
            low, high = self._directions(90.0)
            phi0 = low + (high - low) * np.arange(12) / 12
        first = [self.transport.coordinates_of(*self._law_point(self.transport, rate, -0.3, 0.1).values()) for rate in transport]
        second = [self.shear.coordinates_of(*self._law_point(self.shear, rate, -0.2, 0.1).values()) for rate in shear]
        shape = (len(first), len(second), len(phi0))
        blocks = [
            np.broadcast_to(np.array(first)[:, None, None], (*shape, len(first[0]))),
            np.broadcast_to(np.array(second)[None, :, None], (*shape, len(second[0]))),
        ]
        if self.has_phi0:
            blocks.append(np.broadcast_to(phi0[None, None, :, None], (*shape, 1)))
        return np.concatenate(blocks, axis=-1)

    def variants(self, u: np.ndarray, exponents: Sequence[float], which: np.ndarray) -> list[np.ndarray]:
        """Restarts with other exponents, for each law whose exponent is marked in ``which`` (p,) bool; same rate and slope at t_ref."""
        restarts = []
        begin = 0
        for law, p in zip(self.laws.values(), self.split(u), strict=False):
            at = law.exponent_at
            if law.form == "two_rate" and at is not None and which[begin + at]:
                log_rate, slope = np.asarray(_rate_and_slope(law, p))
                for exponent in exponents:
                    restart = u.copy()
                    restart[begin : begin + len(p)] = law.from_shape(float(np.exp(log_rate)), float(slope), exponent)
                    restarts.append(restart)
            begin += len(p)
        return restarts

    def exponents(self) -> np.ndarray:
        """(p,) True at the coordinates that are exponents."""
        return np.array([name in ("alpha", "beta") for name in self.coordinates], dtype=bool)

    def canonical(self, u: np.ndarray) -> np.ndarray:
        """phi0 within 90 degrees of nominal: phi0 and phi0 + 180 are the same flow (h is even in the shear phase)."""
        if not self.has_phi0 or np.any(np.isfinite(self.phi0_bounds)):
            return u
        wrapped = u.copy()
        wrapped[-1] = self.nominal + (u[-1] - self.nominal + 90.0) % 180.0 - 90.0
        return wrapped

    def log_rates(self, u: jax.Array) -> dict[str, jax.Array]:
        return {name: jnp.log(law.rate(p)) for (name, law), p in zip(self.laws.items(), self.split(u), strict=False)}

    def reference(self, u: jax.Array) -> dict[str, jax.Array]:
        return {name: law.rate_and_slope(p) for (name, law), p in zip(self.laws.items(), self.split(u), strict=False)}

    def frame_phase(self, u: np.ndarray) -> np.ndarray:
        _, shear, phi0 = self.split(u)
        if self.shear is None:
            return np.zeros(len(self.phi))
        rate = float(np.median(np.asarray(_rates(self.shear, shear))))
        return np.abs(np.cos(np.deg2rad(phi0 - self.phi))) * self.phase * rate * float(self.t[1] - self.t[0])

    def faster(self) -> Model:
        return self if self.shear is None else replace(self, fastest=FASTEST_PHASE)

    def mirrors(self, u: np.ndarray, angles: Sequence[int]) -> list[np.ndarray]:
        if self.shear is None or not self.has_phi0:
            return []
        named = dict(zip(self.names, np.asarray(self.parameters(jnp.asarray(u))).tolist(), strict=True))
        flow = np.deg2rad(named["phi0"])
        found = []
        for first, second in combinations(np.deg2rad(self.phi[list(angles)]), 2):
            if abs(np.sin(first - second)) < PARALLEL:
                continue
            rows = [[np.cos(first), np.sin(first)], [np.cos(second), np.sin(second)]]
            x, y = np.linalg.solve(rows, [np.cos(flow - first), -np.cos(flow - second)])
            factor = {name: named[name] * float(np.hypot(x, y)) for name in (SHEAR[0], SHEAR[2])}
            found.append(self.canonical(self.coordinates_of(named | factor | {"phi0": float(np.rad2deg(np.arctan2(y, x)))})))
        return found

    def hard_bounds(self, parameters: Mapping[str, float], bounds: Mapping[str, tuple[float, float]]) -> Model | None:
        def violated(law: RateLaw) -> bool:
            linear = (law.names[0], law.names[2])
            return law.form != "raw" and any(not bounds[name][0] <= parameters[name] <= bounds[name][1] for name in linear)

        changed = {name: law.with_hard_bounds() for name, law in self.laws.items() if violated(law)}
        if not changed:
            return None
        laws = self.laws | changed
        return replace(self, transport=laws["J"], shear=None if self.shear is None else laws["gamma_dot"])

    def _directions(self, half: float) -> tuple[float, float]:
        """Range of phi0 within ``half`` of nominal and within its bounds; all of the bounds when those do not meet."""
        low, high = np.clip([self.nominal - half, self.nominal + half], *self.phi0_bounds)
        return (float(low), float(high)) if low < high else self.phi0_bounds

    def without(self, curve: str) -> Model | None:
        if curve != "gamma_dot" or self.shear is None:
            return None
        return replace(self, shear=None, power=0, phase=0.0, fixed_phi0=0.0)

    @staticmethod
    def _law_point(law: RateLaw, rate: float, exponent: float, share: float) -> dict[str, float]:
        """Parameters of a law from its rate at t_ref, exponent and the offset's share of the rate."""
        amplitude, power, offset = law.names
        kept = exponent if law.fixed[1] is None else law.fixed[1]
        return {amplitude: rate * (1 - share) * law.t_ref**-kept, power: kept, offset: rate * share}


_rates = jax.jit(lambda law, p: law.rate(p))
_rate_and_slope = jax.jit(lambda law, p: law.rate_and_slope(p))
