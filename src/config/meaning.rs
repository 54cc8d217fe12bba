//! From what was typed to what it means. Every default is here, with its reason.
//!
//! Nothing stops at the first problem: a wrong value is told and its default stands in, so that one run names
//! everything there is to mend.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pillion_strategies::nearest;

use crate::config::key::Key;
use crate::config::local_dir::LocalDir;
use crate::config::machine::Machine;
use crate::config::problem::{Origin, Problem, Problems};
use crate::config::typed::{Item, Typed};
use crate::config::value::{self, Advertise, Host, Listen, MeshName};
use crate::config::{
    Anchor, Config, LogFormat, LogLevel, PodRule, PodsServed, Profile, Remote, Shown, SyncNodes,
    Trust, WantedBase,
};
use crate::wire::id::NodeName;

/// The mesh of those who name none.
const MESH: &str = "default";
/// The app socket is for its owner: whoever may open it can be the app. `--socket-mode` widens it.
const SOCKET_MODE: u32 = 0o600;
/// Ten seconds lets apps finish what they do and still leaves Kubernetes two thirds of its default 30 s.
const GRACE: Duration = Duration::from_secs(10);
/// A shutdown that takes a day is one that hangs.
const GRACE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Beside the mesh's own port, which takes 4470 and then those from 4472.
const HEALTH_PORT: u16 = 4471;
/// 1 MiB holds any message; more is a stream of parts, which the receiver can hold.
const BODY_BYTES: usize = 1 << 20;
/// A frame is at most 64 MiB, its head included.
const BODY_BYTES_MAX: usize = 63 << 20;
/// Smaller would refuse ordinary messages.
const BODY_BYTES_MIN: usize = 1 << 10;
/// What a second of 65 000 messages brings: an app may pause that long before anything is shed.
const MAILBOX_ENTRIES: usize = 65_536;
/// More would be memory without end under another name.
const MAILBOX_ENTRIES_MAX: usize = 1 << 24;
/// 128 bytes for each of the default entries; larger bodies reach this bound first.
const MAILBOX_BYTES: usize = 8 << 20;
/// Four full mailboxes: a sidecar that nobody reads from stays below 64 MiB all in all.
const QUEUE_BYTES: usize = 32 << 20;
/// The sum must hold some messages of the smallest bound for bodies.
const QUEUE_BYTES_MIN: usize = 1 << 20;
/// 64 GiB, or what 32 bits can count: beyond it a number is a slip.
const QUEUE_BYTES_MAX: usize = 1 << if usize::BITS < 64 { 30 } else { 36 };
/// One second is longer than any pause of a healthy receiver and shorter than a caller's patience (5 s).
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// One for each way into a network is plenty; a node tells at most 16 addresses in all.
const ADVERTISED_MAX: usize = 8;
/// Nodes that start together see each other within a second; the rest is for slow disks and schedulers.
const SYNC: Duration = Duration::from_secs(30);
/// Below this nobody could have come.
const SYNC_MIN: Duration = Duration::from_millis(10);
/// A start that takes a day is one that hangs.
const SYNC_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// As many as one `wait_for` names.
const SYNCED_MAX: usize = 256;
/// Looking harms nobody and is what `ps --node` does; messages and lives stay with their own node.
const REMOTE: Remote = Remote::Read;
/// A day outlasts a backend that is away and a machine that is off for the night.
const REMEMBER: Duration = Duration::from_secs(24 * 60 * 60);
/// Who has been away for longer has another address by now.
const REMEMBER_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Below this a restart would forget everybody.
const REMEMBER_MIN: Duration = Duration::from_secs(1);
/// Above this it is another mesh than the one that this was made for.
const MIN_PEERS_MAX: usize = 4096;
/// Each is a line of each scrape, and a series for ever in what collects them.
const METRICS_TOPICS_MAX: usize = 1000;
/// Whoever lists more namespaces means all of them.
const POD_RULES_MAX: usize = 256;
/// How the machine is called that a pod is on: its manifest fills it by `fieldRef: spec.nodeName`.
const MACHINE: &str = "NODE_NAME";
/// Where the injector mounts the token that it asks for.
const ISSUER_TOKEN: &str = "/var/run/secrets/pillion.dev/token";
/// Sixteen anchors are 20 KiB.
const ANCHOR_BYTES_MAX: usize = 64 << 10;
/// Below this the clock's own lateness decides.
const SEND_TIMEOUT_MIN: Duration = Duration::from_millis(10);
/// Above this a sender seems to hang.
const SEND_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Understands what was typed.
pub(crate) fn meaning(typed: Typed, machine: &Machine) -> Result<Config, Problems> {
    Reader { typed, machine, shown: BTreeMap::new() }.config()
}

