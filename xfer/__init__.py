"""The training stage: adapt a pretrained vision network to a reinforcement-learning task.

Importing this package costs nothing: torch is imported by the modules that need it (``xfer.models.policy``,
``xfer.training.imitation`` ...), never from here.
"""

__version__ = "0.3.0.dev0"
