"""The long-running part: keeps the scope in step with Docker."""
