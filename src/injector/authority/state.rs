//! The authorities that there are, and what is due with them. Pure: time is an argument.
//!
//! ```text
//! made --publish--> signs --until the next one signs--> anchor only --leaf and a little--> gone
//! ```

use std::fmt::Write as _;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _,
};
use ring::digest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Times;

/// Most authorities at a time. Three are usual while one is replaced.
const AUTHORITIES_MAX: usize = 8;
/// How far back a new authority is good, for machines whose clocks are behind.
const BACK: u64 = 60 * 60;

/// What is wrong with what is kept. Nothing is written over it.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    /// It cannot be read.
    #[error(
        "`authorities.json` cannot be read ({0}). Put the former content back, or delete this key and `ca.crt` to begin with a new authority: then every injected pod has to be started again"
    )]
    Unreadable(String),
    /// What somebody has brought.
    #[error("`ca.crt` and `ca.key` are no authority: {0}")]
    Brought(String),
    /// It cannot be made.
    #[error("no authority can be made: {0}")]
    Made(#[from] rcgen::Error),
}

/// The authorities, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    authorities: Vec<Entry>,
    /// The last wish for a new one that was granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotated: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// PEM.
    certificate: String,
    /// PKCS #8 as PEM; gone when it signs no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// From when it signs, in seconds since 1970.
    signs: u64,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("signs", &self.signs).finish_non_exhaustive()
    }
}

impl Entry {
    fn new(now: u64, signs: u64, times: Times) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let hash = digest::digest(&digest::SHA256, &key.subject_public_key_info());
        // The id in the name tells the anchors apart, for people and for who looks for an issuer by its name.
        let mut name = String::from("pillion authority ");
        for byte in &hash.as_ref()[..8] {
            let _ = write!(name, "{byte:02x}");
        }
        let at = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.not_before = at(now.saturating_sub(BACK));
        params.not_after = at(now + times.authority.as_secs());
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, key: Some(key.serialize_pem()), signs })
    }

    fn until(&self) -> Option<u64> {
        let der = CertificateDer::from_pem_slice(self.certificate.as_bytes()).ok()?;
        let (_, parsed) = X509Certificate::from_der(&der).ok()?;
        u64::try_from(parsed.validity().not_after.timestamp()).ok()
    }

    fn issuer(&self) -> Result<(Issuer<'static, KeyPair>, u64), StateError> {
        let unreadable = |why: &str| StateError::Unreadable(why.to_owned());
        let key = self.key.as_deref().ok_or_else(|| unreadable("the authority has no key"))?;
        let key = KeyPair::from_pem(key).map_err(|error| unreadable(&error.to_string()))?;
        let der = CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map_err(|error| unreadable(&error.to_string()))?;
        let until = self.until().ok_or_else(|| unreadable("it is no X.509"))?;
        let own = X509Certificate::from_der(&der)
            .is_ok_and(|(_, cert)| cert.public_key().raw == key.subject_public_key_info());
        if !own {
            return Err(unreadable("a key is not that of its certificate"));
        }
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|error| unreadable(&error.to_string()))?;
        Ok((issuer, until))
    }
}

/// By how much the clocks of two replicas, and a leaf that was signed at the last moment, may be late.
fn late(times: Times) -> u64 {
    (times.leaf.as_secs() / 24).max(1)
}

