//! Keeps the node's issued certificate: asks for the first one, renews it at two thirds of its life, takes new anchors with
//! each answer.
//!
//! Whatever fails is tried again, at first after a tenth of a second, later twice a minute, and said once. Until the first
//! certificate is there the node joins nobody and serves its apps; one that cannot be renewed is used until it ends.
//! Connections that exist are never cut: certificates are for those to come.

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::past::Book;
use crate::backoff::{Backoff, Rng, Waits};
use crate::config::{Anchor, Config, Trust};
use crate::issuer::{Answer, Issuer, IssuerError};
use crate::shutdown::Shutdown;
use crate::tls::{self, Tls, TlsError};

/// The pauses before the issuer is asked again. A pod is often there before the network lets it out.
const WAITS: Waits = Waits { first: Duration::from_millis(100), cap: Duration::from_secs(30) };
/// Renewal begins at this part of a certificate's life ...
const RENEW_AT: (u32, u32) = (2, 3);
/// ... or sooner by chance, by at most one part in so many, so that pods that were started together come apart.
const SOONER: u32 = 20;
/// Never sooner than this, whatever a certificate says.
const RENEW_MIN: Duration = Duration::from_secs(1);
/// Largest file of anchors.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Who is asked: the injector, or a script of a test.
pub(super) trait Ask {
    /// Asks once, within a bounded time.
    fn ask(
        &self,
        csr: &str,
        anchors: &[CertificateDer<'static>],
    ) -> impl Future<Output = Result<Answer, IssuerError>> + Send;
}

impl Ask for Issuer {
    async fn ask(
        &self,
        csr: &str,
        anchors: &[CertificateDer<'static>],
    ) -> Result<Answer, IssuerError> {
        Self::ask(self, csr, anchors).await
    }
}

/// Keeps the certificate until shutdown. `changed` is called after each answer that was taken: ids may be others then.
pub(super) async fn keep(
    tls: Tls,
    issuer: impl Ask,
    kept: Kept,
    seed: u64,
    mut changed: impl FnMut(&Tls),
    mut shutdown: Shutdown,
) {
    let mut rng = Rng::new(seed);
    let mut backoff = Backoff::default();
    // When the certificate in use ends.
    let mut ends: Option<Instant> = None;
    let mut told = String::new();
    loop {
        let asked = attempt(&tls, &issuer);
        let lapse = async {
            match ends {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            biased;
            () = shutdown.asked() => return,
            result = asked => result,
            () = lapse => {
                lapsed(&tls, &mut ends);
                continue;
            }
        };
        let wait = match result {
            Ok(life) => {
                let first = ends.is_none();
                ends = Some(Instant::now() + life.left);
                backoff.reset();
                if first || !told.is_empty() {
                    tracing::info!(
                        "a certificate was issued to this node, good for {} min; it is renewed by itself",
                        life.left.as_secs() / 60
                    );
                }
                told.clear();
                kept.write(&tls);
                changed(&tls);
                renewal(life.left, &mut rng)
            }
            Err(trouble) => {
                if trouble != told {
                    let meanwhile = if ends.is_some() {
                        "the certificate of before is used until it ends"
                    } else {
                        "until then this node joins nobody, and serves its apps"
                    };
                    tracing::warn!(
                        "no certificate for this node: {trouble}. It is tried again; {meanwhile}"
                    );
                }
                tls.not_issued(trouble.clone());
                told = trouble;
                backoff.next(WAITS, &mut rng)
            }
        };
        // The end of the certificate may come first.
        let next = Instant::now() + wait;
        if let Some(end) = ends.filter(|end| *end <= next) {
            if shutdown.asked_within(end.saturating_duration_since(Instant::now())).await {
                return;
            }
            lapsed(&tls, &mut ends);
        }
        if shutdown.asked_within(next.saturating_duration_since(Instant::now())).await {
            return;
        }
    }
}

async fn attempt(tls: &Tls, issuer: &impl Ask) -> Result<tls::Life, String> {
    let request = tls.request().map_err(|error| error.to_string())?;
    let answer =
        issuer.ask(request.csr(), &tls.anchors()).await.map_err(|error| error.to_string())?;
    tls.issued(&request, &answer.certificate, &answer.anchors, SystemTime::now())
        .map_err(|error| error.to_string())
}

fn lapsed(tls: &Tls, ends: &mut Option<Instant>) {
    *ends = None;
    tls.lapsed();
    tracing::error!(
        "the certificate of this node has ended: it stays connected to whom it is connected to, and joins nobody until there is another one"
    );
}

/// When to ask again after an answer.
fn renewal(left: Duration, rng: &mut Rng) -> Duration {
    let at = left / RENEW_AT.1 * RENEW_AT.0;
    let sooner = u64::try_from((left / SOONER).as_millis()).unwrap_or(u64::MAX);
    let sooner = Duration::from_millis(rng.next() % sooner.max(1));
    at.saturating_sub(sooner).max(RENEW_MIN)
}

/// The anchors that were learnt, on disk: a sidecar that is started again after its injector has replaced its authority
/// would not know it by the anchor that the pod was made with.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// Where; none to keep nothing.
    pub(super) path: Option<PathBuf>,
    /// The mesh that they are for.
    pub(super) mesh: String,
    /// What the node was told to believe first, as PEM: anchors learnt from another one are not used.
    pub(super) first: String,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    mesh: String,
    first: String,
    anchors: String,
}

impl Kept {
    /// Beside the last known peers, and the anchors that the configuration names.
    pub(super) fn of(
        config: &Config,
        book: &Book,
    ) -> Result<(Self, Vec<CertificateDer<'static>>), TlsError> {
        let (first, path) = match &config.trust {
            Trust::Issued { ca: Anchor::Text(pem), .. } => {
                (pem.clone(), PathBuf::from("issuer-ca"))
            }
            Trust::Issued { ca: Anchor::File(path), .. } => {
                let failed = |source| TlsError::File { path: path.clone(), source };
                let mut text = String::new();
                let file = fs::File::open(path).map_err(failed)?;
                file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
                (text, path.clone())
            }
            Trust::Cookie { .. } | Trust::Certificates { .. } => (String::new(), PathBuf::new()),
        };
        let anchors = tls::anchors(&first).map_err(|source| TlsError::Anchor { path, source })?;
        let mesh = config.mesh.as_str().to_owned();
        let path = Some(book.path().with_extension("anchors"));
        Ok((Self { path, mesh, first: tls::pem(&anchors) }, anchors))
    }

