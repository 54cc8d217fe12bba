//! Handshakes in memory: who gets in, who does not, and what either end is told.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls::DigitallySignedStruct;
use rustls::SignatureScheme;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::{client, server};

use super::scratch::Scratch;
use super::*;

mod issued;

fn cookie(seed: u8) -> Cookie {
    Cookie::from_bytes([seed; 32])
}

fn with_cookies(lines: &[Cookie], mesh: &str, host: &str) -> Tls {
    Tls::new(&Trust::Cookie { lines: lines.to_vec(), file: None }, mesh, host).unwrap()
}

type Dialled = io::Result<client::TlsStream<DuplexStream>>;
type Accepted = io::Result<server::TlsStream<DuplexStream>>;

/// Connects the two and has the dialler read once, because only that shows it that it was refused.
async fn handshake_with(connector: TlsConnector, acceptor: TlsAcceptor) -> (Dialled, Accepted) {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let dialling = async {
        let mut stream = connector.connect(Tls::server_name(), near).await?;
        let mut welcome = [0; 7];
        stream.read_exact(&mut welcome).await?;
        assert_eq!(&welcome, b"welcome");
        Ok(stream)
    };
    let accepting = async {
        let mut stream = acceptor.accept(far).await?;
        stream.write_all(b"welcome").await?;
        stream.flush().await?;
        Ok(stream)
    };
    tokio::join!(dialling, accepting)
}

async fn handshake(from: &Tls, to: &Tls) -> (Dialled, Accepted) {
    handshake_with(from.connector(), to.acceptor()).await
}