impl State {
    /// What is kept, if anything is; else what somebody has brought.
    pub(super) fn read(
        state: Option<&str>,
        certificates: Option<&str>,
        key: Option<&str>,
    ) -> Result<Option<Self>, StateError> {
        if let Some(text) = state.filter(|text| !text.trim().is_empty()) {
            let state: Self = serde_json::from_str(text)
                .map_err(|error| StateError::Unreadable(error.to_string()))?;
            if state.authorities.len() > AUTHORITIES_MAX {
                return Err(StateError::Unreadable("it holds too many authorities".to_owned()));
            }
            // One that cannot sign is found now, not when it is due.
            for entry in state.authorities.iter().filter(|entry| entry.key.is_some()) {
                entry.issuer()?;
            }
            return Ok((!state.authorities.is_empty()).then_some(state));
        }
        let (Some(certificates), Some(key)) =
            (certificates, key.filter(|key| !key.trim().is_empty()))
        else {
            return Ok(None);
        };
        let found: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(certificates.as_bytes())
                .take(AUTHORITIES_MAX)
                .collect::<Result<_, _>>()
                .map_err(|error| StateError::Brought(error.to_string()))?;
        let pem = |der: &CertificateDer<'_>| crate::tls::pem(std::slice::from_ref(der));
        let Some((first, others)) = found.split_first() else {
            return Err(StateError::Brought("there is no certificate".to_owned()));
        };
        let mut authorities: Vec<Entry> =
            others.iter().map(|der| Entry { certificate: pem(der), key: None, signs: 0 }).collect();
        let brought = Entry { certificate: pem(first), key: Some(key.to_owned()), signs: 1 };
        brought.issuer().map_err(|error| StateError::Brought(error.to_string()))?;
        authorities.push(brought);
        Ok(Some(Self { authorities, rotated: None }))
    }

    pub(super) fn written(&self) -> Result<String, StateError> {
        serde_json::to_string(self).map_err(|error| StateError::Unreadable(error.to_string()))
    }

    /// The place of the one that signs at this time: the latest that may.
    fn at(&self, now: u64) -> Option<usize> {
        self.authorities.iter().rposition(|entry| entry.key.is_some() && entry.signs <= now)
    }

    /// What signs, and until when it may.
    pub(super) fn signing(&self, now: u64) -> Result<(Issuer<'static, KeyPair>, u64), StateError> {
        let at =
            self.at(now).ok_or_else(|| StateError::Unreadable("none may sign yet".to_owned()))?;
        self.authorities[at].issuer()
    }

    /// Every anchor as PEM, the one that signs first.
    pub(super) fn anchors(&self, now: u64) -> String {
        let first = self.at(now);
        let rest = (0..self.authorities.len()).rev().filter(|at| Some(*at) != first);
        first.into_iter().chain(rest).map(|at| tidy(&self.authorities[at].certificate)).collect()
    }

    /// The anchors that sign no more, as PEM.
    pub(super) fn retiring(&self, now: u64) -> String {
        let signing = self.at(now).unwrap_or_default();
        self.authorities[..signing].iter().map(|entry| tidy(&entry.certificate)).collect()
    }

    /// Every anchor as PEM, the oldest first.
    pub(super) fn all(&self) -> String {
        self.authorities.iter().map(|entry| tidy(&entry.certificate)).collect()
    }

