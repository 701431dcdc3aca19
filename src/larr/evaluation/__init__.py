"""Evaluates rankers, with intervals, and writes the reports."""
