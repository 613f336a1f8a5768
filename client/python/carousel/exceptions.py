"""Every error that this SDK raises.

Catch a category to decide by who must act, a class to decide by what happened:

    CarouselError
      · InvalidInputError
        · MalformedMessageError
        · FieldInvalidError
        · MessageTooLargeError
        · InputShapeError
        · InputDtypeError
        · InputNotFiniteError
        · StepNotFiniteError
        · UnknownTokenError
        · SequenceTooLongError
        · InitialUnknownError
        · StateInvalidError
        · SequenceNotStartedError
        · SnapshotInvalidError
      · NotFoundError
        · ModelNotFoundError
        · SessionNotFoundError
        · SessionExpiredError
        · SessionClosedError
      · ConflictError
        · ModelNotCausalError
        · ModelNotGenerativeError
        · TextUnavailableError
        · SessionExistsError
        · SessionBusyError
        · SupersededError
        · HandleNotBoundError
        · HandleInUseError
        · DurabilityUnavailableError
        · MethodNotOfferedError
        · SequenceGapError
        · SequenceReusedError
        · OutputForgottenError
        · FingerprintMismatchError
      · UnauthorizedError
        · TokenInvalidError
        · CertificateUnknownError
        · IdentityConflictError
      · RefusedError
        · SlabFullError
        · TooManySessionsError
        · TooManyStreamsError
        · TooManyCallsError
        · WindowExceededError
        · QueueFullError
        · QuotaExceededError
        · DeadlineExceededError
        · MessageTimeoutError
        · DrainingError
        · StoreUnavailableError
        · SessionHeldError
        · SessionParkedError
        · LeaseLostError
        · StepFailedError
      · ServerFaultError
        · ModelUnhealthyError
        · DataLossError
        · SnapshotDamagedError
        · InternalError
      · ClientSideError
        · ConnectionLostError
        · ServerUnreachableError
          · TlsError
        · ReplyTimeoutError
        · ClientClosedError
        · EventLoopError
        · ProtocolViolationError
        · ServerTooOldError
        · ReplayDivergedError
        · JournalError
      · BatchStepError

Each has `reason`, `message`, `fix`, `code`, `metadata`, `retry_after_s` and `request_id`.
"""

from __future__ import annotations

from ._error_bases import (
    BatchStepError,
    CarouselError,
    ClientClosedError,
    ClientSideError,
    ConflictError,
    ConnectionLostError,
    EventLoopError,
    InvalidInputError,
    JournalError,
    NotFoundError,
    ProtocolViolationError,
    RefusedError,
    ReplayDivergedError,
    ReplyTimeoutError,
    ServerFaultError,
    ServerTooOldError,
    ServerUnreachableError,
    TlsError,
    UnauthorizedError,
)
from ._errors import (
    CertificateUnknownError,
    DataLossError,
    DeadlineExceededError,
    DrainingError,
    DurabilityUnavailableError,
    FieldInvalidError,
    FingerprintMismatchError,
    HandleInUseError,
    HandleNotBoundError,
    IdentityConflictError,
    InitialUnknownError,
    InputDtypeError,
    InputNotFiniteError,
    InputShapeError,
    InternalError,
    LeaseLostError,
    MalformedMessageError,
    MessageTimeoutError,
    MessageTooLargeError,
    MethodNotOfferedError,
    ModelNotCausalError,
    ModelNotFoundError,
    ModelNotGenerativeError,
    ModelUnhealthyError,
    OutputForgottenError,
    QueueFullError,
    QuotaExceededError,
    SequenceGapError,
    SequenceNotStartedError,
    SequenceReusedError,
    SequenceTooLongError,
    SessionBusyError,
    SessionClosedError,
    SessionExistsError,
    SessionExpiredError,
    SessionHeldError,
    SessionNotFoundError,
    SessionParkedError,
    SlabFullError,
    SnapshotDamagedError,
    SnapshotInvalidError,
    StateInvalidError,
    StepFailedError,
    StepNotFiniteError,
    StoreUnavailableError,
    SupersededError,
    TextUnavailableError,
    TokenInvalidError,
    TooManyCallsError,
    TooManySessionsError,
    TooManyStreamsError,
    UnknownTokenError,
    WindowExceededError,
)

__all__ = [
    "BatchStepError",
    "CarouselError",
    "CertificateUnknownError",
    "ClientClosedError",
    "ClientSideError",
    "ConflictError",
    "ConnectionLostError",
    "DataLossError",
    "DeadlineExceededError",
    "DrainingError",
    "DurabilityUnavailableError",
    "EventLoopError",
    "FieldInvalidError",
    "FingerprintMismatchError",
    "HandleInUseError",
    "HandleNotBoundError",
    "IdentityConflictError",
    "InitialUnknownError",
    "InputDtypeError",
    "InputNotFiniteError",
    "InputShapeError",
    "InternalError",
    "InvalidInputError",
    "JournalError",
    "LeaseLostError",
    "MalformedMessageError",
    "MessageTimeoutError",
    "MessageTooLargeError",
    "MethodNotOfferedError",
    "ModelNotCausalError",
    "ModelNotFoundError",
    "ModelNotGenerativeError",
    "ModelUnhealthyError",
    "NotFoundError",
    "OutputForgottenError",
    "ProtocolViolationError",
    "QueueFullError",
    "QuotaExceededError",
    "RefusedError",
    "ReplayDivergedError",
    "ReplyTimeoutError",
    "SequenceGapError",
    "SequenceNotStartedError",
    "SequenceReusedError",
    "SequenceTooLongError",
    "ServerFaultError",
    "ServerTooOldError",
    "ServerUnreachableError",
    "SessionBusyError",
    "SessionClosedError",
    "SessionExistsError",
    "SessionExpiredError",
    "SessionHeldError",
    "SessionNotFoundError",
    "SessionParkedError",
    "SlabFullError",
    "SnapshotDamagedError",
    "SnapshotInvalidError",
    "StateInvalidError",
    "StepFailedError",
    "StepNotFiniteError",
    "StoreUnavailableError",
    "SupersededError",
    "TextUnavailableError",
    "TlsError",
    "TokenInvalidError",
    "TooManyCallsError",
    "TooManySessionsError",
    "TooManyStreamsError",
    "UnauthorizedError",
    "UnknownTokenError",
    "WindowExceededError",
]
