"""MoDA: one adapter per domain, and a router that reads tokens which pass through the frozen encoder.

Source: CoSAM/MoDA, arXiv 2412.06418, and its released code. After each domain

1. an adapter is trained from the base model on this domain alone, and kept;
2. the domain's first images join the memory;
3. the router is trained on the memory: learned tokens T, the first one the global feature token (GFT), the
   others its assistants (GAT), pass the frozen encoder together with the image, and a linear layer, the keys
   K, classifies the domain: softmax(K f + b) with f the GFT after the last block.

An image x is served by one adapter, without mixing and without a "none of them":

    M for x = tau_j,   j = argmax(K f(x) + b).

That takes two encoder passes per image, one with tokens through the base model and one with the adapter.

The tokens are drawn from N(0, 1) once, and each domain's training continues from the last; the keys are drawn again for
each number of domains. ``redraw_tokens`` draws the tokens again, too, as the released code does. ``train_tokens =
false`` leaves the tokens as they were drawn, as the released code does, whose tokens get no gradient. With one domain
there is nothing to route. ``cosam_bench.methods.moda_tokens`` says how tokens pass through an encoder, including
MobileSAM's.

Keeps samples: the memory's images, at their own size, in the state. The state grows by an adapter and
``memory`` images per domain. The order matters, because the tokens are trained on from domain to domain.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from cosam_bench import Batch, Method, MethodCard, Settings, State, TrainingDomain, Update, Workbench, setting
from cosam_bench.methods.moda_tokens import join_depth, join_tokens, token_widths
from cosam_bench.sam.feature_cache import first_blocks
from cosam_bench.sam.inputs import BatchInputs, chunks


class MoDASettings(Settings):
    """The settings of MoDA; the defaults are the released code's, except for the trained tokens."""

    tokens: int = setting(10, "one global feature token and its assistants", source="released code", search=None, ge=1)
    memory: int = setting(10, "images kept per domain, its first ones", source="released code", search=None, ge=1)
    router_epochs: int = setting(
        10, "passes over the memory after each domain", source="released code", search=None, ge=1
    )
    router_learning_rate: float = setting(
        1e-3, "Adam's, for keys and tokens", source="released code", search=(1e-4, 0.1, "log"), gt=0
    )
    router_batch: int = setting(4, "images per step of the router", source="released code", search=None, ge=1)
    train_tokens: bool = setting(
        True,
        "train the tokens too; off, they stay as they were drawn",
        source="the paper; in the released code no gradient reaches them",
    )
    redraw_tokens: bool = setting(
        False,
        "draw the tokens again for each domain, with the keys; off, they are drawn once",
        source="this project; the released code makes its router anew for each domain",
    )


