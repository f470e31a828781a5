"""The queue of a server: requests wait in order of arrival, one thread answers them with one model.

The questions of one request share one forward pass, as in `cores predict`. Those of different requests do not: an
answer depends on its own request only. The encodings of the last images, and the language model's keys and values of
what all questions about an image share, are kept by the hash of the uploaded file, so a further question about one of
them costs its own tokens only; its answer equals that of a new image up to rounding.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePath
from threading import Lock
from typing import Any

from cores_core.choices import Protocol
from cores_core.errors import DataError
from cores_core.images import decode_image
from cores_core.predict import ImagePredictor, Predictor
from cores_core.sample import Query, RgbImage
from cores_core.serve.limits import QueueFullError, ServeLimits, StoppingError


@dataclass(frozen=True)
class Upload:
    """An image file that was sent: its bytes and the name that the sender gave it, which is never opened."""

    name: str
    data: bytes

    @property
    def stem(self) -> str:
        """The name without folders and suffix; `image` if nothing is left."""
        return PurePath(self.name.replace("\\", "/")).stem or "image"


@dataclass(frozen=True, eq=False)
class Reply:
    """The answers of one request.

    Attributes:
        image: (H, W, 3) the decoded image.
        rows: one per question, in order, docs/format.md.
        was_kept: whether the image was encoded by an earlier request.
    """

    image: RgbImage
    rows: list[dict[str, Any]]
    was_kept: bool


class AnswerQueue:
    """Answers requests one after another in a thread of its own.

    Attributes:
        model: its name in the rows.
    """

    def __init__(self, predictor: Predictor, model: str, limits: ServeLimits) -> None:
        self.model = model
        self.limits = limits
        self._predictor = predictor
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._lock = Lock()
        self._pending: set[Future[Reply]] = set()
        self._is_closed = False
        self._images: OrderedDict[bytes, ImagePredictor] = OrderedDict()

    @property
    def is_closed(self) -> bool:
        """Whether the server is stopping."""
        return self._is_closed

    @property
    def waiting(self) -> int:
        """Requests that wait or are in work."""
        return len(self._pending)

    def submit(self, upload: Upload, queries: Sequence[Query], protocol: Protocol = "generate") -> "Future[Reply]":
        """Append a request.

        Returns:
            The reply to come. It raises DataError if the image or a question cannot be used, CancelledError if the
            queue was closed before.

        Raises:
            DataError: no, too many, empty or too long questions, or too large a file.
            QueueFullError: as many requests are waiting as may.
            StoppingError: the queue was closed.
        """
        self._check(upload, queries)
        with self._lock:
            if self._is_closed:
                raise StoppingError("the server is stopping")
            if len(self._pending) >= self.limits.waiting:
                raise QueueFullError(f"{len(self._pending)} requests are waiting", hint="try again in a moment")
            future = self._worker.submit(self._answer, upload, queries, protocol)
            self._pending.add(future)
        future.add_done_callback(self._forget)
        return future

    def close(self, patience: float = 0) -> bool:
        """Take no more requests and cancel those that wait.

        Args:
            patience: seconds to wait for the request that is in work.

        Returns:
            Whether nothing is in work any more.
        """
        with self._lock:
            self._is_closed = True
            pending = set(self._pending)
        self._worker.shutdown(wait=False, cancel_futures=True)
        return not wait(pending, timeout=patience).not_done

    def _check(self, upload: Upload, queries: Sequence[Query]) -> None:
        if len(upload.data) > self.limits.upload_bytes:
            raise DataError(f"the image file is larger than {self.limits.upload_bytes:,} bytes")
        if not queries:
            raise DataError("no question")
        if len(queries) > self.limits.questions:
            raise DataError(f"{len(queries)} questions in one request; at most {self.limits.questions} are allowed")
        for query in queries:
            if len(query.text) > self.limits.characters:
                raise DataError(
                    f"a question of {len(query.text):,} characters; at most {self.limits.characters:,} are allowed"
                )

    def _forget(self, future: "Future[Reply]") -> None:
        with self._lock:
            self._pending.discard(future)

    def _answer(self, upload: Upload, queries: Sequence[Query], protocol: Protocol) -> Reply:
        started = time.perf_counter()
        digest = sha256(upload.data).digest()
        session = self._images.get(digest)
        was_kept = session is not None
        if session is None:
            session = self._predictor.set_image(decode_image(upload.data, self.limits.pixels))
        predictions = session.ask(queries, protocol)
        self._keep(digest, session)
        rows: list[dict[str, Any]] = []
        for query in queries:
            prediction = predictions.pop(0)  # its full-size logits are not kept while the next are made
            row = {"image": upload.name, "name": upload.stem, "is_sentence": query.is_sentence, **prediction.to_json()}
            rows.append(row | {"model": self.model, "protocol": protocol})
        seconds = round((time.perf_counter() - started) / len(rows), 3)
        return Reply(session.image, [row | {"seconds": seconds} for row in rows], was_kept)

    def _keep(self, digest: bytes, session: ImagePredictor) -> None:
        """Keep an image as the last one used, and as many of those before it as the limits allow."""
        self._images[digest] = session
        self._images.move_to_end(digest)
        while len(self._images) > self.limits.kept_images or self._exceeds_bytes():
            self._images.popitem(last=False)

    def _exceeds_bytes(self) -> bool:
        return len(self._images) > 1 and sum(kept.nbytes for kept in self._images.values()) > self.limits.kept_bytes
