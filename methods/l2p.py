"""L2P: only a pool of prompts is learned, and each image selects its own by keys.

Source: Wang et al., "Learning to Prompt for Continual Learning", CVPR 2022 (arXiv 2112.08654), and its released code.
The pool has M prompts P_m of L tokens, each with a key k_m. An image's query q is made by the frozen encoder; the N
keys at the smallest cosine distance from it are chosen, and their prompts, nearest first, join the tokens of SAM's
mask decoder after those of the image's own prompt. In training a distance is multiplied by the share h_m that the
prompt has in all choices of earlier domains, so that new domains use prompts that few have used (section 4.2).
Prompts and keys are trained by

    loss - pull * sum over the N chosen of cos(q, k_m),

the mean over the batch; everything else is frozen, and there is no adapter. Each domain has a new optimiser; prompts
and keys begin uniform in [0, 0.01) and have their own learning rate, as in the released code: the protocol's is meant
for adapters. CoSAM's code of L2P draws them from [-1, 1): ``init_low`` and ``init_high``. Epochs, batches, optimiser,
learning rate schedule, augmentation and loss are the protocol's.

The query is the mean over the whole grid, including the padding, of the embedding that the decoder reads, in float32,
so that an image takes one encoder pass. These means of any two images are nearly parallel: on ``mini``, trained
without h, all 32 inspected images, four per domain, chose the same four of ten prompts.

Deviations: the prompts join the decoder, not the encoder's input; the query is that mean, not the class token, which
SAM does not have; the mask decoder replaces the classifier and is frozen; each image has its own prompts in training
and in test, while the released code gives a batch the prompts that most of its images select; prompts that have never
been chosen are ranked by their distance, as if h_m were 1e-6.

Needs nothing of a domain beyond the training. The state is constant: the pool and a count for each prompt. The order
matters.
"""

from __future__ import annotations

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional

from cosam_bench import Batch, Masks, Method, MethodCard, Settings, State, TrainingDomain, Workbench, setting
from cosam_bench.sam.inputs import View
from cosam_bench.training.batch_loss import protocol_loss
from cosam_bench.training.fit import make_optimiser, refuse_divergence, training_steps

_LEAST_SHARE = 1e-6  # of a prompt that was never chosen; far below one choice among all of a real domain


class L2PSettings(Settings):
    """The settings of L2P; the pool is the released code's for CORe50, whose tasks are domains, too."""

    pool: int = setting(10, "M, prompts in the pool", source="released code, CORe50", search=None, ge=1)
    length: int = setting(5, "L, tokens per prompt", source="released code, CORe50", search=None, ge=1)
    chosen: int = setting(4, "N, prompts per image", source="released code, CORe50", search=(1, 10), ge=1)
    learning_rate: float = setting(
        0.03,
        "of prompts and keys, before the schedule",
        source="released code, 5-datasets",
        search=(1e-3, 0.3, "log"),
        gt=0,
    )
    pull: float = setting(
        0.5,
        "weight of the pull of chosen keys towards their queries",
        source="released code, 5-datasets",
        search=(0.01, 10.0, "log"),
        ge=0,
    )
    diversify: bool = setting(
        True, "in training, multiply distances by the share of earlier choices", source="the paper, section 4.2"
    )
    init_low: float = setting(0.0, "least value of the first prompts and keys", source="released code", search=None)
    init_high: float = setting(
        0.01,
        "bound of the first prompts and keys",
        source="released code: flax's uniform initialiser",
        search=(1e-3, 1.0, "log"),
    )

    @model_validator(mode="after")
    def _has_enough(self) -> L2PSettings:
        if self.init_low >= self.init_high:
            raise ValueError(f"init_low = {self.init_low} is not below init_high = {self.init_high}")
        if self.chosen > self.pool:
            raise ValueError(f"{self.chosen} prompts cannot be chosen from a pool of {self.pool}")
        return self


