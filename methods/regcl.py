"""RegCL: each expert's LoRA factors are merged by regression on their inputs, from running sums.

Source: "RegCL: Continual Adaptation of Segment Anything Model via Model Merging", arXiv 2507.12297, and its
released code. With G_t = mean of x x^T over the inputs x of an adapted layer under expert t,

    A = (sum_t A_t G_t) (sum_t G_t)^-1
    B = (sum_t B_t H_t) (sum_t H_t)^-1,   H_t = A_t G_t A_t^T, the Gram matrix of A_t x,

and every other trained parameter is averaged. The two factors are merged separately, as published: the product of
the merged factors is not the regression of the products, and it depends on how each adapter splits dW into
B A. For that reason adapters share their first random factors. If the protocol's adapter is not a LoRA, each of its
linear layers is one W instead of A and B: this is how RegCL's own AugModule and its LoRA beside the attention are
merged.

``space = "product"`` is the same regression of dW_t = B_t A_t instead,

    dW = (sum_t B_t A_t G_t) (sum_t G_t)^-1,

truncated to the adapter's rank r with the least loss for the inputs (the SVD of dW S^(1/2), S = sum_t G_t).
Both spaces thus serve rank r, and the difference between their scores is the error of merging the factors separately.
``discarded`` in the state holds the share of tr(dW S dW^T) that the last truncation dropped, for each layer.

The first domain's expert is served as it is, without solving. A ridge that pulls to zero changes also what all experts
agree on, in directions that their inputs hardly use: a single expert comes back shortened. ``ridge_to = "mean"`` pulls
to the mean of the experts' weights instead, whose running sum it keeps, so equal experts come back exactly.

``solver = "float32_inverse"`` inverts the sums in float32, as the released code does. Their condition numbers exceed
float32's digits, so the served update is another one; the largest is in the record, as ``condition_number``.

Needs the current domain's inputs. The state is constant: the sums, the served update, and with ``start =
"previous"`` the last expert. The order does not matter if experts start from the base. The rank is that of
one adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from cosam_bench import LowRank, MergingMethod, MethodCard, State, TrainingDomain, Update, Workbench, setting
from cosam_bench.merging.regression import condition_number, merge_by_regression, running_sums, truncate_by_gram
from cosam_bench.merging.ridge import Ridge, RidgeTo, Solver
from cosam_bench.merging.scale import ServedScale
from cosam_bench.merging.updates import as_factors

_EXPERT = "expert/"  # prefix of the last expert's tensors in the state


class RegCLSettings(ServedScale):
    """The settings of RegCL."""

    space: Literal["factors", "product"] = setting(
        "factors",
        "regress LoRA's A and B separately, or dW = B A, truncated to their rank",
        source="the released code",
    )
    start: Literal["base", "previous"] = setting(
        "base",
        "where an expert's training starts: at the base, or at the previous domain's expert",
        source="the released code's default; its published runs start from the previous expert",
        search=None,
    )
    ridge: Ridge = setting(
        1e-6,
        "added to each Gram sum's diagonal, as a share of its mean",
        source="0 in the released code",
        search=(1e-9, 1.0, "log"),
        ge=0,
    )
    ridge_to: RidgeTo = setting(
        "zero",
        "what the ridge pulls to: no change, or the mean of the experts' weights",
        source="the usual ridge; the released code has none",
    )
    solver: Solver = setting(
        "float64",
        "a solution in float64, or an inverse in float32 as in the released code",
        source="this project: float32 has too few digits for these sums",
        search=None,
    )


class RegCL(MergingMethod[RegCLSettings]):
    """Regression of the LoRA factors on running sums of Gram matrices."""

    card = MethodCard(
        title="RegCL",
        paper="arXiv 2507.12297",
        needs=("inputs",),
        order_dependent=False,
        deviations=(
            "the adapter is the protocol's; the published ones are adapter.kind = augmodule and regcl_lora",
            "experts start from the base; with start = previous, from the previous one, and the order matters",
            "running sums replace the released code's store of all adapters and Gram matrices",
            "a ridge of 1e-6 and a float64 solve replace the plain float32 inverse, which is solver = float32_inverse",
            "the first expert is served as it is; the released code solves for it, too",
            "ridge_to = mean, a ridge that pulls to the mean of the experts, is this project's",
            "space = product, the regression of B A truncated to the adapter's rank, is this project's",
        ),
    )

    def __init__(self, settings: RegCLSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self._expert: dict[str, Tensor] = {}

    @classmethod
    def needs_training(cls, settings: RegCLSettings) -> str:
        """Training, if experts start from the previous one."""
        return "trains each expert from the previous one unless method.start=base" if settings.start != "base" else ""

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Train this domain's expert and merge it."""
        if self.settings.start == "base":
            super().learn(domain, step=step)
            return
        before = Update.from_tensors(self._expert, _EXPERT) if self._expert else None
        expert = self.bench.train(domain, start=before).update
        self.served = self.merge(expert, domain, step=step)
        self._expert = expert.tensors(_EXPERT)

    def state(self) -> State:
        """The served update, the running sums and, with ``start = "previous"``, the last expert."""
        state = super().state()
        return State(state.tensors | self._expert, state.values)

    def load(self, state: State) -> None:
        """Become the method that wrote ``state``."""
        super().load(state)
        self._expert = {name: tensor for name, tensor in state.tensors.items() if name.startswith(_EXPERT)}

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The regression over all experts so far; the first expert itself."""
        self.memory = running_sums(self.memory, self._terms(expert, self.bench.input_grams(domain, expert)))
        if step == 1:
            if self._space == "product":
                self.memory["discarded"] = torch.zeros(len(expert.low_rank))
            return expert
        dense = {name: (self.memory[f"{name}/dense"] / step).to(change.dtype) for name, change in expert.dense.items()}
        merge_all = {"factors": self._merge_factors, "product": self._merge_products, "whole": self._merge_whole}
        low_rank = {
            layer: merged.to(factors.b.dtype)
            for (layer, factors), merged in zip(
                expert.low_rank.items(), merge_all[self._space](expert, step), strict=True
            )
        }
        return Update(low_rank, dense)

    def _terms(self, expert: Update, grams: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The expert's terms of the sums; the Gram matrices are popped one after another."""
        for name, change in expert.dense.items():
            yield f"{name}/dense", change.to(torch.float64, copy=True)
        terms_of = _factor_terms if self._space == "factors" else _product_terms
        for layer, factors in expert.low_rank.items():
            yield from terms_of(layer, factors, grams.pop(layer), to_mean=self.settings.ridge_to == "mean").items()

    @property
    def _space(self) -> Literal["factors", "product", "whole"]:
        """Only LoRA has factors; other adapters' linear layers are regressed by their whole change."""
        return self.settings.space if self.bench.adapter.kind == "lora" else "whole"

    def _merge_whole(self, expert: Update, step: int) -> list[LowRank]:
        return [as_factors(self._solve(layer, "gram", "product", step)) for layer in expert.low_rank]

    def _merge_factors(self, expert: Update, step: int) -> list[LowRank]:
        return [
            LowRank(
                a=self._solve(layer, "gram", "product_a", step),
                b=self._solve(layer, "inner", "product_b", step),
            )
            for layer in expert.low_rank
        ]

    def _merge_products(self, expert: Update, step: int) -> list[LowRank]:
        cut = [
            truncate_by_gram(
                self._solve(layer, "gram", "product", step), self.memory[f"{layer}/gram"], rank=factors.rank
            )
            for layer, factors in expert.low_rank.items()
        ]
        self.memory["discarded"] = torch.tensor([share for _, share in cut])
        return [factors for factors, _ in cut]

    def _solve(self, layer: str, gram: str, product: str, step: int) -> Tensor:
        """The regression of one weight from its two sums, which are named after the layer."""
        options, memory = self.settings, self.memory
        gram_sum = memory[f"{layer}/{gram}"]
        if options.solver == "float32_inverse":
            self.bench.meter.report("condition_number", condition_number(gram_sum, ridge=options.ridge))
        return merge_by_regression(
            gram_sum,
            memory[f"{layer}/{product}"],
            ridge=options.ridge,
            towards=memory[f"{layer}/{product}_mean"] / step if options.ridge_to == "mean" else None,
            solver=options.solver,
            layer=layer,
        )


def _factor_terms(layer: str, factors: LowRank, gram: Tensor, *, to_mean: bool) -> dict[str, Tensor]:
    a, b = factors.a.to(torch.float64, copy=True), factors.b.to(torch.float64, copy=True)  # sums overwrite them
    inner = a @ gram @ a.T
    terms = {
        f"{layer}/gram": gram,
        f"{layer}/product_a": a @ gram,
        f"{layer}/inner": inner,
        f"{layer}/product_b": b @ inner,
    }
    return terms | ({f"{layer}/product_a_mean": a, f"{layer}/product_b_mean": b} if to_mean else {})


def _product_terms(layer: str, factors: LowRank, gram: Tensor, *, to_mean: bool) -> dict[str, Tensor]:
    a, b = factors.a.double(), factors.b.double()
    terms = {f"{layer}/gram": gram, f"{layer}/product": b @ (a @ gram)}
    return terms | ({f"{layer}/product_mean": b @ a} if to_mean else {})
