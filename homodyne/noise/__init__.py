"""Group ``noise``."""
