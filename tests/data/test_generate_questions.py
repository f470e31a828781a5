"""Questions by a language model: requests and retries, refused answers, and resuming after an interruption."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cores_core.data.questions.generate import (
    ROUNDS,
    Assignment,
    Topic,
    build_messages,
    check_question,
    generate_questions,
    load_questions,
    parse_questions,
)
from cores_core.data.questions.writers import ATTEMPTS, EndpointWriter, LocalWriter, Message
from cores_core.errors import ConfigError, DataError

TAIL = Topic("partimagenet: Fish Tail", "tail", "fish", ("tail", "caudal fin"))
FIN = Topic("partimagenet: Fish Fin", "fin", "fish", ())
MIRROR = Topic("partimagenet: Car Side Mirror", "side mirror", "car", ())
EXAMPLES = {MIRROR: ("What shows the driver who is about to overtake?",)}
CHAT = ({"role": "system", "content": "You write."}, {"role": "user", "content": "Which part of the fish steers it?"})


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("What drives the fish forwards?", None),
        ("What does a fish's tale not tell?", None),
        ("Which part retails at the fish market?", None),
        (" ".join(["word"] * 40) + "?", None),
        (" ".join(["word"] * 41) + "?", "longer than 40 words"),
        ("", "empty"),
        ("?!", "empty"),
        ("Where is the TAIL?", "names its answer"),
        ("Which tails wag?", "names its answer"),
        ("What is the fish's tail's use?", "names its answer"),
        ("What is tail-like?", "names its answer"),
        ("Is it the caudal-fins?", "names its answer"),
        ("Show me what steers the fish.", "not a question"),
        ("here are five questions:", "not a question"),
        ("what keeps a FISH on course", "not a question"),
        ("what keeps -- a FISH on 'course'?", "asked already"),
        ("What drives\nthe fish?", "unprintable characters"),
        ("What drives the fi\u200bsh?", "unprintable characters"),
        ("What is [SEG]?", "markup"),
        ("What drives it </s>?", "markup"),
        ("What **drives** it?", "markup"),
        ("What drives the {object}?", "markup"),
    ],
)
def test_a_question_is_refused_for_the_right_reason(text: str, reason: str | None) -> None:
    assert check_question(text, TAIL, known=["What keeps a fish on course?"]) == reason


@pytest.mark.parametrize(
    ("word", "told"),
    [("body", "bodies"), ("foot", "feet"), ("leaf", "leaves"), ("knife", "knives"), ("lens", "lenses"), ("a+b", "a+b")],
)
def test_simple_plurals_name_the_answer_too(word: str, told: str) -> None:
    topic = Topic("key", word, "", ())
    assert check_question(f"Are these {told}?", topic, known=()) == "names its answer"


def test_an_answer_of_two_words_is_found_however_it_is_joined() -> None:
    for told in ("side mirror", "Side-Mirrors", "sidemirror"):
        assert check_question(f"Where is the {told}?", MIRROR, known=()) == "names its answer"
    assert check_question("Which side has no mirror image?", MIRROR, known=()) is None


def test_topics_and_assignments_refuse_what_makes_no_sense() -> None:
    with pytest.raises(DataError, match="empty name or word"):
        Topic("key", "tail", "fish", (" ",))
    with pytest.raises(ConfigError, match="at least one question: 0"):
        Assignment(per_topic=0, examples={})


# --- what is asked, and how it is read -------------------------------------------------------------------------------


def test_the_chat_has_a_system_text_answered_examples_and_the_request() -> None:
    messages = build_messages(TAIL, {**EXAMPLES, FIN: ("What steers?", "What balances?")}, count=7)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert messages[2]["content"] == "What shows the driver who is about to overtake?"
    assert 'Write 2 different questions whose answer is "fin" (a part of "fish")' in messages[3]["content"]
    assert messages[4]["content"] == "What steers?\nWhat balances?"
    assert 'Write 7 different questions whose answer is "tail" (a part of "fish")' in messages[5]["content"]
    assert "Never use these words: tail, caudal fin." in messages[5]["content"]


def test_a_topic_is_no_example_for_itself_whatever_its_key() -> None:
    same = Topic("bank: fish tail", "Tail", "Fish", ())
    assert [message["role"] for message in build_messages(TAIL, {same: ("What?",), FIN: ()}, 1)] == ["system", "user"]


@pytest.mark.parametrize(
    "text",
    [
        "What steers it?\nWhat drives it?",
        "1. What steers it?\n\n2) What drives it?\n",
        "(1) What steers it?\r\n(2)  What  drives it?",
        '- "What steers it?"\n* “What drives it?”',
        "**Question 1:** What steers it?\n**Q2.** *What drives it?*",
        '["What steers it?", "What drives it?"]',
        '```json\n{"questions": ["1. What steers it?", "What drives it?"]}\n```',
        '[{"question": "What steers it?"}, {"question": "What\\ndrives it?"}]',
        "Sure!\n```\n- What steers it?\n- What drives it?\n```\nMore?",
        '[\n  "What steers it?",\n  "What drives it?",\n',
        "<think>\nWhat is this?\n</think>\nWhat steers it?\nWhat drives it?\n<think> What",
        "What is this? </think>What steers it?\nWhat drives it?",
        "[1] What steers it?\n[2] What drives it?",
    ],
)
def test_questions_are_found_in_all_forms_in_which_models_answer(text: str) -> None:
    assert parse_questions(text) == ["What steers it?", "What drives it?"]


@pytest.mark.parametrize("text", ["", "  \n---\n", "[]", "<think> What is it?", "[" * 100_000])
def test_where_there_is_no_question_none_is_found(text: str) -> None:
    assert parse_questions(text) == []


def test_numbers_that_belong_to_a_question_stay() -> None:
    assert parse_questions("2 of what turn at 12:30?\n1.5 m of what?") == ["2 of what turn at 12:30?", "1.5 m of what?"]


# --- generating, being cut off and going on --------------------------------------------------------------------------


class Scripted:
    """Answers with one text after another; an exception is raised."""

    model = "scripted"

    def __init__(self, *answers: str | BaseException) -> None:
        self.answers, self.seeds, self.counts = list(answers), [], []

    def write(self, messages: Sequence[Message], count: int, seed: int) -> str:
        self.seeds.append(seed)
        self.counts.append(count)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Muttering(Scripted):
    """Never says anything of use."""

    def write(self, messages: Sequence[Message], count: int, seed: int) -> str:
        self.seeds.append(seed)
        return "no\nWhere is the tail?"


def generate(writer: Scripted, path: Path, per_topic: int = 2, topics: Sequence[Topic] = (TAIL, FIN)) -> Any:
    return generate_questions(topics, writer, path, Assignment(per_topic, EXAMPLES), lambda *_: None)


def test_topics_are_asked_for_until_they_have_enough(tmp_path: Path) -> None:
    path, told = tmp_path / "new/questions.jsonl", []
    writer = Scripted(
        "What steers?\nwhat steers?\nWhich tail?",
        "What drives?\nWhat else?",
        "What balances?\nWhat steers?\nWhat cuts?",
    )
    assignment = Assignment(per_topic=2, examples=EXAMPLES)
    report = generate_questions((TAIL, FIN), writer, path, assignment, lambda *more: told.append(more))
    assert load_questions(path) == {
        TAIL.key: ("What steers?", "What drives?"),
        FIN.key: ("What balances?", "What cuts?"),
    }
    assert (report.accepted, report.short) == (4, ())
    assert report.refused == {"asked already": 2, "names its answer": 1}
    assert json.loads(path.read_text().splitlines()[0]) == {
        "topic": TAIL.key,
        "questions": ["What steers?", "What drives?"],
        "refused": {"asked already": 1, "names its answer": 1},
        "model": "scripted",
    }
    assert sum(more for key, more in told if key == TAIL.key) == 2
    assert len(set(writer.seeds)) == 3


def test_an_example_is_not_taken_for_a_new_question(tmp_path: Path) -> None:
    writer = Scripted("What shows the driver who is about to overtake?\nWhat steers?")
    report = generate(writer, tmp_path / "q.jsonl", per_topic=1, topics=[TAIL])
    assert report.refused == {"asked already": 1}


def test_an_interruption_loses_no_topic_that_was_done_and_the_rest_is_as_without_it(tmp_path: Path) -> None:
    answers = ("What steers?\nWhat drives?", "What cuts?", "What balances?")
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    uncut = Scripted(*answers)
    expected = generate(uncut, whole)
    with pytest.raises(KeyboardInterrupt):
        generate(Scripted(*answers[:2], KeyboardInterrupt()), cut)
    assert load_questions(cut) == {TAIL.key: ("What steers?", "What drives?")}
    again = Scripted(*answers[1:])
    assert generate(again, cut) == expected
    assert cut.read_bytes() == whole.read_bytes()
    assert again.seeds == uncut.seeds[1:]
    silent = Scripted()
    assert generate(silent, cut) == expected
    assert silent.seeds == []


@pytest.mark.parametrize("keep", [1, 20, -1])
def test_a_half_written_line_is_dropped_on_the_next_start(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "q.jsonl"
    generate(Scripted("What steers?", "What cuts – 😀?"), path, per_topic=1)
    first, second = path.read_bytes().splitlines()
    path.write_bytes(first + b"\n" + second[:keep])
    assert set(load_questions(path)) == {TAIL.key}
    assert generate(Scripted("What balances?"), path, per_topic=1).accepted == 2
    assert load_questions(path) == {TAIL.key: ("What steers?",), FIN.key: ("What balances?",)}
    assert len(path.read_bytes().splitlines()) == 2


def test_a_whole_line_without_its_line_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    generate(Scripted("What steers?"), path, per_topic=1, topics=[TAIL])
    path.write_bytes(path.read_bytes().rstrip())
    generate(Scripted("What cuts?"), path, per_topic=1)
    assert load_questions(path) == {TAIL.key: ("What steers?",), FIN.key: ("What cuts?",)}


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"topic": "a", "questions": [1], "refused": {}, "model": "m"}'])
def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path, line: str) -> None:
    path = tmp_path / "q.jsonl"
    generate(Scripted("What steers?"), path, per_topic=1, topics=[TAIL])
    path.write_text(f"{line}\n{path.read_text()}")
    before = path.read_bytes()
    for read in (lambda: load_questions(path), lambda: generate(Scripted(), path)):
        with pytest.raises(DataError, match=r"not a row of questions: .*q\.jsonl, line 1"):
            read()
    assert path.read_bytes() == before


def test_a_topic_that_came_short_is_told_kept_and_asked_again_with_other_luck(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    muttering = Muttering()
    short = generate(muttering, path, topics=[TAIL])
    assert (short.accepted, short.short) == (0, (TAIL.key,))
    assert short.refused == {"not a question": ROUNDS, "names its answer": ROUNDS}
    better = Scripted("What steers?\nWhat drives?")
    better.model = "better"
    full = generate(better, path, topics=[TAIL])
    assert (full.accepted, full.short, full.refused) == (2, (), short.refused)
    assert load_questions(path) == {TAIL.key: ("What steers?", "What drives?")}
    assert json.loads(path.read_text().splitlines()[-1])["model"] == "scripted, better"
    assert len({*muttering.seeds, *better.seeds}) == ROUNDS + 1


def test_a_file_that_cannot_be_written_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    writer = Scripted()
    for path in (tmp_path / "file/q.jsonl", tmp_path):
        with pytest.raises(DataError, match="cannot write the questions"):
            generate(writer, path)
    assert writer.seeds == []


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the questions"):
        load_questions(tmp_path / "none.jsonl")


# --- a server that speaks the API, and its faults ---------------------------------------------------------------------

Reply = tuple[int, Mapping[str, str], bytes]


class Server:
    """Gives its replies one after another, the last for ever, and remembers what it was sent."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.seen: list[tuple[str, HTTPMessage, Any]] = []
        self.delays: list[float] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.seen.append((self.path, self.headers, json.loads(body)))
                time.sleep(server.delays.pop(0) if server.delays else 0)
                status, headers, answer = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
                self.send_response(status)
                for name, value in {"Content-Length": str(len(answer)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self.http.server_port}"

    def writer(self, **settings: Any) -> EndpointWriter:
        return EndpointWriter(self.root, "some-model", **settings)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    thread = Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


SOON = {"Retry-After": "0.01"}


def said(content: object) -> Reply:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


def test_the_server_gets_the_chat_the_seed_and_the_key(server: Server) -> None:
    server.replies = [said("What steers – it?")]
    assert server.writer(api_key="secret\n").write(CHAT, 5, seed=17) == "What steers – it?"
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body == {"model": "some-model", "messages": list(CHAT), "seed": 17}


def test_without_a_key_none_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not for this server")
    server.replies = [said(None)]
    assert server.writer().write(CHAT, 5, 0) == ""
    assert "Authorization" not in server.seen[0][1]


@pytest.mark.parametrize(
    "fault",
    [
        (429, SOON, b"slow down"),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""),
        (200, {"Content-Length": "5000"}, b'{"choices": [{"mess'),
        (500, {"Content-Length": "5000"}, b"cut"),
    ],
    ids=["busy", "overloaded", "cut body", "cut error"],
)
def test_what_passes_is_tried_again(server: Server, fault: Reply) -> None:
    server.replies = [fault, said("What?")]
    assert server.writer().write(CHAT, 5, 0) == "What?"
    assert len(server.seen) == 2
    assert server.seen[0][2] == server.seen[1][2]


