"""Readers of public data sets about real people; users bring the files, see docs/experiments.md."""
