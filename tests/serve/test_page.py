"""The page through Gradio's own protocol: what a browser sends; and that no file of the server can be reached."""

import base64
import json
import re

import numpy as np
import pytest
from uploads import encode

from cores_core.masks import decode_rle
from cores_core.predict import save_prediction

QUESTION = "Which part steers the fish?"


def upload(client, data: bytes, name: str = "noise.png") -> str:
    (path,) = client.post("/gradio_api/upload", files={"files": (name, data)}).json()
    return str(path)


def ask(client, path: object, question: str = QUESTION):
    image = path and {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [image, question, False], "fn_index": 0, "session_hash": "a"}
    joined = client.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined
    events = client.get("/gradio_api/queue/data?session_hash=a").text
    rows = [json.loads(line.removeprefix("data: ")) for line in events.splitlines() if line.startswith("data: ")]
    (done,) = [row for row in rows if row["msg"] == "process_completed"]
    return done


def links(details: str) -> dict[str, bytes]:
    found = re.findall(r'download="([^"]+)" href="data:[^,]+;base64,([^"]+)"', details)
    return {name: base64.b64decode(data) for name, data in found}


def test_downloads_equal_what_predict_writes(client, predictor, pixels, png, tmp_path):
    picture, details = ask(client, upload(client, png))["output"]["data"]
    expected = predictor.predict(pixels, QUESTION)
    files = save_prediction(expected, pixels, tmp_path / "noise")
    found = links(details)
    assert found["noise.mask.png"] == files.mask.read_bytes()
    row = json.loads(found["noise.json"])
    assert {key: row[key] for key in expected.to_json()} == json.loads(files.description.read_text())
    assert np.array_equal(decode_rle(row["mask"]), expected.mask)
    shown = client.get(picture["url"].removeprefix("http://127.0.0.1"))
    assert shown.content[:4] == b"\x89PNG"


def test_the_second_question_says_that_the_image_was_encoded(client, pixels):
    path = upload(client, encode(pixels[::-1]))
    details = [ask(client, path)["output"]["data"][1] for _ in range(2)]
    assert "encoded before" not in details[0]
    assert "encoded before" in details[1]


def test_names_and_answers_are_text_not_html(client, png):
    details = ask(client, upload(client, png, '"><b>x.png'))["output"]["data"][1]
    assert "<b>" not in details


@pytest.mark.parametrize(("question", "words"), [("", "empty"), ("a" * 201, "characters"), (None, "empty")])
def test_what_cannot_be_asked_is_told(client, png, question, words):
    picture, details = ask(client, upload(client, png), question)["output"]["data"]
    assert picture is None
    assert words in details


def test_no_image_and_bad_ones_are_told(client, png):
    assert "choose an image" in ask(client, None)["output"]["data"][1]
    assert "damaged image" in ask(client, upload(client, png[:200]))["output"]["data"][1]
    assert "not an image" in ask(client, upload(client, b"<svg/>", "a.svg"))["output"]["data"][1]


@pytest.mark.parametrize("name", ["secret.png", "secret.txt"])
def test_no_path_of_the_server_is_an_image(client, png, tmp_path, uploads, monkeypatch, name):
    secret = tmp_path / name
    secret.write_bytes(png)
    monkeypatch.chdir(tmp_path)
    uploaded = upload(client, png, "mine.png")
    for path in (
        str(secret),
        name,
        f"file://{secret}",
        f"{uploaded}/../../../{name}",
        "http://127.0.0.1:1/a",
        [1],
        "/",
    ):
        assert ask(client, path).status_code == 422, path
    assert ask(client, str(uploads)).status_code == 422, "a folder"
    assert not list(uploads.rglob(name))


@pytest.mark.parametrize("route", ["run/answer", "api/answer", "call/answer", "run/predict", "component_server"])
def test_no_other_route_takes_a_path_either(client, png, tmp_path, uploads, route):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png)
    body = {"data": [{"path": str(secret), "meta": {"_type": "gradio.FileData"}}, QUESTION, False], "fn_index": 0}
    assert client.post(f"/gradio_api/{route}", json=body).status_code >= 400
    assert not list(uploads.rglob("secret.png"))


def test_no_file_of_the_server_can_be_read(client, tmp_path, monkeypatch):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret words")
    monkeypatch.chdir(tmp_path)
    for path in (
        f"{tmp_path}/secret.txt",
        "secret.txt",
        f"file://{tmp_path}/secret.txt",
        "../secret.txt",
        "%2fetc%2fpasswd",
    ):
        for route in ("/gradio_api/file=", "/file=", "/static/", "/assets/", "/gradio_api/file/", "/"):
            response = client.get(f"{route}{path}")
            assert response.status_code in (403, 404), (route, path)
            assert "secret words" not in response.text


def test_bodies_that_are_no_event_are_refused(client):
    for body in (b"no JSON", b"[" * 100_000, b'{"path": {"a": 1}}'):
        assert client.post("/gradio_api/queue/join", content=body).status_code == 422
    assert client.post("/gradio_api/queue/join", content=bytes(1_300_000)).status_code == 413


def test_a_large_upload_is_refused(client):
    assert client.post("/gradio_api/upload", files={"files": ("a.png", bytes(1_300_000))}).status_code == 413
    assert client.post("/gradio_api/upload", files={"files": ("a.png", bytes(250_000))}).status_code == 413


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/").text
    assert "cores" in page
    assert "fonts.googleapis" not in page
