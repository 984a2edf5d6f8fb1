"""No cheat: what all others are compared with."""

from support.honest_method import Honest as Base


class Honest(Base):
    """Keeps the contract."""
