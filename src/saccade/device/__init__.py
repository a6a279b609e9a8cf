"""The device: its choice, number format, speed and determinism."""
