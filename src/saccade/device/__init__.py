"""The device that computes: which one, in which number format, how fast, how exactly."""