def test_a_server_that_is_too_slow_is_asked_again(server: Server) -> None:
    server.replies, server.delays = [said("What?")], [0.5]
    assert server.writer(timeout=0.1).write(CHAT, 5, 0) == "What?"
    assert len(server.seen) == 2


def test_the_pause_that_a_busy_server_asks_for_is_kept(server: Server) -> None:
    server.replies = [(429, {"Retry-After": "0.4"}, b""), said("What?")]
    begin = time.monotonic()
    server.writer().write(CHAT, 5, 0)
    assert time.monotonic() - begin >= 0.4


def test_pauses_grow(server: Server) -> None:
    server.replies = [(500, {}, b"")]
    begin = time.monotonic()
    with pytest.raises(DataError):
        server.writer(attempts=3).write(CHAT, 5, 0)
    assert time.monotonic() - begin >= 0.75 * (0.5 + 1.0)


def test_a_server_that_asks_for_more_than_minutes_is_not_waited_for(server: Server) -> None:
    server.replies = [(429, {"Retry-After": "3600"}, b"no quota left")]
    with pytest.raises(DataError, match="status 429: no quota left"):
        server.writer().write(CHAT, 5, 0)
    assert len(server.seen) == 1


def test_a_server_that_stays_broken_is_one_error_with_its_text(server: Server) -> None:
    server.replies = [(500, SOON, b"out of memory\non card 0")]
    with pytest.raises(DataError) as caught:
        server.writer().write(CHAT, 5, 0)
    assert f"{server.root}/v1/chat/completions" in caught.value.message
    assert "status 500: out of memory on card 0" in caught.value.message
    assert len(server.seen) == ATTEMPTS


