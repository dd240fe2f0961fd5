"""The pipelines: what runs in which order, and with which defaults."""
