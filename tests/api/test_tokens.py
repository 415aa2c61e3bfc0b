"""Who may do what: every route of the application is tried with no token, a wrong one and one that is too weak."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from crawlfleet.api import callers, guard, refusals
from crawlfleet.api.guard import OPEN_PATHS, READING
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.model import schema
from crawlfleet.model.api_token import ApiTokenDAO, Role
from tests.api.sample import Sample, sample_fleet
from tests.conftest import Backend
from tests.waiting import wait_until

WHOAMI = "/api/distribution/whoami"
ADMIN = "the-token-of-the-setting-of-the-node"
ROLES = list(Role)
SQLITE = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.fixture
def sample(backend: Backend) -> Iterator[Sample]:
    with sample_fleet(backend.url, api_token=ADMIN) as found:
        yield found


@pytest.fixture
def sample_without_tokens(backend: Backend) -> Iterator[Sample]:
    with sample_fleet(backend.url) as found:
        yield found


def client_of(sample: Sample, token: str | None = None, base_url: str = "http://127.0.0.1") -> TestClient:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return TestClient(sample.app, base_url=base_url, headers=headers, raise_server_exceptions=False)


def operations(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of every route that the router would find, also of those that /openapi.json leaves out."""

    def walk(routes: list[Any], prefix: str) -> Iterator[tuple[str, str]]:
        for route in routes:
            inner = getattr(route, "original_router", None)
            if inner is not None:
                yield from walk(inner.routes, prefix + route.include_context.prefix)
            else:
                yield from ((method, prefix + route.path) for method in route.methods)

    return sorted(set(walk(app.routes, "")))


def needed_role(app: FastAPI, method: str, path: str) -> Role:
    description = app.openapi()["paths"].get(path, {}).get(method.lower(), {}).get("description", "")
    if "Needs the role `admin`" in description:
        return Role.ADMIN
    return Role.READ if method in READING else Role.OPERATE


def filled(path: str, sample: Sample) -> str:
    """The path with ids of things that there are, so that a request that gets through would do something."""
    ids = {"task_id": "pending", "assignment_id": "pending"}
    if path.endswith("/retry"):
        ids["task_id"] = "failed"
    names = {"device_id": "d1", "source": "appsflyer", "username": "u"} | {
        name: str(sample.tasks[state]) for name, state in ids.items()
    }
    return path.format(**names)


BODIES = {
    "/tasks": {"task_type": "noop"},
    "/tasks/retry": {"status": "failed"},
    "/tasks/cancel": {"status": "pending"},
    "/park": {"reason": "x"},
    "/pause": {"reason": "x"},
    "/cleanup": {"days": 1},
}


def ask(client: TestClient, method: str, path: str, sample: Sample) -> int:
    body = next((body for end, body in BODIES.items() if path.endswith(end)), None) if method == "POST" else None
    with client.stream(method, filled(path, sample), json=body) as answer:
        return answer.status_code


@SQLITE
def test_a_request_without_with_a_wrong_or_with_a_too_weak_token_changes_nothing(sample: Sample) -> None:
    tokens = {role: ApiTokenDAO(sample.db).add(role.value, role) for role in ROLES}
    revoked = ApiTokenDAO(sample.db).add("revoked", Role.ADMIN)
    ApiTokenDAO(sample.db).revoke("revoked")
    found = operations(sample.app)
    before = sample.contents()
    tried = 0
    for method, path in found:
        if path in OPEN_PATHS:
            continue
        needed = needed_role(sample.app, method, path)
        weaker: list[tuple[str | None, int]] = [(tokens[role], 403) for role in ROLES[: ROLES.index(needed)]]
        for token, status in [(None, 401), ("wrong", 401), ("", 401), (revoked, 401), *weaker]:
            assert ask(client_of(sample, token), method, path, sample) == status, (method, path, token)
            tried += 1
    assert sample.contents() == before
    changing = [path for method, path in found if method not in READING]
    assert len(changing) >= 12
    assert tried > 4 * len(found)


@SQLITE
def test_what_is_refused_to_others_is_done_for_the_right_role(sample: Sample) -> None:
    tokens = {role: ApiTokenDAO(sample.db).add(role.value, role) for role in ROLES}
    for method, path in operations(sample.app):
        if path in {"/api/distribution/events", "/metrics", "/readyz"}:
            continue  # the first would not end, the others need a node
        status = ask(client_of(sample, tokens[needed_role(sample.app, method, path)]), method, path, sample)
        assert status not in {401, 403, 422, 500}, (method, path, status)
    assert {row[1] for row in sample.contents()["cl_audit"]} > {"token operate", "token admin"}


