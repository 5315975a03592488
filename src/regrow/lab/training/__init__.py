"""Training runs: the loop, its folder, and how it stops and resumes."""
