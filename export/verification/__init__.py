"""Proving that a variant acts as the policy does: the gates, their statistics, repair, and planted faults."""
