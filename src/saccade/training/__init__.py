"""From a configuration to trained weights: steps, state, checkpoints, preflight, the loop."""
