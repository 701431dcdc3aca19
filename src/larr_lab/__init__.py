"""The laboratory beside larr; it plugs into the product by the entry points in pyproject.toml.

`knowledge` and `tables/` hold what is known of food and places. `city` simulates a country from
them; `encyclopedia` writes prose from them, the text on which `scripts/base_lm.py` pretrains the
built-in language model. `real` reads public data sets of real people, `studies` compares rankers,
`page` is a page to play with a scene, and `p5` is a rival that only the paper's tables need.
"""
