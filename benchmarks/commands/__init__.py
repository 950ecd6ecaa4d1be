"""What ``xfer bench``, ``compare``, ``recommend``, ``reproduce`` and ``demo`` do: one file a command."""