async fn assert_joins(from: &Tls, to: &Tls) {
    let (dialled, accepted) = handshake(from, to).await;
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    let seen = |chain: Option<&[CertificateDer<'_>]>| Tls::peer_identity(chain.unwrap()).unwrap();
    assert_eq!(seen(dialled.get_ref().1.peer_certificates()), *to.identity());
    assert_eq!(seen(accepted.get_ref().1.peer_certificates()), *from.identity());
    for connection in [dialled.get_ref().1.alpn_protocol(), accepted.get_ref().1.alpn_protocol()] {
        assert_eq!(connection, Some(ALPN));
    }
}

/// What the dialler and the accepter say of each other.
async fn refusals(from: &Tls, to: &Tls) -> (String, String) {
    let (dialled, accepted) = handshake(from, to).await;
    let mesh = |tls: &Tls| tls.identity().mesh.clone();
    (explain(&dialled.unwrap_err(), &mesh(from)), explain(&accepted.unwrap_err(), &mesh(to)))
}

const STRANGER: &str =
    "does not share our cookie (or CA) for mesh `default`, or is in a mesh of another name";

#[tokio::test]
async fn nodes_with_one_cookie_join_and_know_each_other() {
    let hal = with_cookies(&[cookie(1)], "default", "hal");
    let pod = with_cookies(&[cookie(1)], "default", "stock-0.shop:1");
    assert_joins(&hal, &pod).await;
    assert_joins(&pod, &hal).await;
    assert_eq!(hal.ids(), pod.ids());
}

#[tokio::test]
async fn nodes_with_different_cookies_refuse_each_other_and_say_why() {
    let hal = with_cookies(&[cookie(1)], "default", "hal");
    let eve = with_cookies(&[cookie(2)], "default", "eve");
    let (hal_says, eve_says) = refusals(&hal, &eve).await;
    assert_eq!((hal_says.as_str(), eve_says.as_str()), (STRANGER, STRANGER));
    assert_ne!(hal.ids(), eve.ids());
}

#[tokio::test]
async fn one_cookie_in_two_meshes_joins_nobody() {
    let hal = with_cookies(&[cookie(1)], "default", "hal");
    let bob = with_cookies(&[cookie(1)], "staging", "bob");
    let (hal_says, bob_says) = refusals(&hal, &bob).await;
    assert_eq!(hal_says, STRANGER);
    assert_eq!(bob_says, STRANGER.replace("default", "staging"));
    assert_ne!(hal.ids(), bob.ids());
}

#[tokio::test]
async fn a_cookie_is_changed_in_three_steps_without_an_interruption() {
    let steps: [&[Cookie]; 4] =
        [&[cookie(1)], &[cookie(1), cookie(2)], &[cookie(2), cookie(1)], &[cookie(2)]];
    for pair in steps.windows(2) {
        let (behind, ahead) =
            (with_cookies(pair[0], "default", "behind"), with_cookies(pair[1], "default", "ahead"));
        assert_joins(&behind, &ahead).await;
        assert_joins(&ahead, &behind).await;
        assert!(ahead.ids().iter().any(|id| behind.ids().contains(id)));
    }
    // A step that is left out parts the mesh, in both directions.
    let (old, new) =
        (with_cookies(steps[0], "default", "a"), with_cookies(steps[2], "default", "b"));
    refusals(&old, &new).await;
    refusals(&new, &old).await;
}

#[tokio::test]
async fn a_changed_cookie_file_is_used_by_the_next_connection() {
    let scratch = Scratch::new();
    let path = scratch.cookie(&cookie(1).reveal(), 0o600);
    let trust = Trust::cookie_file(path).unwrap();
    let hal = Tls::new(&trust, "default", "hal").unwrap();
    let clone = hal.clone();
    let new = with_cookies(&[cookie(2)], "default", "new");
    assert!(!hal.reload().unwrap());
    refusals(&clone, &new).await;

    scratch.cookie(&format!("{}\n{}", cookie(2).reveal(), cookie(1).reveal()), 0o600);
    assert!(hal.reload().unwrap());
    assert!(!hal.reload().unwrap());
    assert_joins(&clone, &new).await;
    assert_eq!(hal.ids().len(), 2);

    for (text, mode) in [("", 0o600), ("secret", 0o600), (cookie(3).reveal().as_str(), 0o644)] {
        scratch.cookie(text, mode);
        assert!(matches!(hal.reload(), Err(TlsError::Cookie(_))));
        assert_joins(&clone, &new).await;
    }
}

#[tokio::test]
async fn a_stranger_without_a_certificate_is_refused_before_a_byte() {
    let hal = with_cookies(&[cookie(1)], "default", "hal");
    let stranger = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_no_client_auth();
    let (dialled, accepted) =
        handshake_with(TlsConnector::from(Arc::new(stranger)), hal.acceptor()).await;
    assert_eq!(
        explain(&accepted.unwrap_err(), "default"),
        "shows no certificate, so it is not a Pillion"
    );
    assert_eq!(explain(&dialled.unwrap_err(), "default"), "speaks TLS, but is not a Pillion");
}

/// Takes any certificate.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[tokio::test]
async fn what_does_not_speak_tls_is_told_apart() {
    let hal = with_cookies(&[cookie(1)], "default", "hal");
    for bytes in [&b"GET / HTTP/1.1\r\nHost: hal\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.6\r\n", &[0; 32]]
    {
        let (mut near, far) = tokio::io::duplex(1024);
        near.write_all(bytes).await.unwrap();
        let error = hal.acceptor().accept(far).await.unwrap_err();
        assert_eq!(explain(&error, "default"), "is not a Pillion (no TLS)");

        let (near, mut far) = tokio::io::duplex(1024);
        far.write_all(bytes).await.unwrap();
        let error = hal.connector().connect(Tls::server_name(), near).await.unwrap_err();
        assert_eq!(explain(&error, "default"), "is not a Pillion (no TLS)");
    }
    let (near, far) = tokio::io::duplex(1024);
    drop(near);
    let error = hal.acceptor().accept(far).await.unwrap_err();
    assert_eq!(explain(&error, "default"), "closed the connection before a hello");
}

#[test]
fn errors_of_the_network_become_sentences() {
    let of = |kind: io::ErrorKind| explain(&io::Error::from(kind), "default");
    assert_eq!(of(io::ErrorKind::ConnectionRefused), "refuses connections: nothing listens there");
    assert_eq!(of(io::ErrorKind::TimedOut), "does not answer");
    assert!(of(io::ErrorKind::NetworkUnreachable).starts_with("cannot be talked to: "));
}

#[test]
fn names_that_cannot_stand_in_a_certificate_are_refused() {
    let trust = Trust::Cookie { lines: vec![cookie(1)], file: None };
    for mesh in ["", "a/b", "ü", "a b", &"x".repeat(65)] {
        assert!(matches!(Tls::new(&trust, mesh, "hal"), Err(TlsError::Mesh(_))), "{mesh}");
    }
    for host in ["", "a/b", "a@b"] {
        assert!(matches!(Tls::new(&trust, "default", host), Err(TlsError::Host(_))), "{host}");
    }
    let none = Trust::Cookie { lines: vec![], file: None };
    assert!(matches!(Tls::new(&none, "default", "hal"), Err(TlsError::NoRoots)));
}

/// An authority as an operator has one: P-256, with dates.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { params, key: KeyPair::generate().unwrap() }
    }

    fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    fn issue(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn leaf(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["hal.example".to_owned()]).unwrap();
    for uri in uris {
        params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
    }
    params
}

