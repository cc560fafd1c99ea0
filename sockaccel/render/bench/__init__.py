"""A benchmark's result, in many forms. Pure."""
