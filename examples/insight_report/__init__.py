"""A report on what can be seen inside three architectures, made through the public client."""
