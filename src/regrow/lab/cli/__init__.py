"""The command line `regrow`."""
