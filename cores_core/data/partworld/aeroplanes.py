"""Random aeroplanes of PartWorld: airliners, business jets, propeller planes and fighters.

Parts are those of PartImageNet (arXiv:2112.00933): `head` is the nose with the cockpit, `tail` fin and tailplanes.
Deviation: engines are never in the nose, so that parts differ in position.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cores_core.data.partworld.catalog import PARTS
from cores_core.data.partworld.shapes import Figure, Paint, Piece, Points, deal_paints, ellipse, fitted, ribbon, rounded


@dataclass(frozen=True)
class Fuselage:
    """A tube from x = -1 (tail) to 1 (nose) of half height `half`: it tapers behind `taper` and before `cone`; the
    head begins at `cut`."""

    half: float
    taper: float
    cone: float
    cut: float

    def section(self, start: float, end: float, from_above: bool) -> Points:
        """Outline between two x; seen from the side the belly rises to the tail, from above both sides close in."""
        x = start + (end - start) * np.sin(np.linspace(0, np.pi / 2, 24))  # denser towards the nose
        ahead = np.clip((x - self.cone) / (1 - self.cone), 0, 1)
        behind = np.clip((self.taper - x) / (1 + self.taper), 0, 1)
        nose = np.sqrt(1 - ahead**2)
        low = self.half * nose * (1 - (0.85 if from_above else 1.5) * behind)
        high = -self.half * nose * (1 - (0.85 if from_above else 0.1) * behind)
        droop = 0.0 if from_above else 0.25 * self.half * ahead**2
        edges = np.stack([x, high + droop], axis=1), np.stack([x, low + droop], axis=1)[::-1]
        return np.concatenate(edges)


def draw_aeroplane(rng: np.random.Generator) -> Figure:
    """Draw an aeroplane: from the side or from above, climbing, sinking or banking a little."""
    paints = deal_paints(rng, PARTS["aeroplane"])
    if rng.random() < 0.6:
        return fitted("aeroplane", _from_side(rng, paints), angle=rng.uniform(-0.3, 0.15))
    return fitted("aeroplane", _from_above(rng, paints), angle=rng.uniform(-0.2, 0.2))


def _from_side(rng: np.random.Generator, paints: Mapping[str, Paint]) -> list[Piece]:
    """Side view: far wing, tailplane and engine first, then the tube, then everything near."""
    shape = Fuselage(rng.uniform(0.14, 0.21), rng.uniform(-0.45, -0.2), rng.uniform(0.55, 0.7), rng.uniform(0.55, 0.66))
    propeller, rear_engine = rng.random() < 0.35, rng.random() < 0.3
    sweep = 0.05 if propeller else rng.uniform(0.2, 0.4)
    root, chord, reach = rng.uniform(0.0, 0.15), rng.uniform(0.32, 0.42), rng.uniform(0.38, 0.52)
    half = shape.half
    far_wing = _wing((root + 0.03, -half * 0.5), chord * 0.8, sweep * 0.8, -reach * 0.7)
    near_wing = _wing((root, half * 0.35), chord, sweep, reach)
    far_tail = _wing((-0.72, -half * 0.6), 0.2, 0.1, -0.14)
    near_tail = _wing((-0.7, -half * 0.3), 0.24, 0.14, rng.uniform(0.2, 0.26))
    fin_height, fin_sweep = rng.uniform(0.36, 0.48), 0.1 if propeller else rng.uniform(0.18, 0.28)
    fin = _wing((-0.6, -half * 0.75), rng.uniform(0.32, 0.38), fin_sweep, -fin_height)
    pieces = [Piece(far_wing, "wing", paints["wing"]), Piece(far_tail, "tail", paints["tail"])]
    pieces.append(Piece(fin, "tail", paints["tail"]))
    pieces.append(Piece(shape.section(-1.0, shape.cut, from_above=False), "body", paints["body"]))
    pieces.append(Piece(shape.section(shape.cut, 1.0, from_above=False), "head", paints["head"]))
    pieces += _windows(rng, shape)
    pieces.append(Piece(near_tail, "tail", paints["tail"]))
    pieces.append(Piece(near_wing, "wing", paints["wing"]))
    if rear_engine and not propeller:
        pieces += _engine(rng, (-0.38, -half * 0.7), paints["engine"], propeller=False)
    else:
        share = rng.uniform(0.35, 0.55)
        place = (root + 0.06 - sweep * share, half * 0.35 + reach * share + 0.03)
        pieces += _engine(rng, place, paints["engine"], propeller)
    return pieces


def _wing(root: tuple[float, float], chord: float, sweep: float, reach: float) -> Points:
    """A wing whose leading edge leaves the tube at `root` and ends `sweep` behind it, `reach` below (above if < 0)."""
    x, y = root
    tip, end = chord * 0.45, y + reach
    return rounded([(x, y), (x - sweep, end), (x - sweep - tip, end), (x - chord, y)], 0.05)


def _windows(rng: np.random.Generator, shape: Fuselage) -> list[Piece]:
    """The cockpit window, and a row of windows or a stripe along the tube."""
    x, y = shape.cut + 0.08, -shape.half * 0.55
    cockpit = [(x, y), (x + 0.13, y + 0.02), (x + 0.16, y + 0.09), (x, y + 0.09)]
    pieces = [Piece(rounded(cockpit, 0.02), None, "glass")]
    if rng.random() < 0.65:
        for column in np.linspace(shape.taper, shape.cut - 0.1, int(rng.integers(5, 10))):
            pieces.append(Piece(ellipse((column, -shape.half * 0.3), (0.028, 0.035), count=16), None, "glass"))
    elif rng.random() < 0.7:
        pieces.append(Piece(ribbon([(-0.6, -shape.half * 0.2), (shape.cut - 0.03, 0.0)], [0.05]), None, "light"))
    return pieces


def _engine(
    rng: np.random.Generator, center: tuple[float, float], paint: Paint, propeller: bool, size: float = 1.0
) -> list[Piece]:
    """A nacelle, with a propeller or a dark intake at its front."""
    x, y = center
    long, half = rng.uniform(0.17, 0.21) * size, rng.uniform(0.085, 0.105) * size
    nacelle = [(x + long, y - half), (x + long, y + half), (x - long, y + half * 0.55), (x - long, y - half * 0.55)]
    pieces = [Piece(rounded(nacelle, 0.07), "engine", paint)]
    if propeller:
        blade = ellipse((x + long + 0.02, y), (0.035, half * 2.3), rng.uniform(-0.2, 0.2))
        pieces += [Piece(blade, "engine", paint)]
    else:
        intake: Paint = "dark" if paint != "dark" else "metal"
        pieces.append(Piece(ellipse((x + long * 0.8, y), (0.025, half * 0.75), count=16), None, intake))
    return pieces


def _from_above(rng: np.random.Generator, paints: Mapping[str, Paint]) -> list[Piece]:
    """View from above, or from above and the side where y is squashed and the fin stands up."""
    shape = Fuselage(rng.uniform(0.12, 0.16), rng.uniform(-0.5, -0.1), rng.uniform(0.45, 0.65), rng.uniform(0.52, 0.62))
    fighter, propeller = rng.random() < 0.3, rng.random() < 0.35
    squash = float(rng.choice([1.0, rng.uniform(0.55, 0.8)]))
    sweep = 0.75 if fighter else (0.05 if propeller else rng.uniform(0.25, 0.5))
    root, chord = (0.3, 0.85) if fighter else (rng.uniform(0.1, 0.28), rng.uniform(0.34, 0.44))
    reach = rng.uniform(0.6, 0.75) if fighter else rng.uniform(0.8, 0.98)
    count = 1 if fighter or rng.random() < 0.6 else 2
    engines, wings, tails = [], [], []
    for side in (-1, 1):
        wings.append(Piece(_wing((root, 0.0), chord, sweep, side * reach), "wing", paints["wing"]))
        tails.append(Piece(_wing((-0.68, 0.0), 0.24, 0.16, side * rng.uniform(0.36, 0.42)), "tail", paints["tail"]))
        for share in np.linspace(0.36, 0.66, count) if count > 1 else [0.42]:
            place = (root + 0.04 - sweep * share, side * reach * share)
            if fighter:
                place = (-0.52, side * 0.2)
            engines += _engine(rng, place, paints["engine"], propeller and not fighter, 1.15 if count == 1 else 0.85)
    tube = [Piece(shape.section(-1.0, shape.cut, from_above=True), "body", paints["body"])]
    tube.append(Piece(shape.section(shape.cut, 1.0, from_above=True), "head", paints["head"]))
    cockpit = ellipse((shape.cut + 0.16, 0.0), (0.06, shape.half * 0.5), count=20)
    pieces = [*tails, *(wings + engines if fighter else engines + wings), *tube, Piece(cockpit, None, "glass")]
    flat = [Piece(piece.outline * (1.0, squash), piece.part, piece.paint) for piece in pieces]
    lift = 0.07 + 0.45 * float(np.sqrt(1 - squash**2))
    fin = ellipse((-0.82, 0.0), (0.2, 0.05)) if squash == 1.0 else _wing((-0.62, 0.0), 0.34, 0.2, -lift)
    return [*flat, Piece(fin, "tail", paints["tail"])]
