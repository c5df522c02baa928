"""The command line: where configs are, shorthands, and messages for people."""
