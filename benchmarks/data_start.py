"""Time to the first training sample, and memory per worker: prepared store against parsed COCO JSON.

    python benchmarks/data_start.py --images 100000 --regions 10

Writes a synthetic data set in both formats, then measures each in separate processes: seconds from the end of the
imports to the first record, resident memory beyond the imports, and random records per second.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cores_core.data.store import Record, Region, save_store, store_path
from cores_core.masks import encode_rle
from cores_core.sample import Query

MASKS, SIDE = 200, 480
"""Number of distinct masks, shared by all regions, and their side in pixels."""
READS = 2000
SCRIPT = """
import json, resource, sys, time
{imports}
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before, started = rss(), time.perf_counter()
{open}
first = time.perf_counter() - started
import numpy as np
places = np.random.default_rng(0).integers(0, {images}, {reads})
weight, started = rss() - before, time.perf_counter()
for place in places.tolist():
    {read}
print(json.dumps([first, weight, len(places) / (time.perf_counter() - started)]))
"""
FORMS = {
    "prepared store": {
        "imports": "from pathlib import Path\nfrom cores_core.data.store import Store",
        "open": "store = Store(Path({root!r}), 'synthetic', 'train'); store[0]",
        "read": "store[place]",
    },
    "pycocotools": {
        "imports": "from contextlib import redirect_stdout\nimport io\nfrom pycocotools.coco import COCO",
        "open": "with redirect_stdout(io.StringIO()):\n    coco = COCO({root!r} + '/train.json')\n"
        "coco.loadAnns(coco.getAnnIds(imgIds=[0]))",
        "read": "coco.loadAnns(coco.getAnnIds(imgIds=[place]))",
    },
}


def main() -> None:
    """Measure both and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--regions", type=int, default=10, help="regions an image")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        size = write(root, options.images, options.regions)
        print(f"{options.images} images, {options.images * options.regions} regions, {size / 1e6:.0f} MB of JSON\n")
        print("| | first record | memory | records/s |\n|---|---|---|---|")
        measured = {form: measure(form, root, options.images) for form in FORMS}
        for form, (first, weight, pace) in measured.items():
            print(f"| {form} | {1000 * first:.1f} ms | {weight / 1e6:.0f} MB | {pace:.0f} |")
        ratio = measured["pycocotools"][0] / measured["prepared store"][0]
        print(f"\nThe first record comes {ratio:.0f} times sooner from the prepared store.")


def measure(form: str, root: Path, images: int) -> list[float]:
    """Seconds to the first record, bytes of memory and records per second, measured in a new process."""
    steps = {step: text.format(root=str(root)) for step, text in FORMS[form].items()}
    script = SCRIPT.format(**steps, images=images, reads=READS)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    numbers: list[float] = json.loads(done.stdout)
    return numbers


def write(root: Path, images: int, regions: int) -> int:
    """Write equal regions as a prepared store and as a COCO JSON. Returns the size of the JSON in bytes."""
    rng = np.random.default_rng(0)
    masks = [encode_rle(blob(rng)) for _ in range(MASKS)]
    path = root / "train.json"
    with path.open("w") as file:
        file.write('{"images": [')
        file.write(
            ",".join(f'{{"id": {i}, "file_name": "{i}.jpg", "height": {SIDE}, "width": {SIDE}}}' for i in range(images))
        )
        file.write('], "categories": [{"id": 1, "name": "thing"}], "annotations": [')
        for number in range(images * regions):
            row = {
                "id": number,
                "image_id": number // regions,
                "category_id": 1,
                "iscrowd": 0,
                "area": 1,
                "bbox": [0, 0, 9, 9],
            }
            row["segmentation"] = masks[number % MASKS]
            file.write(("," if number else "") + json.dumps(row))
        file.write("]}")

    def records() -> Iterator[Record]:
        queries = (Query("What is it?"),)
        for image in range(images):
            found = (masks[(image * regions + number) % MASKS] for number in range(regions))
            things = tuple(Region("thing", "object", mask, None, queries, str(image)) for mask in found)
            yield Record(f"{image}.jpg", (SIDE, SIDE), things)

    save_store(records(), store_path(root, "synthetic", "train"))
    return path.stat().st_size


def blob(rng: np.random.Generator) -> np.ndarray:
    """A round mask somewhere in the image."""
    y, x = np.ogrid[:SIDE, :SIDE]
    (top, left), radius = rng.integers(0, SIDE, 2), rng.integers(10, SIDE // 3)
    return (y - top) ** 2 + (x - left) ** 2 < radius**2


if __name__ == "__main__":
    main()
