"""One file a command, each with one public `run`."""
