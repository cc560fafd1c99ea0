"""sockaccel: TCP between processes on one host, past the TCP/IP stack."""

__version__ = "0.1.0"
