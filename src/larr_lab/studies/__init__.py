"""What is asked of trained models beyond one report: ablations, sweeps, live tests."""
