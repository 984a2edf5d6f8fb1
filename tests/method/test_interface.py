from __future__ import annotations

from torch import Tensor

from cosam_bench import (
    Batch,
    MergingMethod,
    Method,
    MethodCard,
    NoSettings,
    Settings,
    State,
    TrainingDomain,
    Update,
    Workbench,
)


class Half(Settings):
    share: float = 0.5


class Third(Settings):
    share: float = 0.3


class Bare(MergingMethod):
    card = MethodCard(title="Bare")

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        return expert


class Bracketed(MergingMethod[Half]):
    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        return Update(dense={name: self.settings.share * change for name, change in expert.dense.items()})


class Heir(Bracketed):
    pass


class Named(MergingMethod):
    """As methods were written before the brackets, with a constructor of their own."""

    Settings = Half

    def __init__(self, settings: Half, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.share = settings.share

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        return expert


class Overruled(Bracketed):
    Settings = Third


class Whole(Method[Third]):
    def learn(self, domain: TrainingDomain, *, step: int) -> None: ...

    def predict(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def state(self) -> State:
        return State()

    def load(self, state: State) -> None: ...


def test_the_class_of_the_settings_comes_from_the_brackets_or_is_set_by_name() -> None:
    found = {method.__name__: method.Settings for method in (Bare, Bracketed, Heir, Named, Overruled, Whole)}
    assert found == {
        "Bare": NoSettings,
        "Bracketed": Half,
        "Heir": Half,
        "Named": Half,
        "Overruled": Third,
        "Whole": Third,
    }
    assert MergingMethod.Settings is Method.Settings is NoSettings


def test_a_constructor_of_an_older_plugin_is_called_as_before() -> None:
    bench: Workbench = None  # type: ignore[assignment]
    assert Named(Half(share=0.2), bench).share == 0.2
    assert Bracketed(Half(), bench).settings.share == 0.5
