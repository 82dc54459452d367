"""An option: one choice of one group, e.g. ``optimizer=nlsq``.

``conf/<group>/<name>.yaml`` holds every default and a ``_target_`` that names a class in ``homodyne/<group>/<name>.py``; the
fields of that class are its settings. The class states types and ranges, the YAML states values, and nothing else does.
"""

from pydantic import BaseModel, ConfigDict


class Option(BaseModel):
    """Base of every option and of every nested settings block: immutable, typed, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @property
    def name(self) -> str:
        """What the user calls the option: its file in conf/<group> and in homodyne/<group>."""
        return type(self).__module__.rpartition(".")[2]
