"""What a method works with: the frozen model, the protocol's training, and statistics of the data."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from cosam_bench.core.arithmetic import tf32_on
from cosam_bench.core.devices import loading_threads
from cosam_bench.core.errors import CosamError
from cosam_bench.core.precision_choices import Precision
from cosam_bench.core.prefetch import prefetch_map
from cosam_bench.core.seeds import derived_seed, torch_generator
from cosam_bench.data.prompt_settings import TestPrompt, TrainPrompt
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Sample
from cosam_bench.merging.gram_matrices import InputGrams
from cosam_bench.merging.updates import Update, lazy_weight_changes
from cosam_bench.method.cost_meter import Meter
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.targets import target_layers
from cosam_bench.sam.batch_size import AdaptiveBatchSize
from cosam_bench.sam.feature_cache import PrefixCache, uncached_clock
from cosam_bench.sam.inputs import Batch, ModelInput, View, chunks, collate_inputs
from cosam_bench.sam.sam import Features, Masks, Sam
from cosam_bench.sam.serving import KeptParameters, layer_inputs, serving
from cosam_bench.training.batch_loss import encode_batch, training_loss
from cosam_bench.training.draws import MIXED
from cosam_bench.training.expert_store import ExpertStore, expert_name
from cosam_bench.training.fit import Fitted, TrainingHooks, TrainingStep, fit_adapter
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.given_experts import GivenExperts
from cosam_bench.training.losses import mean_cross_entropy
from cosam_bench.training.prepared_sample import ready_input
from cosam_bench.training.sampling import images_seen
from cosam_bench.training.step_division import RepeatableGenerator, StepDivision
from cosam_bench.training.training_batch import TrainingBatch, draw_batch, with_targets


def name_of_expert(
    bench: Workbench, domain: TrainingDomain, *, start: Update | None = None, from_scratch: bool = False
) -> str:
    """The name in the store of the expert that ``bench.train`` returns for the same arguments."""
    return expert_name(
        domain.digest,
        sam=bench.sam,
        adapter=bench.adapter,
        fit=bench.fit.for_domain(domain.name),
        prompt_kind=bench.prompt_kind,
        view=bench.view,
        seed=bench.seed,
        start=start,
        from_scratch=from_scratch,
        has_kept_features=bench.prefixes is not None,
    )


@dataclass(frozen=True)
class Workbench:
    """The same for every method of a protocol and a seed.

    Attributes:
        sam: the base model, frozen; a method that changes its weights is refused.
        adapter: which adapter is trained.
        fit: how it is trained.
        prompt_kind: the prompts in training.
        view: how samples become model input, and on which device.
        seed: the run's seed.
        batch_size: images per pass without gradients.
        experts: the store of experts, which are trained once and reused; None: train each time.
        prefixes: cached features of the encoder's first blocks, which the protocol leaves frozen; None:
            compute them each time.
        meter: adds up costs.
        advance: reports progress, in encoder passes; a training step counts three per image.
        on_step: called after each step of an adapter's training; None: nobody watches.
        given: experts that were trained elsewhere: they take the place of training; None: train.
        note: tells the user that a training step did not fit into the memory at once, or beside cached features.
        passes: how many images per such pass fit into the memory, as scoring or an earlier pass of the run has found;
            None: each call begins with ``batch_size``.
        division: how a training step is divided that does not fit; copies of the workbench share it.
    """

    sam: Sam
    adapter: AdapterSettings
    fit: FitSettings
    prompt_kind: TrainPrompt
    view: View
    seed: int
    batch_size: int = 8
    experts: ExpertStore | None = None
    prefixes: PrefixCache | None = None
    meter: Meter = field(default_factory=Meter)
    advance: Callable[[float], None] = lambda passes: None
    on_step: Callable[[TrainingStep], None] | None = None
    given: GivenExperts | None = None
    note: Callable[[str], None] = lambda text: None
    passes: AdaptiveBatchSize | None = None
    division: StepDivision = field(default_factory=StepDivision, repr=False, compare=False)
    _served: KeptParameters = field(default_factory=KeptParameters, init=False, repr=False, compare=False)

    def generator(self, *names: str | int) -> torch.Generator:
        """The random generator that this run's seed and the names determine.

        What it draws in a training step that did not fit into the memory is drawn again when the step is repeated.
        """
        generator = RepeatableGenerator()
        generator.manual_seed(derived_seed(self.seed, *names))
        return self.division.remembered(generator)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the linear layers that the experts change, in the model's order."""
        return self.given.layers if self.given is not None else target_layers(self.sam, self.adapter)

    @property
    def training_view(self) -> View:
        """The view in the precision of training."""
        return replace(self.view, precision=self.fit.precision)

    def train(
        self,
        domain: TrainingDomain,
        *,
        start: Update | None = None,
        from_scratch: bool = False,
        hooks: TrainingHooks | None = None,
    ) -> Fitted:
        """The expert of a domain by the protocol's training, from the base or from ``start``.

        Every domain's adapter starts with the same random factors. An expert with the same data, prompts,
        model, settings, seed and start is read back instead of trained, at its recorded cost. If experts were brought
        in, the domain's is returned, at no cost.

        Args:
            from_scratch: freeze ``start`` beneath a fresh adapter, instead of training its factors further.
            hooks: a method's own steps within the training; such an expert is never read back.

        Raises:
            CosamError: training fails, or experts were brought in and the method asks for another training.
        """
        if self.given is not None:
            if start is not None or hooks is not None:
                raise _untrained("starts a training from its own update, or takes part in it")
            return Fitted(self.given.of(domain.name), (), trainable_parameters=0, seconds=0.0)
        fit, watch = self.fit.for_domain(domain.name), self.on_step

        def fitted_now() -> Fitted:
            return fit_adapter(
                self.sam,
                domain,
                domain.prompts,
                adapter=self.adapter,
                fit=fit,
                prompt_kind=self.prompt_kind,
                view=self.training_view,
                start=start,
                continue_start=not from_scratch,
                initialisation=self.generator("adapter"),
                order=torch_generator(self.seed, "order", domain.digest),  # its batches are drawn outside of steps
                hooks=hooks,
                prefixes=self.prefixes,
                advance=lambda images: self.advance(3 * images),
                on_step=watch and (lambda step: watch(replace(step, domain=domain.name))),
                note=self.note,
                division=self.division,
            )

        began = uncached_clock(self.prefixes)
        if self.experts is None or hooks is not None:
            fitted, is_new = fitted_now(), True
        else:
            name = name_of_expert(self, domain, start=start, from_scratch=from_scratch)
            fitted, is_new = self.experts.read_or_train(name, fitted_now)
        if not is_new:
            self.advance(3 * images_seen(len(domain), self.fit))
        self.meter.training_seconds += fitted.seconds
        self.meter.elapsed_training_seconds += uncached_clock(self.prefixes) - began
        self.meter.trainable_parameters = fitted.trainable_parameters
        return fitted

    @contextmanager
    def training(self, *, trainable_parameters: int) -> Iterator[None]:
        """Count the time within as training, for a method that trains something other than an adapter.

        Raises:
            CosamError: experts were brought in, so that nothing is trained.
        """
        if self.given is not None:
            raise _untrained("trains something else than adapters")
        began = uncached_clock(self.prefixes)
        yield
        seconds = uncached_clock(self.prefixes) - began
        self.meter.training_seconds += seconds
        self.meter.elapsed_training_seconds += seconds
        self.meter.trainable_parameters = trainable_parameters

    def augmented(
        self, samples: Sequence[Sample], prompts: Prompts, rows: list[int], *, order: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Some samples as a training step sees them, and their masks ``(B, h, w)`` on the grid of the logits.

        Args:
            prompts: one row per sample.
            rows: which of the samples.
            order: draws flips and kinds of prompt.
        """
        fit, view = self.fit, self.training_view
        return draw_batch(samples, prompts, rows, fit=fit, prompt_kind=self.prompt_kind, view=view, order=order)

    def labelled(self, domain: TrainingDomain, rows: Sequence[int]) -> tuple[Batch, Tensor]:
        """Some training samples without augmentation, and their masks ``(B, h, w)`` on the grid of the logits.

        If training mixes kinds of prompt, each sample's position in the domain decides its kind.
        """
        samples, kinds = [domain[row] for row in rows], self._kinds(rows)
        return with_targets(samples, domain.prompts.take(rows), kinds=kinds, view=self.training_view, fit=self.fit)

    def _kinds(self, rows: Sequence[int]) -> list[TestPrompt]:
        return [MIXED[row % len(MIXED)] if self.prompt_kind == "mix" else self.prompt_kind for row in rows]

    def encode(self, batch: Batch) -> Features:
        """The embeddings of a batch by the model as it is now, in the precision and grad mode around the call."""
        return encode_batch(self.sam, batch, self.prefixes, images=self.division.images)

    def loss(self, batch: Batch, target: Tensor, *, precision: Precision | None = None) -> tuple[Tensor, Masks]:
        """The protocol's training loss of the model as it is now, a scalar with a graph, and its masks.

        Args:
            precision: of the forward pass; None: that of training.
        """
        view = replace(self.view, precision=precision or self.fit.precision)
        return training_loss(
            self.sam,
            batch,
            target,
            fit=self.fit,
            view=view,
            prefixes=self.prefixes,
            images=self.division.images,
        )

    def input_grams(
        self, domain: TrainingDomain, update: Update | None, *, projections: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The mean of ``x x^T`` over all tokens of the domain, for each of ``layers``.

        One pass over the images without augmentation, with the model changed by ``update``; window padding counts
        as the layer sees it, and a layer that is used several times pools its inputs. The encoder stops after the
        last of the layers, and the decoder runs only if it contains one of them. If training sees one of several
        shards, so does this pass. If memory runs out, all sums begin again with half as many images at once.

        Args:
            update: the change of the model; None: the base.
            projections: by layer, P ``(k, inputs)``, to get P G P^T ``(k, k)`` at a small part of G's cost.

        Returns:
            By layer, float64 on the CPU, ``(inputs, inputs)``, symmetric and positive semi-definite.

        Raises:
            ImageDoesNotFit: not even one image fits into the memory.

        Source: RegMean (Jin et al., ICLR 2023), with RegCL's mean instead of the sum, so that each domain has
        the same weight.
        """
        needs_decoder = self.adapter.kind == "hq" or any(name.startswith("mask_decoder.") for name in self.layers)
        placed = {layer: matrix.to(self.view.device, torch.float32) for layer, matrix in (projections or {}).items()}
        advanced = 0

        def means(images: int) -> dict[str, Tensor]:
            nonlocal advanced
            grams, passed = InputGrams(self.layers, ends_early=not needs_decoder, projections=placed), 0

            def add(layer: str, inputs: Tensor) -> None:
                with tf32_on(inputs.device, is_tf32=False):  # its products have eigenvalues below zero
                    grams.add(layer, inputs)

            with (
                closing(self._unaugmented(domain, images)) as batches,
                torch.inference_mode(),
                serving(self.sam, update),
                layer_inputs(self.sam, self.layers, add),
                self.view.autocast(),
            ):
                for batch in batches:
                    with grams.one_pass():
                        features = self.encode(batch)
                        if needs_decoder:
                            self.sam.decode(features, batch.prompts)
                    passed += len(batch)
                    if passed > advanced:
                        self.advance(passed - advanced)
                        advanced = passed
            return grams.means()

        passes = self.passes or AdaptiveBatchSize(self.batch_size, prefixes=self.prefixes, note=self.note)
        seen = len(range(0, len(domain), self.fit.ranks))
        return passes.until_it_fits(means, most=max(1, min(self.batch_size, seen)), act="take the inputs of")

    def _unaugmented(self, domain: TrainingDomain, images: int) -> Generator[Batch, None, None]:
        """The samples that training sees, as they are, ``images`` at a time; for a GPU, prepared in threads."""
        view, with_digest = self.view, self.prefixes is not None

        def ready(row: int) -> ModelInput:
            return ready_input(domain[row].image, view=view, with_digest=with_digest)

        workers, rows = loading_threads() if view.device.type == "cuda" else 0, range(0, len(domain), self.fit.ranks)
        with closing(prefetch_map(ready, rows, workers=workers, depth=2 * images)) as inputs:
            for chosen in chunks(rows, size=images):
                own, taken = list(islice(inputs, len(chosen))), domain.prompts.take(chosen)
                batch, _ = collate_inputs(own, taken, kinds=self._kinds(chosen), view=view)
                yield batch

    def squared_gradients(
        self, domain: TrainingDomain, update: Update, *, labels: Literal["true", "sampled"], images: int = 256
    ) -> dict[str, Tensor]:
        """The diagonal Fisher information of the changed weights, at the base changed by ``update``.

        The mean over images of the squared gradient of the masks' negative log-likelihood, the mean over pixels
        that count of the Bernoulli cross-entropy, in fp32. The gradient is with respect to the weight W itself, not its
        factors, so it does not depend on how an adapter splits its change.

        Args:
            labels: ``true`` gives the empirical Fisher; ``sampled`` draws each pixel from the prediction.
            images: at most this many, the domain's first ones.

        Returns:
            By parameter name, as in ``weight_changes(update)``: float32 on the CPU, the weight's shape.
        """
        names = list(lazy_weight_changes(update))
        if not names:
            return {}
        count = min(images, len(domain))
        generator = self.generator("fisher", domain.digest)
        sums: dict[str, Tensor] = {}
        # The pass turns TF32 off by itself, its gradient does not.
        with serving(self.sam, update), tf32_on(self.view.device, is_tf32=False):
            weights = [self.sam.get_parameter(name).requires_grad_() for name in names]
            for row in range(count):
                batch, target = self.labelled(domain, [row])
                _, masks = self.loss(batch, target, precision="fp32")
                if labels == "sampled":
                    chances = masks.logits.detach().sigmoid().cpu()
                    target = torch.bernoulli(chances, generator=generator).to(target.device)
                shares = batch.weights if isinstance(batch, TrainingBatch) else None
                likelihood = mean_cross_entropy(masks.logits, target, weights=shares)
                # The weights may include the decoder's estimate of its IoU, on which the masks do not depend.
                gradients = torch.autograd.grad(likelihood, weights, allow_unused=True, materialize_grads=True)
                for name, gradient in zip(names, gradients, strict=True):
                    sums[name] = sums.get(name, 0) + gradient.square()
                self.advance(3)
        return {name: (total / count).float().cpu() for name, total in sums.items()}

    def predict(self, update: Update | None, batch: Batch) -> Tensor:
        """The mask logits of the model changed by ``update``; float32, ``(B, h, w)`` on the decoder's grid."""
        with torch.inference_mode(), serving(self.sam, update, kept=self._served), self.view.autocast():
            return self.sam.decode(self.encode(batch), batch.prompts).logits.float()

    def predict_each(self, updates: Sequence[Update | None], batch: Batch) -> Tensor:
        """As ``predict``, with one update per row; rows with the same object share a pass."""
        groups: dict[int, list[int]] = {}
        for row, update in enumerate(updates):
            groups.setdefault(id(update), []).append(row)
        parts = [self.predict(updates[rows[0]], batch.select(rows)) for rows in groups.values()]
        order = [row for rows in groups.values() for row in rows]
        logits = torch.cat(parts)
        return logits[torch.tensor(order, device=logits.device).argsort()]


def _untrained(what: str) -> CosamError:
    return CosamError(
        f"The experts were brought in, so nothing is trained, but this method {what}. Run it without --experts."
    )
