"""The test images of the pairs that show no place, photograph or video of which a training image shows another part."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from cosam_bench.results.records import Record
from cosam_bench.results.score_lines import read_score_lines

# By the groups after which tools/write_manifests.py divides the same domains of ``open``, and CamVid's sequences.
SHARED: Mapping[str, frozenset[str]] = {
    "bsdata@pairs": frozenset(
        {
            "01_200907130634_560000_000_crop_2",
            "01_200907192033_437500_315_crop_1",
            "01_200907232122_462500_045_crop_1",
            "01_200909051907_490000_180_crop_1",
        }
    ),
    "masonry_crack@pairs": frozenset({"a_0_10", "a_34_10"}),
    "camvid_road@pairs": frozenset(
        {
            "0001TP_007740",
            "0001TP_008100",
            "0006R0_f01080",
            "0016E5_01860",
            "0016E5_02190",
            "0016E5_08055",
            "0016E5_08079",
            "Seq05VD_f00180",
            "Seq05VD_f01590",
            "Seq05VD_f02640",
            "Seq05VD_f03690",
            "Seq05VD_f04740",
        }
    ),
}
"""By domain, the names of its test images that share a place, photograph or video with a training image."""


def independent_last(record: Record) -> float:
    """The mean IoU of the final model over the domains' means, without the images of ``SHARED``.

    A domain that has no other test image does not count.
    """
    final = read_score_lines(record.folder, record.info)
    iou = final.metrics.index("iou")
    means = []
    for domain in record.order:
        scores = final.groups[len(record.order), domain].scores
        kept = [values[iou] for key, values in scores.items() if key.rpartition("/")[2] not in SHARED.get(domain, ())]
        means += [fmean(kept)] if kept else []
    return fmean(means)
