"""The 11 super-categories and 40 parts of PartImageNet, which PartWorld uses unchanged.

Source: PartImageNet (arXiv:2112.00933); ids and names as in its COCO-style JSON, "Car Tier" and "Bicycle Tier"
(sic) included. Part names here are lower-case and without the super-category: `tier` of `car`.
"""

from collections.abc import Mapping
from types import MappingProxyType

PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "quadruped": ("head", "body", "foot", "tail"),
        "biped": ("head", "body", "hand", "foot", "tail"),
        "fish": ("head", "body", "fin", "tail"),
        "bird": ("head", "body", "wing", "foot", "tail"),
        "snake": ("head", "body"),
        "reptile": ("head", "body", "foot", "tail"),
        "car": ("body", "tier", "side mirror"),
        "bicycle": ("body", "head", "seat", "tier"),
        "boat": ("body", "sail"),
        "aeroplane": ("head", "body", "engine", "wing", "tail"),
        "bottle": ("mouth", "body"),
    }
)
"""Part names of each super-category, in the order of the official ids."""


def part_label(category: str, part: str) -> str:
    """Name a part as PartImageNet does: `part_label("car", "side mirror")` is "Car Side Mirror"."""
    return f"{category} {part}".title()


PART_IDS: Mapping[str, int] = MappingProxyType(
    {part_label(category, part): i for i, (category, part) in enumerate((c, p) for c in PARTS for p in PARTS[c])}
)
"""Official category id (0-39) of each part label."""

OBJECT_IDS: Mapping[str, int] = MappingProxyType({category.title(): i for i, category in enumerate(PARTS)})
"""Id (0-10) of each super-category, for whole-object annotations."""
