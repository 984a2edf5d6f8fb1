"""The choice of a scale by held-out images."""

from __future__ import annotations

from cosam_bench.evaluation.scales import ScaleScore, choose_scale, chosen_by


def row(scale: float, domain: str, value: float, *, step: int = 2, part: str = "held_out", metric: str = "iou"):
    return ScaleScore(step, scale, part, domain, metric, value, 3)  # type: ignore[arg-type]


SCORES = [
    row(0.5, "pill", 0.6), row(0.5, "rim", 0.5),
    row(1.0, "pill", 0.7), row(1.0, "rim", 0.2),
    row(2.0, "pill", 0.5), row(2.0, "rim", 0.55),
    # None of these may count: another step, part or metric.
    row(4.0, "pill", 0.9, step=1), row(4.0, "rim", 0.9, part="test"), row(4.0, "rim", 0.9, metric="dice"),
]  # fmt: skip


def test_the_best_mean_over_the_domains_is_chosen() -> None:
    assert choose_scale(SCORES, step=2, domains=["rim"]) == 2.0
    assert choose_scale(SCORES, step=2, domains=["pill"]) == 1.0
    assert choose_scale(SCORES, step=2, domains=["pill", "rim"]) == 0.5  # .55 against .45 and .525


def test_of_equal_scales_the_nearest_to_the_rules_own_is_chosen() -> None:
    rows = [row(scale, "pill", 0.5) for scale in (0.25, 0.7, 2.0)]
    assert choose_scale(rows, step=2, domains=["pill"]) == 0.7


def test_a_scale_that_lacks_a_domain_is_not_chosen_and_without_any_it_is_the_rules_own() -> None:
    rows = [row(2.0, "pill", 0.9), row(0.5, "pill", 0.4), row(0.5, "rim", 0.4)]
    assert choose_scale(rows, step=2, domains=["pill", "rim"]) == 0.5
    assert choose_scale(rows, step=3, domains=["pill"]) == 1.0


def test_a_continual_choice_sees_the_current_domain_alone() -> None:
    assert chosen_by(["pill", "rim"], "current") == ["rim"]
    assert chosen_by(["pill", "rim"], "seen") == ["pill", "rim"]
    assert chosen_by(["pill", "rim"], "current", all_at_once=True) == ["pill", "rim"]