def test_a_refusal_is_not_tried_again_and_shows_no_key(server: Server) -> None:
    server.replies = [(401, {}, b'{"error": "no such key: secret"}')]
    with pytest.raises(DataError, match=r"status 401: \{\"error\": \"no such key: \(key\)\"\}"):
        server.writer(api_key="secret").write(CHAT, 5, 0)
    assert len(server.seen) == 1


def test_a_redirect_is_refused_so_that_no_key_goes_elsewhere(server: Server) -> None:
    server.replies = [(302, {"Location": f"{server.root}/elsewhere"}, b"moved")]
    with pytest.raises(DataError, match="refuses with status 302: moved"):
        server.writer(api_key="secret").write(CHAT, 5, 0)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "body", [b"<html>hello", b"[]", b'{"error": "x"}', b'{"choices": []}', b"\xff", b"", b"[" * 100_000, said(7)[2]]
)
def test_what_is_no_chat_completion_is_one_error(server: Server, body: bytes) -> None:
    server.replies = [(200, {}, body)]
    with pytest.raises(DataError, match=r"no chat completion from http://127.*: (\S|\(nothing\))") as caught:
        server.writer().write(CHAT, 5, 0)
    assert len(caught.value.message) < 300
    assert len(server.seen) == 1


def test_a_server_that_is_not_there_is_one_error(server: Server) -> None:
    gone = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    gone.server_close()
    with pytest.raises(DataError, match=r"no answer from .* in 2 attempts: .*refused"):
        EndpointWriter(f"http://127.0.0.1:{gone.server_port}", "m", attempts=2).write(CHAT, 5, 0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://host:8000", "http://host:8000/v1/chat/completions"),
        ("http://host:8000/", "http://host:8000/v1/chat/completions"),
        ("https://host/v1/", "https://host/v1/chat/completions"),
        ("https://host/api/v1", "https://host/api/v1/chat/completions"),
        ("https://host/odd/chat/completions?version=2", "https://host/odd/chat/completions?version=2"),
        (" http://host/v1/chat/completions/ ", "http://host/v1/chat/completions"),
    ],
)
def test_an_address_may_be_given_in_full_or_not(given: str, expected: str) -> None:
    assert EndpointWriter(given, "m").url == expected