    /// What an earlier run of this node has learnt, if it began with the same anchor.
    pub(super) fn read(&self) -> Option<Vec<CertificateDer<'static>>> {
        let path = self.path.as_ref()?;
        match self.load() {
            Ok(anchors) => anchors,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(
                    "{}: {error}; the anchors that an earlier run has learnt are not used",
                    path.display()
                );
                None
            }
        }
    }

    fn load(&self) -> io::Result<Option<Vec<CertificateDer<'static>>>> {
        let wrong = |words: String| io::Error::new(io::ErrorKind::InvalidData, words);
        let Some(path) = &self.path else { return Ok(None) };
        let file = OpenOptions::new().read(true).open(path)?;
        let metadata = file.metadata()?;
        let own = rustix::process::geteuid().as_raw();
        if metadata.uid() != own || metadata.mode() & 0o022 != 0 {
            return Err(wrong("is not yours alone, so somebody else may have written it".into()));
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        let file: File = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if file.mesh != self.mesh || file.first != self.first {
            return Ok(None);
        }
        tls::anchors(&file.anchors).map(Some).map_err(|error| wrong(error.to_string()))
    }

    fn write(&self, tls: &Tls) {
        let Some(path) = &self.path else { return };
        if let Err(error) = self.save(path, tls) {
            tracing::warn!(
                "{}: {error}; the anchors of the mesh are not kept for the next start of this node (--state-dir names another place)",
                path.display()
            );
        }
    }

    fn save(&self, path: &std::path::Path, tls: &Tls) -> io::Result<()> {
        let file = File {
            version: 1,
            mesh: self.mesh.clone(),
            first: self.first.clone(),
            anchors: tls::pem(&tls.anchors()),
        };
        let text = serde_json::to_string(&file).map_err(io::Error::other)?;
        if fs::read_to_string(path).is_ok_and(|before| before == text) {
            return Ok(());
        }
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new().recursive(true).create(directory)?;
        }
        let fresh = path.with_extension("anchors.new");
        // Whatever lies there is a leftover, or a link that somebody else has put there.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        out.write_all(text.as_bytes())?;
        drop(out);
        fs::rename(&fresh, path)
    }
}

#[cfg(test)]
mod tests;
