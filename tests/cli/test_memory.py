"""Memory of a prediction is bounded by the pixels of its image, whatever its shape."""

import os
import subprocess
import sys

import pytest
from PIL import Image

GROWTH = """
import resource, sys
from PIL import Image
from cores_core.model.families.llava_prompts import Square, square_pixels
from cores_core.model.segmenter import Frame
fit, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
image = Image.new("RGB", (width, height), "teal")
Frame(1024, grid=64).pixels(Image.new("RGB", (64, 64)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
square_pixels(image, Square(side=336, tokens=576, fit=fit))
Frame(1024, grid=64).pixels(image)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize(("width", "height"), [(12000, 20), (20, 12000), (12000, 600), (65535, 1)])
def test_the_pixels_of_a_long_image_take_little_memory(fit, width, height):
    arguments = [sys.executable, "-c", GROWTH, fit, str(width), str(height)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    growth_bytes = int(done.stdout) * 1024
    assert growth_bytes < 150_000_000  # the square of 12,000 pixels a side has 576 MB


@pytest.mark.parametrize("size", [(12000, 20), (20, 3000), (65535, 1)])
def test_a_long_image_gives_a_mask_of_its_own_size(cli, model_folder, tmp_path, size):
    path = tmp_path / "image.png"
    Image.new("RGB", size, "teal").save(path)
    assert cli("predict", path, "Which?", "-m", model_folder, "-o", tmp_path, "--protocol", "teacher_forced").code == 0
    assert Image.open(tmp_path / "image.mask.png").size == size


def test_an_image_with_a_side_beyond_the_limit_is_refused(cli, model_folder, tmp_path):
    path, out = tmp_path / "damaged.tif", tmp_path / "out"
    Image.new("1", (96, 1_572_936)).save(path, compression="tiff_deflate")
    outcome = cli("predict", path, "Which?", "-m", model_folder, "-o", out)
    assert outcome.code == 1
    assert f"image too large: 96 x 1572936 pixels: {path}" in outcome.stderr
    assert "65,535 per side" in outcome.stderr
    assert not out.exists()


def test_a_large_photograph_is_read_without_a_warning(model_folder, tmp_path):
    path = tmp_path / "photo.png"
    Image.new("1", (12000, 8000)).save(path)  # beyond the size at which Pillow warns of a decompression bomb
    arguments = ["predict", path, "Which?", "-m", model_folder, "-o", tmp_path, "--protocol", "teacher_forced"]
    command = [sys.executable, "-m", "cores_cli.app", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Warning" not in done.stderr


def test_more_questions_about_one_image_take_no_more_memory(model_folder, tmp_path):
    path = tmp_path / "photo.png"
    Image.new("1", (6000, 5000)).save(path)

    def peak_bytes(questions: int) -> int:
        arguments = [*["Which?"] * questions, "-m", model_folder, "-o", tmp_path, "--protocol", "teacher_forced"]
        code = "import sys; from cores_cli.app import main; main(sys.argv[1:])"
        command = [sys.executable, "-c", f"{MEASURE}\n{code}", "predict", path, *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return int(done.stderr.splitlines()[-1]) * 1024

    logits_bytes = 6000 * 5000 * 2 * 4  # of one question, both steps of the chain
    assert peak_bytes(4) - peak_bytes(1) < logits_bytes


MEASURE = """
import atexit, resource, sys
atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr))
"""
