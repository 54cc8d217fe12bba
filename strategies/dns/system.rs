//! The name servers of this machine, or those that were given, asked through `hickory-resolver`.
//!
//! There is no cache here: [`super`] asks when the time of an answer has run out.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::ask::{Answer, Failure, Kind, Question};
use crate::StrategyError;
use crate::options::wrong;

/// Where systems say whom to ask.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Largest such file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Most name servers that are asked.
const SERVERS_MAX: usize = 8;
/// The port of DNS.
const PORT: u16 = 53;
/// The longest that one server may take, whatever the file says: one question takes ten seconds at most.
const TIMEOUT_MAX: Duration = Duration::from_secs(3);
/// How long a server may take where there is no file to say so.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often a server is asked where there is no file to say so.
const TRIES: usize = 2;
/// How often a server is asked at most.
const TRIES_MAX: usize = 3;

/// Whom to ask.
pub(super) struct System {
    source: Source,
    /// The servers that the file named last.
    current: Mutex<Option<(Vec<u8>, Arc<Servers>)>>,
}

enum Source {
    Servers(Vec<SocketAddr>),
    File(PathBuf),
}

/// Each with a resolver of its own: the library would take the failure of one for the failure of all.
struct Servers {
    resolvers: Vec<(SocketAddr, TokioResolver)>,
    /// How often each is asked.
    tries: usize,
    /// Which one answered last, so that a silent one costs its time only once.
    answered: AtomicUsize,
}

impl System {
    /// Those that the file names, whenever it does.
    pub(super) const fn of_file(file: PathBuf) -> Self {
        Self { source: Source::File(file), current: Mutex::new(None) }
    }

    /// These, written `10.0.0.53,[fd00::53]:5353`.
    pub(super) fn of_servers(text: &str) -> Result<Self, StrategyError> {
        let bad = |word: &str| {
            wrong(format!(
                "`server={word}` is no address of a name server: write 10.0.0.53, 10.0.0.53:5353 or [fd00::53]:53"
            ))
        };
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let servers: Vec<SocketAddr> = words
            .map(|word| {
                let bare = word.trim_start_matches('[').trim_end_matches(']');
                let ip = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
                let server = word.parse::<SocketAddr>().or(ip).map_err(|_| bad(word))?;
                if server.port() == 0 { Err(bad(word)) } else { Ok(server) }
            })
            .collect::<Result<_, _>>()?;
        if servers.is_empty() {
            return Err(bad(text));
        }
        if servers.len() > SERVERS_MAX {
            return Err(wrong(format!("dns has more than {SERVERS_MAX} name servers: name fewer")));
        }
        Ok(Self { source: Source::Servers(servers), current: Mutex::new(None) })
    }

    /// Asks one question: one server after the other, until one knows.
    pub(super) async fn ask(&self, question: Question) -> Result<Answer, Failure> {
        let servers = self.servers().map_err(Failure::Failed)?;
        let name = Name::from_ascii(&question.name)
            .map_err(|error| Failure::Failed(format!("it is no name for DNS: {error}")))?;
        let kind = match question.kind {
            Kind::A => RecordType::A,
            Kind::Aaaa => RecordType::AAAA,
            Kind::Srv => RecordType::SRV,
        };
        let count = servers.resolvers.len();
        let mut failure = Failure::Failed("there is no name server".into());
        for at in (0..count * servers.tries).map(|turn| turn % count) {
            let first = servers.answered.load(Ordering::Relaxed);
            let (server, resolver) = &servers.resolvers[(first + at) % count];
            let answer = match resolver.lookup(name.clone(), kind).await {
                Ok(lookup) => answer(&lookup, kind),
                Err(error) => Err(why(*server, &error)),
            };
            if let Err(why @ Failure::Failed(_)) = answer {
                failure = why;
                continue;
            }
            servers.answered.store((first + at) % count, Ordering::Relaxed);
            return answer;
        }
        Err(failure)
    }

    fn servers(&self) -> Result<Arc<Servers>, String> {
        let text = match &self.source {
            Source::Servers(_) => Vec::new(),
            Source::File(file) => read(file).map_err(|error| {
                format!(
                    "{} cannot be read ({error}), so nobody can be asked; it is waited for",
                    file.display()
                )
            })?,
        };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, servers)) = current.as_ref().filter(|(known, _)| *known == text) {
            return Ok(Arc::clone(servers));
        }
        let servers = match &self.source {
            Source::Servers(servers) => {
                let mut options = ResolverOpts::default();
                options.timeout = TIMEOUT;
                Servers::new(servers, &[], &options, TRIES)?
            }
            Source::File(file) => of_text(file, &text)?,
        };
        let servers = Arc::new(servers);
        *current = Some((text, Arc::clone(&servers)));
        Ok(servers)
    }
}

