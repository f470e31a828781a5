"""The Python API in a notebook: a kernel of Jupyter with its event loop, from `await`, and after an interruption."""

from collections.abc import Callable, Iterator

import pytest
from jupyter_client.manager import start_new_kernel

SETUP = """
import numpy as np
from cores_core.predict import Predictor

predictor = Predictor.from_checkpoint("tiny", device="cpu")
image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
first = predictor.predict(image, "Which part steers the fish?")
print(first.mask.shape, first.answer)
"""
AWAITED = """
import asyncio

async def ask():
    return await asyncio.to_thread(predictor.predict, image, "Which part steers the fish?")

again, direct = await ask(), predictor.set_image(image).ask(["Which part steers the fish?"])[0]
print(np.array_equal(again.mask, first.mask), np.array_equal(direct.mask, first.mask))
"""
ENDLESS = """
print("begun")
while True:
    predictor.predict(image, "Where is the tail?")
"""
Run = Callable[[str], tuple[str, str]]


@pytest.fixture(scope="module")
def kernel() -> Iterator[tuple[Run, Callable[[], None]]]:
    """A running kernel: a function that runs a cell (status and output), and one that interrupts it."""
    manager, client = start_new_kernel(startup_timeout=300)

    def run(code: str, on_output: Callable[[], None] = lambda: None) -> tuple[str, str]:
        texts: list[str] = []

        def collect(message: dict) -> None:
            kind, content = message["msg_type"], message["content"]
            if kind == "stream" and content["name"] == "stdout":
                texts.append(content["text"])
                on_output()
            elif kind == "execute_result":
                texts.append(content["data"]["text/plain"])

        reply = client.execute_interactive(code, timeout=300, output_hook=collect)["content"]
        return reply.get("ename", reply["status"]), "".join(texts)

    yield run, manager.interrupt_kernel
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_a_notebook_asks_awaits_and_interrupts(kernel) -> None:
    run, interrupt = kernel
    assert run(SETUP) == ("ok", "(120, 160) It appears on [LOC]. It is [SEG].\n")
    assert run(AWAITED) == ("ok", "True True\n")
    status, shown = run("first")
    assert status == "ok"
    assert len(shown) < 500  # no tensors
    assert run(ENDLESS, on_output=interrupt) == ("KeyboardInterrupt", "begun\n")
    assert run("print(np.array_equal(predictor.predict(image, first.question).mask, first.mask))") == ("ok", "True\n")
