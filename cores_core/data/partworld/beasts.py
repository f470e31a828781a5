"""The four-limbed animals of PartWorld in one place; each draws itself in a file of its own."""

from cores_core.data.partworld.apes import draw_biped
from cores_core.data.partworld.quadrupeds import draw_quadruped
from cores_core.data.partworld.reptiles import draw_reptile

__all__ = ["draw_biped", "draw_quadruped", "draw_reptile"]
