"""The overlay shows the target, keeps the rest recognisable, and takes any image, mask and text."""

import numpy as np
import pytest

from cores_core.overlay import COARSE_COLOUR, REFINED_COLOUR, render_overlay
from cores_core.sample import BoolMask, RgbImage

QUESTION, ANSWER = "Which part steers the fish?", "It appears on the fish. It is the tail."
HEIGHT, WIDTH = 256, 320
SHOWN_HEIGHT, SHOWN_WIDTH = 512, 640  # twice as large: the longer side is at least 640


def plain(height: int = HEIGHT, width: int = WIDTH, grey: int = 128) -> RgbImage:
    return np.full((height, width, 3), grey, dtype=np.uint8)


def box(top: int, bottom: int, left: int, right: int) -> BoolMask:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def nothing(image: RgbImage) -> BoolMask:
    return np.zeros(image.shape[:2], dtype=bool)


def has_colour(pixels: RgbImage, colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    return bool((np.abs(pixels.astype(int) - colour).max(axis=-1) <= tolerance).any())


FISH, TAIL = box(40, 200, 40, 240), box(90, 150, 180, 240)


def test_the_target_is_coloured_and_the_rest_only_dimmed():
    shown = render_overlay(plain(), QUESTION, ANSWER, FISH, TAIL)
    red, green, _ = (int(value) for value in shown[240, 420])  # the middle of the tail
    assert red - green > 80
    far = shown[480, 600].astype(int)
    assert np.ptp(far) <= 1
    assert 0.5 * 128 < far[0] < 0.8 * 128


def test_the_rest_loses_colour_but_keeps_its_structure():
    image = plain()
    image[:, 280:] = (0, 200, 0)
    shown = render_overlay(image, QUESTION, ANSWER, FISH, TAIL)
    assert 20 < np.ptp(shown[480, 620].astype(int)) < 100
    assert not np.array_equal(shown[480, 540], shown[480, 620])


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_both_edges_are_seen_on_dark_and_on_light(grey: int):
    shown = render_overlay(plain(grey=grey), QUESTION, ANSWER, FISH, TAIL)[:SHOWN_HEIGHT]
    assert has_colour(shown, REFINED_COLOUR)
    assert has_colour(shown, COARSE_COLOUR)


def test_both_edges_are_seen_where_the_two_masks_agree():
    shown = render_overlay(plain(), QUESTION, ANSWER, TAIL, TAIL)[:SHOWN_HEIGHT]
    assert has_colour(shown, REFINED_COLOUR)
    assert has_colour(shown, COARSE_COLOUR)


def test_the_coarse_outline_is_dashed_and_holds_no_fill():
    shown = render_overlay(plain(), QUESTION, ANSWER, FISH, FISH & False)
    yellow = np.abs(shown[70:82, 100:460].astype(int) - COARSE_COLOUR).max(axis=-1).min(axis=0) < 40
    assert 0.3 < yellow.mean() < 0.8
    assert shown[240, 280].tolist() == [128, 128, 128]


def test_a_lattice_is_outlined_as_the_whole_that_it_covers():
    lattice = FISH.copy()
    lattice[::2] = lattice[:, ::2] = False
    whole, gappy = (render_overlay(plain(), QUESTION, ANSWER, mask, FISH & False) for mask in (FISH, lattice))
    yellow = [(np.abs(shown.astype(int) - COARSE_COLOUR).max(axis=-1) < 40).sum() for shown in (whole, gappy)]
    assert yellow[1] == pytest.approx(yellow[0], rel=0.2)


def test_empty_masks_leave_the_image_as_it_is_and_the_legend_says_so():
    image = plain()
    shown = render_overlay(image, QUESTION, ANSWER, nothing(image), nothing(image))
    assert (shown[:SHOWN_HEIGHT] == 128).all()
    caption = shown[SHOWN_HEIGHT:]
    assert not has_colour(caption, REFINED_COLOUR)
    assert not has_colour(caption, COARSE_COLOUR)
    both = render_overlay(image, QUESTION, ANSWER, FISH, TAIL)[SHOWN_HEIGHT:]
    assert has_colour(both, REFINED_COLOUR)
    assert has_colour(both, COARSE_COLOUR)


@pytest.mark.parametrize(
    ("image_hw", "shown_hw"),
    [
        ((256, 320), (512, 640)),
        ((30, 40), (480, 640)),
        ((1, 1), (640, 640)),
        ((800, 1000), (800, 1000)),
        ((3000, 4000), (1200, 1600)),
        ((320, 200), (640, 400)),
    ],
)
def test_the_image_keeps_its_proportions_and_the_caption_lies_below(
    image_hw: tuple[int, int], shown_hw: tuple[int, int]
):
    image = plain(*image_hw)
    shown = render_overlay(image, QUESTION, ANSWER, nothing(image), nothing(image))
    assert shown.shape[1] == shown_hw[1]
    assert (shown[: shown_hw[0]] == 128).all()
    assert shown[shown_hw[0] :].shape[0] > 0
    assert shown[shown_hw[0], 0].max() < 40


@pytest.mark.parametrize("image_hw", [(1, 3000), (3000, 1), (2, 1), (400, 3)])
def test_a_very_narrow_image_still_has_a_caption_to_read(image_hw: tuple[int, int]):
    image = plain(*image_hw)
    everything = ~nothing(image)
    shown = render_overlay(image, QUESTION, ANSWER, everything, everything)
    assert shown.shape[1] >= 350


def test_one_pixel_is_enlarged_and_coloured():
    everything = np.ones((1, 1), dtype=bool)
    shown = render_overlay(plain(1, 1), QUESTION, ANSWER, everything, everything)
    red, green, _ = (int(value) for value in shown[320, 320])
    assert red - green > 80


@pytest.mark.parametrize("image_hw", [(30, 40), (256, 320), (500, 600), (3000, 4000)])
def test_a_target_of_one_pixel_does_not_disappear(image_hw: tuple[int, int]):
    image = plain(*image_hw)
    target = nothing(image)
    target[image_hw[0] // 2, image_hw[1] // 2] = True
    shown = render_overlay(image, QUESTION, "", nothing(image), target)
    middle = shown[: shown.shape[1] * image_hw[0] // image_hw[1]].astype(int)  # without the caption
    assert (middle[..., 0] - middle[..., 1]).max() > 60


def test_a_huge_question_is_cut_and_the_caption_stays_small():
    short = render_overlay(plain(), QUESTION, ANSWER, FISH, TAIL)
    for huge in ("which part steers? " * 263, "x" * 5000, "\u4e2d" * 5000, "i" * 5000):
        shown = render_overlay(plain(), huge, huge, FISH, TAIL)
        assert shown.shape[0] - short.shape[0] < 160
        right_margin = shown[SHOWN_HEIGHT:, -12:]
        assert (right_margin == right_margin[0, 0]).all()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Où est la queue ?",
        "Где хвост?",
        "尾巴在哪里？",
        "أين الذيل؟",
        "🐟 👩‍👩‍👧",
        "[b]bold[/b] <i>x</i>\n\tnew",
        "\x00\x07\ud800\u202e",
    ],
)
def test_any_text_is_shown(text: str):
    shown = render_overlay(plain(), text, text, FISH, TAIL)
    assert shown.shape[0] > SHOWN_HEIGHT


def test_accents_and_blanks_do_not_change_what_is_readable():
    plainly = render_overlay(plain(), "Ou est la tete - du poisson?", ANSWER, FISH, TAIL)
    accented = render_overlay(plain(), " Où est\nla  tête – du poisson?", ANSWER, FISH, TAIL)
    assert np.array_equal(plainly, accented)


def test_same_input_same_picture_and_the_input_stays():
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    before, coarse, refined = image.copy(), FISH.copy(), TAIL.copy()
    image.flags.writeable = coarse.flags.writeable = refined.flags.writeable = False
    first, second = (render_overlay(image, QUESTION, ANSWER, coarse, refined) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(image, before)
    assert first.dtype == np.uint8


def test_views_are_as_good_as_copies():
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)[:, ::-1]
    view = render_overlay(image, QUESTION, ANSWER, FISH[:, ::-1], TAIL[:, ::-1])
    copy = render_overlay(image.copy(), QUESTION, ANSWER, FISH[:, ::-1].copy(), TAIL[:, ::-1].copy())
    assert np.array_equal(view, copy)


def test_masks_of_noise_are_drawn():
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5
    shown = render_overlay(plain(), QUESTION, ANSWER, noise, ~noise)
    assert shown.shape[1] == SHOWN_WIDTH
