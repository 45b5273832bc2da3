"""taskgrove serve: real requests over HTTP against tiny models, alone and fused."""

import http.client
import json
import threading
import time
from contextlib import contextmanager, suppress

import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig
from typer.testing import CliRunner

from taskgrove.cli.serve import serve
from taskgrove.composing.dynamic_alpha import Rule
from taskgrove.composing.fused_lm import FusedLM
from taskgrove.composing.openai_wire import WireError, read
from taskgrove.composing.server import server
from taskgrove.composing.speak import Sampling, draw, settled
from taskgrove.composing.voice import Voice
from taskgrove.errors import TaskgroveError
from tiny_language_models import tiny_model, tiny_tokenizer

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def make(kind="llama", experts=2):
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    large = tiny_model(kind, size, seed=0, width=32)
    small = tiny_model(kind, size, seed=1, width=16)
    tuned = [tiny_model(kind, size, seed=1, width=16, moved=2 + n) for n in range(experts)]
    for model in (large, small, *tuned):
        model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    return Voice("tiny", large, tokenizer, small, tuned, Rule())


@contextmanager
def running(voice):
    served = server(voice, "127.0.0.1", 0)
    threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield served.server_address[1]
    finally:
        served.shutdown()
        served.server_close()


@pytest.fixture(scope="module")
def voice():
    return make()


@pytest.fixture(scope="module")
def port(voice):
    with running(voice) as port:
        yield port