class L2P(Method[L2PSettings]):
    """A frozen SAM, and prompt tokens that are chosen by the image's features."""

    card = MethodCard(
        title="L2P",
        paper="arXiv 2112.08654",
        deviations=(
            "prompts join the mask decoder's tokens, not the image encoder's",
            "the query is the mean of the encoder's embedding, since SAM has no class token",
            "SAM's frozen mask decoder instead of a trained classifier",
            "prompts are chosen per image, not per batch by majority",
            "prompts and keys begin in [0, 0.01); CoSAM's code draws them from [-1, 1): init_low and init_high",
            "optimiser, schedule of the learning rate, epochs and augmentation are the protocol's",
        ),
    )

    def __init__(self, settings: L2PSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        width = bench.sam.mask_decoder.transformer_dim  # of tokens and embedding alike
        draws, low, span = bench.generator("l2p", "pool"), settings.init_low, settings.init_high - settings.init_low
        self.prompts = low + span * torch.rand(settings.pool, settings.length, width, generator=draws)
        self.keys = low + span * torch.rand(settings.pool, width, generator=draws)
        self.choices = torch.zeros(settings.pool, dtype=torch.int64)  # of each prompt, in all training so far

    @classmethod
    def needs_training(cls, settings: L2PSettings) -> str:
        """Training of prompts; it has no adapters."""
        return "trains prompts in place of adapters"

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Train the pool further, on this domain alone."""
        with self.bench.training(trainable_parameters=self.prompts.numel() + self.keys.numel()):
            self.prompts, self.keys, choices = self._trained(domain)
        self.choices = self.choices + choices

    def _trained(self, domain: TrainingDomain) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts, keys, and how often this domain chose each prompt."""
        bench, choices = self.bench, torch.zeros_like(self.choices)
        shares = self._shares()
        prompts, keys = (
            tensor.to(bench.view.device, copy=True).requires_grad_() for tensor in (self.prompts, self.keys)
        )
        order = bench.generator("order", domain.digest)
        fit = bench.fit.model_copy(update={"learning_rate": self.settings.learning_rate})
        optimiser = make_optimiser([prompts, keys], fit)
        for epoch, rows in training_steps(optimiser, fit, count=len(domain), order=order):
            batch, target = bench.augmented(domain, domain.prompts, rows, order=order)
            masks, numbers, similarities = self._decode(batch, bench.training_view, prompts, keys, shares=shares)
            loss = protocol_loss(masks, batch, target, fit=fit)
            loss = loss - self.settings.pull * similarities.sum(dim=1).mean()
            refuse_divergence(loss, epoch=epoch, setting="method.learning_rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
            optimiser.step()
            choices += torch.bincount(numbers.flatten().cpu(), minlength=len(choices))
            bench.advance(3 * len(rows))
        return prompts.detach().cpu(), keys.detach().cpu(), choices

    def _shares(self) -> Tensor | None:
        total = int(self.choices.sum())
        return (self.choices / total).to(self.bench.view.device) if self.settings.diversify and total else None

    def _decode(
        self, batch: Batch, view: View, prompts: Tensor, keys: Tensor, *, shares: Tensor | None = None
    ) -> tuple[Masks, Tensor, Tensor]:
        """The masks with each image's own prompts, and these prompts' numbers and similarities, ``(B, N)``."""
        sam = self.bench.sam
        with torch.no_grad(), view.autocast():
            features = self.bench.encode(batch)
        numbers, similarities = choose_prompts(
            image_query(features.maps), keys, count=self.settings.chosen, shares=shares
        )
        with view.autocast():
            masks = sam.decode(features, batch.prompts, extra=prompts[numbers].flatten(1, 2))
        return masks, numbers, similarities

    def predict(self, batch: Batch) -> Tensor:
        """Each image's mask logits with the prompts it picks."""
        device = batch.images.device
        with torch.inference_mode():
            masks, _, _ = self._decode(batch, self.bench.view, self.prompts.to(device), self.keys.to(device))
        return masks.logits.float()

    def state(self) -> State:
        """The pool, and how often each prompt was chosen."""
        return State({"prompts": self.prompts, "keys": self.keys, "choices": self.choices})

    def load(self, state: State) -> None:
        """Become the method that wrote ``state``."""
        tensors = state.tensors
        self.prompts, self.keys, self.choices = tensors["prompts"], tensors["keys"], tensors["choices"]


def choose_prompts(queries: Tensor, keys: Tensor, *, count: int, shares: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The keys nearest to each query by cosine distance, nearest first.

    Args:
        queries: float, ``(B, C)``.
        keys: float, ``(M, C)``; gradients reach them through the similarities.
        count: N, at most M.
        shares: float, ``(M,)``, h: the factor of the distance to each key; None: 1.

    Returns:
        int64 ``(B, N)``, numbers of keys, and float ``(B, N)``, their similarities in [-1, 1].

    Source: Wang et al. 2022, section 4.2.
    """
    similarity = functional.normalize(queries, dim=1) @ functional.normalize(keys, dim=1).T
    distance = 1 - similarity.detach()
    if shares is not None:
        distance = distance * shares.clamp_min(_LEAST_SHARE)
    numbers = distance.topk(count, dim=1, largest=False).indices
    return numbers, similarity.gather(1, numbers)


def image_query(embeddings: Tensor) -> Tensor:
    """The mean over the grid of an image's embedding ``(B, C, h, w)``: float32 ``(B, C)``."""
    return embeddings.float().mean(dim=(2, 3))
