"""Files that are written whole or not at all, and that know whether they are damaged."""
