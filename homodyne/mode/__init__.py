"""Group ``mode``."""
