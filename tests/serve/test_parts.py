"""The pieces of the server by themselves: turns, partial pictures, budgets, keys, metrics, what is delivered."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs fairlead[serve]")

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fairlead.app.serve import asked, delivered
from fairlead.app.serve import keys as keys_module
from fairlead.app.serve.allowed import Allowed
from fairlead.app.serve.budgets import Costs, budget_of, parse_limits
from fairlead.app.serve.errors import Refused
from fairlead.app.serve.gate import Gate
from fairlead.app.serve.keys import KeyFile
from fairlead.app.serve.log import Log
from fairlead.app.serve.metrics import HELP, Metrics
from fairlead.app.serve.models import Served
from fairlead.app.serve.partial import Partials
from fairlead.app.serve.quotas import Quotas
from fairlead.app.serve.record import Record, Standing
from fairlead.app.serve.turns import Turns
from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError
from fairlead.run.follow import Follower
from fairlead.run.records import Candidate, RunStatus

# turns


def order_of(wanted: list[str], slots: int = 1) -> list[str]:
    """In which order runs of these tenants are computed, if all are asked for at once."""

    async def all_at_once() -> list[str]:
        turns = Turns(slots)
        done: list[str] = []

        async def one(tenant: str) -> None:
            await turns.take(tenant)
            done.append(tenant)
            await asyncio.sleep(0)
            turns.leave(1.0)

        await asyncio.gather(*map(one, wanted))
        assert len(turns) == 0
        return done

    return asyncio.run(all_at_once())


def test_tenants_take_turns() -> None:
    assert order_of(["a", "a", "a", "a", "b", "b", "c"]) == ["a", "a", "b", "c", "a", "b", "a"]


def test_a_full_queue_says_when_to_come_back() -> None:
    async def fill() -> Refused:
        turns = Turns(most=2)
        waiting = [asyncio.create_task(turns.take("a")) for _ in range(3)]
        await asyncio.sleep(0)
        try:
            turns.check_room()
        except Refused as refused:
            return refused
        finally:
            for one in waiting:
                one.cancel()
        raise AssertionError("the queue took a run too many")

    refused = asyncio.run(fill())
    assert (refused.status, refused.code) == (429, "queue_full")
    assert 0 < int(refused.headers["retry-after"]) <= 120


def test_whoever_leaves_the_queue_blocks_nobody() -> None:
    async def leave() -> bool:
        turns = Turns()
        await turns.take("a")
        gone = asyncio.create_task(turns.take("b"))
        stays = asyncio.create_task(turns.take("b"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        turns.leave(1.0)
        await asyncio.sleep(0)
        return stays.done() and len(turns) == 0

    assert asyncio.run(leave())


def test_a_turn_that_comes_too_late_goes_to_the_next() -> None:
    async def leave() -> bool:
        turns = Turns()
        await turns.take("a")
        gone = asyncio.create_task(turns.take("b"))
        stays = asyncio.create_task(turns.take("b"))
        await asyncio.sleep(0)
        turns.leave(1.0)
        gone.cancel()  # its turn has come, and it has not noticed yet
        for _ in range(3):
            await asyncio.sleep(0)
        return stays.done()

    assert asyncio.run(leave())


# partial pictures


def standing(reward: float, nfe: float, rung: int = 0, index: int = 0) -> Standing:
    best = Candidate(index, reward, {}, Cost(), "images/x.png", "", 0, 4, rung=rung)
    return Standing(Cost(nfe=nfe), Cost.budget({"nfe": 100}), RunStatus.RUNNING, "", best, index + 1)


def test_partial_pictures_come_at_even_shares_and_never_fall() -> None:
    partials = Partials(3, {"nfe": 100})
    course = [(1.0, 4), (2.0, 10), (2.5, 30), (2.5, 60), (2.4, 70), (3.0, 80), (4.0, 99)]
    shown = [partials.next(standing(reward, nfe, index=i)) for i, (reward, nfe) in enumerate(course)]
    assert [one.reward for one in shown if one] == [1.0, 2.5, 3.0]


def test_a_finished_picture_is_not_followed_by_a_draft() -> None:
    partials = Partials(3, {"nfe": 100})
    course = [standing(5.0, 10), standing(2.0, 60, rung=1), standing(6.0, 70, rung=1), standing(9.0, 99, rung=0)]
    shown = [partials.next(one) for one in course]
    assert [one.reward for one in shown if one] == [5.0, 6.0]


def test_a_record_covers_a_budget() -> None:
    now = standing(1.0, 64)
    assert now.covers({"nfe": 64})
    assert not now.covers({"nfe": 65})
    assert replace(now, status=RunStatus.FINISHED).covers({"nfe": 100}), "it ended within its budget"
    assert not replace(now, status=RunStatus.FINISHED).covers({"nfe": 101})
    assert not replace(now, status=RunStatus.STOPPED).covers({"nfe": 100})


# budgets

COSTS = Costs(each=20, before=5, dollars=0.0)
MOST = {"nfe": 20_000.0, "seconds": 600.0, "dollars": 0.0}


def ordered(**words: Any) -> asked.Asked:
    return asked.read({"prompt": "a dog", **words}, {"tiny": Served("tiny", "mixture")}, Allowed())


def test_a_quality_is_a_number_of_pictures() -> None:
    wanted = {"low": 4, "medium": 16, "high": 64, "xhigh": 256}
    found = {name: budget_of(ordered(quality=name), COSTS, MOST) for name in wanted}
    assert found == {name: {"nfe": 5 + 20 * count} for name, count in wanted.items()}
    assert budget_of(ordered(quality="max"), COSTS, MOST)["nfe"] <= MOST["nfe"]
    assert budget_of(ordered(quality="low", n=10), COSTS, MOST) == {"nfe": 5 + 20 * 40}


def test_a_budget_affords_the_pictures() -> None:
    assert budget_of(ordered(n=3, fairlead={"budget": "nfe=65"}), COSTS, MOST)["nfe"] == 65
    with pytest.raises(Refused, match="nfe=65 or more") as caught:
        budget_of(ordered(n=3, fairlead={"budget": {"nfe": 64}}), COSTS, MOST)
    assert caught.value.code == "budget_too_small"
    with pytest.raises(Refused, match="at most 20000"):
        budget_of(ordered(fairlead={"budget": "nfe=20001"}), COSTS, MOST)
    with pytest.raises(Refused, match="spends nothing"):
        budget_of(ordered(), replace(COSTS, dollars=0.01), MOST)
    paid = budget_of(ordered(), replace(COSTS, dollars=0.01), {**MOST, "dollars": 2.0})
    assert paid["dollars"] == 2.0
    assert budget_of(ordered(fairlead={"budget": "seconds=9"}), COSTS, MOST) == {"seconds": 9, "nfe": 20_000}


def test_limits_of_a_server() -> None:
    assert parse_limits("nfe=10,dollars=0") == {"nfe": 10, "seconds": 600, "dollars": 0}
    with pytest.raises(FairleadError, match="unknown"):
        parse_limits("pictures=3")


# keys


def test_a_key_file_holds_no_secret(tmp_path: Path) -> None:
    stored = KeyFile(tmp_path / "keys.json")
    secret = stored.add("me", {"nfe": 100})
    assert re.fullmatch(r"fl-[0-9a-f]{8}-[A-Za-z0-9_-]{43}", secret)
    assert secret[12:].encode() not in stored.path.read_bytes()
    assert stored.path.stat().st_mode & 0o777 == 0o600
    found = stored.who(f"Bearer {secret}".encode())
    assert found is not None
    assert (found.name, found.limits) == ("me", {"nfe": 100})
    assert stored.who(f"bearer {secret}".encode()) == found
    stored.remove(found.id)
    assert stored.who(f"Bearer {secret}".encode()) is None
    stored.path.chmod(0o644)
    with pytest.raises(FairleadError, match="mode 600"):
        stored.keys()


def wrong_keys(secret: str) -> list[bytes]:
    other = f"fl-{'0' * 8}-{secret[12:]}"
    sent = [secret[:-1], secret[:-1] + ("A" if secret[-1] != "A" else "B"), other, "", "ключ", "x" * 1_000_000]
    return [f"Bearer {one}".encode() for one in sent] + [
        b"Bearer \xff\xfe",
        secret.encode(),
        b"Basic " + secret.encode(),
    ]


@pytest.mark.parametrize("name", ["", "  ", "bob\nalice"])
def test_a_key_belongs_to_somebody(name: str, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    with pytest.raises(FairleadError, match="Write whose key it is"):
        file.add(name, {})
    assert not file.keys()


def test_wrong_keys_are_refused(tmp_path: Path) -> None:
    stored = KeyFile(tmp_path / "keys.json")
    secret = stored.add("me", {})
    for sent in wrong_keys(secret):
        assert stored.who(sent) is None, sent[:60]


def test_keys_are_compared_in_constant_time() -> None:
    source = Path(keys_module.__file__).read_text()
    assert source.count("compare_digest(") == 1
    assert not re.search(r"hash\w*\(?.*[!=]=|[!=]=.*hash", source)


# quotas


def test_a_quota_is_booked_before_and_corrected_after(tmp_path: Path) -> None:
    now = [1_000_000.0]
    quotas = Quotas(tmp_path / "q.sqlite", lambda: now[0])
    limits = {"nfe": 100.0}
    first = quotas.reserve("a", limits, 80)
    with pytest.raises(Refused, match="nfe=20 left") as caught:
        quotas.reserve("a", limits, 21)
    assert (caught.value.status, caught.value.code) == (429, "insufficient_quota")
    assert caught.value.headers["x-should-retry"] == "false"
    quotas.reserve("b", limits, 100)
    quotas.settle(first, Cost(nfe=30, seconds=2))
    assert quotas.spent("a") == {"nfe": 30, "seconds": 2, "dollars": 0}, "what was not spent is given back"
    late = quotas.reserve("a", limits, 70)
    now[0] += 86_400  # midnight passes
    quotas.settle(late, Cost(nfe=10))
    assert quotas.spent("a")["nfe"] == 0, "it was booked yesterday"
    now[0] -= 86_400
    assert Quotas(tmp_path / "q.sqlite", lambda: now[0]).spent("a")["nfe"] == 40, "a new server reads the same"


def test_requests_a_minute(tmp_path: Path) -> None:
    now = [0.0]
    quotas = Quotas(tmp_path / "q.sqlite", lambda: now[0])
    for second in (0, 20):
        now[0] = second
        quotas.check_request("a", {"requests": 2})
    with pytest.raises(Refused) as caught:
        quotas.check_request("a", {"requests": 2})
    assert caught.value.headers == {"retry-after": "40"}
    quotas.check_request("b", {"requests": 2})
    now[0] = 61
    quotas.check_request("a", {"requests": 2})
    with pytest.raises(Refused):
        quotas.check_runs({"runs": 1}, 1, 0)
    quotas.check_runs({"runs": 2, "waiting": 1}, 1, 0)


# the gate


def passes(keys: KeyFile | None, headers: list[tuple[bytes, bytes]], path: str = "/v1/models", **more: Any) -> int:
    """The status of a request; 200 where the gate lets it pass."""

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    statuses = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            names = [name for name, _ in message["headers"]]
            assert b"x-request-id" in names
            statuses.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    words: dict[str, Any] = {"hosts": (), "open_to_others": False, **more}
    gate = Gate(inside, keys=keys, metrics=Metrics(), log=Log(io.StringIO()), **words)
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
    asyncio.run(gate(scope, receive, send))
    return int(statuses[0])


HOST = (b"host", b"127.0.0.1:8484")


@pytest.mark.parametrize(
    "host",
    [
        "evil.test",
        "127.0.0.1.evil.test",
        "localhost.evil.test",
        "169.254.169.254",
        "10.0.0.7:8484",
        "[::2]",
        "",
        "[",
        "0",
    ],
)
def test_a_rebound_name_is_refused(host: str) -> None:
    assert passes(None, [(b"host", host.encode())]) == 421


def test_hosts_that_pass() -> None:
    for host in (b"127.0.0.1", b"localhost:1", b"[::1]:8484"):
        assert passes(None, [(b"host", host)]) == 200
    assert passes(None, []) == 421
    assert passes(None, [HOST, HOST]) == 421
    assert passes(None, [(b"host", b"pictures.test")], hosts=("pictures.test",)) == 200


def test_other_pages_are_refused() -> None:
    assert passes(None, [HOST, (b"origin", b"http://127.0.0.1:9999")]) == 403
    assert passes(None, [HOST, (b"origin", b"null")]) == 403
    assert passes(None, [HOST, (b"sec-fetch-site", b"same-site")]) == 403
    assert passes(None, [HOST, (b"origin", b"http://127.0.0.1:8484"), (b"sec-fetch-site", b"same-origin")]) == 200


def test_a_key_opens_the_gate(tmp_path: Path) -> None:
    stored = KeyFile(tmp_path / "keys.json")
    secret = stored.add("me", {})
    right = (b"authorization", f"bearer {secret}".encode())
    assert passes(stored, [HOST]) == 401
    assert passes(stored, [HOST, right]) == 200
    assert passes(stored, [HOST, right, right]) == 401
    assert passes(stored, [HOST], path="/healthz") == 200
    assert passes(stored, [HOST], path="/metrics") == 401
    assert passes(None, [HOST], open_to_others=True) == 401, "an open server without keys answers nobody"


# what is counted and delivered


def test_metrics_are_prometheus_text() -> None:
    metrics = Metrics()
    metrics.add("fairlead_nfe_total", 12, model='od"d\n')
    metrics.took("fairlead_request_seconds", 0.3)
    metrics.took("fairlead_request_seconds", 999)
    lines = metrics.text().splitlines()
    for line in lines:
        assert re.fullmatch(
            r'# (HELP|TYPE) .+|[a-z_]+(\{[a-z_]+="(\\.|[^"\\])*"(,[a-z_]+="[^"]*")*\})? [0-9.e+]+', line
        ), line
    assert 'fairlead_nfe_total{model="od\\"d\\n"} 12' in lines
    assert 'fairlead_request_seconds_bucket{le="1.0"} 1' in lines
    assert 'fairlead_request_seconds_bucket{le="+Inf"} 2' in lines
    assert all(f"# TYPE {name} {kind}" in lines for name, (kind, _) in HELP.items())


@pytest.mark.parametrize("format", delivered.TYPES)
def test_a_delivered_picture_holds_only_pixels(format: str) -> None:
    info = PngInfo()
    info.add_text("parameters", "a secret prompt at /home/me")
    info.add_itxt("fairlead", '{"spec": "http://10.0.0.7"}')
    out = io.BytesIO()
    Image.effect_noise((40, 30), 50).convert("RGB").save(out, "PNG", pnginfo=info, dpi=(72, 72))
    data, size = delivered.encode(out.getvalue(), format, 90)
    assert size == (40, 30)
    for piece in (b"secret", b"fairlead", b"10.0.0.7", b"/home", b"tEXt", b"Exif"):
        assert piece not in data
    again, _ = delivered.encode(out.getvalue(), format, 90)
    assert again == data
    if format == "png":
        with Image.open(io.BytesIO(data)) as one, Image.open(out) as other:
            assert one.tobytes() == other.convert("RGB").tobytes()


def test_a_record_that_goes_away_while_it_is_opened_is_none(made: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A run that was refused removes its folder, at a moment of which the server knows nothing."""
    folder = Path(shutil.copytree(made, tmp_path / "run"))

    def late(path: Path) -> Follower:
        shutil.rmtree(path)
        return Follower(path)

    monkeypatch.setattr("fairlead.app.serve.record.Follower", late)
    assert Record(folder).standing() is None
