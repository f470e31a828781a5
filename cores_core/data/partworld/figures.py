"""Table of drawing functions, one per super-category of the catalog."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from cores_core.data.partworld.aeroplanes import draw_aeroplane
from cores_core.data.partworld.animals import draw_bird, draw_fish, draw_snake
from cores_core.data.partworld.apes import draw_biped
from cores_core.data.partworld.artefacts import draw_boat, draw_bottle
from cores_core.data.partworld.quadrupeds import draw_quadruped
from cores_core.data.partworld.reptiles import draw_reptile
from cores_core.data.partworld.shapes import Figure
from cores_core.data.partworld.vehicles import draw_bicycle, draw_car

FIGURES: Mapping[str, Callable[[np.random.Generator], Figure]] = MappingProxyType(
    {
        "quadruped": draw_quadruped,
        "biped": draw_biped,
        "fish": draw_fish,
        "bird": draw_bird,
        "snake": draw_snake,
        "reptile": draw_reptile,
        "car": draw_car,
        "bicycle": draw_bicycle,
        "boat": draw_boat,
        "aeroplane": draw_aeroplane,
        "bottle": draw_bottle,
    }
)
"""Function that draws a random figure, by category."""
