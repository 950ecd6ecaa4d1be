"""How a policy learns: imitation and PPO, the rounds around them, and the run on disk."""
