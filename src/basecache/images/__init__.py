"""What bytes are: formats, digests, whether content is safe, and how it becomes another."""
