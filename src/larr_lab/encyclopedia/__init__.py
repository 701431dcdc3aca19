"""An encyclopedia of dishes, regions, cities and habits in plain prose, written from the tables.

It stands in for what a real LLM knows of the world. It contains no place, user or event of a
simulated log. words.toml and sentences.toml hold its wording, articles.py its grammar.
"""

from larr_lab.encyclopedia.articles import articles, held_out

__all__ = ["articles", "held_out"]
