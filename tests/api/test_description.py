"""The application and its OpenAPI description, tried against each other with made-up requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from crawlfleet.model.api_token import ApiTokenDAO, Role
from tests.api.sample import sample_fleet
from tests.conftest import Backend

TOKEN = "the-token-of-the-setting-of-the-node"
EXAMPLES = 15  # of each operation and each way of making them up
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]


@pytest.fixture
def described(backend: Backend) -> Iterator[Any]:
    """The application's own description; without what needs a node and what does not end."""
    with sample_fleet(backend.url, api_token=TOKEN) as sample:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        schema = schemathesis.openapi.from_asgi("/openapi.json", sample.app, headers=headers)
        yield schema.exclude(path_regex="^/(metrics|readyz)$|/events$")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_is_answered_otherwise_than_described_or_by_a_failure(
    described: Any, mode: GenerationMode, caplog: pytest.LogCaptureFixture
) -> None:
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) > 30
    answered = {operation.label: try_out(operation, mode, caplog) for operation in operations}
    done = [label for label, statuses in answered.items() if min(statuses) < 300]
    refused = [label for label, statuses in answered.items() if max(statuses) >= 400]
    assert len(done if mode is GenerationMode.POSITIVE else refused) > len(operations) / 2


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("role", [Role.READ, Role.OPERATE], ids=lambda role: role.value)
def test_no_request_of_a_weaker_role_is_answered_by_a_failure(backend: Backend, role: Role) -> None:
    with sample_fleet(backend.url, api_token=TOKEN) as sample:
        token = ApiTokenDAO(sample.db).add("weaker", role)
        headers = {"Authorization": f"Bearer {token}"}
        schema = schemathesis.openapi.from_asgi("/openapi.json", sample.app, headers=headers)
        for found in schema.exclude(path_regex="^/(metrics|readyz)$|/events$").get_all_operations():

            @given(case=found.ok().as_strategy(generation_mode=GenerationMode.NEGATIVE))
            @settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
            def run(case: schemathesis.Case) -> None:
                answer = case.call(headers=headers)
                case.validate_response(answer, checks=[not_a_server_error])
                assert answer.headers["x-content-type-options"] == ["nosniff"]
                assert sample.db.name not in answer.text

            run()


def try_out(operation: schemathesis.APIOperation, mode: GenerationMode, caplog: pytest.LogCaptureFixture) -> set[int]:
    """Send the operation made-up requests, such as it describes or others; how they were answered."""
    statuses: set[int] = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def run(case: schemathesis.Case) -> None:
        caplog.clear()
        answer = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)
        assert "Traceback" not in answer.text
        assert not [record for record in caplog.records if record.exc_info]

    run()
    return statuses
