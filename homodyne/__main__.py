"""``python -m homodyne`` is the command ``homodyne``."""

from .cli import main

main()
