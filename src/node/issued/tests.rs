//! A node and an issuer that does as the script says, in a time of its own.

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use super::*;
use crate::config::IssuerUrl;
use crate::shutdown;
use crate::tls::issuing::{Authority, DAY};

const PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);

/// What it does when it is asked.
enum Step {
    Away,
    Never,
    Garbage,
    /// Already over.
    Old,
    /// A certificate for so long, and these anchors.
    Good(Duration, &'static [&'static str]),
}

struct Script {
    authorities: Vec<(&'static str, Authority)>,
    steps: Mutex<VecDeque<Step>>,
    asked: Mutex<Vec<(Instant, usize)>>,
    uri: String,
}

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Arc<Self> {
        Arc::new(Self {
            authorities: ["old", "new"].map(|name| (name, Authority::new(name))).into(),
            steps: Mutex::new(steps.into_iter().collect()),
            asked: Mutex::default(),
            uri: "pillion://default/a-0.shop".to_owned(),
        })
    }

    fn authority(&self, wanted: &str) -> &Authority {
        let found = self.authorities.iter().find(|(name, _)| *name == wanted);
        &found.expect("an authority of the script").1
    }

    fn tls(&self) -> Tls {
        let anchors = vec![self.authority("old").der()];
        let trust = tls::Trust::Issued { anchors, issuer: "the script".to_owned() };
        Tls::new(&trust, "default", "a-0.shop").expect("good")
    }

    fn asked(&self) -> Vec<Instant> {
        self.asked.lock().expect("no panic").iter().map(|(at, _)| *at).collect()
    }
}

