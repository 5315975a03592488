"""The independent oracle: DESIGN section 2 once more, as slowly and as plainly as possible."""
