"""Inputs of a prediction job become requests: files, folders, globs, JSONL, standard input, videos."""

import json
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from helpers import noise_image
from PIL import Image

from cores_core.errors import DataError
from cores_core.inputs import Request, is_single_image, list_requests
from cores_core.sample import Query

ASKED = (Query("Which part?"),)


def write(*paths: Path) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise_image(20, 30, seed=number)).save(path)


def listed(*sources: object, queries: tuple[Query, ...] = ASKED, **options: object) -> list[Request]:
    return list(list_requests([str(source) for source in sources], queries, **options))


def test_a_folder_is_read_with_its_subfolders(tmp_path: Path) -> None:
    write(tmp_path / "b.png", tmp_path / "a" / "b.jpg", tmp_path / ".hidden" / "c.png", tmp_path / "A.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    found = listed(tmp_path)
    assert [request.name for request in found] == ["A", "a/b", "b"]
    assert found[1].load().shape == (20, 30, 3)


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write(photos / "real/a.png", tmp_path / "away/b.png", tmp_path / "away/deep/c.png", tmp_path / "single.png")
    (tmp_path / "away/back").symlink_to(photos)
    for name, target in {"first": photos / "real", "link": tmp_path / "away", "other": tmp_path / "away/deep"}.items():
        (photos / name).symlink_to(target)
    (photos / "loop").symlink_to(photos / "loop")
    (photos / ".hidden").symlink_to(tmp_path)
    (photos / "real/here").symlink_to(".")
    (photos / "file.png").symlink_to(tmp_path / "single.png")
    found = listed(photos)
    assert [request.name for request in found] == ["file", "link/b", "link/deep/c", "real/a"]
    assert [request.load().shape for request in found] == [(20, 30, 3)] * 4
    assert [request.name for request in listed(tmp_path / "away/back")] == [request.name for request in found]


def test_a_link_to_nothing_is_named_when_it_is_loaded(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "c.png").symlink_to("c.png")
    (tmp_path / "d.txt").symlink_to(tmp_path / "gone.txt")
    first, *dangling = listed(tmp_path)
    assert (first.name, [request.name for request in dangling]) == ("a", ["b", "c"])
    for request in dangling:
        with pytest.raises(DataError, match=rf"{request.name}\.png"):
            request.load()
    assert [request.name for request in listed(tmp_path / "*.png")] == ["a", "b", "c"]


def test_names_never_collide(tmp_path: Path) -> None:
    write(tmp_path / "x/a.png", tmp_path / "y/a.png", tmp_path / "y/a.jpg", tmp_path / "y/A.png")
    paths = [tmp_path / name for name in ("x/a.png", "y/a.png", "y/a.jpg", "y/A.png")]
    assert [request.name for request in listed(*paths)] == ["a", "a.png", "a.jpg", "A-2"]


def test_names_of_questions_do_not_collide_with_names_of_images(tmp_path: Path) -> None:
    write(tmp_path / "a.png", tmp_path / "a.2.png")
    found = listed(tmp_path / "a.png", tmp_path / "a.2.png", queries=(*ASKED, Query("the lid", is_sentence=False)))
    assert [request.name for request in found] == ["a", "a.2.png"]


def test_a_glob_names_outputs_from_its_first_wildcard(tmp_path: Path) -> None:
    write(tmp_path / "x/1/a.png", tmp_path / "x/2/a.png", tmp_path / "z/a.png")
    assert [request.name for request in listed(tmp_path / "x" / "*" / "*.png")] == ["1/a", "2/a"]
    assert len(listed(tmp_path / "**" / "*.png")) == 3
    with pytest.raises(DataError, match="no file matches"):
        listed(tmp_path / "*.webp")


def test_lines_of_jsonl_bring_their_own_questions(tmp_path: Path) -> None:
    write(*(tmp_path / f"photos/{name}.png" for name in "abc"))
    rows = [
        {"image": "photos/a.png", "questions": ["One?", "Two?", "One?"]},
        {"image": "photos/b.png", "question": "Three?", "phrases": ["the tail"]},
        {"image": "photos/c.png"},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = listed(path)
    assert [request.queries for request in found] == [
        (Query("One?"), Query("Two?")),
        (Query("Three?"), Query("the tail", is_sentence=False)),
        ASKED,
    ]
    assert found[0].image == str(tmp_path / "photos/a.png")


def test_lines_about_one_image_are_one_request(tmp_path: Path) -> None:
    write(tmp_path / "a.png", tmp_path / "b.png")
    asked = [("a.png", "One?"), ("b.png", "One?"), ("a.png", "Two?"), ("a.png", "One?")]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(json.dumps({"image": image, "question": text}) for image, text in asked))
    found = [(request.name, [query.text for query in request.queries]) for request in listed(path)]
    assert found == [("a", ["One?", "Two?"]), ("b", ["One?"])]
    streamed = list_requests(["-"], (), stdin=path.read_text().splitlines())
    assert [request.name for request in streamed] == ["a", "b", "a.png", "a-2"]


def test_standard_input_is_read_line_by_line() -> None:
    taken = []

    def lines() -> object:
        for number in range(3):
            taken.append(number)
            yield json.dumps({"image": f"{number}.png", "question": "Where?"})

    requests = list_requests(["-"], (), stdin=lines())
    assert next(requests).image == "0.png"
    assert taken == [0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 1"),
        ("[]", "TypeError"),
        ('{"question": "x"}', "KeyError"),
        ('{"image": 3}', "`image` must be a path"),
        ('{"image": "a.png", "questions": [""]}', "empty"),
        ('{"image": "a.png", "questions": {"a": 1}}', "`questions` must be"),
        ('{"image": "a.png", "question": 3}', "`question` must be"),
    ],
)
def test_a_damaged_line_is_one_error(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "list.jsonl").write_text(line)
    with pytest.raises(DataError, match=reason):
        listed(tmp_path / "list.jsonl")


