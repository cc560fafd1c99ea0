"""Who is accelerated."""