@pytest.mark.parametrize(
    "given",
    [
        "host:8000",
        "",
        "file:///etc/hosts",
        "http://",
        "http://h:x/v1",
        "http://a:b@h",
        "http://a b",
        "http://[1",
        "http://\xad",
    ],
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(DataError, match="not the address of an endpoint"):
        EndpointWriter(given, "m")


def test_the_parameters_of_an_address_are_kept(server: Server) -> None:
    server.replies = [said("What?")]
    EndpointWriter(f"{server.root}/odd/chat/completions?version=2&key=a", "m").write(CHAT, 5, 0)
    assert server.seen[0][0] == "/odd/chat/completions?version=2&key=a"


def test_a_missing_client_is_one_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match="needs the package openai") as caught:
        EndpointWriter("http://host", "m")
    assert caught.value.hint == "pip install 'cores[questions]'"


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown() -> None:
    for key in ("se\ncret", "sécret"):
        with pytest.raises(DataError, match="characters that no key has") as caught:
            EndpointWriter("http://host", "m", api_key=key)
        assert key not in str(caught.value)


def test_a_file_is_filled_over_the_wire_in_spite_of_faults(server: Server, tmp_path: Path) -> None:
    server.replies = [
        (429, SOON, b""),
        said("1. What steers it?\n2. Where is the tail?"),
        (500, SOON, b""),
        said('["What steers it?", "What drives it forwards?"]'),
        said("- What keeps it upright?\n- What steers it?\n- What does it spread?"),
    ]
    report = generate(server.writer(), tmp_path / "q.jsonl")
    assert (report.accepted, report.short) == (4, ())
    assert report.refused == {"names its answer": 1, "asked already": 2}
    assert len(load_questions(tmp_path / "q.jsonl")[FIN.key]) == 2


