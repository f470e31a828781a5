"""`POST /predict`: the answers are the predictor's, and what cannot be used gets one clear refusal."""

import io
import json
import struct
import zlib
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

from cores_core.masks import decode_rle
from cores_core.overlay import render_overlay

QUESTION = "Which part steers the fish?"
SCHEMA = Path(__file__).resolve().parents[2] / "docs/prediction.schema.json"


def post(client, data: bytes, name: str = "noise.png", **fields: object):
    return client.post("/predict", files={"image": (name, data)}, data={"question": QUESTION} | fields)


@pytest.mark.parametrize("protocol", ["generate", "teacher_forced"])
@pytest.mark.parametrize("phrase", [False, True])
def test_an_answer_equals_the_predictors(client, predictor, pixels, png, protocol, phrase):
    from cores_core.sample import Query

    (row,) = post(client, png, protocol=protocol, phrase=phrase).json()["answers"]
    expected = predictor.predict(pixels, Query(QUESTION, is_sentence=not phrase), protocol)
    assert {key: row[key] for key in expected.to_json()} == json.loads(json.dumps(expected.to_json()))
    assert (row["image"], row["name"], row["model"], row["protocol"]) == ("noise.png", "noise", "random", protocol)
    jsonschema.validate(row, json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_several_questions_are_answered_in_order(client, predictor, pixels, png):
    questions = ["Where is the tail?", QUESTION, "Where is the fin?"]
    rows = post(client, png, question=questions, protocol="teacher_forced").json()["answers"]
    assert [row["question"] for row in rows] == questions
    for row, expected in zip(rows, predictor.predict_many(pixels, questions, "teacher_forced"), strict=True):
        assert np.array_equal(decode_rle(row["mask"]), expected.mask)


def test_a_mask_and_an_overlay_are_sent_as_png(client, predictor, pixels, png):
    expected = predictor.predict(pixels, QUESTION, "teacher_forced")
    mask, overlay = (
        np.asarray(Image.open(io.BytesIO(post(client, png, protocol="teacher_forced", output=output).content)))
        for output in ("mask", "overlay")
    )
    assert np.array_equal(mask, expected.mask * np.uint8(255))
    drawn = render_overlay(pixels, QUESTION, expected.answer, expected.coarse_mask, expected.mask)
    assert np.array_equal(overlay, drawn)


def test_an_image_is_upright_as_its_exif_says(client, pixels):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(file, format="JPEG", exif=exif)
    (row,) = post(client, file.getvalue()).json()["answers"]
    assert row["mask"]["size"] == [60, 40]


def test_the_name_of_a_file_is_only_a_name(client, png):
    (row,) = post(client, png, name="../../etc/passwd.png").json()["answers"]
    assert row["name"] == "passwd"


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in its header, of a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def encoded(kind: str, size_wh: tuple[int, int] = (60, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size_wh).save(file, format=kind)
    return file.getvalue()


BAD_IMAGES = {
    "empty": (b"", 422, "empty"),
    "no image": (b"hello " * 20, 422, "not an image"),
    "html": (b"<html><script>alert(1)</script></html>", 422, "not an image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 422, "not an image"),
    "postscript": (encoded("EPS"), 422, "not an image"),
    "too many pixels": (encoded("PNG", (1000, 101)), 422, "100,000 pixels"),
    "bomb": (bomb(), 422, "too large"),
    "too large a file": (encoded("BMP", (300, 300)), 422, "larger than 200,000 bytes"),
    "too large a body": (bytes(1_300_000), 413, "larger than"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_bad_image_is_refused_in_one_sentence(client, kind):
    data, status, words = BAD_IMAGES[kind]
    refuses(post(client, data), status, words)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_truncated_image_is_refused(client, kind, share):
    file = io.BytesIO()
    Image.effect_noise((60, 40), 80).save(file, format=kind)
    data = file.getvalue()
    response = post(client, data[: int(share * len(data))])
    if (kind, response.status_code) != ("GIF", 200):  # Pillow shows what there is of a GIF
        refuses(response, 422, "image")


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_after_the_start_of_an_image_are_refused_or_answered(client, png, seed):
    rng = np.random.default_rng(seed)
    data = bytearray(png)
    for place in rng.integers(8, len(data), 30):
        data[place] = rng.integers(256)
    response = post(client, bytes(data))
    if response.status_code != 200:
        refuses(response, 422, "image")


BAD_FIELDS = {
    "no question": ({"question": []}, "`question` is missing"),
    "another name": ({"question": [], "questions": QUESTION}, "`question` is missing"),
    "an empty question": ({"question": " "}, "question is empty"),
    "a long question": ({"question": "a " * 5000}, "10,000 characters"),
    "four questions": ({"question": ["a"] * 4}, "at most 3"),
    "another protocol": ({"protocol": "forced"}, "`protocol`"),
    "another output": ({"output": "svg"}, "`output`"),
    "no truth value": ({"phrase": "maybe"}, "`phrase`"),
    "two masks": ({"question": ["a", "b"], "output": "mask"}, "one question"),
}


@pytest.mark.parametrize("kind", BAD_FIELDS)
def test_bad_fields_are_refused_by_name(client, png, kind):
    fields, words = BAD_FIELDS[kind]
    refuses(post(client, png, **fields), 422, words)


BAD_BODIES = {
    "nothing": ({}, 422, "`image` is missing"),
    "JSON": ({"json": {"image": "fish.jpg", "question": QUESTION}}, 422, "`image` is missing"),
    "a path": ({"data": {"image": "/etc/passwd", "question": QUESTION}}, 422, "uploaded file"),
    "a URL": ({"data": {"image": "file:///etc/passwd", "question": QUESTION}}, 422, "uploaded file"),
    "no boundary": ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
    "no parts": ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=y"}}, 400, "multipart"),
}


@pytest.mark.parametrize("kind", BAD_BODIES)
def test_other_bodies_are_refused(client, kind):
    arguments, status, words = BAD_BODIES[kind]
    refuses(client.post("/predict", **arguments), status, words)


def test_a_body_without_a_length_is_counted(client):
    parts = (bytes(100_000) for _ in range(13))
    headers = {"content-type": "multipart/form-data; boundary=y"}
    refuses(client.post("/predict", content=parts, headers=headers), 413, "larger than 1,200,000 bytes")


def test_another_method_is_refused(client):
    assert client.put("/predict").status_code in (404, 405)


def test_the_api_is_described(client):
    description = client.get("/openapi.json").json()
    responses = description["paths"]["/predict"]["post"]["responses"]
    assert {"200", "413", "422", "429", "503"} <= set(responses)
    assert client.get("/health").json() == {"status": "UP", "model": "random", "waiting": 0}


def test_a_request_for_another_host_is_refused(client):
    assert client.get("/health", headers={"host": "attacker.example"}).status_code == 400


def refuses(response, status: int, words: str) -> None:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "hint"}
    assert words in response.json()["error"] + str(response.json()["hint"])
    assert "Traceback" not in response.text and "/tmp" not in response.text
