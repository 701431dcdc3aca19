"""An encyclopedia of dishes, regions, cities and habits in plain prose, generated from the tables.

It replaces the world knowledge of a real LLM, and contains no place, user or event of a simulated
log. words.toml and sentences.toml contain the wording, book.py the grammar.
"""

from larr_lab.encyclopedia.book import articles, held_out

__all__ = ["articles", "held_out"]
