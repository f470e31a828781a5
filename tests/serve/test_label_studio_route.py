"""Label Studio's protocol, against an HTTP server that guards images as Label Studio does."""

import base64
import json
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from uploads import LIMITS

from cores_core.errors import ConfigError
from cores_core.formats.brush_rle import decode_brush
from cores_core.sample import Query
from cores_core.serve.app import ServeOptions, build_app
from cores_core.serve.task_images import TaskImages

QUESTION = "Which part steers the fish?"
CONFIG = f"""<View>
  <!-- a comment -->
  <Image name="picture" value="$photo"/>
  <BrushLabels name="parts" toName="picture">
    <Label value="tail" question="{QUESTION}"/><Label value="fin of the fish"/>
    <Label value="head"/><Label value="eye"/>
  </BrushLabels>
</View>"""
ASKED = {
    "tail": Query(QUESTION),
    "fin of the fish": Query("fin of the fish", is_sentence=False),
    "head": Query("head", is_sentence=False),
    "eye": Query("eye", is_sentence=False),
}
JWT = "aaa.bbb.ccc"
FISH = Path(__file__).resolve().parents[2] / "examples/images/fish.jpg"


@pytest.fixture(scope="module")
def label_studio(png):
    """The URL of a server with images below /data/upload, for holders of a token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization")
            if given not in ("Token legacy", "Bearer short"):
                return self._send(401, b"{}")
            if self.path.startswith("/data/upload/moved"):
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:1/secret")
                return self.end_headers()
            is_image = self.path in ("/data/upload/1/noise%20a.png", "/data/local-files/?d=folder/noise.png")
            self._send(200 if is_image else 404, png if is_image else b"")

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            is_known = self.path == "/api/token/refresh" and given == {"refresh": JWT}
            self._send(*((200, b'{"access": "short"}') if is_known else (401, b"{}")))

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def connect(served_queue, label_studio):
    """A client of a server that was started for the Label Studio, with a token."""

    @cache
    def build(token: str | None = "legacy") -> TestClient:
        images = TaskImages(label_studio, token, LIMITS.upload_bytes)
        app = build_app(served_queue, ServeOptions("127.0.0.1", images))
        return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)

    return build


def predict(client: TestClient, *locations: object, config: str = CONFIG):
    tasks = [{"id": number, "data": {"photo": location}} for number, location in enumerate(locations)]
    body = {"tasks": tasks, "label_config": config, "project": "1.1", "params": {"context": None}}
    return client.post("/label-studio/predict", json=body)


@pytest.mark.parametrize("token", ["legacy", JWT])
@pytest.mark.parametrize("location", ["/data/upload/1/noise%20a.png", "/data/local-files/?d=folder/noise.png"])
def test_brush_regions_are_the_masks_to_the_pixel(connect, predictor, pixels, token, location):
    response = predict(connect(token), location)
    assert response.status_code == 200, response.text
    (result,) = response.json()["results"]
    assert result["model_version"] == response.json()["model_version"] == "cores-random"
    found = {region["value"]["brushlabels"][0]: region for region in result["result"]}
    queries = list(ASKED.values())
    predictions = predictor.predict_many(pixels, queries[:3]) + predictor.predict_many(pixels, queries[3:])
    expected = {
        label: answer for label, answer in zip(ASKED, predictions, strict=True) if answer.mask.any()
    }  # no region for an empty mask
    assert set(found) == set(expected)
    for label, answer in expected.items():
        region = found[label]
        assert (region["from_name"], region["to_name"], region["type"]) == ("parts", "picture", "brushlabels")
        assert (region["original_height"], region["original_width"]) == answer.mask.shape
        assert np.array_equal(decode_brush(region["value"]["rle"], answer.mask.shape), answer.mask)
        assert region["score"] == pytest.approx(answer.score, abs=1e-4)


def test_a_model_that_answers_finds_regions(connect):
    """The random model answers in other words; with the shipped one there is something to see."""
    from cores_core.predict import Predictor
    from cores_core.serve.queue import AnswerQueue

    data = base64.b64encode(FISH.read_bytes()).decode()
    predictor = Predictor.from_checkpoint("tiny", device="cpu")
    queue = AnswerQueue(predictor, "tiny", LIMITS)
    app = build_app(queue, ServeOptions("127.0.0.1", TaskImages(None, None, LIMITS.upload_bytes)))
    client = TestClient(app, base_url="http://127.0.0.1")
    (result,) = predict(client, f"data:image/jpeg;base64,{data}").json()["results"]
    (tail,) = [region for region in result["result"] if region["value"]["brushlabels"] == ["tail"]]
    expected = predictor.predict_many(FISH, list(ASKED.values())[:3])[0]
    assert expected.mask.any()
    assert np.array_equal(decode_brush(tail["value"]["rle"], expected.mask.shape), expected.mask)
    assert queue.close(60)


def test_a_task_that_cannot_be_used_gets_no_regions(connect, png):
    inline = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    response = predict(connect(), "/data/upload/1/missing.png", inline)
    assert response.status_code == 200
    assert response.json()["results"][0]["result"] == []


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("/data/upload/1/missing.png", "404"),
        ("/data/upload/moved.png", "302"),
        ("http://127.0.0.1:1/image.png", "not on"),
        ("https://example.com/image.png", "not on"),
        ("file:///etc/passwd", "not on"),
        ("s3://bucket/image.png", "not on"),
        ("//example.com/image.png", "not on"),
        ("http://[bad/image.png", "not a path"),
        ("data:image/png;base64,!!", "cannot be decoded"),
        ("data:image/png,abc", "base64"),
        (None, "data.photo"),
        (["a.png"], "data.photo"),
    ],
)
def test_images_elsewhere_are_refused(connect, location, words):
    refuses(predict(connect(), location), words)


@pytest.mark.parametrize(("token", "words"), [(None, "401"), ("wrong", "401"), ("x.y.z", "refuses the access token")])
def test_a_token_is_asked_for(connect, token, words):
    response = predict(connect(token), "/data/upload/1/noise%20a.png")
    refuses(response, words)
    assert "LABEL_STUDIO_API_KEY" in response.json()["hint"]


def test_without_a_label_studio_only_inline_images_are_read(client):
    refuses(predict(client, "/data/upload/1/noise.png"), "no Label Studio is known")


def test_one_that_is_not_running_is_told(queue):
    app = build_app(queue, ServeOptions("127.0.0.1", TaskImages("http://127.0.0.1:1", None, 1000)))
    client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    refuses(predict(client, "/data/upload/1/noise.png"), "cannot read")


@pytest.mark.parametrize(
    "config",
    [
        "",
        "<View>",
        "<View/>",
        '<View><Image name="a" value="$b"/><RectangleLabels name="c" toName="a"/></View>',
        '<View><Image name="a" value="$b"/><BrushLabels name="c" toName="a"/></View>',
        '<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>',
    ],
)
def test_other_labelling_interfaces_are_refused(client, config):
    refuses(predict(client, "/data/upload/1/noise.png", config=config), "labelling interface")


def test_a_project_is_set_up_and_health_is_told(client):
    assert client.post("/label-studio/setup", json={"schema": CONFIG}).json() == {"model_version": "cores-random"}
    assert client.post("/label-studio/setup", json={"project": "1.1"}).status_code == 200
    refuses(client.post("/label-studio/setup", json={"schema": "<View/>"}), "labelling interface")
    assert client.get("/label-studio/health").json()["status"] == "UP"
    assert client.post("/label-studio/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 201


@pytest.mark.parametrize("body", [{}, {"tasks": "all", "label_config": CONFIG}, {"tasks": [1], "label_config": CONFIG}])
def test_other_bodies_are_refused(client, body):
    refuses(client.post("/label-studio/predict", json=body), "")


def test_the_url_of_a_label_studio_must_be_one():
    with pytest.raises(ConfigError, match="localhost:8080"):
        TaskImages("localhost:8080", None, 1)


def refuses(response, words: str) -> None:
    assert response.status_code == 422, response.text
    assert words in response.json()["error"]
