"""Which requests the studio answers: every rule by itself, and that each is needed."""

from __future__ import annotations

import pytest

from fairlead.app.studio.guard import TOKEN_HEADER, Asked, Guard, Keys

KEYS = Keys("reading-secret", "writing-secret")
GUARD = Guard(KEYS, 8000)
HOST = "127.0.0.1:8000"
WRITE = {
    "host": [HOST],
    "origin": [f"http://{HOST}"],
    "cookie": ["fairlead-8000=reading-secret"],
    "content-type": ["application/json"],
    TOKEN_HEADER: ["writing-secret"],
}


def code(method: str, path: str, headers: dict[str, list[str]], guard: Guard = GUARD) -> str:
    found = guard.check(Asked(method, path, headers))
    return "" if found is None else found.code


def with_(**changes: list[str] | None) -> dict[str, list[str]]:
    """The headers of a proper change, with some replaced; None leaves one out."""
    named = {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in {**WRITE, **named}.items() if value is not None}


def test_a_proper_change_passes() -> None:
    assert code("POST", "/api/jobs", WRITE) == ""
    assert code("POST", "/api/jobs", with_(content_type=["application/json; charset=utf-8"])) == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.test",
        "127.0.0.1.evil.test",
        "localhost.evil.test:8000",
        "10.0.0.7:8000",
        "",
        "[::1",
        "127.0.0.1:8000@evil.test",
    ],
)
def test_a_rebound_name_is_refused_everywhere(host: str) -> None:
    for path in ("/", "/static/main.js", "/api/runs"):
        assert code("GET", path, with_(host=[host], origin=[f"http://{host}"])) == "wrong_host"


def test_a_host_is_named_once() -> None:
    assert code("GET", "/", with_(host=None)) == "wrong_host"
    assert code("GET", "/", with_(host=[HOST, "evil.test"])) == "wrong_host"


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:9000"])
def test_names_of_this_machine_pass(host: str) -> None:
    assert code("GET", "/api/runs", with_(host=[host], origin=None)) == ""


def test_a_studio_for_others_takes_addresses_and_no_names() -> None:
    guard = Guard(KEYS, 8000, open_to_others=True)
    assert code("GET", "/api/runs", with_(host=["192.168.1.9:8000"], origin=None), guard) == ""
    assert code("GET", "/api/runs", with_(host=["evil.test:8000"], origin=None), guard) == "wrong_host"


@pytest.mark.parametrize("origin", ["http://evil.test", "http://127.0.0.1:9999", "https://127.0.0.1:8000", "null"])
def test_another_origin_may_neither_read_nor_write(origin: str) -> None:
    assert code("GET", "/api/runs", with_(origin=[origin])) == "wrong_origin"
    assert code("POST", "/api/jobs", with_(origin=[origin])) == "wrong_origin"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_on_another_port_cannot_embed_pictures(site: str) -> None:
    """Its requests carry the cookie, because another port is the same site."""
    path = "/api/runs/0/images/0"
    assert code("GET", path, with_(origin=None, sec_fetch_site=[site])) == "wrong_site"
    assert code("GET", path, with_(origin=None, sec_fetch_site=["same-origin"])) == ""


def test_the_link_opens_from_anywhere() -> None:
    headers = with_(origin=None, sec_fetch_site=["cross-site"], sec_fetch_mode=["navigate"])
    assert code("GET", "/", headers) == ""
    assert code("GET", "/api/runs", headers) == "wrong_site"


@pytest.mark.parametrize("cookie", [None, [""], ["fairlead-8001=reading-secret"], ["fairlead-8000=reading"], ["a=é"]])
def test_reading_needs_the_cookie(cookie: list[str] | None) -> None:
    assert code("GET", "/api/runs", with_(cookie=cookie, origin=None)) == "no_cookie"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"cookie": None}, "no_cookie"),
        ({"x_fairlead_token": None}, "no_token"),
        ({"x_fairlead_token": ["reading-secret"]}, "no_token"),
        ({"x_fairlead_token": ["\xe9"]}, "no_token"),
        ({"x_fairlead_token": ["writing-secret", "writing-secret"]}, "no_token"),
        ({"origin": None}, "wrong_origin"),
        ({"content_type": None}, "json_only"),
        ({"content_type": ["text/plain"]}, "json_only"),
        ({"content_type": ["application/x-www-form-urlencoded"]}, "json_only"),
        ({"content_encoding": ["gzip"]}, "json_only"),
    ],
)
def test_a_change_needs_everything(change: dict[str, list[str] | None], wanted: str) -> None:
    assert code("POST", "/api/jobs", with_(**change)) == wanted


@pytest.mark.parametrize("method", ["DELETE", "PUT", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused(method: str) -> None:
    assert code(method, "/api/runs", WRITE) == "wrong_method"


def test_only_the_link_opens() -> None:
    assert GUARD.opens("reading-secret")
    assert not any(GUARD.opens(token) for token in (None, "", "writing-secret", "reading-secre", "é"))


def test_keys_differ_at_every_start() -> None:
    made = [Keys() for _ in range(3)]
    assert len({key for keys in made for key in (keys.reading, keys.writing)}) == 6
    assert all(len(keys.reading) >= 43 for keys in made)
