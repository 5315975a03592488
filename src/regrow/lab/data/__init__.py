"""Data sets, kept in memory or read by workers."""
