"""Training: one loop, an objective passed in, exact resume."""
