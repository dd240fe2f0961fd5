"""Fine-tune the base model and calibrate it."""
