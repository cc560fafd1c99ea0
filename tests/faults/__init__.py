"""Faults under load: what is done to sockaccel while checksummed traffic runs, and what it loses."""
