"""What ``xfer export``, ``verify``, ``run``, ``pack``, ``doctor`` and ``cmake-dir`` do: one file a command."""