class MoDA(Method[MoDASettings]):
    """A router over one adapter per domain."""

    card = MethodCard(
        title="MoDA",
        paper="arXiv 2412.06418",
        needs=("replay",),
        state="grows",
        deviations=(
            "the adapter is the protocol's; HQ-SAM's decoder layers, as published, are adapter.kind = hq",
            "tokens are trained by default; in the released code no gradient reaches them",
            "tokens are drawn once; the released code makes its tokens and classifier anew per domain: redraw_tokens",
            "the memory is the training split's first images in its own order, not a folder's listing",
            "the router's last batch of an epoch may be smaller and is not dropped",
            "the last epoch's adapters are kept; the released script chooses epochs by test scores",
            "the encoder keeps its windows; the released code makes every block global: model.global_attention",
            "in MobileSAM's encoder the tokens join the attention blocks of the last two stages",
        ),
    )

    def __init__(self, settings: MoDASettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        width, _ = token_widths(bench.sam)
        self.experts: list[Update] = []
        self.memory: list[list[Tensor]] = []  # by domain, uint8 (3, H, W) of any size
        self.tokens = torch.randn(settings.tokens, width, generator=bench.generator("moda", "tokens"))
        self.keys: Tensor | None = None  # (domains, width + 1), the last column the bias

    @classmethod
    def needs_training(cls, settings: MoDASettings) -> str:
        """Training of the router."""
        return "trains a router"

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Train and keep this domain's adapter, keep its first images, train the router on all kept images."""
        self.experts.append(self.bench.train(domain).update)
        self.memory.append([domain[index].image for index in range(min(self.settings.memory, len(domain)))])
        if len(self.experts) > 1:
            self._train_router()

    def _train_router(self) -> None:
        options, device = self.settings, self.bench.view.device
        generator = self.bench.generator("moda", "router", len(self.experts))
        if options.redraw_tokens:
            draws = self.bench.generator("moda", "tokens", len(self.experts))
            self.tokens = torch.randn(self.tokens.shape, generator=draws)
        tokens = self.tokens.to(device, copy=True).requires_grad_(options.train_tokens)
        keys = self._new_keys(generator).to(device).requires_grad_()
        trained = [keys, tokens] if options.train_tokens else [keys]
        optimiser = torch.optim.Adam(trained, lr=options.router_learning_rate)
        labels = torch.tensor([number for number, images in enumerate(self.memory) for _ in images], device=device)
        inputs = self._router_inputs(tokens)
        for _ in range(options.router_epochs):
            order = torch.randperm(len(labels), generator=generator).tolist()
            for rows in chunks(order, size=options.router_batch):
                chosen = inputs[rows].to(device)
                queries = self._query(chosen, tokens) if options.train_tokens else chosen
                loss = functional.cross_entropy(_scores(queries, keys), labels[rows])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
                optimiser.step()
        self.tokens, self.keys = tokens.detach().cpu(), keys.detach().cpu()

    def _new_keys(self, generator: torch.Generator) -> Tensor:
        """Drawn as torch draws a linear layer's weight and bias."""
        _, width = token_widths(self.bench.sam)
        return (torch.rand(len(self.experts), width + 1, generator=generator) * 2 - 1) / math.sqrt(width)

    def _router_inputs(self, tokens: Tensor) -> Tensor:
        """The router's inputs for the memory's images, computed once and kept on the CPU.

        Returns:
            ``(images, ...)``: their maps before the first token, 1 to 20 MB each, or their queries if the tokens
            are not trained.
        """
        images = [image for kept in self.memory for image in kept]
        parts = []
        with torch.no_grad():
            for rows in chunks(range(len(images)), size=self.bench.batch_size):
                inputs = [self.bench.view.preprocess(images[row]) for row in rows]
                framed = self.bench.view.stack(inputs)
                maps = self._encode_before_tokens(framed, inputs=BatchInputs.of(framed, inputs))
                parts.append((maps if self.settings.train_tokens else self._query(maps, tokens)).cpu())
        return torch.cat(parts)

    def _encode_before_tokens(self, images: Tensor, *, inputs: BatchInputs | None = None) -> Tensor:
        """The encoder's maps of images just before the first token joins."""
        sam = self.bench.sam
        with self.bench.view.autocast():
            return first_blocks(sam, images, depth=join_depth(sam), cache=self.bench.prefixes, inputs=inputs)

    def _query(self, maps: Tensor, tokens: Tensor) -> Tensor:
        """The first token after the base encoder's last block, float32, ``(B, width)``."""
        with self.bench.view.autocast():
            return join_tokens(self.bench.sam, maps, tokens)[:, 0].float()

    def route(self, images: Tensor, *, inputs: BatchInputs | None = None) -> list[int]:
        """The adapter's number for each normalised image of ``(B, 3, S, S)``, from 0 in the order of learning."""
        if self.keys is None:
            return [0] * len(images)
        with torch.inference_mode():
            queries = self._query(self._encode_before_tokens(images, inputs=inputs), self.tokens.to(images.device))
            return _scores(queries, self.keys.to(images.device)).argmax(dim=1).tolist()

    def predict(self, batch: Batch) -> Tensor:
        """Each image's mask logits by the adapter it is routed to."""
        return self.bench.predict_each(
            [self.experts[number] for number in self.route(batch.images, inputs=batch.inputs)], batch
        )

    def state(self) -> State:
        """All adapters, the memory's images, the tokens and the keys."""
        tensors = {"tokens": self.tokens} | ({} if self.keys is None else {"keys": self.keys})
        for number, (expert, images) in enumerate(zip(self.experts, self.memory, strict=True)):
            tensors |= expert.tensors(f"expert/{number}/")
            tensors |= {f"memory/{number}/{index}": image for index, image in enumerate(images)}
        return State(tensors, {"memory": [len(images) for images in self.memory]})

    def load(self, state: State) -> None:
        """Become the method that wrote ``state``."""
        tensors, counts = state.tensors, cast("list[int]", state.values["memory"])
        self.tokens, self.keys = tensors["tokens"], tensors.get("keys")
        self.experts = [Update.from_tensors(tensors, f"expert/{number}/") for number in range(len(counts))]
        self.memory = [
            [tensors[f"memory/{number}/{index}"] for index in range(count)] for number, count in enumerate(counts)
        ]


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Each domain's score, ``(B, domains)``: its key times the query, plus its bias."""
    return functional.linear(queries, keys[:, :-1], keys[:, -1])
