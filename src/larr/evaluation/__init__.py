"""How good rankers are, with intervals, and what is written about it."""