impl Servers {
    fn new(
        addresses: &[SocketAddr],
        search: &[Name],
        options: &ResolverOpts,
        tries: usize,
    ) -> Result<Self, String> {
        let mut resolvers = Vec::new();
        for address in addresses {
            // By UDP first, and by TCP where the answer is too long for that.
            let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            connections.iter_mut().for_each(|connection| connection.port = address.port());
            let server = NameServerConfig::new(address.ip(), true, connections);
            let config = ResolverConfig::from_parts(None, search.to_vec(), vec![server]);
            let provider = TokioRuntimeProvider::default();
            let mut builder = TokioResolver::builder_with_config(config, provider);
            let chosen = builder.options_mut();
            *chosen = options.clone();
            chosen.attempts = 0;
            chosen.cache_size = 0;
            chosen.use_hosts_file = ResolveHosts::Never;
            let made = builder.build().map_err(|error| format!("no resolver can be made: {error}"));
            resolvers.push((*address, made?));
        }
        Ok(Self { resolvers, tries, answered: AtomicUsize::new(0) })
    }
}

/// Why there is no answer from this server.
fn why(server: SocketAddr, error: &NetError) -> Failure {
    let server = format!("the name server {server}");
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Failure::NoRecords("there is no such name".into()),
            ResponseCode::NoError => Failure::NoRecords("the name has no such record".into()),
            code => Failure::Failed(format!("{server} answers {code}")),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => {
            Failure::Failed(format!("{server} answers {code}"))
        }
        NetError::Timeout => Failure::Failed(format!("{server} does not answer")),
        NetError::NoConnections => Failure::Failed(format!("{server} cannot be reached")),
        NetError::Proto(error) => {
            Failure::Failed(format!("{server} answers what cannot be read: {error}"))
        }
        error => Failure::Failed(format!("{server}: {error}")),
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(file)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn of_text(file: &Path, text: &[u8]) -> Result<Servers, String> {
    // As everybody does: a line that makes no sense is as if it were not there.
    let (parsed, _) = resolv_conf::Config::parse_with_errors(text);
    let addresses = parsed.nameservers.iter().take(SERVERS_MAX);
    let addresses: Vec<SocketAddr> = addresses.map(|ip| SocketAddr::new(ip.into(), PORT)).collect();
    if addresses.is_empty() {
        return Err(format!(
            "{} names no `nameserver`, so nobody can be asked; one is waited for",
            file.display()
        ));
    }
    let domains = parsed.get_last_search_or_domain().filter(|domain| *domain != "--");
    let search: Vec<Name> =
        domains.filter_map(|domain| Name::from_str_relaxed(domain).ok()).collect();
    let mut options = ResolverOpts::default();
    options.ndots = parsed.ndots as usize;
    options.timeout = Duration::from_secs(u64::from(parsed.timeout.max(1))).min(TIMEOUT_MAX);
    let tries = (parsed.attempts as usize).clamp(1, TRIES_MAX);
    Servers::new(&addresses, &search, &options, tries)
}

fn answer(lookup: &Lookup, kind: RecordType) -> Result<Answer, Failure> {
    let mut answer = Answer::default();
    let mut ttl = None;
    for record in lookup.answers() {
        ttl = Some(record.ttl.min(ttl.unwrap_or(u32::MAX)));
        match &record.data {
            RData::A(ip) if kind == RecordType::A => answer.addresses.push(ip.0.into()),
            RData::AAAA(ip) if kind == RecordType::AAAA => answer.addresses.push(ip.0.into()),
            // The root as a target says that the service is not there.
            RData::SRV(srv) if kind == RecordType::SRV && !srv.target.is_root() => {
                answer.targets.push((text(&srv.target), srv.port));
            }
            _ => {}
        }
    }
    for record in lookup.additionals() {
        match &record.data {
            RData::A(ip) => answer.beside.push((text(&record.name), ip.0.into())),
            RData::AAAA(ip) => answer.beside.push((text(&record.name), ip.0.into())),
            _ => {}
        }
    }
    answer.ttl = Duration::from_secs(u64::from(ttl.unwrap_or_default()));
    if answer.addresses.is_empty() && answer.targets.is_empty() {
        return Err(Failure::NoRecords("the name has no such record".into()));
    }
    Ok(answer)
}

/// With its dot, so that nothing is put behind it when it is asked for.
fn text(name: &Name) -> String {
    let mut text = name.to_lowercase().to_ascii();
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}
