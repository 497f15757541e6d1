"""One file for each contestant: how its users would send, serve, and chain."""
