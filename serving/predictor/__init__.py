"""The predictor: texts in, calibrated probabilities out, batched across requests."""
