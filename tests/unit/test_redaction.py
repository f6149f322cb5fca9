"""Tokens, passwords and home directories go out of texts; everything else stays."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_qa.errors import ErnieQAError, InputError
from ernie_qa.redaction import kept, redacted, without_homes, without_secrets

TOKEN = "hf_" + "aBcDeFgHiJ" * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"401 with {TOKEN}: see it", "401 with <token>: see it"),
        ("https://me:pass@there/x?y", "https://there/x?y"),
        ("https://abcdef@there/x", "https://there/x"),
        ("git+https://me:p@ss@there/x", "git+https://there/x"),
        ("https://there:8080/x", "https://there:8080/x"),
        ("https://there/x@main", "https://there/x@main"),
        ("Authorization: Bearer ey.J-_9", "Authorization: <token>"),
        ("{'authorization': 'Basic bWU6cHc='}", "{'authorization': '<token>'}"),
        ("(b'Authorization', b'Bearer ey.J')", "(b'Authorization', b'<token>')"),
        ("without authorization, nothing is told", "without authorization, nothing is told"),
        ("https://x/y?a=1&X-Amz-Signature=0f3&b=2", "https://x/y?a=1&X-Amz-Signature=<token>&b=2"),
        ("'https://x/y?token=0f3'", "'https://x/y?token=<token>'"),
        ("Authorization: ApiKey SeCrEt123", "Authorization: <token>"),
        ('Authorization: Digest user="me", response="6629"', "Authorization: <token>"),
        (r"{\"authorization\": \"Bearer abc.def\"}", r"{\"authorization\": \"<token>\"}"),
        ("https://x/y?sv=1&sig=0f3", "https://x/y?sv=1&sig=<token>"),
        ("https://x/y#access_token=0f3", "https://x/y#access_token=<token>"),
        (r"https://x/y?a=1\u0026X-Amz-Signature=0f3", r"https://x/y?a=1\u0026X-Amz-Signature=<token>"),
        ("https://x/y?design=blue", "https://x/y?design=blue"),
        ("lock-and-bolt", "<token>"),
        ("second: MIIBOgIBAAJB", "second: <token>"),
        ("https://x/p%40ss%2Fword%22q", "https://x/<token>"),
        (r"'p@ss/word\"q'", "'<token>'"),
        ("hf_hub_download of half_life", "hf_hub_download of half_life"),
        ("correct-horse", "<token>"),
        ("true to life", "true to life"),
    ],
)
def test_secrets(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "correct-horse\n")
    monkeypatch.setenv("DEPLOY_KEY", "lock-and-bolt")
    monkeypatch.setenv("SSH_PRIVATE_KEY", "-----BEGIN\n  MIIBOgIBAAJB\n-----END")
    monkeypatch.setenv("ODD_PASSWORD", 'p@ss/word"q')
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    assert without_secrets(text) == expected


def test_a_text_that_invites_backtracking() -> None:
    ask = "import sys; from ernie_qa.redaction import without_secrets as w; print(len(w(sys.stdin.read())))"
    text = "?" + "token" * 800_000
    # a second; whoever looks ahead from each of these characters to the end is at it for hours
    done = subprocess.run(
        [sys.executable, "-c", ask], input=text, capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) == len(text)


def test_a_home_that_is_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "real" / "anna"
    real.mkdir(parents=True)
    (tmp_path / "anna").symlink_to(real)
    monkeypatch.setenv("HOME", str(tmp_path / "anna"))
    assert without_homes(f"{tmp_path}/anna/x {real}/x") == "~/x ~/x"
    assert without_homes("/tmp/torchinductor_anna/ab/x.py") == "/tmp/torchinductor_/ab/x.py"


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    assert kept("/home/berta/x") == "~/x"


def test_the_token_that_the_hub_keeps_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "token"
    file.write_text("not-in-the-usual-form")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(file))
    assert without_secrets("a not-in-the-usual-form b") == "a <token> b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/anna/x", "~/x"),
        ("/srv/annabel/x", "/srv/annabel/x"),
        ("'/home/berta/x': no", "'~/x': no"),
        ("/Users/c.d/x", "~/x"),
        ("/opt/home", "/opt/home"),
    ],
)
def test_homes(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/anna")
    assert without_homes(text) == expected


def test_an_error_holds_no_token_wherever_it_goes() -> None:
    error = InputError(f"{TOKEN} is refused")
    assert str(error) == "<token> is refused"
    assert repr(pickle.loads(pickle.dumps(error))) == repr(error)
    assert ErnieQAError().args == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_only_texts_change_and_only_once(value: object) -> None:
    once = redacted(value)
    assert redacted(once) == once
    assert redacted(value, lambda text: text) == value


def test_every_text_in_json_values() -> None:
    assert redacted({"a": [f"x {TOKEN}", 1], "b": {"c": None}}) == {"a": ["x <token>", 1], "b": {"c": None}}
    assert kept(f"/home/x/{TOKEN}") == "~/<token>"


def test_secrets_are_looked_for_once_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: asked.append(1) or "a-secret-of-mine")
    figures = {f"layer {index}": [f"layer {index}", "has a-secret-of-mine"] for index in range(50)}
    assert redacted(figures)["layer 7"] == ["layer 7", "has <token>"]
    assert len(asked) == 1
