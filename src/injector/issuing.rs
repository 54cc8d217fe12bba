//! `POST /v1/certificate`: a sidecar shows its pod's token and gets a certificate for its pod.
//!
//! Who it is says the API server (`TokenReview`), not the request: the namespace is that of the token's service account, the
//! pod the one that the token is bound to, and the mesh must be the one that this pod is labelled with. Of the request only
//! the key is taken, once it is proved that the sidecar has it. So whoever has a pod's token can be that pod and nobody else.
//!
//! No key and no token is logged. A request is at most 16 KiB, 64 are looked at at a time, and a pod is answered 30 times a
//! minute at most.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use pillion_strategies::problems;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData as _, SanType, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::authority::Authority;
use super::chain;
use super::told::Told;
use crate::tls::{PeerIdentity, is_host, is_mesh};

/// Whom tokens must be for.
const AUDIENCE: &str = "pillion.dev";
/// The label, or the annotation, by which a pod is in a mesh.
pub(super) const MESH: &str = "pillion.dev/mesh";
/// Largest request: one has about 500 bytes.
const BYTES_MAX: usize = 16 * 1024;
/// Largest token.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Most requests that are looked at at a time; each asks the API server twice.
const AT_A_TIME: usize = 64;
/// Most answers to one pod within [`WINDOW`]. One asks once in sixteen hours.
const PER_POD: u32 = 30;
const WINDOW: Duration = Duration::from_secs(60);
/// Most pods whose requests are counted at a time.
const PODS_MAX: usize = 16_384;
/// How long the request itself and each answer of the API server may take.
const WITHIN: Duration = Duration::from_secs(5);
/// How far back a certificate is good, for machines whose clocks are behind.
const BACK: Duration = Duration::from_secs(5 * 60);
/// Longest text of somebody else's that is told.
const TOLD_MAX: usize = 200;

/// What is asked.
#[derive(Debug, Deserialize)]
struct Asked {
    /// PKCS #10, as PEM or as base64 of DER.
    csr: String,
    mesh: String,
}

/// What is answered.
#[derive(Debug, Serialize)]
struct Answered {
    certificate: String,
    anchors: String,
}

/// Why a certificate is not issued. The sidecar tells it in its log, `pillion doctor` and `pillion explain`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    /// There is no token.
    #[error(
        "there is no token: send `Authorization: Bearer` and the projected token for the audience pillion.dev"
    )]
    NoToken,
    /// The API server does not know it.
    #[error("the API server does not take this token: {0}")]
    Token(String),
    /// It is for somebody else.
    #[error(
        "the token is not for the audience pillion.dev: use the projected one, not that of the API server"
    )]
    Audience,
    /// It is nobody's in particular.
    #[error("the token is not bound to a pod: use the one that is projected into the pod")]
    Unbound,
    /// There is no such pod.
    #[error("there is no pod {0}: it is gone, or another one has its name now")]
    Gone(String),
    /// It is in no mesh, or in another.
    #[error(
        "the pod {pod} is {found}, and asks for the mesh `{asked}`: the label or annotation pillion.dev/mesh says which"
    )]
    OtherMesh {
        /// Namespace and name.
        pod: String,
        /// Which one it is in, in words.
        found: String,
        /// The one that was asked for.
        asked: String,
    },
    /// A name that no certificate can hold.
    #[error(
        "`{0}` is too long for the host of a node, or the mesh has no good name: at most 255 and 64 bytes"
    )]
    Name(String),
    /// The request for the certificate.
    #[error("the request for a certificate cannot be granted: {0}")]
    Csr(&'static str),
    /// The request itself.
    #[error("the request cannot be read: {0}")]
    Unreadable(String),
    /// It is too long.
    #[error("a request has at most 16 KiB")]
    TooLarge,
    /// This pod asks too often.
    #[error("the pod {0} asks too often: it is answered 30 times a minute")]
    TooOften(String),
    /// Too many at a time.
    #[error("too many requests at a time: ask again in a moment")]
    Overloaded,
    /// The injector itself cannot yet.
    #[error("{0}: ask again in a moment")]
    Unavailable(String),
}