struct Reader<'a> {
    typed: Typed,
    machine: &'a Machine,
    shown: BTreeMap<Key, Shown>,
}

impl Reader<'_> {
    fn config(mut self) -> Result<Config, Problems> {
        let (base, host) = self.name();
        let mesh = self.one(Key::Mesh, MeshName::new).unwrap_or_else(|| {
            self.show_default(Key::Mesh, toml_text(MESH), "");
            MeshName::new(MESH).expect("the default mesh has a good name")
        });
        let listen = self.one(Key::Listen, Listen::parse).unwrap_or_else(|| {
            let words = "every interface; 4472 and upward when 4470 is taken";
            let listen = Listen { host: Host::Any, port: None };
            self.show_default(Key::Listen, toml_text(&listen.to_string()), words);
            listen
        });
        let advertise = self.advertise();
        let dir = self.path(Key::Dir).unwrap_or_else(|| {
            let dir = LocalDir::default_path(self.machine.uid);
            self.show_default(Key::Dir, toml_text(&dir.to_string_lossy()), "");
            dir
        });
        let socket = self.socket(&dir, &mesh, &base);
        let socket_mode = self.or_default(Key::SocketMode, value::parse_mode, SOCKET_MODE, |m| {
            toml_text(&format!("{m:04o}"))
        });
        let operator_socket = self.operator_socket(socket_mode);
        let pods = self.pods();
        let strategies = self.strategies();
        let min_peers = self.or_default(
            Key::MinPeers,
            |text| value::parse_count(text, 0, MIN_PEERS_MAX),
            0,
            ToString::to_string,
        );
        let remember =
            self.or_default(Key::Remember, off_or(REMEMBER_MIN), Some(REMEMBER), |time| {
                show_off_or(*time)
            });
        let prune = self.or_default(Key::Prune, off_or(REMEMBER_MIN), None, |t| show_off_or(*t));
        let state_dir = self.path(Key::StateDir);
        if state_dir.is_none() {
            let dir = toml_text(&dir.to_string_lossy());
            self.show_default(Key::StateDir, dir, "where `dir` is");
        }
        let hidden = self.or_default(Key::Hidden, value::parse_switch, false, ToString::to_string);
        let labels = self.labels();
        let trust = self.trust();
        let profile =
            self.or_default(Key::Profile, named::<Profile>, Profile::Lan, |p| toml_text(p.word()));
        let grace = self.or_default(
            Key::Grace,
            |text| value::parse_duration(text, Duration::ZERO, GRACE_MAX),
            GRACE,
            |grace| toml_text(&value::show_duration(*grace)),
        );
        let health = self.health();
        let metrics_topics = self.or_default(
            Key::MetricsTopics,
            |text| value::parse_count(text, 0, METRICS_TOPICS_MAX),
            0,
            ToString::to_string,
        );
        let send_timeout = self.or_default(
            Key::SendTimeout,
            |text| value::parse_duration(text, SEND_TIMEOUT_MIN, SEND_TIMEOUT_MAX),
            SEND_TIMEOUT,
            |timeout| toml_text(&value::show_duration(*timeout)),
        );
        let bounds = self.bounds();
        let remote = self.or_default(Key::Remote, named::<Remote>, REMOTE, |r| toml_text(r.word()));
        let sync = self.sync_nodes(&host);
        let log_level = self
            .or_default(Key::LogLevel, named::<LogLevel>, LogLevel::Info, |l| toml_text(l.word()));
        let log_format =
            self.or_default(Key::LogFormat, named::<LogFormat>, LogFormat::Text, |f| {
                toml_text(f.word())
            });
        if !self.typed.problems.is_empty() {
            return Err(Problems(self.typed.problems));
        }
        Ok(Config {
            base,
            host,
            mesh,
            listen,
            advertise,
            dir,
            socket,
            socket_mode,
            operator_socket,
            pods,
            strategies,
            min_peers,
            remember: remember.unwrap_or_default(),
            prune,
            state_dir,
            labels,
            hidden,
            trust,
            profile,
            grace,
            health,
            metrics_topics,
            body_bytes_max: bounds.body,
            mailbox_entries_max: bounds.entries,
            mailbox_bytes_max: bounds.mailbox,
            queue_bytes_max: bounds.queue,
            send_timeout,
            remote,
            sync,
            log_level,
            log_format,
            hosting_shown: super::hosting::show(&self.typed.hosting),
            hosting: self.typed.hosting,
            shown: self.shown,
        })
    }

    // --- one value of one key ---

    fn problem(&mut self, item: &Item, key: Key, words: impl Into<String>) {
        self.typed.problems.push(Problem::new(&item.origin, key, &item.text, words));
    }

    fn show_default(&mut self, key: Key, toml: impl Into<String>, why: &str) {
        let origin = Origin::Default(why.to_owned());
        self.shown.insert(key, Shown { toml: toml.into(), origin });
    }

    fn show_item(&mut self, key: Key, toml: impl Into<String>, item: &Item) {
        self.shown.insert(key, Shown { toml: toml.into(), origin: item.origin.clone() });
    }

    /// Reads a key that has one value; a wrong one is told and counts as none. Shown as it was written.
    fn one<T>(&mut self, key: Key, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let item = self.typed.items.get(&key)?.first()?.clone();
        match parse(&item.text) {
            Ok(meant) => {
                self.show_item(key, toml_text(&item.text), &item);
                Some(meant)
            }
            Err(words) => {
                self.problem(&item, key, words);
                None
            }
        }
    }

    /// The same with a default, shown as it is understood.
    fn or_default<T>(
        &mut self,
        key: Key,
        parse: impl Fn(&str) -> Result<T, String>,
        default: T,
        show: impl Fn(&T) -> String,
    ) -> T {
        if let Some(meant) = self.one(key, parse) {
            let toml = show(&meant);
            self.shown.entry(key).and_modify(|shown| shown.toml = toml);
            return meant;
        }
        self.show_default(key, show(&default), "");
        default
    }

    /// Reads a key that has several values, each told on its own when it is wrong.
    fn several<T>(
        &mut self,
        key: Key,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<(T, Item)> {
        let mut meant = Vec::new();
        for item in self.typed.items.get(&key).cloned().unwrap_or_default() {
            match parse(&item.text) {
                Ok(value) => meant.push((value, item)),
                Err(words) => self.problem(&item, key, words),
            }
        }
        meant
    }

    fn path(&mut self, key: Key) -> Option<PathBuf> {
        let item = self.typed.items.get(&key)?.first()?.clone();
        if item.text.is_empty() || item.text.contains('\0') {
            self.problem(&item, key, "is not a path");
            return None;
        }
        let in_file = matches!(item.origin, Origin::File { .. });
        let start = if in_file { self.typed.file_directory.clone() } else { PathBuf::new() };
        let path = self.machine.absolute(&item.text, &start);
        self.show_item(key, toml_text(&path.to_string_lossy()), &item);
        Some(path)
    }

    // --- keys that mean more than their text ---

    fn name(&mut self) -> (WantedBase, String) {
        let pod = self.machine.pod();
        let host = pod.as_ref().map_or_else(|| self.machine.host(), |pod| pod.host.clone());
        let default_host = host.clone();
        let parse = move |text: &str| {
            let (base, host) = text.split_once('@').unwrap_or((text, &default_host));
            NodeName::new(base, host).map_err(|_| {
                let clean = NodeName::clean_base(base);
                format!(
                    "a node is called base or base@host: 1 to 64 letters, digits, `_` and `-`, and the host also \
                     `.` and `:`; `{clean}` would do"
                )
            })
        };
        if let Some(name) = self.one(Key::Name, parse) {
            let base = WantedBase { text: name.base().to_owned(), explicit: true };
            return (base, name.host().to_owned());
        }
        let (base, why) = match pod {
            Some(pod) => (pod.app, "the app in this pod; -2, -3 and so on when that is taken"),
            None => {
                let why = "the working directory; -2, -3 and so on when that is taken";
                (self.machine.base(), why)
            }
        };
        self.show_default(Key::Name, toml_text(&format!("{base}@{host}")), why);
        (WantedBase { text: base, explicit: false }, host)
    }

    fn socket(&mut self, dir: &Path, mesh: &MeshName, base: &WantedBase) -> Option<PathBuf> {
        let socket = self.path(Key::Socket);
        let (path, key) = if let Some(path) = &socket {
            (path.clone(), Key::Socket)
        } else {
            let path = LocalDir::socket_path(dir, mesh, &base.text);
            let why = "in `dir`, by mesh and name";
            self.show_default(Key::Socket, toml_text(&path.to_string_lossy()), why);
            (path, Key::Dir)
        };
        if let Err(words) = LocalDir::check_socket_path(&path) {
            let item = self.typed.items.get(&key).and_then(|items| items.first()).cloned();
            let item = item.unwrap_or_else(|| Item {
                text: dir.to_string_lossy().into_owned(),
                origin: Origin::Default(String::new()),
            });
            self.problem(&item, key, words);
        }
        socket
    }

    /// Probes and metrics are asked for by whoever runs the node, and open a port: off unless somebody says so.
    fn health(&mut self) -> Option<Listen> {
        let health = self.one(Key::Health, |text| match text {
            "off" => Ok(None),
            text => Listen::parse(text).map(|listen| {
                let port = listen.port.or(Some(HEALTH_PORT));
                Some(Listen { port, ..listen })
            }),
        });
        health.unwrap_or_else(|| {
            self.show_default(Key::Health, toml_text("off"), "");
            None
        })
    }

    /// Beside the app socket where that is open to others; elsewhere where it is to be out of the apps' sight, such as on
    /// another volume of a pod.
    fn operator_socket(&mut self, socket_mode: u32) -> Option<PathBuf> {
        let path = self.path(Key::OperatorSocket);
        let Some(path) = path else {
            let why = if socket_mode & 0o777 == SOCKET_MODE {
                "none: the app socket is for operators"
            } else {
                "NAME.operator.sock beside the app socket"
            };
            self.show_default(Key::OperatorSocket, "\"\"", why);
            return None;
        };
        if let Err(words) = LocalDir::check_socket_path(&path)
            && let Some(item) =
                self.typed.items.get(&Key::OperatorSocket).and_then(|items| items.first()).cloned()
        {
            self.problem(&item, Key::OperatorSocket, words);
        }
        Some(path)
    }

    /// The pods of this machine whose apps are served; none where the key is not given.
    fn pods(&mut self) -> Option<PodsServed> {
        let given = self.several(Key::Pods, PodRule::parse);
        let Some(item) = self.typed.items.get(&Key::Pods).and_then(|items| items.first()).cloned()
        else {
            self.show_list(Key::Pods, &[], "apps are not told apart by pods");
            return None;
        };
        if let Some((_, item)) = given.get(POD_RULES_MAX) {
            let words = format!(
                "is one too many: at most {POD_RULES_MAX}, or `*` for every pod of the machine"
            );
            self.problem(item, Key::Pods, words);
        }
        if !cfg!(all(feature = "kubernetes", target_os = "linux")) {
            let words =
                "cannot be done by this pillion: it takes Linux, and the feature `kubernetes`";
            self.problem(&item, Key::Pods, words);
        }
        let machine = self.machine.variable(MACHINE).map(str::to_owned);
        if machine.is_none() {
            let words = format!(
                "needs {MACHINE}, the machine whose pods are served: set it in the pod by `fieldRef: {{fieldPath: spec.nodeName}}`"
            );
            self.problem(&item, Key::Pods, words);
        }
        let allowed: Vec<PodRule> = given.into_iter().map(|(rule, _)| rule).collect();
        let texts: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        self.show_list(Key::Pods, &texts, "");
        Some(PodsServed { machine: machine?, allowed, own: self.machine.own_pod() })
    }

    fn sync_nodes(&mut self, host: &str) -> SyncNodes {
        let (mandatory, optional) =
            (self.nodes(Key::SyncNodesMandatory, host), self.nodes(Key::SyncNodesOptional, host));
        let timeout = self.or_default(
            Key::SyncNodesTimeout,
            |text| value::parse_duration(text, SYNC_MIN, SYNC_MAX),
            SYNC,
            |timeout| toml_text(&value::show_duration(*timeout)),
        );
        SyncNodes { mandatory, optional, timeout }
    }

    /// Names of nodes; a bare base is one of this host.
    fn nodes(&mut self, key: Key, host: &str) -> Vec<NodeName> {
        let given = self.several(key, |text| {
            let (base, host) = text.split_once('@').unwrap_or((text, host));
            NodeName::new(base, host)
                .map_err(|_| "is no name of a node: base@host, or base for this host".to_owned())
        });
        if let Some((_, item)) = given.get(SYNCED_MAX) {
            let words = format!("is one too many: at most {SYNCED_MAX} nodes are waited for");
            self.problem(item, key, words);
        }
        let nodes: Vec<NodeName> = given.into_iter().map(|(node, _)| node).collect();
        let texts: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        self.show_list(key, &texts, "nobody");
        nodes
    }

    fn advertise(&mut self) -> Vec<Advertise> {
        let given = self.several(Key::Advertise, Advertise::parse);
        if let Some((_, item)) = given.get(ADVERTISED_MAX) {
            let words = format!("is one too many: a node advertises at most {ADVERTISED_MAX}");
            self.problem(item, Key::Advertise, words);
        }
        let advertise: Vec<Advertise> = given.into_iter().map(|(address, _)| address).collect();
        let texts: Vec<String> = advertise.iter().map(ToString::to_string).collect();
        self.show_list(Key::Advertise, &texts, "where it listens, and where others see it");
        advertise
    }

    fn strategies(&mut self) -> Vec<String> {
        let joins: Vec<String> =
            self.several(Key::Join, value::parse_join).into_iter().map(|(join, _)| join).collect();
        self.show_list(Key::Join, &joins, "nobody by address");
        let given = self.several(Key::Strategy, |text| {
            let url = value::parse_strategy(text)?;
            if url != "none://" {
                pillion_strategies::check(&url).map_err(|wrong| wrong.to_string())?;
            }
            Ok(url)
        });
        let mut strategies: Vec<String> = if given.is_empty() {
            let found: &[&str] =
                if cfg!(feature = "mdns") { &["local://", "mdns://"] } else { &["local://"] };
            found.iter().map(|url| (*url).to_owned()).collect()
        } else {
            let is_none = |(url, _): &&(String, Item)| url == "none://";
            if let Some((_, item)) = given.iter().find(is_none).filter(|_| given.len() > 1) {
                self.problem(
                    item,
                    Key::Strategy,
                    "`none` stands alone: leave it out, or the others",
                );
            }
            given.into_iter().map(|(url, _)| url).collect()
        };
        let shown: Vec<String> =
            strategies.iter().map(|url| pillion_strategies::redacted(url)).collect();
        self.show_list(Key::Strategy, &shown, "this machine and this network");
        strategies.retain(|url| url != "none://");
        if !joins.is_empty() {
            strategies.push(format!("list://{}", joins.join(",")));
        }
        strategies
    }

    fn show_list(&mut self, key: Key, texts: &[String], why: &str) {
        let toml = toml::Value::from(texts.to_vec()).to_string();
        match self.typed.items.get(&key).and_then(|items| items.first()).cloned() {
            Some(item) => self.show_item(key, toml, &item),
            None => self.show_default(key, toml, why),
        }
    }

    fn labels(&mut self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        for ((label, value), item) in self.several(Key::Labels, value::parse_label) {
            if let Some((before, _)) = labels.insert(label.clone(), (value, item.clone())) {
                let words = format!("{label} is given twice, first as {before:?}");
                self.problem(&item, Key::Labels, words);
            }
        }
        let role = self.one(Key::Role, |text| value::parse_label(&format!("role={text}")));
        if let Some((_, role)) = role {
            let item = self.typed.items[&Key::Role][0].clone();
            match labels.get("role") {
                // A label of a lower source gives way, as everywhere.
                Some((other, origin))
                    if *other != role && origin.origin.rank() >= item.origin.rank() =>
                {
                    let words =
                        format!("{} says that role is {other:?}; give it once", origin.origin);
                    self.problem(&item, Key::Role, words);
                }
                _ => {
                    labels.insert("role".to_owned(), (role, item));
                }
            }
        } else {
            self.show_default(Key::Role, "\"\"", "none");
        }
        if let Some((_, item)) = labels.values().find(|(_, item)| {
            self.typed.items.get(&Key::Labels).is_some_and(|items| items.contains(item))
        }) {
            let lines = labels.iter().filter(|(label, _)| {
                *label != "role" || !self.typed.items.contains_key(&Key::Role)
            });
            let lines = lines
                .map(|(label, (value, _))| format!("{} = {}\n", toml_key(label), toml_text(value)));
            let toml: String = lines.collect();
            let origin = item.origin.clone();
            self.shown.insert(Key::Labels, Shown { toml, origin });
        }
        labels.into_iter().map(|(label, (value, _))| (label, value)).collect()
    }

    fn trust(&mut self) -> Trust {
        if let Some(issued) = self.issued() {
            return issued;
        }
        let cookie = self.path(Key::CookieFile);
        let parts = [Key::TlsCa, Key::TlsCert, Key::TlsKey].map(|key| (key, self.path(key)));
        let first = |reader: &Self, key: Key| reader.typed.items[&key][0].clone();
        let given: Vec<Key> =
            parts.iter().filter(|(_, path)| path.is_some()).map(|(key, _)| *key).collect();
        if let (Some(_), Some(tls)) = (&cookie, given.first()) {
            let (cookie, tls) = (first(self, Key::CookieFile), first(self, *tls));
            let words = format!(
                "a mesh is held together by a cookie or by certificates, not by both: {} gives the other",
                place(&tls, given[0])
            );
            self.problem(&cookie, Key::CookieFile, words);
        }
        match parts {
            [(_, Some(ca)), (_, Some(cert)), (_, Some(key))] => {
                return Trust::Certificates { ca, cert, key };
            }
            [(_, None), (_, None), (_, None)] => {}
            _ => {
                let missing: Vec<String> = parts
                    .iter()
                    .filter(|(_, path)| path.is_none())
                    .map(|(key, _)| format!("`{key}`"))
                    .collect();
                let item = first(self, given[0]);
                let words =
                    format!("certificates come in three: give {} too", missing.join(" and "));
                self.problem(&item, given[0], words);
            }
        }
        if let Some(file) = cookie {
            return Trust::Cookie { file, explicit: true };
        }
        let Some(home) = self.machine.variable("HOME") else {
            if given.is_empty() && !self.typed.items.contains_key(&Key::CookieFile) {
                let words = "there is no HOME to keep a cookie in: give --cookie-file or PILLION_COOKIE_FILE";
                let origin = Origin::Default(String::new());
                self.typed.problems.push(Problem::of_word(origin, Key::CookieFile.word(), words));
            }
            return Trust::Cookie { file: PathBuf::new(), explicit: true };
        };
        let file = Path::new(home).join(".config/pillion/cookie");
        let why = "made by the first start on this machine";
        self.show_default(Key::CookieFile, toml_text(&file.to_string_lossy()), why);
        Trust::Cookie { file, explicit: false }
    }

    /// Whom a certificate is asked of; none where nothing says so.
    fn issued(&mut self) -> Option<Trust> {
        let url = self.one(Key::Issuer, value::parse_issuer);
        let ca = self.anchor();
        let token = self.path(Key::IssuerToken);
        let given = |reader: &Self, key: Key| {
            reader.typed.items.get(&key).and_then(|items| items.first()).cloned()
        };
        let Some(issuer) = given(self, Key::Issuer) else {
            for key in [Key::IssuerCa, Key::IssuerToken] {
                if let Some(item) = given(self, key) {
                    self.problem(&item, key, "is of no use without `issuer`, who is asked");
                }
            }
            return None;
        };
        let others = [Key::CookieFile, Key::TlsCa, Key::TlsCert, Key::TlsKey];
        if let Some((item, key)) = others.iter().find_map(|key| Some((given(self, *key)?, *key))) {
            let words = format!(
                "certificates are issued, or there is a cookie, or certificates from files, and nothing of that together: {} gives another",
                place(&item, key)
            );
            self.problem(&issuer, Key::Issuer, words);
        }
        if ca.is_none() && given(self, Key::IssuerCa).is_none() {
            let words = "needs `issuer-ca`, by which the issuer is known: PEM, or a file of it";
            self.problem(&issuer, Key::Issuer, words);
        }
        if !cfg!(feature = "kubernetes") {
            let words =
                "cannot be asked by this pillion: it was built without the feature `kubernetes`";
            self.problem(&issuer, Key::Issuer, words);
        }
        let token = token.unwrap_or_else(|| {
            self.show_default(Key::IssuerToken, toml_text(ISSUER_TOKEN), "");
            PathBuf::from(ISSUER_TOKEN)
        });
        Some(Trust::Issued { issuer: url?, ca: ca?, token })
    }

    /// PEM as it stands, or the path of a file with it.
    fn anchor(&mut self) -> Option<Anchor> {
        let item = self.typed.items.get(&Key::IssuerCa)?.first()?.clone();
        if !item.text.trim_start().starts_with("-----BEGIN ") {
            return self.path(Key::IssuerCa).map(Anchor::File);
        }
        if item.text.len() > ANCHOR_BYTES_MAX {
            self.problem(&item, Key::IssuerCa, "is longer than 64 KiB");
            return None;
        }
        self.show_item(Key::IssuerCa, toml_text(&item.text), &item);
        Some(Anchor::Text(item.text))
    }

    /// The bounds in bytes, which hang together: a body must fit a mailbox, a mailbox must fit the node. A default
    /// gives way to a smaller bound that was asked for; two that were asked for and clash are told.
    fn bounds(&mut self) -> Bounds {
        let size = |text: &str, min, max| value::parse_size(text, min, max);
        let show = |bytes: &usize| toml_text(&value::show_size(*bytes));
        let queue = self.or_default(
            Key::QueueBytes,
            |text| size(text, QUEUE_BYTES_MIN, QUEUE_BYTES_MAX),
            QUEUE_BYTES,
            show,
        );
        let mailbox = self.or_default(
            Key::MailboxBytes,
            |text| size(text, BODY_BYTES_MIN, QUEUE_BYTES_MAX),
            MAILBOX_BYTES.min(queue),
            show,
        );
        let body = self.or_default(
            Key::BodyMax,
            |text| size(text, BODY_BYTES_MIN, BODY_BYTES_MAX),
            BODY_BYTES.min(mailbox),
            show,
        );
        let entries = self.or_default(
            Key::MailboxEntries,
            |text| value::parse_count(text, 1, MAILBOX_ENTRIES_MAX),
            MAILBOX_ENTRIES,
            ToString::to_string,
        );
        self.fits(Key::MailboxBytes, mailbox, Key::QueueBytes, queue);
        self.fits(Key::BodyMax, body, Key::MailboxBytes, mailbox);
        Bounds { body, entries, mailbox, queue }
    }

    fn fits(&mut self, small: Key, small_bytes: usize, large: Key, large_bytes: usize) {
        if small_bytes > large_bytes
            && let Some(item) = self.typed.items.get(&small).map(|items| items[0].clone())
        {
            let words = format!(
                "does not fit `{large}`, which is {}: raise that, or lower this",
                value::show_size(large_bytes)
            );
            self.problem(&item, small, words);
        }
    }
}

