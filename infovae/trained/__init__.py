"""Trained models in use: found by their settings, called on arrays, drawn, put into scikit-learn."""
