"""Statuses become errors by their reason, and by their code when the reason is missing or new."""

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from hubbub.errors.v1 import error_reason_pb2

from hubbub_client import errors
from hubbub_client.errors import CallFailed, error_of_status


def status(code: grpc.StatusCode, *details: object) -> status_pb2.Status:
    """A status with these details."""
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)  # type: ignore[arg-type]  # any message
    return status_pb2.Status(code=code.value[0], message="why", details=packed)


@pytest.mark.parametrize("reason", [name for name, number in error_reason_pb2.ErrorReason.items() if number])
def test_every_reason_of_the_contract_has_an_error_of_its_own(reason: str) -> None:
    error = error_of_status(
        status(grpc.StatusCode.ABORTED, error_details_pb2.ErrorInfo(domain="hubbub", reason=reason))
    )

    assert type(error) is not CallFailed
    assert f"ERROR_REASON_{error.reason}" == reason


def test_details_become_attributes() -> None:
    info = error_details_pb2.ErrorInfo(
        domain="hubbub", reason="ERROR_REASON_ID_REUSED", metadata={"first_number": "12"}
    )
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000))
    violation = error_details_pb2.BadRequest.FieldViolation(field="text", description="too long")
    bad = error_details_pb2.BadRequest(field_violations=[violation])

    error = error_of_status(status(grpc.StatusCode.ALREADY_EXISTS, info, retry, bad))

    assert isinstance(error, errors.IdReused)
    assert (error.first_number, error.retry_delay_s, error.fields) == (12, 1.5, {"text": "too long"})


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Unavailable),
        (grpc.StatusCode.INTERNAL, errors.ServerFault),
        (grpc.StatusCode.UNAUTHENTICATED, errors.InvalidCredentials),
        (grpc.StatusCode.OUT_OF_RANGE, CallFailed),
    ],
)
def test_a_reason_newer_than_this_client_is_treated_by_its_code(code: grpc.StatusCode, kind: type[CallFailed]) -> None:
    info = error_details_pb2.ErrorInfo(domain="hubbub", reason="ERROR_REASON_FROM_THE_FUTURE")

    assert type(error_of_status(status(code, info))) is kind


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED])
def test_a_connection_cut_by_a_proxy_is_worth_a_retry(code: grpc.StatusCode) -> None:
    assert type(error_of_status(status(code))) is errors.Unavailable
