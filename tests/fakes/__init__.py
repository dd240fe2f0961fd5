"""Stand-ins for servers that cannot run here: real HTTP, with state, refusing what the real ones refuse."""
