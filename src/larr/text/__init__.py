"""Stages 1 and 2: a language model learns the places, then to embed texts, each of them once."""