impl Refusal {
    /// As programs know it.
    fn code(&self) -> &'static str {
        match self {
            Self::NoToken | Self::Token(_) => "unauthorized",
            Self::Audience => "audience",
            Self::Unbound => "unbound",
            Self::Gone(_) => "noproc",
            Self::OtherMesh { .. } => "mesh",
            Self::Name(_) | Self::Csr(_) | Self::Unreadable(_) => "badarg",
            Self::TooLarge => "too_large",
            Self::TooOften(_) | Self::Overloaded => "overloaded",
            Self::Unavailable(_) => "unavailable",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NoToken | Self::Token(_) | Self::Audience => StatusCode::UNAUTHORIZED,
            Self::Unbound | Self::Gone(_) | Self::OtherMesh { .. } => StatusCode::FORBIDDEN,
            Self::Name(_) | Self::Csr(_) | Self::Unreadable(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooOften(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({"code": self.code(), "message": self.to_string()});
        json(self.status(), body.to_string())
    }
}

/// Who a token says its holder is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    namespace: String,
    pod: String,
    uid: String,
}

impl Holder {
    /// Reads what the API server says of a token.
    fn of(status: &TokenReviewStatus) -> Result<Self, Refusal> {
        if status.authenticated != Some(true) {
            let why = status.error.as_deref().filter(|why| !why.is_empty());
            return Err(match why {
                // The API server's words; it does not say this of a token that it does not know.
                Some(why) if why.contains("audience") => Refusal::Audience,
                why => Refusal::Token(short(why.unwrap_or("it has expired, or its pod is gone"))),
            });
        }
        // A server that does not know audiences leaves them out: then the token may be for anybody.
        if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
            return Err(Refusal::Audience);
        }
        let user = status.user.as_ref().ok_or(Refusal::Unbound)?;
        let account =
            user.username.as_deref().and_then(|name| name.strip_prefix("system:serviceaccount:"));
        let namespace = account.and_then(|account| account.split_once(':')).map(|(ns, _)| ns);
        let claim = |key: &str| {
            let values = user.extra.as_ref()?.get(key)?;
            values.first().filter(|value| values.len() == 1 && !value.is_empty()).cloned()
        };
        let pod = claim("authentication.kubernetes.io/pod-name");
        let uid = claim("authentication.kubernetes.io/pod-uid");
        match (namespace, pod, uid) {
            (Some(namespace), Some(pod), Some(uid)) => {
                Ok(Self { namespace: namespace.to_owned(), pod, uid })
            }
            _ => Err(Refusal::Unbound),
        }
    }

    fn shown(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }

    /// The identity that its certificate is for, if this pod may have it.
    fn identity(&self, pod: &ObjectMeta, mesh: &str) -> Result<PeerIdentity, Refusal> {
        if pod.uid.as_deref() != Some(&self.uid) {
            return Err(Refusal::Gone(self.shown()));
        }
        let label = pod.labels.as_ref().and_then(|labels| labels.get(MESH));
        let said = label.or_else(|| pod.annotations.as_ref().and_then(|all| all.get(MESH)));
        if said.map(String::as_str) != Some(mesh) {
            let found = said
                .map_or_else(|| "in no mesh".to_owned(), |m| format!("in the mesh `{}`", short(m)));
            return Err(Refusal::OtherMesh { pod: self.shown(), found, asked: short(mesh) });
        }
        let identity = PeerIdentity {
            mesh: mesh.to_owned(),
            host: format!("{}.{}", self.pod, self.namespace),
        };
        let good = is_mesh(&identity.mesh) && is_host(&identity.host);
        if good { Ok(identity) } else { Err(Refusal::Name(short(&identity.host))) }
    }
}

