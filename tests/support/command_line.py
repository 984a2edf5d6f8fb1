"""The command line in tests."""

from __future__ import annotations

from pathlib import Path

METHOD = """
from pathlib import Path
from cosam_bench.method.card import MethodCard
from cosam_bench.method.interface import Method, State

class Mine(Method):
    '''Serves the base model, whatever it learns.'''

    card = MethodCard(title="Mine", order_dependent=False)

    def learn(self, domain, *, step):
        {learn}

    def predict(self, batch):
        return self.bench.predict(None, batch)

    def state(self):
        return State({{}})

    def load(self, state):
        pass
"""


def method_file(folder: Path, learn: str) -> Path:
    path = folder / "mine.py"
    path.write_text(METHOD.format(learn=learn))
    return path


def words(text: str) -> str:
    """The text with every run of blanks, line breaks and frames made one blank."""
    return " ".join(text.replace("│", " ").split())