impl Ask for Arc<Script> {
    async fn ask(
        &self,
        csr: &str,
        anchors: &[CertificateDer<'static>],
    ) -> Result<Answer, IssuerError> {
        self.asked.lock().expect("no panic").push((Instant::now(), anchors.len()));
        let step = self.steps.lock().expect("no panic").pop_front();
        let now = SystemTime::now();
        let answer = |certificate: String, anchors: &[&str]| Answer {
            certificate,
            anchors: anchors.iter().map(|name| self.authority(name).pem()).collect(),
        };
        match step {
            None | Some(Step::Never) => std::future::pending().await,
            Some(Step::Away) => Err(IssuerError::Unreachable {
                url: "https://issuer/".to_owned(),
                source: io::ErrorKind::ConnectionRefused.into(),
            }),
            Some(Step::Garbage) => Ok(answer("garbage".to_owned(), &["old"])),
            Some(Step::Old) => {
                let (from, to) = (now - DAY, now - Duration::from_secs(1));
                Ok(answer(self.authority("old").sign(csr, &self.uri, from, to), &["old"]))
            }
            Some(Step::Good(life, anchors)) => {
                let by = self.authority(anchors[0]);
                let signed = by.sign(csr, &self.uri, now - Duration::from_secs(300), now + life);
                Ok(answer(signed, anchors))
            }
        }
    }
}

fn nowhere() -> Kept {
    Kept { path: None, mesh: "default".to_owned(), first: String::new() }
}

/// Keeps a certificate by the script, for as long as `watched` runs.
async fn keeping<T>(
    script: &Arc<Script>,
    tls: &Tls,
    kept: Kept,
    watched: impl Future<Output = T>,
) -> T {
    let (trigger, shutdown) = shutdown::channel();
    let keeping = keep(tls.clone(), Arc::clone(script), kept, 1, |_| (), shutdown);
    let watched = async {
        let watched = tokio::time::timeout(PATIENCE, watched).await.expect("it comes to that");
        trigger.ask();
        watched
    };
    tokio::join!(watched, keeping).0
}

async fn until(tls: &Tls, holds: impl Fn(&tls::Issuance) -> bool) {
    let mut issuance = tls.issuance().expect("it is issued");
    issuance.wait_for(holds).await.expect("it lives");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_away_at_the_start_is_asked_ever_later_until_it_answers() {
    let mut steps: Vec<Step> = (0..30).map(|_| Step::Away).collect();
    steps.extend([Step::Garbage, Step::Old, Step::Good(DAY, &["old"])]);
    let script = Script::new(steps);
    let tls = script.tls();
    keeping(&script, &tls, nowhere(), async {
        until(&tls, |i| i.trouble.as_ref().is_some_and(|why| why.contains("cannot be reached")))
            .await;
        assert!(!tls.joins());
        until(&tls, |i| i.until.is_some()).await;
    })
    .await;
    let asked = script.asked();
    let waits: Vec<Duration> = asked.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(waits.len(), 32, "garbage and what is over are no answers");
    assert!(waits[0] <= WAITS.first, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= WAITS.cap), "{waits:?}");
    assert!(waits[31] >= WAITS.cap / 2, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_at_two_thirds_of_its_life_and_anchors_come_with_it() {
    let script = Script::new([
        Step::Good(DAY, &["old"]),
        Step::Good(DAY, &["old", "new"]),
        Step::Good(DAY, &["new", "old"]),
        Step::Good(DAY, &["new"]),
    ]);
    let tls = script.tls();
    let changes = Arc::new(Mutex::new(0));
    keeping(&script, &tls, nowhere(), async {
        let mut issuance = tls.issuance().expect("it is issued");
        for anchors in [1, 2, 2, 1] {
            issuance.changed().await.expect("it lives");
            assert_eq!(tls.anchors().len(), anchors);
            assert!(tls.joins());
            *changes.lock().expect("no panic") += 1;
        }
    })
    .await;
    let asked = script.asked();
    for wait in asked.windows(2).map(|two| two[1] - two[0]) {
        let life = DAY.as_secs_f64();
        let part = wait.as_secs_f64() / life;
        assert!((0.61..=0.667).contains(&part), "renewed after {part} of its life");
    }
    let known: Vec<usize> = script.asked.lock().expect("no panic").iter().map(|a| a.1).collect();
    assert_eq!(known, [1, 1, 2, 2], "the issuer is known by what was learnt last");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_goes_away_leaves_the_certificate_in_use_until_it_ends_and_then_nobody_is_joined()
 {
    let mut steps = vec![Step::Good(DAY, &["old"])];
    // Enough for the eight hours that are left, twice a minute and oftener.
    steps.extend((0..4000).map(|_| Step::Away));
    let script = Script::new(steps);
    let tls = script.tls();
    keeping(&script, &tls, nowhere(), async {
        until(&tls, |i| i.until.is_some()).await;
        let began = Instant::now();
        until(&tls, |i| i.trouble.is_some()).await;
        assert!(tls.joins());
        assert!(began.elapsed() < DAY * 2 / 3 + Duration::from_secs(60));
        until(&tls, |i| i.until.is_none()).await;
        let lasted = began.elapsed();
        assert!(lasted <= DAY && lasted + Duration::from_secs(60) >= DAY, "{lasted:?}");
        // It comes back.
        script.steps.lock().expect("no panic").clear();
        script.steps.lock().expect("no panic").push_back(Step::Good(DAY, &["old"]));
        until(&tls, |i| i.until.is_some() && i.trouble.is_none()).await;
        assert!(tls.joins());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_never_answers_does_not_keep_a_certificate_alive_nor_the_node_from_stopping()
{
    let script = Script::new([Step::Good(DAY, &["old"]), Step::Never]);
    let tls = script.tls();
    keeping(&script, &tls, nowhere(), async {
        until(&tls, |i| i.until.is_some()).await;
        until(&tls, |i| i.until.is_none()).await;
    })
    .await;
    assert!(!tls.joins());
}

#[tokio::test(start_paused = true)]
async fn anchors_that_were_learnt_are_known_to_the_next_run_of_the_node_with_the_same_first_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = Script::new([Step::Good(DAY, &["new"])]);
    let kept = Kept {
        path: Some(directory.path().join("default/a.anchors")),
        mesh: "default".to_owned(),
        first: script.authority("old").pem(),
    };
    assert_eq!(kept.read(), None, "there is nothing yet");
    let tls = script.tls();
    keeping(&script, &tls, kept.clone(), until(&tls, |i| i.until.is_some())).await;
    assert_eq!(kept.read(), Some(vec![script.authority("new").der()]));
    let other = Kept { first: script.authority("new").pem(), ..kept.clone() };
    assert_eq!(other.read(), None, "it was made with another anchor");
    let other = Kept { mesh: "staging".to_owned(), ..kept.clone() };
    assert_eq!(other.read(), None);

    let path = kept.path.clone().expect("a path");
    for text in ["", "{", "[]", "{\"version\":1}"] {
        fs::write(&path, text).expect("written");
        assert_eq!(kept.read(), None, "{text}");
    }
    let script = Script::new([Step::Good(DAY, &["new"])]);
    let tls = script.tls();
    keeping(&script, &tls, kept.clone(), until(&tls, |i| i.until.is_some())).await;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("set");
    assert_eq!(kept.read(), None, "somebody else may have written it");
}

#[test]
fn an_issuer_is_asked_for_what_its_url_says() {
    let url = IssuerUrl { host: "fd00::7".to_owned(), port: 8443, path: "/v1".to_owned() };
    assert_eq!(url.authority(), "[fd00::7]:8443");
}