/// A node's three files.
struct Files {
    scratch: Scratch,
    trust: Trust,
}

impl Files {
    fn new(ca: &str, (cert, key): &(String, String)) -> Self {
        let scratch = Scratch::new();
        let trust = Trust::Certificates {
            ca: scratch.file("ca.pem", ca),
            cert: scratch.file("cert.pem", cert),
            key: scratch.file("key.pem", key),
        };
        Self { scratch, trust }
    }

    fn tls(&self, host: &str) -> Result<Tls, TlsError> {
        Tls::new(&self.trust, "default", host)
    }
}

/// A node with these certificates that has looked at nothing beforehand, as another implementation may.
fn unchecked(ca: &Authority, params: &CertificateParams) -> Tls {
    let (cert, key) = ca.issue(params);
    let files = Files::new(&ca.pem(), &ca.issue(&leaf(&["pillion://default/hal"])));
    let tls = files.tls("hal").unwrap();
    let chain = vec![rustls::pki_types::pem::PemObject::from_pem_slice(cert.as_bytes()).unwrap()];
    let key = rustls::pki_types::pem::PemObject::from_pem_slice(key.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca.params.self_signed(&ca.key).unwrap().into()).unwrap();
    let provider = Arc::clone(&tls.shared.provider);
    let verifier = Arc::new(MeshVerifier::new(roots, &provider, "default").unwrap());
    let (server, client) = configs(verifier, chain, key, &provider).unwrap();
    tls.with(|current| (current.server, current.client) = (server, client));
    tls
}

#[tokio::test]
async fn nodes_with_certificates_of_one_authority_join() {
    let ca = Authority::new("ours");
    let hal = Files::new(&ca.pem(), &ca.issue(&leaf(&["pillion://default/hal"])));
    let bob = Files::new(&ca.pem(), &ca.issue(&leaf(&["spiffe://x/y", "pillion://default/bob"])));
    let (hal, bob) = (hal.tls("hal").unwrap(), bob.tls("bob").unwrap());
    assert_joins(&hal, &bob).await;
    assert_joins(&bob, &hal).await;
    assert_eq!(hal.ids(), bob.ids());
    assert_eq!(hal.ids().len(), 1);
}

#[tokio::test]
async fn an_intermediate_travels_with_the_certificate() {
    let root = Authority::new("root");
    let mut between = Authority::new("between");
    let (between_pem, key) = root.issue(&between.params);
    between.key = KeyPair::from_pem(&key).unwrap();
    let (cert, key) = between.issue(&leaf(&["pillion://default/hal"]));
    let chained = Files::new(&root.pem(), &(format!("{cert}{between_pem}"), key.clone()));
    let bob = Files::new(&root.pem(), &root.issue(&leaf(&["pillion://default/bob"])));
    assert_joins(&chained.tls("hal").unwrap(), &bob.tls("bob").unwrap()).await;

    let alone = Files::new(&root.pem(), &(cert, key));
    let error = alone.tls("hal").unwrap_err();
    assert!(matches!(error, TlsError::Untrusted { .. }), "{error}");
}

