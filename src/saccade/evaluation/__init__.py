"""Evaluation and prediction: exact figures, frozen features, classifiers."""
