"""Checks before the first step, and proofs on the user's own set-up."""