def test_the_audit_names_the_token_and_tokens_are_stored_as_hashes(sample: Sample) -> None:
    token = ApiTokenDAO(sample.db).add("deploy", Role.OPERATE, "root@host")
    path = "/api/distribution/management/pause"
    assert client_of(sample, token).post(path, json={"reason": "upgrade"}).status_code == 200
    assert client_of(sample, ADMIN).post("/api/distribution/management/resume").status_code == 200
    rows = client_of(sample, ADMIN).get("/api/distribution/audit").json()["audit"][:3]
    assert [(row["actor"], row["action"]) for row in rows] == [
        ("token api_token", "queue.resume"),
        ("token deploy", "queue.pause"),
        ("root@host", "tokens.add"),
    ]
    assert rows[1]["detail"] == {"reason": "upgrade"}
    assert token not in str(sample.contents())


@SQLITE
def test_a_token_counts_from_now_on_and_a_revoked_one_no_longer(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "TOKENS_KEPT", 0.05)
    with client_of(sample) as client:
        dao = ApiTokenDAO(sample.db)
        token = dao.add("late", Role.READ)

        def status() -> int:
            return client.get("/openapi.json", headers={"Authorization": f"Bearer {token}"}).status_code

        wait_until(lambda: status() == 200, what="the token is known")
        dao.revoke("late")
        wait_until(lambda: status() == 401, what="the token is forgotten")


@SQLITE
def test_known_tokens_outlive_the_database(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "TOKENS_KEPT", 0.0)
    token = ApiTokenDAO(sample.db).add("scraper", Role.READ)
    known = ApiTokenDAO.known

    def away(_self: ApiTokenDAO) -> Any:
        raise DatabaseUnreachable("cannot use the database x")

    with client_of(sample, token) as client:
        monkeypatch.setattr(ApiTokenDAO, "known", away)
        answer = client.get("/openapi.json")
        assert (answer.status_code, answer.json()["detail"]) == (503, refusals.AWAY)
        assert client.get("/openapi.json", headers={"Authorization": f"Bearer {ADMIN}"}).status_code == 200
        monkeypatch.setattr(ApiTokenDAO, "known", known)
        assert client.get("/openapi.json").status_code == 200
        monkeypatch.setattr(ApiTokenDAO, "known", away)
        assert client.get("/openapi.json").status_code == 200


@SQLITE
def test_without_any_token_only_this_machine_asks_and_no_page_of_another_site(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "TOKENS_KEPT", 0.0)
    with sample_fleet(backend.url) as sample:
        path = "/api/distribution/management/resume"
        before = sample.contents()
        with client_of(sample) as client:
            pause = {"reason": "x"}
            foreign = [
                {"Origin": "https://evil.example"},
                {"Origin": "null"},
                {"Sec-Fetch-Site": "cross-site"},
                {"Host": "evil.example"},
                {"Host": "127.0.0.1.evil.example"},
            ]
            for headers in foreign:
                answer = client.post("/api/distribution/management/pause", json=pause, headers=headers)
                assert answer.status_code == 403, headers
            assert sample.contents() == before
            own = [{}, {"Origin": "http://127.0.0.1"}, {"Sec-Fetch-Site": "same-origin"}, {"Host": "localhost:8080"}]
            for headers in own:
                assert client.post(path, headers=headers).status_code == 200, headers
            assert client.post("/api/distribution/tasks", content=b'{"task_type": "noop"}').status_code == 422
        ApiTokenDAO(sample.db).add("first", Role.READ)
        assert client_of(sample).get("/openapi.json").status_code == 401


