"""Studies beyond the report of one run: ablations, sweeps, live tests."""
