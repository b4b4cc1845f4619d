"""The benchmark: figures as ratios within one run."""
