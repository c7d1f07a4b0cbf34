"""How the broker is reached: TLS and SASL of the settings, as Faust, aiokafka and kafka-python take them; and why it
turns us away.

Certificates are always verified, host names too. Secrets stay in the values made here and are never part of a message.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka import errors as kafka
from aiokafka.conn import create_conn

from stream_classifier.config import AppSettings, SaslSettings, TlsSettings
from stream_classifier.errors import ConfigError

__all__ = ["client_security", "tls_context", "why_refused"]

logger = logging.getLogger(__name__)

_ANSWER_S = 5.0
_ALERT_S = 1.0
"""With TLS 1.3 a broker that misses our certificate says so after the handshake."""
_SASL_REFUSALS = (
    kafka.AuthenticationFailedError,
    kafka.AuthenticationMethodNotSupported,
    kafka.IllegalSaslStateError,
    kafka.SaslAuthenticationFailed,
    kafka.UnsupportedSaslMechanismError,
)


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """The context for connections to the broker.

    Raises:
        ConfigError: a file that holds no certificate, or no key that fits it.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"app.tls.ca = {tls.ca}: there is no certificate in it; give the authorities' certificates as PEM"
        ) from error
    if tls.cert is not None and tls.key is not None:
        try:
            context.load_cert_chain(tls.cert, tls.key, password=_refuse_encrypted)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(
                f"app.tls.cert = {tls.cert} and app.tls.key = {tls.key}: they are no certificate with its own key "
                f"({_reason(error)}); give both as PEM, the key without a passphrase"
            ) from error
    return context


def client_security(app: AppSettings) -> dict[str, Any]:
    """Keyword arguments for clients of aiokafka and kafka-python alike: `security_protocol`, `ssl_context`, `sasl_…`.

    Raises:
        ConfigError: as `tls_context`.
    """
    context = None if app.tls is None else tls_context(app.tls)
    protocol = ("SASL_" if app.sasl else "") + ("SSL" if app.tls else "PLAINTEXT")
    security: dict[str, Any] = {"security_protocol": protocol}
    if context is not None:
        security["ssl_context"] = context
    if app.sasl is not None:
        security.update(_sasl(app.sasl))
        if app.sasl.mechanism == "PLAIN" and app.tls is None:
            logger.warning("app.sasl: PLAIN without app.tls sends the password in the clear")
    return security


async def why_refused(settings: Mapping[str, Any], host: str, port: int) -> str | None:
    """Why a broker turns us away for good, and the fix; None where waiting may help.

    aiokafka logs what it is and reports only that no connection was made, so the broker is asked once more.

    Args:
        settings: as `client_security` gives them.
    """
    context = settings.get("ssl_context")
    if context is not None:
        reason = await _why_tls_fails(context, host, port)
        if reason is not None:
            return reason
    if "sasl_mechanism" in settings:
        return await _why_sasl_fails(settings, host, port)
    return None


async def _why_tls_fails(context: ssl.SSLContext, host: str, port: int) -> str | None:
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port, ssl=context), _ANSWER_S)
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is refused ({error.verify_message}); give the authority that signed it as app.tls.ca"
    except ssl.SSLError as error:
        return f"TLS fails ({error.reason}); give the port of its TLS listener in app.broker, or remove app.tls"
    except (OSError, asyncio.TimeoutError):
        return None
    try:
        closed = not await asyncio.wait_for(reader.read(1), _ALERT_S)
    except asyncio.TimeoutError:
        closed = False  # as it should be: a broker waits for us to begin
    except OSError:
        closed = True
    finally:
        writer.close()
    return (
        "it ends the connection: it wants a certificate of ours; give app.tls.cert and app.tls.key" if closed else None
    )


async def _why_sasl_fails(settings: Mapping[str, Any], host: str, port: int) -> str | None:
    mechanism, username = settings["sasl_mechanism"], settings["sasl_plain_username"]
    security = {name: value for name, value in settings.items() if name.startswith(("sasl_", "ssl_", "security_"))}
    try:
        connection = await create_conn(host, port, request_timeout_ms=int(_ANSWER_S * 1000), **security)
    except kafka.UnsupportedSaslMechanismError:
        return f"it does not offer {mechanism}; give another app.sasl.mechanism"
    except _SASL_REFUSALS:
        return f"it does not accept the password of {username!r} ({mechanism}); correct app.sasl"
    except (OSError, kafka.KafkaError, asyncio.TimeoutError):
        return None
    connection.close()
    return None


def _sasl(sasl: SaslSettings) -> dict[str, str]:
    password = "" if sasl.password is None else sasl.password.get_secret_value()
    return {
        "sasl_mechanism": sasl.mechanism,
        "sasl_plain_username": sasl.username,
        "sasl_plain_password": password,
    }


def _refuse_encrypted() -> str:
    raise ValueError("the key is encrypted")  # without this, OpenSSL asks on the terminal and waits


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
