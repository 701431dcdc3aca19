"""From tables to arrays and texts: validation, statistics without leaks, features."""
