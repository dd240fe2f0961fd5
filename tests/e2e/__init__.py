"""End to end: the command line as a user runs it, with every real part."""
