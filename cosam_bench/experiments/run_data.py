"""The data of one run: its stream opened, limited, ordered, and part of the training images held out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.data.held_out import SHARE, hold_out
from cosam_bench.data.image_counts import count_differences
from cosam_bench.data.opening import OpenedStream, open_stream
from cosam_bench.data.prompt_settings import UNDRAWN, WHOLE, PromptSettings
from cosam_bench.data.samples import Domain, Split
from cosam_bench.data.streams import Stream
from cosam_bench.data.subsets import at_most, image_count
from cosam_bench.experiments.protocol import RunConfig


@dataclass(frozen=True)
class Validation:
    """What is scored in place of test images and retention domains, which are then not opened.

    Attributes:
        share: of each domain's training images that is held out: it is scored, and not trained on.
        domains: only these of the stream's domains; empty: all.
    """

    share: float
    domains: tuple[str, ...] = ()

    def stream(self, stream: Stream) -> Stream:
        """The stream with these domains alone.

        Raises:
            CosamError: one of them is not in it.
        """
        order = [name for name in stream.order if not self.domains or name in self.domains]
        _check_names("domain of this stream", self.domains, stream.order)
        return stream.model_copy(update={"order": tuple(order), "orders": {}, "retention": ()})


@dataclass(frozen=True)
class RunData:
    """The opened domains of one run.

    Attributes:
        domains: in the order of the run, without what is held out of their training parts.
        retention: domains that are only ever tested.
        image_counts: by the domain's name, its number of images and the one that its card states, if they differ;
            with ``limit``, the number used and the one there.
        held_out: by the domain's name, what is held out beside a test part.
    """

    domains: tuple[Domain, ...]
    retention: tuple[Domain, ...]
    image_counts: dict[str, tuple[int, int]]
    held_out: dict[str, Split] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[Domain, ...]:
        """All domains that are scored."""
        return self.domains + self.retention


def open_run_data(config: RunConfig, described: Stream, *, validation: Validation | None = None) -> RunData:
    """Open the data of a run.

    Args:
        config: the resolved settings.
        described: the run's stream.
        validation: what is scored in place of test images; None: these.

    Raises:
        CosamError: data is missing or faulty, a name is unknown, a training part is too small to be divided, or images
            with empty masks are kept, of which prompts would have to be drawn.
    """
    protocol = config.protocol
    _check_names("domain of this stream, as fit.rates has it,", protocol.fit.rates, described.order)
    order = config.order
    if validation is not None:
        described = validation.stream(described)
        order = tuple(name for name in order if name in described.order)
    stream = open_stream(described, foreground=protocol.foreground, is_training_only=validation is not None)
    stream, counts = _limited(stream, config.limit, count_differences(described))
    domains = _ordered(stream, order)
    _check_empty_masks(domains, domains + stream.retention, protocol.prompts)
    if validation is not None:
        parts = [(domain, *hold_out(domain.train, share=validation.share)) for domain in domains]
        return RunData(tuple(replace(domain, train=kept, test=out) for domain, kept, out in parts), (), counts)
    if not config.scales:
        return RunData(domains, stream.retention, counts)
    domains, held_out = _divided(domains)
    return RunData(domains, stream.retention, counts, held_out)


def _check_names(kind: str, asked: Iterable[str], names: tuple[str, ...]) -> None:
    for name in asked:
        if name not in names:
            raise unknown_name(kind, name, names)


def _limited(
    stream: OpenedStream, limit: int | None, counts: dict[str, tuple[int, int]]
) -> tuple[OpenedStream, dict[str, tuple[int, int]]]:
    """The stream with at most ``limit`` images in each part of each domain, and the numbers of images that differ.

    Args:
        stream: whole.
        limit: None: all.
        counts: by the domain's name, how many images it has and should have, if they differ.
    """
    if limit is None:
        return stream, counts

    def limited(domain: Domain) -> Domain:
        cut = replace(
            domain,
            train=at_most(domain.train, limit),
            test=at_most(domain.test, limit),
            negatives=None if domain.negatives is None else at_most(domain.negatives, limit),
        )
        kept, whole = (_image_count(one) for one in (cut, domain))
        if kept < whole:
            counts[domain.name] = (kept, counts.get(domain.name, (whole, whole))[1])
        return cut

    return replace(
        stream,
        domains=tuple(limited(domain) for domain in stream.domains),
        retention=tuple(limited(domain) for domain in stream.retention),
    ), counts


def _image_count(domain: Domain) -> int:
    splits = (domain.train, domain.test, domain.negatives)
    return sum(image_count(split) for split in splits if split is not None)


def _check_empty_masks(learned: Sequence[Domain], tested: Sequence[Domain], prompts: PromptSettings) -> None:
    """Refuse kept images with empty masks, of which a prompt would have to be drawn.

    Raises:
        CosamError: naming the setting of the prompt and the domains.
    """
    kept = {
        ("train", prompts.train): [domain.name for domain in learned if domain.train.manifest.empty_count],
        ("test", prompts.test): [domain.name for domain in tested if domain.negatives is not None],
    }
    for (part, kind), names in kept.items():
        if names and kind not in UNDRAWN:
            raise CosamError(
                f"{', '.join(names)}: images with empty masks are kept, and no prompt of kind {kind!r} can be drawn "
                f'from an empty mask. Say --set prompts.{part}={WHOLE}, or empty = "drop" in the cards.'
            )


def _divided(domains: tuple[Domain, ...]) -> tuple[tuple[Domain, ...], dict[str, Split]]:
    """The domains with what they train on, and what is held out of it by the domain's name."""
    parts = {domain.name: hold_out(domain.train, share=SHARE) for domain in domains}
    kept = tuple(replace(domain, train=parts[domain.name][0]) for domain in domains)
    return kept, {name: out for name, (_, out) in parts.items()}


def _ordered(stream: OpenedStream, order: tuple[str, ...]) -> tuple[Domain, ...]:
    by_name = {domain.name: domain for domain in stream.domains}
    for name in order:
        if name not in by_name:
            raise unknown_name("domain of this stream", name, by_name)
    if order and sorted(order) != sorted(by_name):
        raise CosamError(
            f"The order names {', '.join(order)}, but the stream has {', '.join(by_name)}. Name each domain once."
        )
    return tuple(by_name[name] for name in order) if order else stream.domains