/// Issues certificates. Cheap to clone.
#[derive(Clone)]
pub(super) struct Issuing {
    client: Client,
    authority: watch::Receiver<Option<Arc<Authority>>>,
    places: Arc<Semaphore>,
    often: Arc<Mutex<Often>>,
    told: Arc<Mutex<Told>>,
}

impl Issuing {
    /// Asks the API server by this client, and signs with what is the authority then.
    pub(super) fn new(client: Client, authority: watch::Receiver<Option<Arc<Authority>>>) -> Self {
        let places = Arc::new(Semaphore::new(AT_A_TIME));
        Self { client, authority, places, often: Arc::default(), told: Arc::default() }
    }

    /// The route `/v1/certificate`.
    pub(super) fn routes(self) -> Router {
        Router::new().route("/v1/certificate", post(certificate)).with_state(self)
    }

    async fn answer(&self, headers: &HeaderMap, body: Body) -> Result<Answered, Refusal> {
        let token = token(headers)?;
        let body = timeout(WITHIN, to_bytes(body, BYTES_MAX))
            .await
            .map_err(|_| Refusal::Unreadable("it does not come".to_owned()))?
            .map_err(|_| Refusal::TooLarge)?;
        // Whoever is slow to ask keeps nobody out.
        let _place = self.places.try_acquire().map_err(|_| Refusal::Overloaded)?;
        let asked: Asked = serde_json::from_slice(&body)
            .map_err(|error| Refusal::Unreadable(short(&error.to_string())))?;
        // What costs nothing is looked at before the API server is asked.
        let key = key(&asked.csr)?;
        let authority = self.authority.borrow().clone();
        let authority = authority
            .ok_or_else(|| Refusal::Unavailable("the injector has no authority yet".to_owned()))?;
        let holder = self.review(token).await?;
        let often = self
            .often
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .asks(&holder.uid, Instant::now());
        if often {
            return Err(Refusal::TooOften(holder.shown()));
        }
        let granted = self.grant(&holder, &asked.mesh, &key, &authority).await;
        match &granted {
            Ok(_) => {
                tracing::info!(pod = %holder.shown(), mesh = %asked.mesh, "a certificate was issued");
            }
            Err(refusal) => {
                tracing::warn!(pod = %holder.shown(), "no certificate: {refusal}");
            }
        }
        granted
    }

    async fn grant(
        &self,
        holder: &Holder,
        mesh: &str,
        key: &SubjectPublicKeyInfo,
        authority: &Authority,
    ) -> Result<Answered, Refusal> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &holder.namespace);
        let pod = match timeout(WITHIN, pods.get_metadata_opt(&holder.pod)).await {
            Ok(Ok(pod)) => pod.ok_or_else(|| Refusal::Gone(holder.shown()))?,
            Ok(Err(error)) => return Err(self.away(&error)),
            Err(_) => return Err(silent()),
        };
        let identity = holder.identity(&pod.metadata, mesh)?;
        let now = SystemTime::now();
        let until = (now + authority.leaf()).min(authority.until());
        let params =
            leaf(&identity, now - BACK, until).map_err(|_| Refusal::Name(short(&identity.host)))?;
        let certificate = authority
            .sign(&params, key)
            .map_err(|error| Refusal::Unavailable(format!("it cannot be signed ({error})")))?;
        Ok(Answered { certificate: certificate.pem(), anchors: authority.anchors_pem().to_owned() })
    }

    /// Asks the API server who holds this token.
    async fn review(&self, token: &str) -> Result<Holder, Refusal> {
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let review = TokenReview {
            metadata: ObjectMeta::default(),
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            status: None,
        };
        match timeout(WITHIN, reviews.create(&PostParams::default(), &review)).await {
            Ok(Ok(review)) => Holder::of(&review.status.unwrap_or_default()),
            Ok(Err(error)) => Err(self.away(&error)),
            Err(_) => Err(silent()),
        }
    }

    fn away(&self, error: &kube::Error) -> Refusal {
        // What the API server says in words stays in this log: it is no business of a sidecar's.
        let words = format!("the API server cannot be asked about a certificate: {}", chain(error));
        self.told.lock().unwrap_or_else(PoisonError::into_inner).warn(&words);
        Refusal::Unavailable("the injector cannot ask the API server who you are".to_owned())
    }
}