    /// Does what is due, and says what that was.
    pub(super) fn advance(
        &mut self,
        now: u64,
        times: Times,
        asked: Option<&str>,
    ) -> Result<Vec<&'static str>, StateError> {
        let mut done = Vec::new();
        let until = self.at(now).and_then(|at| self.authorities[at].until());
        // What an ended one has signed has ended with it: nobody can be waited for.
        if until.is_none_or(|until| until <= now) {
            // From long ago, so that a replica whose clock is behind does not make another one.
            self.authorities.push(Entry::new(now, now.saturating_sub(BACK), times)?);
            // Whoever has asked for one has got it.
            self.rotated = asked.map(str::to_owned);
            done.push("an authority was made; it signs from now on");
        }
        let upcoming = self.authorities.iter().any(|entry| entry.signs > now);
        let wished = asked.is_some_and(|asked| self.rotated.as_deref() != Some(asked));
        let old = self.renewed_at(now, times).is_some_and(|at| at <= now);
        if !upcoming && (wished || old) && self.authorities.len() < AUTHORITIES_MAX {
            self.authorities.push(Entry::new(now, now + times.publish.as_secs(), times)?);
            if wished {
                self.rotated = asked.map(str::to_owned);
            }
            done.push("a new authority was made; it is an anchor from now on, and signs later");
        }
        // Those before the one that signs.
        let signing = self.at(now).unwrap_or_default();
        for at in 0..signing {
            let ended = self.authorities[at + 1].signs;
            if now >= ended + late(times) && self.authorities[at].key.take().is_some() {
                done.push("an authority that signs no more has lost its key");
            }
        }
        let before = self.authorities.len();
        let ends: Vec<u64> = self.authorities.iter().skip(1).map(|next| next.signs).collect();
        let mut place = 0;
        self.authorities.retain(|_| {
            let at = place;
            place += 1;
            at >= signing || now < ends[at] + times.leaf.as_secs() + late(times)
        });
        if self.authorities.len() < before {
            done.push("an authority is an anchor no more: all that it has signed has ended");
        }
        Ok(done)
    }

    /// When the one that signs is old enough to be replaced.
    fn renewed_at(&self, now: u64, times: Times) -> Option<u64> {
        let until = self.authorities[self.at(now)?].until()?;
        Some(until.saturating_sub(times.authority.as_secs() / 3))
    }

    /// When something is due next.
    pub(super) fn next(&self, now: u64, times: Times) -> Option<u64> {
        let signing = self.at(now)?;
        let coming = self.authorities.iter().map(|entry| entry.signs);
        let losing = self.authorities[..signing].iter().zip(&self.authorities[1..]).flat_map(
            |(entry, next)| {
                let end = next.signs + late(times);
                let key = entry.key.is_some().then_some(end);
                key.into_iter().chain([end + times.leaf.as_secs()])
            },
        );
        let renewed = self.renewed_at(now, times);
        coming.chain(losing).chain(renewed).filter(|at| *at > now).min()
    }
}

