"""The bundle: what it says of itself, reading it, writing it, and what is known of each variant on each machine."""
