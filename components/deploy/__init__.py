"""Roll a promoted version out, watch it, and roll back if it misbehaves."""
