"""Group ``optimizer``."""
