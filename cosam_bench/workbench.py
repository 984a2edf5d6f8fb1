"""What a method works with: the frozen model, the protocol's training, and the cost meter."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cosam_bench import __version__
from cosam_bench.batches import Batch, View, chunks, collate
from cosam_bench.domains.prompts import TrainPrompt
from cosam_bench.files import write_atomically
from cosam_bench.fit import FitSettings, Fitted, fit_adapter
from cosam_bench.randomness import torch_generator
from cosam_bench.sam.adapters import AdapterSettings, layer_inputs, serving
from cosam_bench.sam.sam import Sam
from cosam_bench.training_domain import TrainingDomain
from cosam_bench.updates import Update


@dataclass
class Meter:
    """What one domain's learning cost so far.

    Attributes:
        training_seconds: adapter training, counted in full also where an expert was reused.
        elapsed_training_seconds: the part of it that was really spent now.
        trainable_parameters: of the adapter that was trained last.
    """

    training_seconds: float = 0.0
    elapsed_training_seconds: float = 0.0
    trainable_parameters: int = 0


@dataclass(frozen=True)
class Workbench:
    """The same for every method of a protocol and a seed.

    Attributes:
        sam: the base model, frozen; a method that changes its weights is refused.
        adapter: which adapter is trained.
        fit: how it is trained.
        prompt_kind: the prompts of training.
        view: how samples become model input, and where.
        seed: the run's seed.
        batch_size: images a pass without gradients.
        experts: the folder of experts that are trained once and reused; None to train anew.
        meter: adds up costs.
        advance: reports progress, in encoder passes; a training step counts three an image.
    """

    sam: Sam
    adapter: AdapterSettings
    fit: FitSettings
    prompt_kind: TrainPrompt
    view: View
    seed: int
    batch_size: int = 8
    experts: Path | None = None
    meter: Meter = field(default_factory=Meter)
    advance: Callable[[float], None] = lambda passes: None

    def generator(self, *names: str | int) -> torch.Generator:
        """A random stream of this run's seed that belongs to the names."""
        return torch_generator(self.seed, *names)

    def train(self, domain: TrainingDomain, *, start: Update | None = None) -> Fitted:
        """The expert of a domain by the protocol's training, from the base or from ``start``.

        Every domain's adapter begins with the same random factors. An expert with the same data, prompts,
        model, settings, seed and start is read back instead of trained, at its recorded cost.
        """
        path = self.experts / f"{self._expert_key(domain, start)}.safetensors" if self.experts else None
        began = time.perf_counter()
        fitted = _read_expert(path) if path else None
        if fitted is None:
            fitted = fit_adapter(
                self.sam,
                domain,
                domain.prompts,
                adapter=self.adapter,
                fit=self.fit,
                prompt_kind=self.prompt_kind,
                view=replace(self.view, precision=self.fit.precision),
                start=start,
                initialisation=self.generator("adapter"),
                order=self.generator("order", domain.digest),
                advance=lambda images: self.advance(3 * images),
            )
            if path:
                _write_expert(path, fitted)
        else:
            self.advance(3 * self.fit.epochs * len(domain))
        self.meter.training_seconds += fitted.seconds
        self.meter.elapsed_training_seconds += time.perf_counter() - began
        self.meter.trainable_parameters = fitted.trainable_parameters
        return fitted

    def _expert_key(self, domain: TrainingDomain, start: Update | None) -> str:
        facts = {
            "data": domain.digest,
            "model": self.sam.checkpoint_digest,
            "adapter": self.adapter.model_dump(mode="json"),
            "fit": self.fit.model_dump(mode="json"),
            "prompt": self.prompt_kind,
            "resize": self.view.resize,
            "device": self.view.device.type,
            "seed": self.seed,
            "start": start.digest() if start is not None else None,
            "torch": torch.__version__,
            "harness": __version__,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def input_grams(self, domain: TrainingDomain, update: Update) -> dict[str, Tensor]:
        """The mean of ``x x^T`` over all tokens of the domain, for each low-rank layer of ``update``.

        One pass over the images without augmentation, the model changed by ``update``; window padding counts
        as the layer sees it.

        Returns:
            By layer, float64 on the CPU, ``(inputs, inputs)``, symmetric and positive semi-definite.

        Source: RegMean (Jin et al., ICLR 2023), with RegCL's mean instead of the sum, so that each domain
        weighs the same.
        """
        sums: dict[str, Tensor] = {}
        rows: dict[str, int] = {}

        def accumulate(layer: str, inputs: Tensor) -> None:
            # Autocast would multiply in bf16, whose Gram matrices have eigenvalues far below zero.
            with torch.autocast(inputs.device.type, enabled=False):
                gram = (inputs.float().T @ inputs.float()).double().cpu()
            sums[layer] = sums[layer] + gram if layer in sums else gram
            rows[layer] = rows.get(layer, 0) + inputs.shape[0]

        with (
            torch.inference_mode(),
            serving(self.sam, update),
            layer_inputs(self.sam, list(update.low_rank), accumulate),
            self.view.autocast(),
        ):
            for chosen in chunks(range(len(domain)), size=self.batch_size):
                batch, _ = collate(
                    [domain[index] for index in chosen],
                    domain.prompts.take(chosen),
                    kinds=["box"] * len(chosen),
                    view=self.view,
                )
                self.sam.encode(batch.images)
                self.advance(len(chosen))
        # A copy made outside inference mode, so that later arithmetic may record gradients.
        return {layer: (total / rows[layer]).clone() for layer, total in sums.items()}

    def predict(self, update: Update | None, batch: Batch) -> Tensor:
        """The mask logits of the model changed by ``update``; float32, ``(B, h, w)`` on the decoder's grid."""
        with torch.inference_mode(), serving(self.sam, update), self.view.autocast():
            return self.sam.decode(self.sam.encode(batch.images), batch.prompts).logits.float()

    def predict_each(self, updates: Sequence[Update | None], batch: Batch) -> Tensor:
        """As ``predict``, each row by the model that its own update makes; rows with one object share a pass."""
        groups: dict[int, list[int]] = {}
        for row, update in enumerate(updates):
            groups.setdefault(id(update), []).append(row)
        parts = [self.predict(updates[rows[0]], batch.select(rows)) for rows in groups.values()]
        order = [row for rows in groups.values() for row in rows]
        logits = torch.cat(parts)
        return logits[torch.tensor(order, device=logits.device).argsort()]


def _write_expert(path: Path, fitted: Fitted) -> None:
    facts = {
        "epoch_losses": list(fitted.epoch_losses),
        "trainable_parameters": fitted.trainable_parameters,
        "seconds": fitted.seconds,
    }
    write_atomically(path, save(fitted.update.tensors(), metadata={"facts": json.dumps(facts)}))


def _read_expert(path: Path) -> Fitted | None:
    """The stored expert, or None where there is none that can be read: it is then trained again."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
            facts = json.loads(file.metadata()["facts"])
        return Fitted(
            update=Update.from_tensors(tensors),
            epoch_losses=tuple(facts["epoch_losses"]),
            trainable_parameters=int(facts["trainable_parameters"]),
            seconds=float(facts["seconds"]),
        )
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
