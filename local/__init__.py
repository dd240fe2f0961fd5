"""The embedded platform: starts and stops the real parts on one machine, and the command line."""
