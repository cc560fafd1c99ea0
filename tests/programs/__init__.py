"""Other people's programs, run on plain TCP and accelerated, and compared."""