def test_an_image_without_a_question_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no question about") as caught:
        listed(tmp_path / "a.png", queries=())
    assert "--question" in str(caught.value.hint)


def test_outputs_stay_below_their_folder(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps({"image": "../../etc/a.png"}))
    (request,) = listed(tmp_path / "list.jsonl")
    assert request.name == "etc/a"


def test_every_nth_frame_of_a_video(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 48))
    for number in range(7):
        video.write(np.full((48, 64, 3), 30 * number, dtype=np.uint8))
    video.release()
    found = listed(path, every=3)
    assert [(request.frame, request.name) for request in found] == [
        (0, "clip/000000"),
        (3, "clip/000003"),
        (6, "clip/000006"),
    ]
    assert found[1].image == f"{path}#3"
    assert abs(float(found[1].load().mean()) - 90) < 5
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="not a video"):
        listed(tmp_path / "broken.mp4")


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in"):
        listed(tmp_path)


@pytest.mark.parametrize(
    ("source", "single"),
    [
        ("a.png", True),
        ("absent.png", True),
        (".", False),
        ("-", False),
        ("x.jsonl", False),
        ("*.png", False),
        ("v.mp4", False),
    ],
)
def test_one_image_is_told_from_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, single: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.png")
    assert is_single_image(source) == single


def test_images_of_a_list_may_be_urls(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png")
    fsspec.filesystem("memory").pipe("/photos/b.png", (tmp_path / "in" / "a.png").read_bytes())
    urls = ["memory://photos/b.png", (tmp_path / "in" / "a.png").as_uri()]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps({"image": url}) for url in urls))
    found = listed(tmp_path / "list.jsonl")
    assert [request.image for request in found] == urls
    assert found[0].name == "photos/b"
    assert np.array_equal(found[0].load(), found[1].load())
    assert np.array_equal(found[0].load(), noise_image(20, 30))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://user:key@host/a/b.jpg?signature=c/d", "host/a/b"),
        ("s3://../../b.jpg", "b"),
        ("file:///../b.jpg", "b"),
        ("memory://b.png", "b"),
        ("s3://", "image"),
    ],
)
def test_names_of_urls_stay_inside_the_output_folder(tmp_path: Path, url: str, name: str) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps({"image": url}))
    (request,) = listed(tmp_path / "list.jsonl")
    assert (request.image, request.name) == (url, name)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://absent.png", "cannot read the URL: memory://absent.png"),
        ("file:///absent.png", "cannot read the URL"),
        ("nothing://a/b.png", "Protocol not known: nothing"),
        ("memory://text.png", "unknown format: memory://text.png"),
        ("memory://none.png", "empty"),
    ],
)
def test_a_url_that_cannot_be_used_is_named(url: str, message: str) -> None:
    fsspec.filesystem("memory").pipe({"/text.png": b"no image", "/none.png": b""})
    (request,) = listed(url)
    with pytest.raises(DataError, match=message):
        request.load()