def test_who_revokes_the_last_token_does_not_let_everybody_in(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without tokens everybody on the host was admin again."""
    monkeypatch.setattr(guard, "TOKENS_KEPT", 0.0)
    with sample_fleet(backend.url) as sample, client_of(sample) as client:
        tokens = ApiTokenDAO(sample.db)
        assert client.get("/openapi.json").status_code == 200
        tokens.add("only", Role.READ)
        assert client.get("/openapi.json").status_code == 401
        tokens.revoke("only")
        assert client.get("/openapi.json").status_code == 401
        next_token = tokens.add("next", Role.READ)
        answer = client.get("/openapi.json", headers={"Authorization": f"Bearer {next_token}"})
        assert answer.status_code == 200


@SQLITE
def test_the_last_token_of_an_older_program_leaves_the_mark_when_it_goes(backend: Backend) -> None:
    with sample_fleet(backend.url) as sample:
        ApiTokenDAO(sample.db).add("old", Role.READ)
        with sample.db.plain.begin() as connection:
            connection.exec_driver_sql("DELETE FROM cl_fleet_state WHERE name = 'token_demanded'")
        ApiTokenDAO(sample.db).revoke("old")
        assert client_of(sample).get("/openapi.json").status_code == 401


@SQLITE
def test_a_request_without_a_token_that_came_through_a_proxy_is_refused(
    sample_without_tokens: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy on the same host everybody comes from loopback: the internet was admin."""
    monkeypatch.setattr(guard, "TOKENS_KEPT", 0.0)
    with client_of(sample_without_tokens) as client:
        for name in ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP", "X-Forwarded-New"):
            answer = client.get("/openapi.json", headers={name: "203.0.113.9"})
            assert (answer.status_code, name.lower() in answer.json()["detail"]) == (403, True), name
        assert client.get("/healthz", headers={"Via": "1.1 proxy"}).status_code == 200
        token = ApiTokenDAO(sample_without_tokens.db).add("proxied", Role.READ)
        answer = client.get("/openapi.json", headers={"Via": "1.1 proxy", "Authorization": f"Bearer {token}"})
        assert answer.status_code == 200
    assert "HTTP/1.0" in str(guard._foreign(Headers({"host": "127.0.0.1"}), "1.0"))


def test_a_token_ends_by_itself_and_its_last_use_is_known(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "TOKENS_KEPT", 0.0)
    tokens = ApiTokenDAO(sample.db)
    short, never_used = tokens.add("short", Role.READ, days=1), tokens.add("other", Role.ADMIN)
    with client_of(sample, short) as client:
        answer = client.get(WHOAMI)
        assert answer.status_code == 200
        assert (answer.json()["actor"], answer.json()["role"], answer.json()["accounts"]) == (
            "token short",
            "read",
            None,
        )

        def last_uses() -> list[bool]:
            return [each.last_used_at is not None for each in tokens.find()]

        wait_until(lambda: last_uses() == [False, True], what="the use is noted")
        with sample.db.plain.begin() as connection:
            connection.execute(
                sa.update(schema.api_token)
                .where(schema.api_token.c.name == "short")
                .values(expires_at=datetime.now(UTC) - timedelta(seconds=5))
            )
        answer = client.get(WHOAMI)
        assert (answer.status_code, answer.json()["error"]) == (401, "token_needed")
        assert "the token short expired at" in answer.json()["detail"]
    with client_of(sample, never_used) as client:
        assert client.get(WHOAMI).json()["expires_at"] is None


@SQLITE
def test_a_token_that_expires_while_the_database_is_away_is_refused(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "TOKENS_KEPT", 0.0)
    token = ApiTokenDAO(sample.db).add("short", Role.READ, days=0.3 / 86_400)

    def away(_self: ApiTokenDAO) -> Any:
        raise DatabaseUnreachable("cannot use the database x")

    with client_of(sample, token) as client:
        assert client.get(WHOAMI).status_code == 200
        monkeypatch.setattr(ApiTokenDAO, "known", away)
        wait_until(lambda: client.get(WHOAMI).status_code == 401, what="the token is refused")


@SQLITE
def test_a_token_for_some_accounts_asks_about_those_only(sample: Sample) -> None:
    """Every route that tells of more, or of others, is closed, also one that somebody adds later."""
    token = ApiTokenDAO(sample.db).add("agency", Role.ADMIN, accounts=["appsflyer/sealed"])
    own = "?source=appsflyer&username=sealed"
    closed = before = 0
    with client_of(sample, token) as client:
        assert client.get(WHOAMI).json()["accounts"] == ["appsflyer/sealed"]
        for path in sorted(callers.NARROWED):
            assert client.get(path + own).status_code == 200, path
            for query in (
                "",
                "?source=appsflyer",
                "?username=sealed",
                "?source=appsflyer&username=app",
                f"{own}&username=app",
                f"?username=app&{own[1:]}",
                "?source=apple&username=sealed",
            ):
                assert client.get(path + query).status_code == 403, path + query
        account = "/api/distribution/accounts/appsflyer/"
        assert client.get(f"{account}sealed").json()["username"] == "sealed"
        assert client.post(f"{account}sealed/park", json={"reason": "x"}).status_code == 200
        assert client.get(f"{account}app").status_code == 403
        assert client.post(f"{account}app/park", json={"reason": "x"}).status_code == 403
        before = sample.contents()
        for method, path in operations(sample.app):
            if path not in callers.NARROWED | OPEN_PATHS | {WHOAMI} and "{username}" not in path:
                assert ask(client, method, path + own, sample) == 403, (method, path)
                closed += 1
    assert closed > 30
    assert sample.contents() == before


@SQLITE
def test_two_tokens_of_an_admin_overlap_while_one_takes_the_place_of_the_other(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "TOKENS_KEPT", 0.0)
    tokens = ApiTokenDAO(sample.db)
    both = [tokens.add("admin-1", Role.ADMIN), tokens.add("admin-2", Role.ADMIN)]
    for token in both:
        assert client_of(sample, token).get("/api/distribution/audit").status_code == 200
    tokens.revoke("admin-1")
    wait_until(
        lambda: [client_of(sample, token).get(WHOAMI).status_code for token in both] == [401, 200],
        what="the first is refused and the second is not",
    )


@SQLITE
def test_off_loopback_a_token_is_demanded_even_when_there_is_none(backend: Backend) -> None:
    with sample_fleet(backend.url, host="192.0.2.1") as sample:
        assert client_of(sample).get("/openapi.json").status_code == 401


@SQLITE
def test_every_response_tells_browsers_to_be_careful(sample: Sample) -> None:
    with client_of(sample, ADMIN) as client:
        for path in ("/healthz", "/api/distribution/tasks", "/nothing", "/docs"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["cache-control"] == "no-store"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert "strict-transport-security" not in headers
        assert client_of(sample).get("/tasks").headers["www-authenticate"] == "Bearer"
