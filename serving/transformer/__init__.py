"""The transformer: asks the predictor, routes what it is unsure of to review, and answers."""