/// A duration, or `off` for none.
fn off_or(min: Duration) -> impl Fn(&str) -> Result<Option<Duration>, String> {
    move |text| match text {
        "off" => Ok(None),
        text => value::parse_duration(text, min, REMEMBER_MAX)
            .map(Some)
            .map_err(|words| format!("{words}; or off")),
    }
}

fn show_off_or(time: Option<Duration>) -> String {
    toml_text(&time.map_or_else(|| "off".to_owned(), value::show_duration))
}

struct Bounds {
    body: usize,
    entries: usize,
    mailbox: usize,
    queue: usize,
}

/// A value that is one of a few words.
pub(crate) trait Named: Copy + 'static {
    const ALL: &'static [Self];
    fn word(self) -> &'static str;
}

pub(super) fn named<T: Named>(text: &str) -> Result<T, String> {
    let words = || T::ALL.iter().map(|one| one.word());
    if let Some(found) = T::ALL.iter().find(|one| one.word() == text) {
        return Ok(*found);
    }
    let all: Vec<&str> = words().collect();
    let hint = nearest(text, words()).map(|word| format!("; did you mean {word}?"));
    Err(format!("is one of {}{}", all.join(", "), hint.unwrap_or_default()))
}

fn place(item: &Item, key: Key) -> String {
    match item.origin {
        Origin::File { .. } => format!("`{key}` ({})", item.origin),
        _ => item.origin.to_string(),
    }
}

fn toml_text(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn toml_key(text: &str) -> String {
    let bare = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { text.to_owned() } else { toml_text(text) }
}
