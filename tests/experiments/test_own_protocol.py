"""The protocol of a stream of one's own: named after stream and model, with settings that fit the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.options import RunOptions, resolve
from cosam_bench.experiments.protocol import Protocol, resolve_run
from cosam_bench.results.protocol_match import protocol_differences
from cosam_bench.sam.models import MODELS

STREAM = 'name = "weld"\ntitle = "Weld seams"\n[[domain]]\nname = "a"\nroot = "a"\n[[domain]]\nname = "b"\nroot = "b"\n'


@pytest.fixture
def stream(tmp_path: Path) -> str:
    (tmp_path / "weld.toml").write_text(STREAM)
    return str(tmp_path / "weld.toml")


def protocol_of(**options: object) -> Protocol:
    return resolve(("average",), RunOptions(**options))[0].protocol  # type: ignore[arg-type]


def test_a_stream_without_a_protocol_has_own(stream: str) -> None:
    protocol = protocol_of(stream=stream)
    assert (protocol.name, protocol.title) == ("own-weld-mobile_sam", "Weld seams, with mobile_sam")
    assert (protocol.stream, protocol.model.name) == (stream, "mobile_sam")
    assert protocol == protocol_of(stream=stream, protocol="own")


def test_the_settings_are_the_models(stream: str) -> None:
    fits = {name: protocol_of(stream=stream, model=name).fit for name in MODELS}
    assert {name: (fit.epochs, fit.batch_size, fit.learning_rate) for name, fit in fits.items()} == {
        "tiny": (10, 8, 4e-3),
        "mobile_sam": (4, 1, 4e-3),
        "vit_b": (10, 4, 1e-3),
        "vit_l": (10, 4, 1e-3),
        "vit_h": (10, 4, 1e-3),
    }
    for option in ({"model": "tiny"}, {"settings": ("model.name=tiny",)}):
        assert protocol_of(stream=stream, **option).name == "own-weld-tiny"


def test_the_model_is_read_as_the_settings_are(stream: str) -> None:
    for spelled in ('model.name = "tiny"', "protocol.model.name=tiny", 'model={name="tiny"}'):
        protocol = protocol_of(stream=stream, settings=(spelled,))
        assert (protocol.name, protocol.model.name, protocol.fit.epochs) == ("own-weld-tiny", "tiny", 10), spelled


def test_a_config_with_another_stream_or_model_has_another_name(stream: str, tmp_path: Path) -> None:
    [first] = resolve(("average",), RunOptions(stream=stream, model="tiny", settings=("fit.epochs=2",)))
    file, other = tmp_path / "config.toml", str(tmp_path / "other.toml")
    file.write_text(first.to_toml())
    Path(other).write_text(STREAM.replace("weld", "rail").replace("Weld seams", "Rails"))
    for options, name, title in [
        ({}, "own-weld-tiny", "Weld seams, with tiny"),
        ({"stream": other}, "own-rail-tiny", "Rails, with tiny"),
        ({"stream": other, "order": "reverse"}, "own-rail-tiny", "Rails, with tiny"),
        ({"settings": (f"stream={other}",)}, "own-rail-tiny", "Rails, with tiny"),
        ({"model": "mobile_sam"}, "own-weld-mobile_sam", "Weld seams, with mobile_sam"),
        ({"stream": other, "settings": ("name=mine",)}, "mine", "Rails, with tiny"),
    ]:
        protocol = protocol_of(config=file, **options)
        assert (protocol.name, protocol.title, protocol.fit.epochs) == (name, title, 2)


def test_a_config_of_another_protocol_keeps_its_name(stream: str, tmp_path: Path) -> None:
    [first] = resolve(("average",), RunOptions(protocol="mini"))
    (tmp_path / "config.toml").write_text(first.to_toml())
    protocol = protocol_of(config=tmp_path / "config.toml", stream=stream)
    assert (protocol.name, protocol.stream) == ("mini", stream)


def test_it_is_open_on_other_images(stream: str) -> None:
    own, real = protocol_of(stream=stream), resolve_run(method="average", protocol="open").protocol
    free = {"name", "version", "title", "stream", "mode"}  # `open` changed its version with its images alone
    assert own.model_dump(exclude=free) == real.model_dump(exclude=free)


def test_the_tiny_model_trains_as_in_the_first_version_of_mini(stream: str) -> None:
    own, mini = (protocol_of(stream=stream, model="tiny"), resolve_run(method="average", protocol="mini").protocol)
    first = mini.fit.model_copy(update={"learning_rate": 4e-3})
    assert own.fit.model_copy(update={"flip": mini.fit.flip}) == first
    assert own.adapter == mini.adapter


def test_settings_win_over_the_models(stream: str) -> None:
    protocol = protocol_of(stream=stream, settings=("fit.epochs=2", "name=mine"))
    assert (protocol.fit.epochs, protocol.name) == (2, "mine")


def test_a_run_of_own_is_no_deviation_from_a_built_in_protocol(stream: str) -> None:
    settings = protocol_of(stream=stream, settings=("fit.epochs=2",)).model_dump(mode="json")
    assert protocol_differences(settings, image_counts={}, weights_sha256="") == ""


def test_another_protocol_keeps_its_settings(stream: str) -> None:
    assert protocol_of(stream=stream, protocol="mini").name == "mini"
    assert protocol_of().name == "mini"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "own"}, "Give --stream FILE"),
        ({"stream": "mini", "model": "vit_x"}, "vit_x"),
        ({"stream": "mini", "mode": "faithful"}, "Leave out --mode"),
        ({"stream": "nothing.toml"}, "nothing.toml"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(CosamError, match=words):
        protocol_of(**options)
