"""Language models that write text: behind an OpenAI-compatible endpoint, or in this process.

Source: OpenAI's chat completions, as vLLM, llama.cpp, Ollama and others serve them, through the `openai` client (extra
`questions`), which retries what is busy, overloaded or out of reach. Its answers are read as JSON here, because it
does not validate them.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import httpx2

from cores_core.data.web import build_client
from cores_core.errors import ConfigError, DataError, reason_of
from cores_core.files import parse_json

if TYPE_CHECKING:
    import torch

ATTEMPTS = 6
"""Requests before an endpoint counts as out of reach; without `Retry-After` their pauses sum up to 15 s."""
TOKENS_A_LINE = 64
"""Maximum length of a local model's answer, for each line that is asked for."""

Message = Mapping[str, str]
"""One turn of a chat: `role` (system, user or assistant) and `content`."""


class Writer(Protocol):
    """A language model that chats."""

    @property
    def model(self) -> str:
        """Name of the model, kept beside what it wrote."""

    def write(self, messages: Sequence[Message], count: int, seed: int) -> str:
        """Answer a chat.

        Args:
            count: number of lines asked for, by which a writer may bound its answer. seed: random seed.
        """


class EndpointWriter:
    """A model behind an OpenAI-compatible `/v1/chat/completions`."""

    def __init__(
        self, url: str, model: str, api_key: str | None = None, timeout: float = 300.0, attempts: int = ATTEMPTS
    ) -> None:
        """Take an address with or without `/v1` or `/chat/completions`; nothing is sent yet.

        Args:
            timeout: seconds to wait for an answer. attempts: requests before an error.

        Raises:
            ConfigError: the package `openai` is missing.
            DataError: the URL, the key or a proxy of the environment cannot be used.
        """
        try:
            import openai  # takes a second
        except ImportError as error:
            hint = "pip install 'cores[questions]'"
            raise ConfigError("an endpoint needs the package openai", hint=hint) from error

        self.model = model
        base = _base_url(url)
        self.url = str(base.copy_with(path=f"{base.path}/chat/completions"))
        self._key = (api_key or "").strip()
        if not self._key.isascii() or not self._key.isprintable():
            raise DataError("the API key holds characters that no key has", hint="copy it again, as one line")
        self._attempts = attempts
        self._client = openai.OpenAI(
            base_url=str(base.copy_with(query=None)),
            default_query=dict(base.params),
            api_key=self._key or "none",
            timeout=timeout,
            max_retries=attempts - 1,
            http_client=build_client(timeout, follow_redirects=False),  # a redirect would carry the key elsewhere
        )

    def write(self, messages: Sequence[Message], count: int, seed: int) -> str:
        """Answer a chat; the length is left to the server, because some models think before they write.

        Raises:
            DataError: the server refuses, stays busy or out of reach, or gives no chat completion.
        """
        answer = self._send({"model": self.model, "messages": [dict(message) for message in messages], "seed": seed})
        try:
            content = parse_json(answer.content)["choices"][0]["message"]["content"]
            if not isinstance(content, str | None):
                raise TypeError
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            hint = "the server must speak OpenAI's /v1/chat/completions"
            raise DataError(f"no chat completion from {self.url}: {self._excerpt(answer.text)}", hint=hint) from error
        return content or ""

    def _send(self, body: dict[str, Any]) -> httpx2.Response:
        from openai import APIConnectionError, APIStatusError, Omit

        headers = {} if self._key else {"Authorization": Omit()}
        hint = "check that the server runs and has this model; what is written already is kept"
        try:
            return self._client.chat.completions.with_raw_response.create(**body, extra_headers=headers).http_response
        except APIStatusError as error:
            reason = f"status {error.status_code}: {self._excerpt(error.response.text)}"
            raise DataError(f"{self.url} refuses with {reason}", hint=hint) from error
        except APIConnectionError as error:
            reason = str(error.__cause__) or str(error)
            raise DataError(f"no answer from {self.url} in {self._attempts} attempts: {reason}", hint=hint) from error

    def _excerpt(self, text: str) -> str:
        text = " ".join(text.split())
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
        """Answer a chat by sampling; the global random state is restored.

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
        settings["enable_thinking"] = False  # an option of some templates; reasoning would use up the length
        chat = [dict(message) for message in messages]
        try:
            return self._tokenizer.apply_chat_template(chat, **settings)
        except TemplateError:  # some templates refuse a system text
            system, first, *others = chat
            merged = first | {"content": f"{system['content']}\n\n{first['content']}"}
            return self._tokenizer.apply_chat_template([merged, *others], **settings)


def _load(model: str, device: "torch.device") -> tuple[Any, Any]:
    """Tokenizer and model, loaded without progress bars."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from cores_core.runtime import resolve_dtype

    showed_progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        llm = AutoModelForCausalLM.from_pretrained(model, dtype=resolve_dtype("auto", device), trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        hint = "name a folder with a causal language model of transformers and its tokenizer, or an id of the hub"
        raise DataError(f"cannot load the language model: {model} ({reason_of(error)})", hint=hint) from error
    finally:
        if showed_progress:
            logging.enable_progress_bar()
    return tokenizer, llm.to(device).eval()


def _base_url(url: str) -> httpx2.URL:
    """The address without `/chat/completions`, with its query.

    Raises:
        DataError: this is no address of a web server.
    """
    try:
        base = httpx2.URL(url.strip())
        usable = base.scheme in ("http", "https") and base.host and not base.userinfo and len(url.split()) == 1
        _ = urlsplit(url).port, base.host.encode("idna")  # checks the port and brackets, and what DNS can look up
    except (ValueError, httpx2.InvalidURL):
        usable = False
    if not usable:
        raise DataError(f"not the address of an endpoint: {url}", hint="give one such as http://localhost:8000/v1")
    path = base.path.rstrip("/")
    if not path.endswith(("/v1", "/chat/completions")):
        path += "/v1"
    return base.copy_with(path=path.removesuffix("/chat/completions"), fragment=None)
