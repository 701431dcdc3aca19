"""Stage 3: the rankers are trained, and score."""
