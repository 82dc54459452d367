"""Group ``posterior``."""
