"""Group ``per_angle_scaling``."""
