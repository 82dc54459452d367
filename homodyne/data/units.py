"""Units as files spell them, in the units of this program: 1/Angstrom, degrees, seconds."""

import unicodedata

import numpy as np

from ..errors import DataError

# Spellings after `_plain`: lower case, no blanks, "angstrom" and the letter with the ring as "a", every minus sign as "-".
_WAVEVECTOR = {"1/a": 1.0, "a^-1": 1.0, "a-1": 1.0, "a**-1": 1.0, "1/nm": 0.1, "nm^-1": 0.1, "nm-1": 0.1, "nm**-1": 0.1}
_ANGLE = {"deg": 1.0, "degree": 1.0, "degrees": 1.0, "°": 1.0, "rad": 180 / np.pi, "radian": 180 / np.pi, "radians": 180 / np.pi}
_TIME = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}


def per_angstrom(values: np.ndarray, unit: str | None, where: str) -> np.ndarray:
    """Wavevectors in 1/Angstrom; without a unit they are taken as such."""
    return values * _factor(_WAVEVECTOR, unit, where, "1/Angstrom or 1/nm")


def degrees(values: np.ndarray, unit: str | None, where: str) -> np.ndarray:
    """Angles in degrees; without a unit they are taken as such."""
    return values * _factor(_ANGLE, unit, where, "deg or rad")


def seconds(value: float, unit: str | None, where: str) -> float:
    """A time in seconds; without a unit it is taken as such."""
    return value * _factor(_TIME, unit, where, "s, ms, us or ns")


def _factor(known: dict[str, float], unit: str | None, where: str, accepted: str) -> float:
    if unit is None or not unit.strip():
        return 1.0
    plain = _plain(unit)
    if plain not in known:
        raise DataError(f"{where}: unit {unit!r} is not known; accepted: {accepted}")
    return known[plain]


def _plain(unit: str) -> str:
    # NFKC turns the Angstrom sign into the letter, superscripts into digits and both micro signs into the same letter.
    text = unicodedata.normalize("NFKC", unit).replace("\u2212", "-").replace(" ", "").lower()
    for word in ("angstroms", "angstrom", "ångström", "ångstrom", "å"):
        text = text.replace(word, "a")
    return text
