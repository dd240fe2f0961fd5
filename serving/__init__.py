"""Serving on KServe: a predictor that batches, a transformer that routes to review, and the review queue."""
