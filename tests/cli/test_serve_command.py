"""`cores serve` in a process of its own: it answers, and ends by a signal within seconds."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("gradio", reason="the extra `serve` is not installed")

import httpx

from cores_cli.commands import serve

PATIENCE = 120
"""Seconds after which a process that has not started or ended fails a test."""


@contextmanager
def serving(model_folder, *options: object):
    command = [sys.executable, "-m", "cores_cli.app", "serve", "--model", model_folder, "--port", "0", *options]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+:\d+", line)
        assert found, line + process.stderr.read()
        url = found[0]
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{url}/health").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield process, url
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_answers_and_a_signal_ends_it_while_a_page_is_open(model_folder, picture, number, code):
    with serving(model_folder) as (process, url):
        files = {"image": ("picture.jpg", picture.read_bytes())}
        answer = httpx.post(f"{url}/predict", files=files, data={"question": "What is it?"}, timeout=PATIENCE)
        assert answer.json()["answers"][0]["question"] == "What is it?"
        with httpx.stream("GET", f"{url}/gradio_api/heartbeat/abc", timeout=PATIENCE) as heartbeat:
            assert heartbeat.status_code == 200
            started = time.monotonic()
            process.send_signal(number)
            _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == code
        assert errors.strip() == "interrupted"
        assert time.monotonic() - started < 30


def test_a_port_that_is_in_use_is_told_before_the_model_is_loaded(cli):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = cli("serve", "--model", "missing", "--port", taken.getsockname()[1])
    assert outcome.code == 1
    assert "in use" in outcome.stderr
    assert "--port 0" in outcome.stderr


@pytest.mark.parametrize(("option", "value"), [("--host", "999.1.1.1"), ("--label-studio", "localhost:8080")])
def test_addresses_that_are_none_are_told(cli, option, value):
    outcome = cli("serve", option, value)
    assert outcome.code == 1
    assert value in outcome.stderr


def test_packages_that_are_missing_are_told(cli, monkeypatch):
    monkeypatch.setattr(serve, "PACKAGES", (*serve.PACKAGES, "no_such_package"))
    outcome = cli("serve")
    assert outcome.code == 1
    assert "no_such_package" in outcome.stderr
    assert "pip install 'cores[serve]'" in outcome.stderr
