"""Experiments with larr, registered through the entry points in pyproject.toml.

`knowledge` reads the tables of food and places in `tables/`. From them `city` simulates a country
and `encyclopedia` writes the prose on which `scripts/base_lm.py` pretrains the built-in language
model. `studies` compares rankers, `page` is a demo page for scenes, and `p5` is a baseline that
only the paper's tables need.
"""
