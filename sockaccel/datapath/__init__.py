"""The kernel side: compile, load, pin, attach, and the maps."""
