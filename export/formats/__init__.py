"""What ``xfer pack --format`` writes: one file a format."""
