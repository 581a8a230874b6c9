"""What bytes are: formats, digests, conversion."""
