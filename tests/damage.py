"""Break a JSON text as disks, editors and careless scripts do."""

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

NOISE = ("9" * 5000, "[" * 5000, '"', "}", "-", "1e999", "NaN", "\\u0000")


def damage_json(text: str, rng: random.Random, junk: Sequence[Any]) -> str:
    """Cut it, garble it, or change up to three of its values: delete, swap, or put junk in their place."""
    way, place = rng.randrange(5), rng.randrange(len(text))
    if way == 0:
        return text[:place]
    if way == 1:
        return text[:place] + rng.choice(NOISE) + text[place + 1 :]
    tree = json.loads(text)
    for _ in range(rng.randint(1, 3)):
        places = _places(tree)
        if not places:
            break
        (holder, key), (other, other_key) = rng.choice(places), rng.choice(places)
        if way == 2:
            del holder[key]
        elif way == 3:
            holder[key], other[other_key] = json.loads(json.dumps([other[other_key], holder[key]]))
        else:
            holder[key] = copy.deepcopy(rng.choice(junk))
    return json.dumps(tree)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place of a JSON tree, as what holds it and the key or index."""
    if not isinstance(tree, dict | list):
        return []
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    return [place for key in keys for place in ((tree, key), *_places(tree[key]))]
