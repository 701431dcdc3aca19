"""Stages 1 and 2: a language model is trained on places, then tuned to embed texts."""
