"""A stand-in for your own data: pictures of balls and boxes, with questions and masks as PNGs.

    python examples/make_balls.py data

writes `data/custom/balls/{train,val}.jsonl` and the images and masks that they name.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 192
QUESTIONS = {
    "ball": [
        "Which of these would roll down a slope?",
        "What could a child kick across the yard?",
        "What has no corners?",
    ],
    "box": [
        "Which of these could be stacked on its twin?",
        "What has four corners?",
        "What would stay where it is put?",
    ],
}


def main(data_root: Path) -> None:
    """Draw everything."""
    folder, rng = data_root / "custom/balls", np.random.default_rng(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 60), ("val", 20)):
        rows = [row for number in range(count) for row in draw(folder, f"{split}-{number:02d}", rng)]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def draw(folder: Path, name: str, rng: np.random.Generator) -> list[dict[str, object]]:
    """One picture of a ball and a box, side by side in any order; gives its two rows."""
    picture = Image.new("RGB", (SIZE, SIZE), tuple(rng.integers(120, 256, 3).tolist()))
    rows: list[dict[str, object]] = []
    for place, thing in enumerate(rng.permutation(["ball", "box"])):
        radius = int(rng.integers(20, 42))
        x, y = int(rng.integers(44, 52)) + 96 * place, int(rng.integers(50, 142))
        mask = Image.new("L", (SIZE, SIZE))
        for image, colour in ((picture, tuple(rng.integers(0, 110, 3).tolist())), (mask, 255)):
            pen = ImageDraw.Draw(image)
            (pen.ellipse if thing == "ball" else pen.rectangle)(
                (x - radius, y - radius, x + radius, y + radius), colour
            )
        mask.save(folder / f"images/{name}-{thing}.png")
        rows.append(
            {
                "image": f"images/{name}.png",
                "questions": QUESTIONS[str(thing)],
                "mask": f"images/{name}-{thing}.png",
                "category": str(thing),
            }
        )
    picture.save(folder / f"images/{name}.png")
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]))
