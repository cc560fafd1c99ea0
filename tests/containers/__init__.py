"""Laboratories of containers, for tests/docker (as a package that would hide docker-py's name)."""
