"""Compare the challenger with the champion on data neither was trained on, and decide."""