def test_a_server_that_dies_leaves_what_was_done(server: Server, tmp_path: Path) -> None:
    server.replies = [said("What steers it?\nWhat drives it?"), (500, SOON, b"dead")]
    with pytest.raises(DataError, match="dead"):
        generate(server.writer(), tmp_path / "q.jsonl")
    assert set(load_questions(tmp_path / "q.jsonl")) == {TAIL.key}


# --- a model that runs here -------------------------------------------------------------------------------------------

SaveModel = Callable[..., Path]
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system text') }}{% endif %}"
    "{% if messages[0]['content'] != 'You write.\n\nWhich part of the fish steers it?' %}{{ raise_exception('lost') }}"
    "{% endif %}{{ messages[0]['content'] }}"
)


@pytest.fixture
def save_model(tmp_path: Path) -> SaveModel:
    def save(template: str | None = None, context: int = 512) -> Path:
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=270, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(["Which part of the fish steers it?"] * 3, trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / "llm")
        config = LlamaConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            vocab_size=len(tokenizer),
            max_position_embeddings=context,
            bos_token_id=0,
            eos_token_id=1,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            LlamaForCausalLM(config).save_pretrained(tmp_path / "llm")
        return tmp_path / "llm"

    return save


@pytest.mark.parametrize(
    "template", [None, "{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}", NO_SYSTEM]
)
def test_a_local_model_writes_and_leaves_the_global_luck_alone(save_model: SaveModel, template: str | None) -> None:
    folder = save_model(template)
    writer = LocalWriter(str(folder), "cpu")
    before = torch.get_rng_state()
    texts = [writer.write(CHAT, 1, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert texts[0]
    assert texts[0] == texts[1] != texts[2]
    assert writer.model == str(folder)


def test_a_local_model_stops_at_its_context_and_refuses_what_is_longer(save_model: SaveModel) -> None:
    writer = LocalWriter(str(save_model(context=48)), "cpu")
    assert len(writer.write(CHAT, 9, 0)) <= 4 * 48
    with pytest.raises(DataError, match=r"too long for .*llm: \d+ tokens, its context is 48"):
        writer.write([*CHAT, *CHAT, *CHAT], 9, 0)


def test_a_local_model_can_fill_a_file_or_come_short(save_model: SaveModel, tmp_path: Path) -> None:
    writer = LocalWriter(str(save_model(context=2048)), "cpu")
    report = generate_questions([TAIL], writer, tmp_path / "q.jsonl", Assignment(1, EXAMPLES), lambda *_: None)
    assert report.accepted + len(report.short) == 1
    assert report.accepted or sum(report.refused.values())


@pytest.mark.parametrize("files", [{}, {"config.json": "{}"}, {"config.json": "{"}])
def test_what_is_no_model_is_one_error(tmp_path: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="cannot load the language model"):
        LocalWriter(str(tmp_path), "cpu")


def test_damaged_weights_are_one_error(save_model: SaveModel) -> None:
    folder = save_model()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot load the language model"):
        LocalWriter(str(folder), "cpu")
