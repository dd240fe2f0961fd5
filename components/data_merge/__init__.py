"""Merge the base data with what reviewers answered, keeping test texts out of training."""