impl std::fmt::Debug for Issuing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuing").finish_non_exhaustive()
    }
}

async fn certificate(State(issuing): State<Issuing>, headers: HeaderMap, body: Body) -> Response {
    match issuing.answer(&headers, body).await {
        Ok(answered) => match serde_json::to_string(&answered) {
            Ok(body) => json(StatusCode::OK, body),
            Err(error) => Refusal::Unavailable(error.to_string()).into_response(),
        },
        Err(refusal) => refusal.into_response(),
    }
}

fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn silent() -> Refusal {
    Refusal::Unavailable("the API server does not tell the injector in time who you are".to_owned())
}

fn token(headers: &HeaderMap) -> Result<&str, Refusal> {
    let value = headers.get(header::AUTHORIZATION).ok_or(Refusal::NoToken)?;
    let text = value.to_str().map_err(|_| Refusal::NoToken)?;
    let (scheme, token) = text.split_once(' ').ok_or(Refusal::NoToken)?;
    let token = token.trim();
    let good =
        scheme.eq_ignore_ascii_case("bearer") && (1..=TOKEN_BYTES_MAX).contains(&token.len());
    if good { Ok(token) } else { Err(Refusal::NoToken) }
}

/// The key of a request, when it is one that we sign and its holder has shown that he has it.
fn key(csr: &str) -> Result<SubjectPublicKeyInfo, Refusal> {
    let der: Vec<u8> = if csr.trim_start().starts_with("-----BEGIN ") {
        CertificateSigningRequestDer::from_pem_slice(csr.as_bytes())
            .map_err(|_| Refusal::Csr("it is no PKCS #10 in PEM"))?
            .to_vec()
    } else {
        STANDARD.decode(csr.trim()).map_err(|_| Refusal::Csr("it is neither PEM nor base64"))?
    };
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|_| Refusal::Csr("it is no PKCS #10"))?;
    if !rest.is_empty() {
        return Err(Refusal::Csr("there is something behind it"));
    }
    let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| Refusal::Csr("its key must be P-256 or Ed25519"))?;
    let (algorithm, length) = (key.algorithm(), key.der_bytes().len());
    let p256 = *algorithm == PKCS_ECDSA_P256_SHA256 && length == 65;
    if !(p256 || *algorithm == PKCS_ED25519 && length == 32) {
        return Err(Refusal::Csr("its key must be P-256 or Ed25519"));
    }
    request
        .verify_signature()
        .map_err(|_| Refusal::Csr("it is not signed with the key that it is for"))?;
    Ok(key)
}

/// A certificate for both ends of a connection between nodes, and for nothing else: it has no DNS name.
fn leaf(
    identity: &PeerIdentity,
    from: SystemTime,
    until: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let at = |time: SystemTime| {
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "pillion");
    params.subject_alt_names = vec![SanType::URI(identity.uri().try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (at(from), at(until));
    Ok(params)
}

/// Who has asked how often within a minute.
#[derive(Debug, Default)]
struct Often {
    pods: BTreeMap<String, (Instant, u32)>,
}

impl Often {
    /// Counts a request; true when it is one too many.
    fn asks(&mut self, uid: &str, now: Instant) -> bool {
        let fresh = |since: Instant| now.saturating_duration_since(since) < WINDOW;
        if self.pods.len() >= PODS_MAX && !self.pods.contains_key(uid) {
            self.pods.retain(|_, (since, _)| fresh(*since));
            if self.pods.len() >= PODS_MAX {
                return true;
            }
        }
        let (since, count) = self.pods.entry(uid.to_owned()).or_insert((now, 0));
        if !fresh(*since) {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count > PER_POD
    }
}

fn short(text: &str) -> String {
    problems::line(text, TOLD_MAX)
}

#[cfg(test)]
mod tests;
