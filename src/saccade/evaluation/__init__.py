"""How good a model is: exact evaluation, prediction, metrics."""
