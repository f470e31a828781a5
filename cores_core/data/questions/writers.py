"""Language models that write: one behind an OpenAI-compatible endpoint, or one that runs here.

Source: OpenAI's chat completions, as vLLM, llama.cpp, Ollama and others serve them.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from cores_core.errors import DataError

if TYPE_CHECKING:
    import torch

ATTEMPTS = 5
LONGEST_PAUSE = 60.0
"""Seconds between two attempts, whatever the server wishes."""
TOKENS_A_LINE = 64
"""How long a local model may write for each line that is asked for."""

Message = Mapping[str, str]
"""One turn of a chat: `role` (system, user or assistant) and `content`."""


class Writer(Protocol):
    """A language model that chats."""

    @property
    def model(self) -> str:
        """Its name, kept beside what it wrote."""

    def write(self, messages: Sequence[Message], count: int, seed: int) -> str:
        """Answer a chat.

        Args:
            count: how many lines it asks for, by which a writer may bound its answer. seed: of all luck.
        """


class EndpointWriter:
    """A model behind an OpenAI-compatible `/v1/chat/completions`."""

    def __init__(
        self, url: str, model: str, api_key: str | None = None, timeout: float = 300.0, pause: float = 1.0
    ) -> None:
        """Take an address with or without `/v1` or `/chat/completions`; nothing is sent yet.

        Args:
            timeout: seconds to wait for an answer. pause: seconds before the second attempt, then twice as long each.

        Raises:
            DataError: this is no address, or no key.
        """
        self.model = model
        self.url = _completions_url(url)
        self._key = (api_key or "").strip()
        if not self._key.isascii() or not self._key.isprintable():
            raise DataError("the API key holds characters that no key has", hint="copy it again, as one line")
        self._timeout, self._pause = timeout, pause

    def write(self, messages: Sequence[Message], count: int, seed: int) -> str:
        """Answer a chat; the length is left to the server, because some models think before they write.

        Raises:
            DataError: the server refuses, stays busy or out of reach, or gives no chat completion.
        """
        body = {"model": self.model, "messages": [dict(message) for message in messages], "seed": seed}
        answer = self._send(json.dumps(body).encode())
        try:
            content = json.loads(answer)["choices"][0]["message"]["content"]
            if not isinstance(content, str | None):
                raise TypeError
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            hint = "the server must speak OpenAI's /v1/chat/completions"
            raise DataError(f"no chat completion from {self.url}: {self._excerpt(answer)}", hint=hint) from error
        return content or ""

    def _send(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, body, headers)
        opener = urllib.request.build_opener(_NoRedirects)
        hint = "see that the server runs and has this model; what is written already is kept"
        for attempt in range(ATTEMPTS):
            pause = self._pause * 2**attempt
            try:
                with opener.open(request, timeout=self._timeout) as response:
                    answer: bytes = response.read()
                    return answer
            except urllib.error.HTTPError as error:
                problem = f"status {error.code}: {self._read_excerpt(error)}"
                if error.code != HTTPStatus.TOO_MANY_REQUESTS and error.code < 500:
                    raise DataError(f"{self.url} refuses with {problem}", hint=hint) from error
                pause = max(pause, _seconds(error.headers.get("Retry-After")))
            except (OSError, http.client.HTTPException) as error:
                problem = str(error) or type(error).__name__
            if attempt < ATTEMPTS - 1:
                time.sleep(min(pause, LONGEST_PAUSE))
        raise DataError(f"no answer from {self.url} in {ATTEMPTS} attempts: {problem}", hint=hint)

    def _read_excerpt(self, error: urllib.error.HTTPError) -> str:
        try:
            return self._excerpt(error.read())
        except (OSError, http.client.HTTPException):
            return "(its text was cut off)"

    def _excerpt(self, body: bytes) -> str:
        text = " ".join(body.decode(errors="replace").split())
        return (text.replace(self._key, "(key)") if self._key else text)[:200] or "(nothing)"


class LocalWriter:
    """A causal language model that transformers loads, with its chat template if it has one."""

    def __init__(self, model: str, device: str = "auto") -> None:
        """Load a folder, or an id of the hub.

        Raises:
            ConfigError: the device is not there.
            DataError: the model cannot be loaded.
        """
        from cores_core.runtime import resolve_device

        self.model = model
        self._device = resolve_device(device)
        self._tokenizer, self._llm = _load(model, self._device)

    def write(self, messages: Sequence[Message], count: int, seed: int) -> str:
        """Answer a chat by sampling; the global random state is afterwards as it was.

        Raises:
            DataError: the chat is longer than the model's context.
        """
        import torch

        inputs = self._encode(messages).to(self._device)
        length, wanted = inputs["input_ids"].shape[1], TOKENS_A_LINE * count
        context = getattr(self._llm.config, "max_position_embeddings", None) or length + wanted
        if length >= context:
            message = f"the examples are too long for {self.model}: {length} tokens, its context is {context}"
            raise DataError(message, hint="give fewer examples, or take another model")
        end = self._tokenizer.eos_token_id
        with torch.random.fork_rng(devices=range(torch.accelerator.device_count())), torch.inference_mode():
            torch.manual_seed(seed)
            output = self._llm.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                max_new_tokens=min(wanted, context - length),
                pad_token_id=end if self._tokenizer.pad_token_id is None else self._tokenizer.pad_token_id,
            )
        text: str = self._tokenizer.decode(output[0, length:], skip_special_tokens=True)
        return text

    def _encode(self, messages: Sequence[Message]) -> Any:
        if self._tokenizer.chat_template is None:
            prompt = "\n\n".join(message["content"] for message in messages) + "\n\n"
            return self._tokenizer(prompt, return_tensors="pt")
        from jinja2 import TemplateError

        settings = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
        settings["enable_thinking"] = False  # a switch of some templates: thoughts would use up the length
        chat = [dict(message) for message in messages]
        try:
            return self._tokenizer.apply_chat_template(chat, **settings)
        except TemplateError:  # some know no system text
            system, first, *others = chat
            merged = first | {"content": f"{system['content']}\n\n{first['content']}"}
            return self._tokenizer.apply_chat_template([merged, *others], **settings)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET without its chat, and would carry the key to another server."""

    def redirect_request(self, *_: object) -> None:
        return None


def _load(model: str, device: "torch.device") -> tuple[Any, Any]:
    """Tokenizer and model, without a word on the terminal."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from cores_core.runtime import resolve_dtype

    showed_progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        llm = AutoModelForCausalLM.from_pretrained(model, dtype=resolve_dtype("auto", device))
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        hint = "name a folder with a causal language model of transformers and its tokenizer, or an id of the hub"
        raise DataError(f"cannot load the language model: {model} ({error})", hint=hint) from error
    finally:
        if showed_progress:
            logging.enable_progress_bar()
    return tokenizer, llm.to(device).eval()


def _completions_url(url: str) -> str:
    """The address to post to.

    Raises:
        DataError: this is no address of a web server.
    """
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        usable = usable and (parts.port or 1) > 0  # reading a port that is no number raises
    except ValueError:
        usable = False
    if not usable or not url.isascii() or len(url.split()) != 1:
        raise DataError(f"not the address of an endpoint: {url}", hint="give one such as http://localhost:8000/v1")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    if path == parts.path.rstrip("/") and not path.endswith("/v1"):
        path += "/v1"
    return parts._replace(path=f"{path}/chat/completions", fragment="").geturl()


def _seconds(retry_after: str | None) -> float:
    """What a server asks to wait; some give a date, which counts as nothing."""
    try:
        return float(retry_after or 0)
    except ValueError:
        return 0.0
