"""RegCL: each expert's LoRA factors are merged by regression on their inputs, from running sums.

Source: "RegCL: Continual Adaptation of Segment Anything Model via Model Merging", arXiv 2507.12297, and its
released code. With G_t = mean of x x^T over the inputs x of an adapted layer under expert t,

    A = (sum_t A_t G_t) (sum_t G_t)^-1
    B = (sum_t B_t H_t) (sum_t H_t)^-1,   H_t = A_t G_t A_t^T, the Gram matrix of A_t x,

and every other trained parameter is averaged. The two factors are merged apart, as published: the product of
the merged factors is not the regression of the products, and it depends on how each adapter splits dW into
B A. Adapters share their first random factors for that reason.

Needs the current domain's inputs. The state is constant: the sums, a count and the served update. The order
does not matter with experts that start from the base. The rank is that of one adapter.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from cosam_bench.card import MethodCard
from cosam_bench.config import Settings
from cosam_bench.method import MergingMethod
from cosam_bench.regression import merge_by_regression
from cosam_bench.training_domain import TrainingDomain
from cosam_bench.updates import LowRank, Update
from cosam_bench.workbench import Workbench


class RegCLSettings(Settings):
    """The settings of RegCL.

    Attributes:
        ridge: added to each Gram sum's diagonal, as a share of its mean; the released code has 0.
    """

    ridge: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6


class RegCL(MergingMethod):
    """Regression of the LoRA factors on running sums of Gram matrices."""

    card = MethodCard(
        title="RegCL",
        paper="arXiv 2507.12297",
        needs=("inputs",),
        order_dependent=False,
        deviations=(
            "the adapter is the protocol's, by default LoRA in the attention's own layers without bias",
            "running sums replace the released code's store of all adapters and Gram matrices",
            "a ridge of 1e-6 and a float64 solve replace the plain float32 inverse",
        ),
    )
    Settings = RegCLSettings

    def __init__(self, settings: RegCLSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.ridge = settings.ridge

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The regression over all experts so far."""
        grams = self.bench.input_grams(domain, expert)
        factors = expert.low_rank.items()
        low_rank = {layer: self._merge_layer(layer, both, grams[layer]) for layer, both in factors}
        dense = {name: self._add(f"{name}/dense", change) / step for name, change in expert.dense.items()}
        return Update(low_rank, {name: mean.to(expert.dense[name].dtype) for name, mean in dense.items()})

    def _merge_layer(self, layer: str, factors: LowRank, gram: Tensor) -> LowRank:
        a, b = factors.a.double(), factors.b.double()
        inner = a @ gram @ a.T
        merged_a = merge_by_regression(
            self._add(f"{layer}/gram", gram), self._add(f"{layer}/product_a", a @ gram), ridge=self.ridge
        )
        merged_b = merge_by_regression(
            self._add(f"{layer}/inner", inner), self._add(f"{layer}/product_b", b @ inner), ridge=self.ridge
        )
        return LowRank(merged_a.to(factors.a.dtype), merged_b.to(factors.b.dtype))

    def _add(self, name: str, term: Tensor) -> Tensor:
        """The running sum of that name with the term added, in float64."""
        total = self.memory[name] + term.double() if name in self.memory else term.double()
        self.memory[name] = total
        return total
