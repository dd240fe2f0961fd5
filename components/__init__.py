"""The pipeline's components, one folder each: ``component.py`` is the thin KFP wrapper of a plain function."""
