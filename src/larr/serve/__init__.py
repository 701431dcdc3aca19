"""Serving without the language model: the trained ranker folded into tables, behind HTTP."""
