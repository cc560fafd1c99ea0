"""Faults: what is done to sockaccel while checked traffic runs, and what is lost."""
