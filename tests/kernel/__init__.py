"""Tests on real sockets: the same programs on plain and on accelerated TCP."""
