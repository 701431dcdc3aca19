"""LARR: an LLM that understands the scene, a ranker that never calls it."""