#[tokio::test]
async fn authorities_are_changed_with_both_in_one_file() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let both = old.pem() + &new.pem();
    let hal = Files::new(&both, &old.issue(&leaf(&["pillion://default/hal"])));
    let bob = Files::new(&both, &new.issue(&leaf(&["pillion://default/bob"])));
    let (hal, bob) = (hal.tls("hal").unwrap(), bob.tls("bob").unwrap());
    assert_joins(&hal, &bob).await;
    assert_joins(&bob, &hal).await;
    assert_eq!(hal.ids().len(), 2);
}

#[tokio::test]
async fn another_authority_is_a_stranger() {
    let (ours, theirs) = (Authority::new("one"), Authority::new("two"));
    let hal = Files::new(&ours.pem(), &ours.issue(&leaf(&["pillion://default/hal"])));
    let eve = Files::new(&theirs.pem(), &theirs.issue(&leaf(&["pillion://default/eve"])));
    let (hal_says, eve_says) = refusals(&hal.tls("hal").unwrap(), &eve.tls("eve").unwrap()).await;
    assert_eq!((hal_says.as_str(), eve_says.as_str()), (STRANGER, STRANGER));
}

#[tokio::test]
async fn a_certificate_that_names_no_pillion_is_refused_at_both_ends_with_what_to_put_into_it() {
    let ca = Authority::new("ours");
    let bare = Files::new(&ca.pem(), &ca.issue(&leaf(&[])));
    let error = bare.tls("hal").unwrap_err().to_string();
    assert!(error.contains("subjectAltName needs `URI:pillion://<mesh>/<host>`"), "{error}");

    let hal =
        Files::new(&ca.pem(), &ca.issue(&leaf(&["pillion://default/hal"]))).tls("hal").unwrap();
    let bare = unchecked(&ca, &leaf(&[]));
    for (dialler, accepter) in [(&hal, &bare), (&bare, &hal)] {
        let (dialler_says, accepter_says) = refusals(dialler, accepter).await;
        let (hal_says, bare_says) = if std::ptr::eq(dialler, &raw const hal) {
            (dialler_says, accepter_says)
        } else {
            (accepter_says, dialler_says)
        };
        assert!(hal_says.starts_with("shows a certificate that names no Pillion: "), "{hal_says}");
        assert!(bare_says.starts_with("does not take our certificate: "), "{bare_says}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_mesh_is_refused_under_the_same_authority() {
    let ca = Authority::new("ours");
    let files = Files::new(&ca.pem(), &ca.issue(&leaf(&["pillion://staging/hal"])));
    let error = files.tls("hal").unwrap_err().to_string();
    assert!(error.contains("is for mesh `staging`, and this is mesh `default`"), "{error}");

    let staging = Tls::new(&files.trust, "staging", "hal").unwrap();
    let hal =
        Files::new(&ca.pem(), &ca.issue(&leaf(&["pillion://default/hal"]))).tls("hal").unwrap();
    let (hal_says, _) = refusals(&hal, &staging).await;
    assert_eq!(
        hal_says,
        "shows a certificate that is for mesh `staging`, and this is mesh `default`"
    );
}

#[test]
fn a_certificate_of_another_host_is_refused_at_start() {
    let ca = Authority::new("ours");
    let files = Files::new(&ca.pem(), &ca.issue(&leaf(&["pillion://default/bob"])));
    let error = files.tls("hal").unwrap_err().to_string();
    assert!(error.contains("is for `pillion://default/bob`"), "{error}");
    assert!(error.contains("needs `pillion://default/hal`"), "{error}");
}

#[test]
fn a_uri_that_is_not_one_of_ours_is_refused() {
    let ca = Authority::new("ours");
    for bad in ["pillion://default", "pillion:///hal", "pillion://default/", "pillion://a/b/c"] {
        let error = Files::new(&ca.pem(), &ca.issue(&leaf(&[bad]))).tls("hal").unwrap_err();
        let TlsError::Identity { source, .. } = error else { panic!("{error}") };
        assert_eq!(source, IdentityError::BadUri(bad.to_owned()));
    }
    let two = leaf(&["pillion://default/hal", "pillion://default/bob"]);
    let error = Files::new(&ca.pem(), &ca.issue(&two)).tls("hal").unwrap_err();
    assert!(error.to_string().contains("more than one URI"), "{error}");
    assert!(matches!(Tls::peer_identity(&[]), Err(TlsError::Peer(IdentityError::Absent))));
    let junk = [CertificateDer::from(vec![0x30, 0x82])];
    assert!(matches!(Tls::peer_identity(&junk), Err(TlsError::Peer(IdentityError::Unreadable))));
}

#[tokio::test]
async fn an_expired_certificate_is_reported_in_words_at_both_ends() {
    let ca = Authority::new("ours");
    let mut params = leaf(&["pillion://default/hal"]);
    params.not_after = rcgen::date_time_ymd(2024, 2, 29);
    let error = Files::new(&ca.pem(), &ca.issue(&params)).tls("hal").unwrap_err().to_string();
    assert!(error.contains("expired on Feb 29 00:00:00 2024"), "{error}");

    let bob =
        Files::new(&ca.pem(), &ca.issue(&leaf(&["pillion://default/bob"]))).tls("bob").unwrap();
    let (bob_says, expired_says) = refusals(&bob, &unchecked(&ca, &params)).await;
    assert!(bob_says.contains("expired on Feb 29 00:00:00 2024"), "{bob_says}");
    assert!(expired_says.starts_with("says that our certificate has expired"), "{expired_says}");

    params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    params.not_after = rcgen::date_time_ymd(4001, 1, 1);
    let error = Files::new(&ca.pem(), &ca.issue(&params)).tls("hal").unwrap_err().to_string();
    assert!(error.contains("is not valid before Jan  1 00:00:00 4000"), "{error}");
    let (bob_says, _) = refusals(&bob, &unchecked(&ca, &params)).await;
    assert!(bob_says.contains("is not valid before Jan  1 00:00:00 4000"), "{bob_says}");
}

#[tokio::test]
async fn a_certificate_for_only_one_end_is_refused() {
    let ca = Authority::new("ours");
    let bob =
        Files::new(&ca.pem(), &ca.issue(&leaf(&["pillion://default/bob"]))).tls("bob").unwrap();
    let only = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    for (usage, dials) in only.into_iter().zip([true, false]) {
        let mut params = leaf(&["pillion://default/hal"]);
        params.extended_key_usages = vec![usage];
        let error = Files::new(&ca.pem(), &ca.issue(&params)).tls("hal").unwrap_err();
        assert!(matches!(error, TlsError::Purpose { .. }), "{error}");

        let hal = unchecked(&ca, &params);
        let (bob_says, hal_says) = if dials {
            let (hal_says, bob_says) = refusals(&hal, &bob).await;
            (bob_says, hal_says)
        } else {
            refusals(&bob, &hal).await
        };
        assert!(bob_says.contains("extendedKeyUsage lacks"), "{bob_says}");
        assert!(hal_says.contains("extendedKeyUsage must have both"), "{hal_says}");
    }
}

#[test]
fn files_that_do_not_fit_together_are_named() {
    let (ca, other) = (Authority::new("ours"), Authority::new("other"));
    let good = ca.issue(&leaf(&["pillion://default/hal"]));
    let error = Files::new(&other.pem(), &good).tls("hal").unwrap_err();
    assert!(matches!(error, TlsError::Untrusted { .. }), "{error}");

    let error = Files::new(&ca.pem().repeat(65), &good).tls("hal").unwrap_err();
    assert!(matches!(error, TlsError::ManyAuthorities { .. }), "{error}");

    let mixed = (good.0.clone(), other.issue(&leaf(&[])).1);
    let error = Files::new(&ca.pem(), &mixed).tls("hal").unwrap_err();
    assert!(matches!(error, TlsError::KeyMismatch { .. }), "{error}");

    let swapped = (good.1.clone(), good.0.clone());
    let error = Files::new(&ca.pem(), &swapped).tls("hal").unwrap_err();
    assert!(matches!(error, TlsError::Pem { what: "certificate", .. }), "{error}");
    let keyless = (good.0.clone(), String::new());
    let error = Files::new(&ca.pem(), &keyless).tls("hal").unwrap_err();
    assert!(matches!(error, TlsError::Pem { what: "private key", .. }), "{error}");

    let gone = Trust::Certificates {
        ca: "/none/ca".into(),
        cert: "/none/c".into(),
        key: "/none/k".into(),
    };
    let error = Tls::new(&gone, "default", "hal").unwrap_err();
    assert!(matches!(error, TlsError::File { .. }), "{error}");
}

#[tokio::test]
async fn changed_certificates_are_used_by_the_next_connection() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = Files::new(&old.pem(), &old.issue(&leaf(&["pillion://default/hal"])));
    let hal = files.tls("hal").unwrap();
    let bob =
        Files::new(&new.pem(), &new.issue(&leaf(&["pillion://default/bob"]))).tls("bob").unwrap();
    assert!(!hal.reload().unwrap());
    refusals(&hal, &bob).await;

    // Between the first file and the last nothing fits, and the old ones stay in use.
    let before = hal.ids();
    let (cert, key) = new.issue(&leaf(&["pillion://default/hal"]));
    files.scratch.file("ca.pem", &new.pem());
    assert!(matches!(hal.reload(), Err(TlsError::Untrusted { .. })));
    files.scratch.file("cert.pem", &cert);
    assert!(matches!(hal.reload(), Err(TlsError::KeyMismatch { .. })));
    assert_eq!(hal.ids(), before);
    files.scratch.file("key.pem", &key);
    assert!(hal.reload().unwrap());
    assert!(!hal.reload().unwrap());
    assert_joins(&hal, &bob).await;
    assert_eq!(hal.ids(), bob.ids());
}

#[test]
fn a_certificate_that_becomes_a_fifo_is_told_of_and_stops_nobody() {
    let ca = Authority::new("ca");
    let files = Files::new(&ca.pem(), &ca.issue(&leaf(&["pillion://default/hal"])));
    let hal = Arc::new(files.tls("hal").unwrap());
    let path = files.scratch.path.join("cert.pem");
    std::fs::remove_file(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(made.success());
    let (told, heard) = std::sync::mpsc::channel();
    let reloading = Arc::clone(&hal);
    std::thread::spawn(move || told.send(reloading.reload().map_err(|error| error.to_string())));
    let error =
        heard.recv_timeout(std::time::Duration::from_secs(60)).expect("it waits for a writer");
    assert!(error.as_ref().is_err_and(|error| error.contains("not a regular file")), "{error:?}");
}

#[tokio::test]
async fn a_connection_outlives_a_reload() {
    let scratch = Scratch::new();
    let path = scratch.cookie(&cookie(1).reveal(), 0o600);
    let trust = Trust::Cookie { lines: vec![cookie(1)], file: Some(path) };
    let hal = Tls::new(&trust, "default", "hal").unwrap();
    let bob = with_cookies(&[cookie(1)], "default", "bob");
    let (dialled, accepted) = handshake(&bob, &hal).await;
    let (mut dialled, mut accepted) = (dialled.unwrap(), accepted.unwrap());
    scratch.cookie(&cookie(2).reveal(), 0o600);
    assert!(hal.reload().unwrap());
    refusals(&bob, &hal).await;

    dialled.write_all(b"still here").await.unwrap();
    dialled.flush().await.unwrap();
    let mut heard = [0; 10];
    accepted.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
}

#[tokio::test]
async fn no_tickets_are_kept_and_every_handshake_is_whole() {
    let hal = with_cookies(&[cookie(1)], "default", "hal");
    let bob = with_cookies(&[cookie(1)], "default", "bob");
    for _ in 0..2 {
        let (dialled, _accepted) = handshake(&bob, &hal).await;
        let dialled = dialled.unwrap();
        let connection = dialled.get_ref().1;
        assert_eq!(connection.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(connection.tls13_tickets_received(), 0);
        assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
}
