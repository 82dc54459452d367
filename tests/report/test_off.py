"""report=off touches nothing."""

from pathlib import Path

from homodyne.report.off import Off


def test_off_writes_nothing(tmp_path: Path) -> None:
    Off().write(tmp_path)
    assert list(tmp_path.iterdir()) == []
