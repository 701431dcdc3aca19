"""The laboratory beside larr; it plugs into the product by the entry points in pyproject.toml.

`knowledge` and `tables/` hold what is known of food and places. `city` simulates a country from
them; `encyclopedia` writes prose from them, on which `base_lm` pretrains the built-in language
model. `coupon` reads a survey of real people, `studies` compares rankers, `page` is a page to play
with a scene.
"""
