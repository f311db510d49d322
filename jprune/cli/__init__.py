"""The command line: one module per command; the only place where absl flags are defined."""
