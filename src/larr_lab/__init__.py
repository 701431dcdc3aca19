"""The laboratory of larr: a simulated country, the studies of the paper, a page to play on."""