def ask(port, path, body=None, method=None):
    """The status, the headers and the body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method or ("GET" if body is None else "POST"), path, data)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def completion(port, **asked):
    status, _, body = ask(port, "/v1/completions", {"model": "tiny", **asked})
    assert status == 200, body
    return json.loads(body)


def events(port, path, **asked):
    status, headers, body = ask(port, path, {"model": "tiny", "stream": True, **asked})
    assert (status, headers["Content-Type"][:17]) == (200, "text/event-stream"), body
    parts = body.decode().split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def refused(port, path, body, status=400):
    found, headers, text = ask(port, path, body)
    assert found == status, text
    assert headers["Content-Type"] == "application/json"
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# --- answers --------------------------------------------------------------------------------------


def test_models(port):
    _, _, body = ask(port, "/v1/models")
    listed = json.loads(body)
    assert listed["object"] == "list"
    (only,) = listed["data"]
    assert (only["id"], only["object"], only["owned_by"]) == ("tiny", "model", "taskgrove")
    assert isinstance(only["created"], int)
    assert json.loads(ask(port, "/v1/models/tiny")[2]) == only
    assert ask(port, "/health")[0] == 200


def test_a_greedy_completion_is_the_fused_model_s(port, voice):
    found = completion(port, prompt="the cat", max_tokens=12, temperature=0)
    fused = FusedLM(voice.model, voice.small, voice.experts, voice.tokenizer, voice.rule)
    options = GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=0)
    (answer,) = fused.generate(["the cat"], options)
    (choice,) = found["choices"]
    assert choice == {"index": 0, "text": answer.text, "logprobs": None, "finish_reason": "length"}
    prompt = len(voice.tokenizer("the cat")["input_ids"])
    assert found["usage"] == {
        "prompt_tokens": prompt, "completion_tokens": 12, "total_tokens": prompt + 12,
    }  # fmt: skip
    assert (found["object"], found["model"]) == ("text_completion", "tiny")
    with running(Voice("tiny", voice.model, voice.tokenizer)) as alone:
        plain = completion(alone, prompt="the cat", max_tokens=12, temperature=0)
    assert plain["choices"][0]["text"] != answer.text  # or fusion shows nothing here


def test_prompts_may_be_several_and_numbers(port, voice):
    numbers = voice.tokenizer("a dog")["input_ids"]
    both = completion(port, prompt=["the cat", "a dog"], max_tokens=5, temperature=0)
    texts = [choice["text"] for choice in both["choices"]]
    assert [choice["index"] for choice in both["choices"]] == [0, 1]
    single = completion(port, prompt=numbers, max_tokens=5, temperature=0)
    assert single["choices"][0]["text"] == texts[1]
    assert both["usage"]["completion_tokens"] == 10


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_stream_is_the_answer_in_pieces(port, voice, path):
    voice.tokenizer.chat_template = TEMPLATE
    chat = "chat" in path
    asked = {"max_tokens": 15, "temperature": 0}
    asked |= {"messages": [{"role": "user", "content": "a dog"}]} if chat else {"prompt": "a dog"}
    _, _, body = ask(port, path, {"model": "tiny", **asked})
    whole = json.loads(body)
    text = whole["choices"][0]["message"]["content"] if chat else whole["choices"][0]["text"]
    found = events(port, path, **asked, stream_options={"include_usage": True})
    assert found[-1]["choices"] == []
    assert found[-1]["usage"] == whole["usage"]
    pieces = [each["choices"][0] for each in found[:-1]]
    said = [piece["delta"].get("content") if chat else piece["text"] for piece in pieces]
    assert "".join(said) == text
    assert len(pieces) > 3
    assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert len({each["id"] for each in found}) == 1
    assert found[0]["object"] == ("chat.completion.chunk" if chat else "text_completion")
    if chat:
        assert pieces[0]["delta"] == {"role": "assistant", "content": ""}
        assert whole["object"] == "chat.completion"
        assert whole["choices"][0]["message"]["role"] == "assistant"
        prompt = voice.tokenizer("user: a dog\nassistant:")["input_ids"]
        assert whole["usage"]["prompt_tokens"] == len(prompt)
        parts = [{"role": "user", "content": [{"type": "text", "text": "a dog"}]}]
        same = ask(port, path, {"model": "tiny", **asked, "messages": parts})
        assert json.loads(same[2])["choices"] == whole["choices"]
    assert "usage" not in events(port, path, **asked)[-1]


def test_stop_ends_before_the_word_streamed_or_not(port):
    asked = {"prompt": "b", "max_tokens": 40, "temperature": 0}
    free = completion(port, **asked)["choices"][0]["text"]
    word = next(free[n : n + 2] for n in range(5, len(free)) if free[n : n + 2].isascii())
    for stop in (word, ["never there", word]):
        found = completion(port, **asked, stop=stop)
        choice = found["choices"][0]
        assert choice["text"] == free[: free.index(word)]
        assert choice["finish_reason"] == "stop"
        assert found["usage"]["completion_tokens"] < 40
        pieces = events(port, "/v1/completions", **asked, stop=stop)
        assert "".join(piece["choices"][0]["text"] for piece in pieces) == choice["text"]
        assert pieces[-1]["choices"][0]["finish_reason"] == "stop"


def test_the_end_token_ends(voice):
    with running(voice) as port:
        free = completion(port, prompt="b", max_tokens=8, temperature=0)
        ids = voice.tokenizer("b" + free["choices"][0]["text"])["input_ids"]
        fused = FusedLM(voice.model, voice.small, voice.experts, voice.tokenizer, voice.rule)
        options = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0)
        tokens = fused.generate(["b"], options)[0].tokens
        assert ids
        voice.model.generation_config.eos_token_id = tokens[4]
        try:
            found = completion(port, prompt="b", max_tokens=8, temperature=0)
        finally:
            voice.model.generation_config.eos_token_id = None
    first = tokens.index(tokens[4])
    assert found["choices"][0]["text"] == voice.tokenizer.decode(tokens[:first])
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["usage"]["completion_tokens"] == first + 1


def test_a_seed_repeats_and_seeds_differ(port):
    def drawn(seed, **more):
        return completion(port, prompt="b", max_tokens=12, seed=seed, **more)["choices"][0]["text"]

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(5)}) > 1
    greedy = completion(port, prompt="b", max_tokens=12, temperature=0)["choices"][0]["text"]
    assert drawn(3, top_p=1e-6) == drawn(3, top_p=0) == greedy  # only the likeliest token is left


def test_requests_side_by_side_do_not_mix(port):
    prompts = ["the cat", "a dog", "b", "mat on"] * 2
    alone = {p: completion(port, prompt=p, max_tokens=6, temperature=0) for p in prompts}
    found = {}

    def one(n, prompt):
        found[n] = completion(port, prompt=prompt, max_tokens=6, temperature=0)

    threads = [threading.Thread(target=one, args=each) for each in enumerate(prompts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, prompt in enumerate(prompts):
        assert found[n]["choices"] == alone[prompt]["choices"]


def test_one_answer_is_made_at_a_time(voice):
    """Whole or streamed: a second one would need the memory of a second one."""
    under_way, most = [], []

    class Watched(Voice):
        def speak(self, prompt, sampling):
            under_way.append(1)
            most.append(len(under_way))
            time.sleep(0.02)
            yield from super().speak(prompt, sampling)
            under_way.pop()

    with running(Watched("tiny", voice.model, voice.tokenizer)) as port:
        asked = {"prompt": "a", "max_tokens": 2}
        threads = [
            threading.Thread(target=completion, args=(port,), kwargs=asked),
            threading.Thread(target=events, args=(port, "/v1/completions"), kwargs=asked),
        ]
        threads += [threading.Thread(target=completion, args=(port,), kwargs=asked)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1, 1, 1]


def test_one_connection_serves_many_requests_also_after_a_mistake(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for body, status in ((b"{", 400), (b'{"model": "tiny", "prompt": "a"}', 200)) * 2:
        connection.request("POST", "/v1/completions", body)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    connection.close()


def test_a_client_that_leaves_does_not_hold_the_others_up(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    asked = {"model": "tiny", "prompt": "a", "max_tokens": 50, "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(asked))
    connection.getresponse().read(10)
    connection.close()
    assert completion(port, prompt="a", max_tokens=2)["usage"]["completion_tokens"] == 2


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [999999]}, "prompt"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": "3"}, "max_tokens"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens"),
        ({"prompt": "a", "temperature": 3}, "temperature"),
        ({"prompt": "a", "top_p": 1.5}, "top_p"),
        ({"prompt": "a", "stop": ["a"] * 5}, "stop"),
        ({"prompt": "a", "stop": ""}, "stop"),
        ({"prompt": "a", "n": 2}, "n"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "logprobs": 3}, "logprobs"),
        ({"prompt": "a", "model": None}, "model"),
        ({"prompt": "a", "stream": "yes"}, "stream"),
    ],
)
def test_mistakes_in_a_request(port, asked, param):
    error = refused(port, "/v1/completions", {"model": "tiny", **asked})
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert error["message"]
    streamed = {"model": "tiny", "stream": True, **asked}
    assert refused(port, "/v1/completions", streamed)["param"] == param


def test_other_mistakes(port, voice):
    error = refused(port, "/v1/completions", {"model": "big", "prompt": "a"}, 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert 'this server has "tiny"' in error["message"]
    error = refused(port, "/v1/completions", {"model": "tiny", "prompt": "a", "max_tokens": 99})
    assert error["code"] == "context_length_exceeded"
    error = refused(
        port, "/v1/completions", {"model": "tiny", "prompt": "xyz" * 99, "stream": True}
    )
    assert error["code"] == "context_length_exceeded"
    assert "not JSON" in refused(port, "/v1/completions", b"{")["message"]
    assert "object" in refused(port, "/v1/completions", b"[]")["message"]
    refused(port, "/v1/embeddings", {"model": "tiny"}, 404)
    assert ask(port, "/v2")[0] == 404
    assert ask(port, "/v1/models/big")[0] == 404
    assert ask(port, "/v1/completions", method="DELETE")[0] == 501
    said = {"model": "tiny", "messages": [{"role": "user", "content": "a"}]}
    for messages in ([], "a", [{}], [{"role": "user"}], [{"role": "user", "content": [{}]}]):
        error = refused(port, "/v1/chat/completions", said | {"messages": messages})
        assert error["param"].startswith("messages")
    assert refused(port, "/v1/chat/completions", said | {"tools": [1]})["param"] == "tools"
    voice.tokenizer.chat_template = None
    assert "no chat template" in refused(port, "/v1/chat/completions", said)["message"]


def test_a_request_too_large_is_not_read(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Length", str(1 << 30))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_failure_inside_is_told_as_one(capfd):
    with running(Voice("tiny", None, tiny_tokenizer())) as port:
        error = refused(port, "/v1/completions", {"model": "tiny", "prompt": "a"}, 500)
    assert error["type"] == "server_error"
    assert "AttributeError" in capfd.readouterr().err  # the log has the reason


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["role", "content", "type"]), inner)),
       st.sampled_from(["prompt", "messages", "stop", "stream_options", "max_tokens", "n", "seed",
                        "tools", "temperature", "response_format", "logit_bias"]))  # fmt: skip
def test_whatever_is_sent_is_read_or_refused(value, name):
    for chat in (True, False):
        body = json.dumps({"model": "m", "prompt": "a", name: value}).encode()
        with suppress(WireError):
            assert read(body, chat).model == "m"


# --- pieces ---------------------------------------------------------------------------------------


def test_draw_follows_the_probabilities():
    rng, logits = torch.Generator().manual_seed(0), torch.tensor([0.6, 0.3, 0.1]).log()
    counts = torch.zeros(3)
    for _ in range(1500):
        counts[draw(logits, Sampling(1), rng)] += 1
    torch.testing.assert_close(counts / 1500, torch.tensor([0.6, 0.3, 0.1]), atol=0.03, rtol=0)
    flat = torch.zeros(3)
    for _ in range(1500):
        flat[draw(logits, Sampling(1, temperature=2.0), rng)] += 1
    hot = (logits / 2).softmax(-1)
    torch.testing.assert_close(flat / 1500, hot, atol=0.03, rtol=0)
    assert {draw(logits, Sampling(1, top_p=0.7), rng) for _ in range(200)} == {0, 1}


@given(st.text("ab.\ufffd", max_size=12), st.lists(st.text("ab.", min_size=1, max_size=3)))
def test_what_is_settled_never_changes(text, stop):
    """However the text goes on, what was given out is a part of the answer."""
    sure = settled(text, stop)
    assert 0 <= sure <= len(text)
    if any(word in text for word in stop):
        return
    for more in ("a", "b", ".", "ab", "b.a"):
        whole = text.rstrip("\ufffd") + more
        ends = [at for word in stop if (at := whole.find(word)) >= 0]
        assert sure <= min(ends, default=len(whole))


# --- the command ----------------------------------------------------------------------------------


def test_the_command_refuses_in_one_sentence(tmp_path):
    app = typer.Typer()
    app.command()(serve)

    def sentence(*words):
        found = CliRunner().invoke(app, [str(word) for word in words])
        assert isinstance(found.exception, TaskgroveError), found.output
        return str(found.exception)

    assert "needs one model folder, or --large" in sentence()
    assert "expected --large M beside" in sentence("M", "--small", "S")
    assert "--small is missing" in sentence("--large", "L")
    assert "--experts is missing" in sentence("--large", "L", "--small", "S")
    assert "nowhere is not there" in sentence(tmp_path / "nowhere")
    assert 'Did you mean "joint"' in sentence("M", "--method", "joit")
    voice = make("gpt2", 1)
    folders = dict(zip(("L", "S", "E"), (voice.model, voice.small, voice.experts[0]), strict=True))
    for name, model in folders.items():
        model.save_pretrained(tmp_path / name)
        voice.tokenizer.save_pretrained(tmp_path / name)
    with running(voice) as taken:
        words = ("--large", tmp_path / "L", "--small", tmp_path / "S", "--experts", tmp_path / "E")
        assert f"port {taken}" in sentence(*words, "--port", taken)
        assert "nothing can listen" in sentence(tmp_path / "L", "--port", 99999)
