//! TLS failures as sentences for people.

use std::io;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription as Alert, CertificateError, Error};
use x509_parser::prelude::ASN1Time;

use super::identity::IdentityError;

/// What is wrong with the other end of a connection that failed before its hello. Reads after the peer's address:
/// "10.0.0.7:4470 does not share our cookie ...".
#[must_use]
pub fn explain(error: &io::Error, mesh: &str) -> String {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return explain_tls(error, mesh);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refuses connections: nothing listens there".to_owned(),
        io::ErrorKind::TimedOut => "does not answer".to_owned(),
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => "closed the connection before a hello".to_owned(),
        _ => format!("cannot be talked to: {error}"),
    }
}

/// Whether a connection failed because a certificate, ours or the other end's, does not count now: a matter of its dates
/// or of somebody's clock.
#[must_use]
pub fn is_about_time(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(
        error,
        Some(
            Error::AlertReceived(Alert::CertificateExpired)
                | Error::InvalidCertificate(
                    CertificateError::Expired
                        | CertificateError::ExpiredContext { .. }
                        | CertificateError::NotValidYet
                        | CertificateError::NotValidYetContext { .. }
                )
        )
    )
}

fn explain_tls(error: &Error, mesh: &str) -> String {
    match error {
        Error::InvalidCertificate(reason) => explain_certificate(reason, mesh),
        Error::DecryptError
        | Error::AlertReceived(Alert::UnknownCA | Alert::DecryptError | Alert::BadRecordMac) => {
            stranger(mesh)
        }
        Error::AlertReceived(Alert::CertificateExpired) => {
            "says that our certificate has expired or is not valid yet: renew it, or compare the clocks of the two machines"
                .to_owned()
        }
        Error::AlertReceived(Alert::UnsupportedCertificate) => {
            "does not take our certificate: its extendedKeyUsage must have both serverAuth and clientAuth".to_owned()
        }
        Error::AlertReceived(Alert::CertificateUnknown | Alert::AccessDenied) => format!(
            "does not take our certificate: is it in mesh `{mesh}`, and does our certificate have the URI `pillion://{mesh}/<host>`? Its own log says more"
        ),
        Error::AlertReceived(Alert::BadCertificate) => "cannot read our certificate".to_owned(),
        Error::NoCertificatesPresented => "shows no certificate, so it is not a Pillion".to_owned(),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
            "is not a Pillion (no TLS)".to_owned()
        }
        Error::PeerIncompatible(_)
        | Error::NoApplicationProtocol
        | Error::AlertReceived(
            Alert::NoApplicationProtocol
            | Alert::HandshakeFailure
            | Alert::ProtocolVersion
            | Alert::InsufficientSecurity
            | Alert::CertificateRequired
            | Alert::UnrecognisedName,
        ) => "speaks TLS, but is not a Pillion".to_owned(),
        other => format!("failed the TLS handshake: {other}"),
    }
}

fn explain_certificate(reason: &CertificateError, mesh: &str) -> String {
    match reason {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => stranger(mesh),
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "shows a certificate that expired on {}: renew it, or compare the clocks of the two machines",
            date(*not_after)
        ),
        CertificateError::Expired => "shows a certificate that has expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "shows a certificate that is not valid before {}: compare the clocks of the two machines",
            date(*not_before)
        ),
        CertificateError::NotValidYet => "shows a certificate that is not valid yet".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "shows a certificate whose extendedKeyUsage lacks serverAuth or clientAuth: it needs both"
                .to_owned()
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<IdentityError>() {
            Some(identity) => format!("shows a certificate that {identity}"),
            None => format!("shows a certificate that cannot be used: {}", other.0),
        },
        other => format!("shows a certificate that cannot be used: {other}"),
    }
}

fn stranger(mesh: &str) -> String {
    format!("does not share our cookie (or CA) for mesh `{mesh}`, or is in a mesh of another name")
}

fn date(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| ASN1Time::from_timestamp(seconds).ok())
        .map_or_else(|| "an unknown date".to_owned(), |time| time.to_string())
}
