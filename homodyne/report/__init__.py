"""Group ``report``."""
