"""Group ``hardware``."""