/// With one end of line, so that two can be put together.
fn tidy(pem: &str) -> String {
    let mut text = pem.trim().replace("\r\n", "\n");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    fn fresh() -> State {
        let mut state = State::default();
        state.advance(NOW, Times::default(), None).expect("made");
        state
    }

    fn count(pem: &str) -> usize {
        pem.matches("BEGIN CERTIFICATE").count()
    }

    /// Names of the anchors that can be told apart.
    fn anchors(state: &State, now: u64) -> Vec<String> {
        let pem = state.anchors(now);
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let name = |der: &CertificateDer<'_>| {
            X509Certificate::from_der(der).expect("X.509").1.subject().to_string()
        };
        all.expect("PEM").iter().map(name).collect()
    }

    #[test]
    fn an_empty_secret_gets_one_authority_that_signs_at_once_and_stays_for_years() {
        let mut state = fresh();
        assert_eq!(count(&state.anchors(NOW)), 1);
        let (_, until) = state.signing(NOW).expect("it signs");
        assert_eq!(until, NOW + 3650 * DAY);
        for years in [1, 3, 6] {
            let now = NOW + years * 365 * DAY;
            assert!(state.advance(now, Times::default(), None).expect("fine").is_empty());
        }
        let again = State::read(Some(&state.written().expect("text")), None, None).expect("read");
        assert_eq!(again, Some(state));
    }

    #[test]
    fn a_new_authority_is_an_anchor_a_day_before_it_signs_and_the_old_one_until_its_last_leaf_has_ended()
     {
        let (mut state, times) = (fresh(), Times::default());
        let old = anchors(&state, NOW);
        state.advance(NOW, times, Some("please")).expect("made");
        let both = anchors(&state, NOW);
        assert_eq!(both.len(), 2);
        assert_eq!(both[0], old[0], "the old one signs");
        assert_eq!(state.next(NOW, times), Some(NOW + DAY));

        // Asked once is asked once.
        let mut same = state.clone();
        assert!(same.advance(NOW + HOUR, times, Some("please")).expect("fine").is_empty());
        assert_eq!(same, state);

        let switched = NOW + DAY;
        assert_eq!(anchors(&state, switched - 1), both);
        assert_eq!(anchors(&state, switched), [both[1].clone(), both[0].clone()]);
        assert_eq!((state.retiring(switched - 1).len(), count(&state.retiring(switched))), (0, 1));

        state.advance(switched + HOUR, times, Some("please")).expect("fine");
        assert!(state.authorities[0].key.is_none(), "what signs no more has no key");
        assert_eq!(anchors(&state, switched + HOUR).len(), 2);
        let gone = switched + DAY + HOUR;
        state.advance(gone - 1, times, Some("please")).expect("fine");
        assert_eq!(anchors(&state, gone).len(), 2);
        assert_eq!(state.next(gone - 1, times), Some(gone));
        state.advance(gone, times, Some("please")).expect("fine");
        assert_eq!(anchors(&state, gone), [both[1].clone()]);
        state.signing(gone).expect("the new one signs");
    }

    #[test]
    fn an_authority_of_which_a_third_is_left_is_replaced_by_itself() {
        let (mut state, times) = (fresh(), Times::default());
        let due = state.next(NOW, times).expect("some time");
        assert_eq!(due, NOW + 3650 * DAY - 3650 * DAY / 3);
        assert!(state.advance(due - 1, times, None).expect("fine").is_empty());
        assert_eq!(state.advance(due, times, None).expect("made").len(), 1);
        assert_eq!(count(&state.anchors(due)), 2);
        assert!(state.advance(due + 1, times, None).expect("fine").is_empty(), "one is enough");
    }

    #[test]
    fn a_wish_during_a_replacement_is_granted_after_it() {
        let (mut state, times) = (fresh(), Times::default());
        state.advance(NOW, times, Some("one")).expect("made");
        state.advance(NOW + HOUR, times, Some("two")).expect("fine");
        assert_eq!(count(&state.anchors(NOW)), 2);
        state.advance(NOW + DAY, times, Some("two")).expect("made");
        assert_eq!(count(&state.anchors(NOW)), 3);
    }

    #[test]
    fn a_replica_that_slept_through_everything_does_all_that_is_due() {
        let (mut state, times) = (fresh(), Times::default());
        state.advance(NOW, times, Some("please")).expect("made");
        let late = NOW + 30 * DAY;
        state.advance(late, times, Some("please")).expect("fine");
        assert_eq!(count(&state.anchors(late)), 1);
        state.signing(late).expect("it signs");
        // Even its own authority may have ended meanwhile: the next one begins at once.
        let later = NOW + 4000 * DAY;
        state.advance(later, times, Some("please")).expect("made");
        assert_eq!(count(&state.anchors(later)), 2);
    }

    #[test]
    fn an_authority_that_somebody_has_brought_signs_and_what_is_none_is_refused_in_words() {
        let other = fresh().authorities.remove(0);
        let brought = fresh().authorities.remove(0);
        let key = brought.key.as_deref();
        let both = brought.certificate.clone() + &other.certificate;
        let state = State::read(None, Some(&both), key).expect("read").expect("some");
        assert_eq!(state.signing(NOW).expect("it signs").1, NOW + 3650 * DAY);
        assert_eq!(count(&state.anchors(NOW)), 2);
        let said = State::read(None, Some(&other.certificate), key).expect_err("another's key");
        assert!(said.to_string().contains("not that of its certificate"), "{said}");
        assert_eq!(State::read(None, None, None).expect("nothing"), None);
        assert_eq!(State::read(Some(""), Some(&other.certificate), None).expect("nothing"), None);
        for text in
            ["{", "[]", r#"{"authorities": [{"certificate": "x", "key": "y", "signs": 1}]}"#]
        {
            let said = State::read(Some(text), None, None).expect_err(text).to_string();
            assert!(said.contains("authorities.json"), "{said}");
        }
    }

    #[test]
    fn what_is_printed_for_people_holds_no_key() {
        let state = fresh();
        assert!(!format!("{state:?}").contains("PRIVATE"));
        assert!(!state.anchors(NOW).contains("PRIVATE"));
    }
}
