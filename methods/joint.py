"""Joint training: one adapter trained once on all domains together. An upper bound, not a method.

    M_T = dW of the adapter trained on the union of domains 1 to T

with M_T the served change of the weights.
"""

from __future__ import annotations

from cosam_bench import MergingMethod, MethodCard, TrainingDomain, Update


class Joint(MergingMethod):
    """The adapter of the union of all training sets, trained for as many epochs as each domain alone.

    The matrix has only row 0 and the last row, because there is no stream: Avg and forgetting are empty.
    """

    card = MethodCard(
        title="Joint training",
        paper="the upper bound of CoSAM (arXiv 2412.06418), whose released code does not contain it",
        order_dependent=False,
        upper_bound=True,
        all_at_once=True,
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The adapter itself."""
        return expert
