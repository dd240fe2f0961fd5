"""Register the model as an immutable version, promoted or refused."""
