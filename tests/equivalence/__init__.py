"""One scenario on plain TCP and accelerated: the observable results are the same."""
